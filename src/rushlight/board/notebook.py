"""A run as a notebook shows it: what it is, its figures, the loss of every step."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from rushlight.board.page import html_page
from rushlight.board.series import Losses, Truncated
from rushlight.formats import format_duration, format_figure, format_metric
from rushlight.runs import summarize_any
from rushlight.texts import text

WIDTH, HEIGHT = 640, 160  # pixels, as page/curve.html has them


def run_html(folder: Path) -> str:
    """Return a few lines of HTML without scripts; all names are escaped."""
    run = summarize_any(folder)
    lines = [f"<b>{escape(run.name)}</b> ({escape(text(f'console.status.{run.status}'))})"]
    if run.status == "damaged":
        lines.append(escape(str(run.problem)))
    else:
        done = text("board.notebook.sentence", model=run.model, data=run.data, done=run.epochs_done, epochs=run.epochs,
                    time=format_duration(run.seconds))  # fmt: skip
        lines.append(escape(done))
        if run.metric is not None and run.metric_value is not None:
            shown = format_metric(run.metric, run.metric_value)
            lines.append(f"{escape(text(f'board.page.figure-{run.metric}'))}: <b>{escape(shown)}</b>")
    return f"<div>{'<br/>'.join(lines)}{loss_svg(folder / 'losses.f32')}</div>"


def loss_svg(path: Path) -> str:
    """Return the loss of every step as SVG, with every extreme of every pixel column; "" where there is none."""
    losses = Losses(path)
    try:
        losses.refresh()
        cells = losses.curve(np.linspace(0, losses.count, WIDTH + 1).astype(np.int64))
        figures = losses.figures()
    except Truncated:  # it was read while a resume cut it
        return ""
    low, high = figures["low"], figures["high"]
    if low is None or high is None:
        return ""
    full = np.flatnonzero(~np.isnan(cells.low))
    values = np.stack([cells.first, cells.low, cells.high, cells.last], axis=1)[full]
    heights = 4 + (HEIGHT - 8) * (high - values) / ((high - low) or 1)
    points = " ".join(
        f"{column},{height:.1f}" for column, row in zip(full.tolist(), heights.tolist(), strict=True) for height in row
    )
    said = text("board.notebook.losses", steps=losses.count, low=format_figure(low), step=figures["low_step"], high=format_figure(high),
                high_step=figures["high_step"])  # fmt: skip
    return html_page("curve", points=points, said=said)
