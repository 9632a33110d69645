"""The test report as tables: the figures, the classes, what is taken for what, the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.output import new_table, open_console
from rushlight.formats import format_duration, format_figure, format_metric, format_share, main_figure
from rushlight.texts import Joined, shown, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CLASSES_SHOWN = 30  # more classes than that, and only the worst ten are listed
WORST_CLASSES = 10
CONFUSION_SHOWN = 20
CONFUSED_PAIRS = 10
MISTAKES_SHOWN = 5
INTERVAL_WIDTH = 72  # columns from which the intervals are shown
NAME_WIDTH = 24


def print_report(report: Mapping[str, Any], drops: bool = False) -> None:
    """Print what a test found; `report` is the content of report.json. With `drops`, nobody need be there to read it."""
    from rich.text import Text

    console = open_console(drops=drops)
    head = Text()
    if report.get("accuracy") is not None:
        head.append(text("console.report.accuracy", value=format_share(report["accuracy"])), "bold")
        if interval := report.get("accuracy_interval"):
            head.append(text("console.report.interval", interval=share_range(interval)))
        for name, key in (("iou", "mean-iou"), ("perplexity", "perplexity")):
            if report.get(name) is not None:
                head.append("\n" + text(f"console.report.{key}", value=format_figure(report[name])))
    elif report.get("mae") is not None:
        key, figure = "mae-of" if report.get("target") else "mae", format_figure(report["mae"])
        head.append(text(f"console.report.{key}", value=figure, target=report.get("target")), "bold")
        rmse, r2 = (format_figure(report.get(name)) for name in ("rmse", "r2"))
        head.append("\n" + text("console.report.rmse", rmse=rmse, r2=r2))
        if (naive := report.get("naive")) is not None:
            is_worse = report["mae"] > naive
            key = "worse-than-naive" if is_worse else "better-than-naive"
            head.append("\n" + text(f"console.report.{key}", naive=format_figure(naive)), "yellow" if is_worse else "")
    else:
        head.append(text("console.report.test"), "bold")
    for name, value in (report.get("numbers") or {}).items():
        head.append("\n" + text("console.report.own", name=shown(name), value=format_figure(value)))
        low, high = (report.get("intervals") or {}).get(name) or (None, None)
        if low is not None and high is not None:
            head.append(text("console.report.interval", interval=f"{low:.4f}-{high:.4f}"))
    head.append("\n" + text("console.report.loss", loss=format_figure(report.get("loss")), count=report.get("n", 0)))
    console.print(head)
    classes: Sequence[Mapping[str, Any]] = report.get("classes") or ()
    if classes:
        print_classes(console, classes)
    if confusion := report.get("confusion"):
        print_confusion(console, confusion, [str(entry["name"]) for entry in classes])
    if report.get("most_wrong"):
        print_mistakes(console, report["most_wrong"])


def share_range(interval: Sequence[float]) -> str:
    """Return an interval of shares: '87.8-89.0%'."""
    low, high = interval
    return f"{low * 100:.1f}-{high * 100:.1f}%"


def print_classes(console: Console, classes: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of classes; of many, only those recognised worst."""
    shown = list(classes)
    title = text("console.report.by-class")
    if len(shown) > CLASSES_SHOWN:
        shown = sorted(shown, key=lambda entry: -1.0 if entry.get("f1") is None else float(entry["f1"]))[:WORST_CLASSES]
        title = text("console.report.worst-classes", shown=WORST_CLASSES, count=len(classes))
    is_wide = console.width >= INTERVAL_WIDTH
    table = new_table()
    table.add_column(text("console.report.class"), max_width=NAME_WIDTH, overflow="ellipsis")
    has_iou = any(entry.get("iou") is not None for entry in classes)
    for name in ("places" if has_iou else "samples", "precision", "recall", "f1", *(("iou",) if has_iou else ())):
        table.add_column(text(f"console.report.{name}"), justify="right", no_wrap=True)
    for entry in shown:
        figures = [one_digit(entry.get(name)) for name in ("precision", "recall")]
        if is_wide:
            ranges = [entry.get(f"{name}_interval") for name in ("precision", "recall")]
            figures = [
                f"{figure} ({share_range(range)})" if range and figure != "-" else figure
                for figure, range in zip(figures, ranges, strict=True)
            ]
        figures += [one_digit(entry.get(name)) for name in ("f1", *(("iou",) if has_iou else ()))]
        table.add_row(str(entry["name"]), f"{entry['n']:,}", *figures)
    print_titled(console, title, table)


def one_digit(share: float | None) -> str:
    """Return a share in percent with one digit; '-' when it is not defined."""
    return "-" if share is None else f"{share * 100:.1f}%"


def print_titled(console: Console, title: str, table: Table) -> None:
    """Print a table under its title, with an empty line above."""
    console.print(f"\n{title}", style="bold")
    console.print(table)


