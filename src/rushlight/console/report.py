"""The test report as tables: the figures, the classes, what is taken for what, the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.formats import format_duration, format_figure, format_share
from rushlight.console.output import open_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

CLASSES_SHOWN = 30  # more classes than that, and only the worst ten are listed
WORST_CLASSES = 10
CONFUSION_SHOWN = 20
CONFUSED_PAIRS = 10
MISTAKES_SHOWN = 5
INTERVAL_WIDTH = 72  # columns from which the intervals are shown
NAME_WIDTH = 24


def print_report(report: Mapping[str, Any], to_stderr: bool = False, drops: bool = False) -> None:
    """Print what a test found; `report` is the content of report.json. With `drops`, nobody need be there to read it."""
    console = open_console(to_stderr, drops)
    console.print(headline(report))
    classes: Sequence[Mapping[str, Any]] = report.get("classes") or ()
    confusion: Sequence[Sequence[int]] = report.get("confusion") or ()
    if classes:
        print_classes(console, classes)
    if confusion:
        print_confusion(console, confusion, [str(entry["name"]) for entry in classes])
    if report.get("most_wrong"):
        print_mistakes(console, report["most_wrong"])


def headline(report: Mapping[str, Any]) -> Text:
    """Return the report's first lines: the main figure with its interval, the loss, and on how many samples."""
    from rich.text import Text

    text = Text()
    if report.get("accuracy") is not None:
        text.append(f"test accuracy {format_share(report['accuracy'])}", "bold")
        if interval := report.get("accuracy_interval"):
            text.append(f" (95% interval {share_range(interval)})")
    elif report.get("mae") is not None:
        target = f" of {report['target']}" if report.get("target") else ""
        text.append(f"test mean absolute error{target} {format_figure(report['mae'])}", "bold")
        text.append(f"\nRMSE {format_figure(report.get('rmse'))}, R² {format_figure(report.get('r2'))}")
    else:
        text.append("test", "bold")
    text.append(f"\nloss {format_figure(report.get('loss'))}, on {report.get('n', 0):,} samples")
    return text


def share_range(interval: Sequence[float]) -> str:
    """Return an interval of shares: '87.8-89.0%'."""
    low, high = interval
    return f"{low * 100:.1f}-{high * 100:.1f}%"


def print_classes(console: Console, classes: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of classes; of many, only those recognised worst."""
    shown = list(classes)
    title = "by class"
    if len(shown) > CLASSES_SHOWN:
        shown = sorted(shown, key=lambda entry: -1.0 if entry.get("f1") is None else float(entry["f1"]))[:WORST_CLASSES]
        title = f"the {WORST_CLASSES} worst of {len(classes)} classes"
    with_interval = console.width >= INTERVAL_WIDTH
    table = open_table()
    table.add_column("class", max_width=NAME_WIDTH, overflow="ellipsis")
    for heading in ("samples", "precision", "recall", "F1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in shown:
        figures = [with_range(entry, name, with_interval) for name in ("precision", "recall")]
        table.add_row(str(entry["name"]), f"{entry['n']:,}", *figures, one_digit(entry.get("f1")))
    print_titled(console, title, table)


def with_range(entry: Mapping[str, Any], name: str, with_interval: bool) -> str:
    """Return a share in percent, with its interval if there is room for it."""
    interval = entry.get(f"{name}_interval")
    if not with_interval or interval is None or entry.get(name) is None:
        return one_digit(entry.get(name))
    return f"{one_digit(entry[name])} ({share_range(interval)})"


def one_digit(share: float | None) -> str:
    """Return a share in percent with one digit; '-' when it is not defined."""
    return "-" if share is None else f"{share * 100:.1f}%"


def open_table(title: str | None = None) -> Table:
    """Return an empty table with the look that all tables here have; a title wraps to the table's width."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="dim", show_edge=False
    )


def print_titled(console: Console, title: str, table: Table) -> None:
    """Print a table under its title, with an empty line above."""
    console.print(f"\n{title}", style="bold")
    console.print(table)


