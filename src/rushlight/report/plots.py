"""The pictures of a run: its loss curve and its confusion matrix, as PNG.

matplotlib is imported inside the functions, and drawn through `Figure` objects: no window, no global state.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rushlight import files
from rushlight.fonts import LATIN_FONT, cjk_font, font_of
from rushlight.texts import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
CURVE_POINTS = 1000  # more than that cannot be told apart at this size
SMOOTH_FROM = 200  # steps from which a smoothed curve is drawn over the noisy one
NUMBERS_UP_TO = 20  # classes up to which the cells of a confusion matrix have room for numbers
NAMES_UP_TO = 60  # classes up to which each has its name at the axes; beyond, every few
NAME_LENGTH = 20
TRAIN, TEST, SCORE = "#3b6fb6", "#d1495b", "#2a9d6f"


def write_loss_plot(path: Path, losses: Sequence[float], epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write the training loss of every step, with each epoch's validation or test loss and accuracy (or MAE), as a PNG.

    `losses` has one number for each step; `epochs` the "epoch" lines of the history. Long curves are thinned and
    smoothed; losses that are not finite leave gaps. Raises StorageError.
    """
    split = "validation" if any(line.get("validation") for line in epochs) else "test"
    points = [(line["step"], line[split]) for line in epochs if line.get(split)]
    metric = next((name for name in ("accuracy", "mae") if points and points[-1][1].get(name) is not None), None)
    figure = new_figure(8, 6 if metric else 4)
    axes: list[Axes] = list(
        figure.subplots(2 if metric else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if metric else [1]).flat
    )
    draw_training_loss(axes[0], np.asarray(losses, dtype=np.float64))
    draw_figure(axes[0], points, "loss", f"{split} loss, by epoch", TEST)
    axes[0].set_ylabel("loss")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False)
    if metric:
        label = f"{split} {'accuracy' if metric == 'accuracy' else 'mean absolute error'}"
        draw_figure(axes[1], points, metric, label, SCORE)
        axes[1].set_ylabel(label)
        if metric == "accuracy":
            axes[1].yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g}%")
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    write_figure(path, figure)


