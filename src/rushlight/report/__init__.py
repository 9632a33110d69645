"""What testing found: the report, its intervals, its plots. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.report.plots import write_confusion_plot, write_importance_plot, write_loss_plot, write_rate_plot
    from rushlight.report.report import Z95, ClassFigures, Report, class_figures, fold_interval, wilson
    from rushlight.report.student import beyond_t, t_quantile


__getattr__, __dir__ = lazy_names(__name__)
