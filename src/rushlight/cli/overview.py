"""`rushlight data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight import files
from rushlight.console import new_table, open_console, print_json, print_marked, print_titled
from rushlight.errors import StorageError
from rushlight.formats import format_bytes
from rushlight.texts import shown, text

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_CLASSES = 30
SHOWN_PAIRS = 3


def show_datasets(as_json: bool) -> None:
    """Print the datasets known by name."""
    from rushlight.data import describe_datasets

    rows = describe_datasets()
    if as_json:
        print_json(rows)
        return
    table = new_table()
    table.add_column(text("console.datasets.name"), no_wrap=True)
    for name in ("train", "test", "classes", "pixels", "download"):
        table.add_column(text(f"console.datasets.{name}"), justify="right", no_wrap=True)
    table.add_column(text("console.datasets.here"), justify="center")
    table.add_column(text("console.datasets.licence"))
    for row in rows:
        size = format_bytes(row["download_bytes"]) if row["download_bytes"] else text("console.datasets.in-the-package")
        here = text("console.environment.yes" if row["is_cached"] else "console.environment.no")
        counts = (f"{row[name]:,}" for name in ("train_count", "test_count", "classes"))
        table.add_row(row["name"], *counts, "×".join(map(str, row["shape"])), size, here, row["licence"])
    print_titled(open_console(), text("console.datasets.title"), table)


def show_data(source: str, options: dict[str, Any], sheet: Path | None, as_json: bool, force: bool = False) -> None:
    """Print what one dataset holds, and write a contact sheet of its images."""
    from rushlight.api import open_data
    from rushlight.data import describe_data, is_table, write_contact_sheet

    if sheet is not None and sheet.suffix.lower() == ".png":  # any other is refused as that
        files.check_replaceable([sheet], force)
    opened = open_data(source, **options)
    path = Path(source)
    described = describe_data(opened, table=path if path.is_file() or is_table(path) else None)
    refused: StorageError | None = None
    if described["kind"] == "image":
        where = sheet or Path(f"contact-sheet-{path.stem}.png")
        try:
            write_contact_sheet(opened, where)
            described["contact_sheet"] = str(where)
        except StorageError as error:  # what was found is shown first
            refused = error
    if as_json:
        print_json(described)
    else:
        print_overview(described)
    if refused is not None:
        raise refused


def print_overview(described: Mapping[str, Any]) -> None:
    """Print a description as tables and sentences."""
    from rich.cells import set_cell_size  # Chinese characters are two columns wide

    console = open_console()
    unknown = text("console.overview.unknown")
    shape = unknown if described["shape"] is None else "×".join(map(str, described["shape"]))
    kind = text(f"console.overview.kinds.{described['kind'] or 'batches'}")
    task = text(f"console.overview.tasks.{described['task']}") if described["task"] else ""
    about = {"name": described["name"], "kind": kind, "shape": shape, "dtype": described["dtype"] or "", "task": task}
    console.print(text("console.overview.title", **about))
    splits = {name: split for name, split in described["splits"].items() if split is not None}
    for name, split in splits.items():
        samples = unknown if split["samples"] is None else f"{split['samples']:,}"
        line = text("console.overview.split", samples=samples, storage=text(f"console.overview.{split['storage']}"))
        if split["min"] is not None:
            line += text("console.overview.values", low=split["min"], high=split["max"])
        console.print(f"  {set_cell_size(text(f'words.{name}'), 10)} {line}")
    print_counts(console, {name: split["counts"] for name, split in splits.items() if split["counts"]})
    print_columns(console, described["columns"] or ())
    if duplicates := described["duplicates"]:
        key = "console.overview.duplicates" if duplicates["count"] else "console.overview.no-duplicates"
        console.print(text(key, count=duplicates["count"], total=duplicates["of"]))
        for train, test in duplicates["pairs"][:SHOWN_PAIRS]:
            console.print("  " + text("console.overview.pair", train=train, test=test))
    if described["mean"]:
        mean, std = (", ".join(f"{value:.4g}" for value in described[name]) for name in ("mean", "std"))
        console.print(text("console.overview.mean", mean=mean, std=std))
    for note in described["notes"]:
        print_marked(console, text("console.note"), "", shown(note))
    if "contact_sheet" in described:
        console.print(text("console.overview.contact-sheet", path=described["contact_sheet"]), soft_wrap=True)


def print_counts(console: Console, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Print how many samples each class has in each split, given as {split: {class: samples}}."""
    if not counts:
        return
    table = new_table()
    table.add_column(text("console.overview.class"))
    for name in counts:
        table.add_column(text(f"words.{name}"), justify="right")
    classes = list(next(iter(counts.values())))
    for label in classes[:SHOWN_CLASSES]:
        table.add_row(label, *(f"{found.get(label, 0):,}" for found in counts.values()))
    if len(classes) > SHOWN_CLASSES:
        table.add_row(text("console.overview.more-classes", count=len(classes) - SHOWN_CLASSES))
    print_titled(console, text("console.overview.samples-per-class"), table)


def print_columns(console: Console, columns: Sequence[Mapping[str, Any]]) -> None:
    """Print a table's columns: kind, gaps, and what is in them."""
    if not columns:
        return
    table = new_table()
    for name in ("column", "kind"):
        table.add_column(text(f"console.overview.{name}"))
    for name in ("missing", "different"):
        table.add_column(text(f"console.overview.{name}"), justify="right")
    table.add_column(text("console.overview.values-of-a-column"))
    for column in columns:
        values = ", ".join(f"{value} ({count:,})" for value, count in column.get("most_common") or ())
        if column.get("min") is not None:
            values = text("console.overview.range", low=column["min"], high=column["max"])
        kind = text(f"console.overview.kinds.{column['kind']}")
        different = "" if column["different"] is None else f"{column['different']:,}"
        table.add_row(str(column["name"]), kind, f"{column['missing']:,}", different, values)
    print_titled(console, text("console.overview.columns"), table)
