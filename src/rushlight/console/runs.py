"""The list of runs, and one run with its curves."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.formats import format_count, format_duration, format_figure
from rushlight.console.output import can_encode, open_console, print_marked
from rushlight.console.progress import evaluated, metric_of, of, show_metric
from rushlight.console.report import open_table, print_titled

if TYPE_CHECKING:
    from rich.console import Console

STATUS_STYLES = {
    "running": "bold cyan",
    "finished": "green",
    "interrupted": "yellow",
    "failed": "red",
    "unfinished": "yellow",
    "damaged": "bold red",
    "killed": "yellow",
}
COLUMNS = ("run", "status", "epochs", "last", "best", "loss", "time", "started")
CURVE_HEIGHT = 13
CURVE_POINTS = 400
CURVE_WIDTH = 100
EPOCH_ROWS = 30  # of a longer run, the last ones are shown
SESSION_ROWS = 20
SESSIONS_WIDE = 76  # columns from which it is shown when each ended


def print_runs(runs: Sequence[Any], to_stderr: bool = False) -> None:
    """Print the list of runs: mappings, or anything with those attributes, as `RunSummary` has them.

    A narrow terminal gets fewer columns, but always whole names: they are what the next command needs.
    """
    from rich.text import Text

    console = open_console(to_stderr)
    rows = [as_mapping(run) for run in runs]
    cells = [run_cells(row) for row in rows]
    table = open_table()
    columns = columns_that_fit(cells, console.width) if console.is_terminal else list(COLUMNS)
    if not console.is_terminal:  # nothing wraps in a file or a pipe
        console.width = max(console.width, sum(column_widths(cells, columns)))
    for column in columns:
        justify: Any = "left" if column in ("run", "status", "started") else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "run")
    for entry in cells:
        style = STATUS_STYLES.get(entry["status"], "")
        table.add_row(*(Text(entry[column], style if column == "status" else "") for column in columns))
    console.print(table)
    for row in rows:
        if row.get("problem"):
            console.print(f"damaged: {row['problem']}", style="red", soft_wrap=not console.is_terminal)


def run_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands in one run's row, by column."""
    metric, best = row.get("metric"), row.get("best_epoch")
    if row["status"] == "damaged":
        figures = dict.fromkeys(("epochs", "last", "best", "loss", "time"), "-")
    else:
        is_share = metric == "accuracy"
        figures = {
            "epochs": of(row.get("epochs_done") or 0, row.get("epochs")),
            "last": f"{'' if is_share else f'{metric} '}{show_metric(metric, row.get('metric_value'))}"
            if metric
            else "-",
            "best": show_metric("accuracy", row.get("best_accuracy")) if is_share else f"epoch {best}" if best else "-",
            "loss": format_figure(row.get("train_loss")),
            "time": format_duration(row.get("seconds") or 0),
        }
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.get("started") or 0))
    return {"run": str(row["name"]), "status": str(row["status"]), **figures, "started": started}


