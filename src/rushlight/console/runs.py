"""The list of runs, and one run with its curves."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.output import (
    Unheard,
    can_encode,
    new_grid,
    new_table,
    open_console,
    print_marked,
    print_unwrapped,
)
from rushlight.console.progress import evaluated, metric_of, metric_title, metric_value, of, show_metric
from rushlight.console.report import print_titled
from rushlight.formats import format_count, format_duration, format_figure, format_metric
from rushlight.texts import Note, shown, text

if TYPE_CHECKING:
    from rich.console import Console

STATUS_STYLES = {
    "running": "bold cyan", "finished": "green", "pruned": "dim green", "interrupted": "yellow", "failed": "red", "unfinished": "yellow",
    "damaged": "bold red", "killed": "yellow",
}  # fmt: skip
COLUMNS = ("run", "status", "epochs", "last", "best", "loss", "time", "started")
LEAST_MISSED = ("loss", "started", "time", "best", "epochs", "last")  # columns that a narrow terminal loses, in order
CURVE_HEIGHT = 13
CURVE_POINTS = 400
CURVE_WIDTH = 100
HIGHEST = 1e100  # that is drawn: ranges near a float's largest number overflow
EPOCH_ROWS = 30  # of a longer run, the last ones are shown
SESSION_ROWS = 20
SESSIONS_WIDE = 76  # columns from which the ends of sessions are shown


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print the list of runs, each with the fields of `RunSummary`.

    A narrow terminal gets fewer columns, but always whole names: the next command needs them.
    """
    from rich.cells import cell_len
    from rich.text import Text

    console = open_console()
    cells = [run_cells(run) for run in runs]
    columns = list(COLUMNS)
    heads = {name: text(f"console.runs.{name}") for name in columns}
    widths = {name: 3 + max(map(cell_len, (heads[name], *(row[name] for row in cells)))) for name in columns}
    for column in LEAST_MISSED:
        if console.is_terminal and sum(widths[name] for name in columns) > console.width:
            columns.remove(column)
    table = new_table()
    for column in columns:
        justify: Any = "left" if column in ("run", "status", "started") else "right"
        width = None if column == "run" else widths[column] - 3  # given, or rich measures every cell three times
        table.add_column(heads[column], justify=justify, overflow="fold", no_wrap=column != "run", width=width)
    for run, row in zip(runs, cells, strict=True):
        style = STATUS_STYLES.get(run["status"], "")
        table.add_row(*(Text(row[column], style if column == "status" else "") for column in columns))
    print_unwrapped(console, table)
    for run in runs:
        if run.get("problem"):
            problem = text("console.damaged", problem=run["problem"])
            console.print(problem, style="red", soft_wrap=not console.is_terminal)


def run_cells(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts in one run's row, by column."""
    row = {
        "run": shown(run["name"]),
        "status": text(f"console.status.{run['status']}"),
        "started": moment(run["started"]),
    }
    if run["status"] == "damaged":
        return row | dict.fromkeys(("epochs", "last", "best", "loss", "time"), "-")
    metric, best = run["metric"], "-"
    last = format_metric(metric, run["metric_value"]) if metric else "-"
    if metric == "accuracy":
        best = format_metric(metric, run["best_accuracy"])
    elif metric:
        last = f"{metric_title(metric, 'test')} {last}"
        best = text("console.runs.best-epoch", epoch=run["best_epoch"]) if run["best_epoch"] else "-"
    epochs, loss = of(run["epochs_done"], run["epochs"]), format_figure(run["train_loss"])
    return row | {"epochs": epochs, "last": last, "best": best, "loss": loss, "time": format_duration(run["seconds"])}


def print_run(
    summary: Mapping[str, Any], recipe: Mapping[str, Any], history: Sequence[Mapping[str, Any]],
    losses: Sequence[float], sessions: Sequence[Mapping[str, Any]] = (),
) -> None:  # fmt: skip
    """Print one run: status, recipe, a row for each epoch and each process, curves.

    `history` is the lines of history.jsonl, `losses` the loss of every step, `sessions` the result of `list_sessions`.
    """
    from rich.text import Text

    console = open_console()
    status = Text(text(f"console.status.{summary['status']}"), STATUS_STYLES.get(summary["status"], ""))
    console.print(Text.assemble((shown(summary["name"]), "bold"), "  ", status), soft_wrap=True)
    console.print(shown(summary["folder"]), style="dim", soft_wrap=True)
    for change in summary.get("inexact") or ():
        print_marked(console, text("console.not-exact"), "bold yellow", shown(change))
    table = new_grid()
    for key, value in recipe.items():
        if value is not None:
            table.add_row(key.replace("_", " "), describe_entry(value))
    console.print(table)
    epochs = [line for line in history if line.get("kind") == "epoch"]
    if epochs:
        print_epochs(console, epochs, summary.get("best_epoch"))
    if sessions:
        print_sessions(console, sessions)
    for line in history:
        if line.get("kind") == "event" and line.get("event") != "finished":
            at = " " + text("console.run.at-step", step=line["step"]) if line.get("step") is not None else ""
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.get("time") or 0))
            entry = f"{when}  {shown(line.get('event'))}{at}  {shown(line.get('message') or '')}".rstrip()
            console.print(entry, style="dim", soft_wrap=not console.is_terminal)
    print_curves(console, epochs, losses)


