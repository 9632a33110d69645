"""Several runs for one answer: cross-validation, and the search for a recipe by a study of trials.

A search has a space of choices, trials by Optuna, the winner's test; small ones are without Optuna. A trial is an ordinary
run, trained through `rushlight.epochs`; Optuna is imported when a study is opened, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.search.folds import CrossValidation, cross_validate
    from rushlight.search.rehearsal import RateTest, SizeTest, find_batch_size, find_lr
    from rushlight.search.space import Range, between, log, read_space
    from rushlight.search.tuning import StudyResult, tune


__getattr__, __dir__ = lazy_names(__name__)