def print_confusion(console: Console, confusion: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Print the confusion matrix where it fits the width, else the pairs that are confused most."""
    table = confusion_table(confusion, names, console.width)
    if table is not None:
        print_titled(console, "confusion: rows are the true class, columns what it was taken for", table)
        return
    pairs = confused_pairs(confusion)
    if pairs:
        table = open_table()
        table.add_column("true class", max_width=NAME_WIDTH, overflow="ellipsis", no_wrap=True)
        table.add_column("taken for", max_width=NAME_WIDTH, overflow="ellipsis", no_wrap=True)
        table.add_column("times", justify="right")
        for count, true, predicted in pairs:
            table.add_row(names[true], names[predicted], f"{count:,}")
        print_titled(console, "most confused", table)


def confusion_table(confusion: Sequence[Sequence[int]], names: Sequence[str], width: int) -> Table | None:
    """Return the matrix, rows the true class, columns what it was taken for; None if it has too many classes.

    Columns are headed by the class's name if all names are short, else by its number, which stands in the row too.
    """
    from rich.text import Text

    if len(confusion) > CONFUSION_SHOWN:
        return None
    cell = max(3, *(len(f"{count}") for row in confusion for count in row))
    headings = list(names) if all(len(name) <= cell for name in names) else [f"{i}" for i in range(len(names))]
    labels = list(names) if headings == list(names) else [f"{i} {name}" for i, name in enumerate(names)]
    room = width - len(confusion) * (cell + 1) - 2
    if room < 8:
        return None
    table = open_table()
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


def confused_pairs(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes as (count, true class, predicted class), the most frequent first."""
    pairs = [(n, i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j and n]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:CONFUSED_PAIRS]


def print_mistakes(console: Console, mistakes: Sequence[Mapping[str, Any]]) -> None:
    """Print the predictions that were wrong by most (regression), or wrong with most confidence (classes)."""
    is_number = "error" in mistakes[0]
    table = open_table()
    has_names = all("name" in entry for entry in mistakes)
    table.add_column("sample", justify="left" if has_names else "right", overflow="fold")
    for heading in ("true", "predicted"):
        table.add_column(heading, justify="right" if is_number else "left", max_width=NAME_WIDTH, overflow="ellipsis")
    table.add_column("error" if is_number else "probability", justify="right")
    for entry in mistakes[:MISTAKES_SHOWN]:
        size = format_figure(entry["error"]) if is_number else one_digit(entry.get("probability"))
        table.add_row(
            entry["name"] if has_names else f"{entry['index']}", spoken(entry["true"]), spoken(entry["predicted"]), size
        )
    print_titled(console, "furthest off" if is_number else "most confidently wrong", table)


def spoken(value: Any) -> str:
    """Return a class name as it is, numbers with four digits."""
    if isinstance(value, (list, tuple)):
        return ", ".join(spoken(entry) for entry in value)
    return format_figure(value) if isinstance(value, float) else str(value)


def print_summary(
    *, folder: object, seconds: float, test: Mapping[str, Any] | None = None, best_epoch: int | None = None,
    run: str = "latest", weights: str = "model.pth", to_stderr: bool = False,
) -> None:  # fmt: skip
    """Print how the training ended: the main figure, the time, the run's folder, and three commands that come next."""
    from rich.text import Text

    console = open_console(to_stderr, drops=True)  # all is done, whether or not anybody reads it
    figures = []
    if test and test.get("accuracy") is not None:
        figures.append(f"accuracy {format_share(test['accuracy'])}")
    elif test and test.get("mae") is not None:
        figures.append(f"mean absolute error {format_figure(test['mae'])}")
    elif test and test.get("loss") is not None:
        figures.append(f"test loss {format_figure(test['loss'])}")
    if best_epoch is not None:
        figures.append(f"best at epoch {best_epoch}")
    figures.append(f"{format_duration(seconds)}")
    console.print(Text("\ndone: " + ", ".join(figures), "bold green"), soft_wrap=True)
    console.print(f"the run is in {folder}", soft_wrap=True)
    console.print("\nnext:", style="dim")
    for command in (
        f"rushlight test {run}",
        f"rushlight predict {run} FILE",
        f"rushlight save {run} {weights}",
    ):
        console.print(f"  {command}", soft_wrap=True)