def draw_training_loss(axes: Axes, losses: NDArray[np.float64]) -> None:
    """Draw the loss by step: as it is when short; thinned, pale, and under a smoothed line when long."""
    steps, values = thinned(losses)
    if len(losses) < SMOOTH_FROM:
        axes.plot(
            steps, values, color=TRAIN, linewidth=1.4, marker="o" if len(losses) < 2 else None, label="training loss"
        )
    else:
        axes.plot(steps, values, color=TRAIN, linewidth=0.8, alpha=0.3)
        axes.plot(steps, smoothed(values), color=TRAIN, linewidth=1.8, label="training loss, smoothed")
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 100:
        axes.set_yscale("log")
    elif len(finite) > 20:  # the first few steps must not press the rest flat
        top = max(float(np.percentile(finite, 99.5)), float(finite[len(finite) // 50 :].max())) * 1.05
        axes.set_ylim(min(0.0, float(finite.min())), max(top, 1e-12))


def draw_figure(
    axes: Axes, points: Sequence[tuple[int, Mapping[str, Any]]], name: str, label: str, colour: str
) -> None:
    """Draw one figure of the evaluations, given as (step, figures)."""
    known = [(step, figures[name]) for step, figures in points if figures.get(name) is not None]
    if known:
        marker = "o" if len(known) <= 50 else None
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=4, label=label)


def thinned(losses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most CURVE_POINTS (middle step, mean loss) of equal stretches; a stretch with no finite loss is NaN."""
    size = max(1, math.ceil(len(losses) / CURVE_POINTS))
    starts = np.arange(0, len(losses), size)
    finite = [part[np.isfinite(part)] for part in (losses[start : start + size] for start in starts)]
    steps = (starts + np.minimum(starts + size, len(losses)) + 1) / 2
    return steps, np.array([part.mean() if len(part) else math.nan for part in finite])


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a centred moving mean over a 40th of the curve; at the ends over what there is."""
    window = max(5, len(values) // 40)
    weights = np.isfinite(values).astype(np.float64)
    kernel = np.ones(window)
    total = np.convolve(np.where(weights > 0, values, 0.0), kernel, mode="same")
    count = np.convolve(weights, kernel, mode="same")
    return np.where(weights > 0, total / np.maximum(count, 1.0), math.nan)


def write_confusion_plot(path: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    """Write the confusion matrix as a PNG: rows the true class, columns the predicted one.

    `confusion` is (classes, classes) counts; a cell is shaded by its share of the row. Up to 20 classes have their numbers
    in the cells; of very many classes only every few have their names at the axes. Raises StorageError.
    """
    counts = np.asarray(confusion, dtype=np.int64)  # (classes, classes)
    # the square root of the share: a class predicted for another once in a hundred is still visible
    darkness = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    size = min(11.0, max(4.2, 2.4 + 0.55 * len(counts)))
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    image = axes.imshow(darkness, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    every = math.ceil(len(classes) / NAMES_UP_TO)
    places = range(0, len(classes), every)
    names = [shortened(classes[place]) if font_of(classes[place]) else f"{place}" for place in places]
    letters = 10 if len(names) <= 12 else 8 if len(names) <= 25 else 6
    is_short = all(len(name) <= 3 for name in names) and len(names) <= 25
    axes.set_xticks(places, names, rotation=0 if is_short else 90, fontsize=letters)
    axes.set_yticks(places, names, fontsize=letters)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    axes.tick_params(length=0 if every == 1 else 3)
    if len(counts) <= NUMBERS_UP_TO:
        for i, j in np.argwhere(counts):
            colour = "white" if darkness[i, j] > 0.6 else "#333333"
            axes.text(
                j, i, f"{counts[i, j]}", ha="center", va="center", color=colour, fontsize=10 if len(counts) <= 10 else 7
            )
    ticks = [0, 0.01, 0.1, 0.25, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, ticks=[math.sqrt(tick) for tick in ticks], shrink=0.75, pad=0.02)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the true class")
    right, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{right:,} of {total:,} right ({right / max(total, 1):.2%})", fontsize=11)
    write_figure(path, figure)


def write_importance_plot(
    path: Path, importances: Mapping[str, float | None], trials: Sequence[Mapping[str, Any]], metric: str
) -> None:
    """Write what a search found as a PNG: for each choice, its importance and the figure of every trial by its value.

    `importances` are shares of one, the largest first, or None where they are not known; `trials` have "choices", "figures" by
    epoch, and "status". Whole trials are filled dots, pruned ones rings at their last figure. Raises StorageError.
    """
    columns = min(3, len(importances))
    rows = math.ceil(len(importances) / columns)
    figure = new_figure(3.4 * columns + 0.6, 2.6 * rows + 0.4)
    grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in grid[len(importances) :]:
        axes.set_visible(False)
    for axes, (name, share) in zip(grid, importances.items(), strict=False):
        values = [trial["choices"][name] for trial in trials]
        is_number = not any(isinstance(value, (str, bool)) for value in values)
        for is_whole, colour in ((False, "none"), (True, TRAIN)):
            known = [
                (value if is_number else str(value), trial["figures"][max(trial["figures"])])
                for value, trial in zip(values, trials, strict=True)
                if trial["figures"] and (trial["status"] == "complete") == is_whole
            ]
            if known:
                axes.scatter(*zip(*known, strict=True), s=22, facecolors=colour, edgecolors=TRAIN, linewidths=0.8)
        if is_number and min(values) > 0 and max(values) >= 30 * min(values):
            axes.set_xscale("log")
        axes.set_title(name.replace("_", " ") + ("" if share is None else f": {share:.0%}"), fontsize=10)
    figure.supylabel(f"validation {metric}", fontsize=10)
    write_figure(path, figure)


def write_rate_plot(path: Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> None:
    """Write the curve of a range test as a PNG: the smoothed loss by the learning rate, and the rate that it names."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot(rates, losses, color=TRAIN, linewidth=1.6)
    axes.axvline(chosen, color=TEST, linewidth=1.2, linestyle="--", label=f"lr {chosen:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed")
    axes.legend(frameon=False)
    write_figure(path, figure)


def shortened(name: str) -> str:
    """Return the name visible on one line, cut to a length that leaves room for the matrix; '$' is no formula here."""
    line = visible(" ".join(name.split()))
    line = line if len(line) <= NAME_LENGTH else line[: NAME_LENGTH - 1] + "…"
    return line.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")  # its canvas is Agg's: no pyplot, no display


def write_figure(path: Path, figure: Figure) -> None:
    """Write the figure as a PNG, whole or not at all."""
    from matplotlib.text import Text

    fonts = [family for family in (LATIN_FONT, cjk_font()) if family]  # each letter from the first that has it
    content = io.BytesIO()
    with warnings.catch_warnings():
        # a letter that no installed font has is drawn as a box: nothing to alarm anybody about
        warnings.filterwarnings("ignore", message="(?s).*[Gg]lyph")
        warnings.filterwarnings("ignore", message="(?s).*currently does not support .* natively")
        for text in figure.findobj(Text):
            text.set_fontfamily(fonts)
        figure.savefig(content, format="png", dpi=DPI)
    files.write_bytes(path, content.getvalue())