def columns_that_fit(cells: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns for a page of that width: the least missed one goes first, run and status stay."""
    columns = list(COLUMNS)
    for column in ("loss", "started", "time", "best", "epochs", "last"):
        if sum(column_widths(cells, columns)) <= width:
            break
        columns.remove(column)
    return columns


def column_widths(cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[int]:
    """Return each column's width in the terminal, with the space around it; Chinese letters are two columns wide."""
    from rich.cells import cell_len

    return [3 + max(map(cell_len, (column, *(entry[column] for entry in cells)))) for column in columns]


def as_mapping(run: Any) -> Mapping[str, Any]:
    """Return the mapping itself, or an object's attributes as one."""
    return run if isinstance(run, Mapping) else vars(run)


def print_run(
    summary: Any, recipe: Mapping[str, Any], history: Sequence[Mapping[str, Any]], losses: Sequence[float],
    sessions: Sequence[Mapping[str, Any]] = (), to_stderr: bool = False,
) -> None:  # fmt: skip
    """Print one run: how it stands, its recipe, a row for each epoch and for each process that worked on it, its curves.

    `history` is the lines of history.jsonl, `losses` the loss of every step, `sessions` what `list_sessions` returns.
    """
    from rich.text import Text

    console = open_console(to_stderr)
    row = as_mapping(summary)
    status = str(row["status"])
    console.print(
        Text.assemble((str(row["name"]), "bold"), "  ", (status, STATUS_STYLES.get(status, ""))),
        soft_wrap=True,
    )
    console.print(str(row["folder"]), style="dim", soft_wrap=True)
    if row.get("problem"):
        console.print(str(row["problem"]), style="red", soft_wrap=not console.is_terminal)
    for change in row.get("inexact") or ():
        print_marked(console, "not exact:", "bold yellow", str(change))
    print_recipe(console, recipe)
    epochs = [line for line in history if line.get("kind") == "epoch"]
    print_epochs(console, epochs, row.get("best_epoch"))
    print_sessions(console, sessions)
    print_events(console, history)
    print_curves(console, epochs, losses)


def print_recipe(console: Console, recipe: Mapping[str, Any]) -> None:
    """Print what was asked for, one line each; objects are shown by their name and settings."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in recipe.items():
        if value is not None:
            table.add_row(key.replace("_", " "), described(value))
    console.print(table)


def described(value: Any) -> str:
    """Return a recipe's entry in words: 'SGD (lr 0.001, momentum 0.9)'."""
    if isinstance(value, Mapping):
        entries = {**value, **value["arguments"]} if isinstance(value.get("arguments"), Mapping) else value
        rest = {
            key: entry
            for key, entry in entries.items()
            if key not in ("name", "arguments") and entry is not False and entry not in (None, "", [], {})
        }
        settings = ", ".join(f"{key} {described(entry)}" for key, entry in rest.items())
        return " ".join(part for part in (str(value.get("name", "")), f"({settings})" if settings else "") if part)
    if isinstance(value, (list, tuple)):
        return ", ".join(described(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_epochs(console: Console, epochs: Sequence[Mapping[str, Any]], best_epoch: int | None) -> None:
    """Print a row for each epoch; the best one is marked."""
    if not epochs:
        return
    split, figures = next((found for found in map(evaluated, reversed(epochs)) if found[1]), ("test", {}))
    metric = metric_of(figures)
    short = "val" if split == "validation" else "test"
    table = open_table()
    for heading in (
        "epoch",
        "train loss",
        f"{short} loss",
        metric and f"{'val ' if short == 'val' else ''}{metric}",
        "time",
    ):
        if heading:
            table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for line in epochs[-EPOCH_ROWS:]:
        figures = evaluated(line)[1]
        cells = [f"{line['epoch']}", format_figure(line.get("train_loss")), format_figure(figures.get("loss"))]
        cells += [show_metric(metric, figures.get(metric))] if metric else []
        mark = "best" if line["epoch"] == best_epoch and len(epochs) > 1 else ""
        table.add_row(*cells, format_duration(line.get("seconds") or 0), mark)
    print_titled(
        console, f"the last {EPOCH_ROWS} of {len(epochs)} epochs" if len(epochs) > EPOCH_ROWS else "epochs", table
    )


def print_sessions(console: Console, sessions: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each process that worked on the run, and below them why one failed."""
    from rich.text import Text

    if not sessions:
        return
    shown = sessions[-SESSION_ROWS:]
    is_wide = console.width >= SESSIONS_WIDE
    table = open_table()
    table.add_column("began", no_wrap=True)
    if is_wide:
        table.add_column("ended", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("end", overflow="fold", min_width=len("interrupted"))
    table.add_column("process", overflow="fold")
    for session in shown:
        end = Text(str(session["end"]), STATUS_STYLES.get(str(session["end"]), ""))
        if session["differences"]:
            end.append(", not exact", "bold yellow")
        ended = [moment(session["ended"], session["began"])] if is_wide else []
        process = f"{session['pid']} on {session['host']}"
        table.add_row(moment(session["began"]), *ended, steps_of(session), end, process)
    is_cut = len(sessions) > len(shown)
    print_titled(console, f"the last {len(shown)} of {len(sessions):,} sessions" if is_cut else "sessions", table)
    for session in shown:
        for notice in session.get("notices", ()):
            print_marked(console, "notice:", "yellow", str(notice))
        if session["message"]:
            print_marked(console, "failed:", "red", str(session["message"]))


def moment(seconds: Any, since: Any = None) -> str:
    """Return Unix seconds as a local time, "?" for what is none; without the date on the day of `since`."""
    try:
        day, minute = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(seconds))).split()
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"
    return minute if moment(since).startswith(day) else f"{day} {minute}"


def steps_of(session: Mapping[str, Any]) -> str:
    """Return which steps a session took: '690 to 920', or 'from 690' where its last one is not known."""
    first, last = (f"{step:,}" if isinstance(step, int) else "?" for step in (session["from_step"], session["step"]))
    return f"from {first}" if last == "?" else f"{first} to {last}"


def print_events(console: Console, history: Sequence[Mapping[str, Any]]) -> None:
    """Print what happened to training: steps left out, taken back, or taken in smaller pieces."""
    for line in history:
        if line.get("kind") == "event" and line.get("event") != "finished":
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.get("time") or 0))
            at = f" at step {line['step']:,}" if line.get("step") is not None else ""
            text = f"{when}  {line.get('event')}{at}  {line.get('message') or ''}".rstrip()
            console.print(text, style="dim", soft_wrap=not console.is_terminal)


def print_curves(console: Console, epochs: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """Draw the training loss by step, and the test metric by epoch where there are two or more."""
    steps, values = thinned(losses)
    if len(values) > 1:
        draw_curve(console, f"training loss, {format_count(len(losses))} steps", "step", steps, values)
    found = [(line["epoch"], *evaluated(line)) for line in epochs]
    metric = next((metric_of(figures) for _, _, figures in reversed(found) if figures), None)
    points = [(epoch, figures[metric]) for epoch, _, figures in found if metric and figures.get(metric) is not None]
    if len(points) > 1:
        scale = 100 if metric == "accuracy" else 1
        title = f"{found[-1][1]} {metric}{', %' if metric == 'accuracy' else ''}"
        draw_curve(console, title, "epoch", [epoch for epoch, _ in points], [value * scale for _, value in points])


def thinned(losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most CURVE_POINTS steps and the mean loss around each, as two lists; what is not finite is left out."""
    size = max(1, math.ceil(len(losses) / CURVE_POINTS))
    steps, means = [], []
    for start in range(0, len(losses), size):
        finite = [value for value in losses[start : start + size] if math.isfinite(value)]
        if finite:
            steps.append(start + (size + 1) / 2)
            means.append(math.fsum(finite) / len(finite))
    return steps, means


def draw_curve(console: Console, title: str, label: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw one curve in characters, as wide as the page; in ASCII where the stream has nothing finer."""
    from plotext import figure, terminal

    has_braille = can_encode(console.file, "⢕┤")
    width = min(console.width, CURVE_WIDTH)
    terminal.limit(False, False)  # the page is the console's, which may be no terminal
    figure.clear()
    figure.theme("colorless")
    curve = figure.signal(list(x), list(y), marker="braille" if has_braille else "*")
    curve.lines()
    figure.draw(curve)
    figure.title(title)
    figure.label(label)
    ticks = whole_ticks(x[0], x[-1], width // 14)
    figure.ruler("x").ticks(ticks, [f"{tick:,}" for tick in ticks])
    figure.plot_size(width, CURVE_HEIGHT)
    text = figure.build().string(colorless=True)
    if not has_braille:
        text = text.translate(str.maketrans("┌┐└┘─│┤├┬┴┼", "+" * 4 + "-|" + "+" * 5))
    console.print(text, soft_wrap=True, no_wrap=True)


def whole_ticks(low: float, high: float, most: int) -> list[int]:
    """Return up to `most` round whole numbers from low to high, evenly spaced: steps or epochs to write at an axis."""
    step = 1
    while (high - low) / step >= max(most, 2):
        leading = int(str(step)[0])
        step = step * 5 // 2 if leading == 2 else step * 2  # 1, 2, 5, 10, 20, 50, …
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))