def print_confusion(console: Console, confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Print the confusion matrix where it fits the width, else the pairs that are confused most."""
    table = confusion_table(confusion, names, console.width)
    title = text("console.report.confusion")
    if table is None:
        pairs = [(-n, i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j and n]
        title, table = text("console.report.most-confused"), new_table()
        for name in ("true-class", "taken-for"):
            table.add_column(text(f"console.report.{name}"), max_width=NAME_WIDTH, overflow="ellipsis", no_wrap=True)
        table.add_column(text("console.report.times"), justify="right")
        for count, true, predicted in sorted(pairs)[:CONFUSED_PAIRS]:
            table.add_row(names[true], names[predicted], f"{-count:,}")
    if table.row_count:
        print_titled(console, title, table)


def confusion_table(confusion: Sequence[Sequence[int]], names: Sequence[str], width: int) -> Table | None:
    """Return the matrix, rows the true class, columns what it was taken for; None if it has too many classes.

    Columns are headed by the class's name if all names are short, else by its number, which stands in the row too.
    """
    from rich.cells import cell_len
    from rich.text import Text

    if len(confusion) > CONFUSION_SHOWN:
        return None
    cell = max(3, *(len(f"{count}") for row in confusion for count in row))
    headings = list(names) if all(cell_len(name) <= cell for name in names) else [f"{i}" for i in range(len(names))]
    labels = list(names) if headings == list(names) else [f"{i} {name}" for i, name in enumerate(names)]
    room = width - len(confusion) * (cell + 1) - 2
    if room < 8:
        return None
    table = new_table()
    table.padding = (0, 0, 0, 1)
    table.add_column("", max_width=min(room, NAME_WIDTH + 3), overflow="ellipsis", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", min_width=cell, no_wrap=True)
    for i, row in enumerate(confusion):
        total = sum(row)
        cells = [Text(f"{n}" if n else "·", shade(n / total if total else 0, i == j)) for j, n in enumerate(row)]
        table.add_row(labels[i], *cells)
    return table


def shade(share: float, is_right: bool) -> str:
    """Return the style of a cell: green for right, red for wrong, the stronger the larger its share of the row."""
    if share == 0:
        return "dim"
    strength = round(40 + 120 * min(1.0, share if is_right else share * 3))  # a tenth confused is worth seeing
    return f"white on rgb(0,{strength},40)" if is_right else f"white on rgb({strength},30,30)"


def print_mistakes(console: Console, mistakes: Sequence[Mapping[str, Any]]) -> None:
    """Print the predictions that were wrong by most (regression), or wrong with most confidence (classes)."""
    is_number = "error" in mistakes[0]
    table = new_table()
    has_names = all("name" in entry for entry in mistakes)
    table.add_column(text("console.report.sample"), justify="left" if has_names else "right", overflow="fold")
    for name in ("true", "predicted"):
        heading = text(f"console.report.{name}")
        table.add_column(heading, justify="right" if is_number else "left", max_width=NAME_WIDTH, overflow="ellipsis")
    table.add_column(text(f"console.report.{'error' if is_number else 'probability'}"), justify="right")
    for entry in mistakes[:MISTAKES_SHOWN]:
        size = format_figure(entry["error"]) if is_number else one_digit(entry.get("probability"))
        table.add_row(
            entry["name"] if has_names else f"{entry['index']}", spoken(entry["true"]), spoken(entry["predicted"]), size
        )
    print_titled(console, text(f"console.report.{'furthest-off' if is_number else 'most-wrong'}"), table)


def spoken(value: Any) -> str:
    """Return a class name as it is, numbers with four digits."""
    if isinstance(value, (list, tuple)):
        return ", ".join(spoken(entry) for entry in value)
    return format_figure(value) if isinstance(value, float) else str(value)


def print_summary(*, folder: object, seconds: float, test: Mapping[str, Any] | None, run: str) -> None:
    """Print how the training ended: the main figure, the time, the run's folder, and three commands that come next."""
    from rich.text import Text

    console = open_console(drops=True)  # all is done, whether or not anybody reads it
    figures: list[str] = []
    if test and (main := main_figure(test)) is not None:
        name, value, _ = main
        key = name if name in ("accuracy", "mae", "loss") else "own"
        figures.append(text(f"console.summary.{key}", name=shown(name), value=format_metric(name, value)))
    done = text("console.summary.done", figures=Joined("list", [*figures, format_duration(seconds)]))
    console.print(Text(f"\n{done}", "bold green"), soft_wrap=True)
    console.print(text("console.summary.folder", folder=folder), soft_wrap=True)
    console.print(f"\n{text('console.summary.next')}", style="dim")
    for command in (f"rushlight test {run}", f"rushlight predict {run} FILE", f"rushlight save {run} model.pth"):
        console.print(f"  {command}", soft_wrap=True)