def describe_entry(value: Any) -> str:
    """Return a recipe's entry in words: 'SGD (lr 0.001, momentum 0.9)'."""
    if isinstance(value, Mapping):
        entries = {**value, **value["arguments"]} if isinstance(value.get("arguments"), Mapping) else value
        settings = ", ".join(
            f"{key} {describe_entry(entry)}"
            for key, entry in entries.items()
            if key not in ("name", "arguments") and entry is not False and entry not in (None, "", [], {})
        )
        return f"{value.get('name', '')} ({settings})".strip() if settings else str(value.get("name", ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(describe_entry(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_epochs(console: Console, epochs: Sequence[Mapping[str, Any]], best_epoch: int | None) -> None:
    """Print a row for each epoch; the best one is marked."""
    split, figures = next((found for found in map(evaluated, reversed(epochs)) if found[1]), ("test", {}))
    metric = metric_of(figures)
    table = new_table()
    heads = [text(f"console.headings.{name}") for name in ("epoch", "train-loss", f"{split}-loss", "time")]
    heads[3:3] = [metric_title(metric, split)] if metric else []
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for line in epochs[-EPOCH_ROWS:]:
        figures = evaluated(line)[1]
        cells = [f"{line['epoch']}", format_figure(line.get("train_loss")), format_figure(figures.get("loss"))]
        cells += [show_metric(metric, figures)] if metric else []
        mark = text("console.best") if line["epoch"] == best_epoch and len(epochs) > 1 else ""
        table.add_row(*cells, format_duration(line.get("seconds") or 0), mark)
    key = "console.run.last-epochs" if len(epochs) > EPOCH_ROWS else "console.run.epochs"
    print_titled(console, text(key, shown=EPOCH_ROWS, count=len(epochs)), table)


def print_sessions(console: Console, sessions: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each process that worked on the run, and below them why one failed."""
    from rich.cells import cell_len
    from rich.text import Text

    listed = sessions[-SESSION_ROWS:]
    is_wide = console.width >= SESSIONS_WIDE
    table = new_table()
    table.add_column(text("console.run.began"), no_wrap=True)
    if is_wide:
        table.add_column(text("console.run.ended"), no_wrap=True)
    table.add_column(text("console.run.steps"), justify="right", no_wrap=True)
    table.add_column(text("console.run.end"), overflow="fold", min_width=cell_len(text("console.status.interrupted")))
    table.add_column(text("console.run.process"), overflow="fold")
    for session in listed:
        end = Text(text(f"console.status.{session['end']}"), STATUS_STYLES.get(session["end"], ""))
        if session["differences"]:
            end.append(text("console.run.not-exact"), "bold yellow")
        ended = [moment(session["ended"], session["began"])] if is_wide else []
        first, last = (
            f"{session[name]:,}" if isinstance(session[name], int) else "?" for name in ("from_step", "step")
        )
        steps = text(f"console.run.{'steps-from' if last == '?' else 'steps-from-to'}", first=first, last=last)
        process = text("console.run.process-on", pid=session["pid"], host=session["host"])
        table.add_row(moment(session["began"]), *ended, steps, end, process)
    key = "console.run.last-sessions" if len(sessions) > len(listed) else "console.run.sessions"
    print_titled(console, text(key, shown=len(listed), count=len(sessions)), table)
    for session in listed:
        for notice in session.get("notices", ()):
            print_marked(console, text("console.notice"), "yellow", shown(notice))
        if session["message"]:
            print_marked(console, text("console.failed"), "red", shown(session["message"]))


def moment(seconds: Any, since: Any = None) -> str:
    """Return Unix seconds as a local time ("?" if they are none), without the day of `since`."""
    try:
        day, minute = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(seconds))).split()
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"
    return minute if moment(since).startswith(day) else f"{day} {minute}"


def print_curves(console: Console, epochs: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """Draw the training loss by step and the test metric by epoch, each from two points on."""
    steps, values = thin_curve(losses)
    if len(values) > 1:
        title = text("console.run.loss-curve", steps=format_count(len(losses)))
        draw_curve(console, title, text("console.run.step"), steps, values)
    found = [(line["epoch"], *evaluated(line)) for line in epochs]
    metric = next((metric_of(figures) for _, _, figures in reversed(found) if figures), None)
    known = [(epoch, metric_value(metric, figures)) for epoch, _, figures in found if metric]
    points = [(epoch, value) for epoch, value in known if value is not None]
    if len(points) > 1:
        scale, key = (100, "accuracy-curve") if metric == "accuracy" else (1, "metric-curve")
        split, name = Note(f"words.{found[-1][1]}"), metric_title(metric or "", "test")
        title = text(f"console.run.{key}", split=split, metric=name)
        epoch_label, values = text("console.run.epoch"), [value * scale for _, value in points]
        draw_curve(console, title, epoch_label, [epoch for epoch, _ in points], values)


def thin_curve(losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most CURVE_POINTS steps, and the mean of the finite losses around each."""
    size = max(1, math.ceil(len(losses) / CURVE_POINTS))
    steps, means = [], []
    for start in range(0, len(losses), size):
        finite = [value for value in losses[start : start + size] if math.isfinite(value)]
        if finite:
            steps.append(start + (size + 1) / 2)
            means.append(math.fsum(finite) / len(finite))
    return steps, means


def draw_curve(console: Console, title: str, label: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw one curve in characters, as wide as the page; in ASCII where the stream needs it."""
    from plotext import figure, terminal

    has_braille = can_encode(console.file, "⢕┤")
    width = min(console.width, CURVE_WIDTH)
    terminal.limit(False, False)  # the page is the console's, which may be no terminal
    figure.clear()
    figure.theme("colorless")
    y = [min(max(value, -HIGHEST), HIGHEST) for value in y]
    curve = figure.signal(list(x), y, marker="braille" if has_braille else "*")
    curve.lines()
    figure.draw(curve)
    figure.title(title)
    figure.label(label)
    ticks = whole_ticks(x[0], x[-1], width // 14)
    figure.ruler("x").ticks(ticks, [f"{tick:,}" for tick in ticks])
    figure.plot_size(width, CURVE_HEIGHT)
    with contextlib.redirect_stderr(Unheard()):  # plotext has notices of its own
        drawn = figure.build().string(colorless=True)
    if not has_braille:
        drawn = drawn.translate(str.maketrans("┌┐└┘─│┤├┬┴┼", "+" * 4 + "-|" + "+" * 5))
    console.print(drawn, soft_wrap=True, no_wrap=True)


def whole_ticks(low: float, high: float, most: int) -> list[int]:
    """Return up to `most` round whole numbers from low to high, evenly spaced, for an axis."""
    step = 1
    while (high - low) / step >= max(most, 2):
        leading = int(str(step)[0])
        step = step * 5 // 2 if leading == 2 else step * 2  # 1, 2, 5, 10, 20, 50, …
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))
