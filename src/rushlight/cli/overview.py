"""`rushlight data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rushlight.console import fetch_progress, open_console, open_table, print_json, print_titled
from rushlight.formats import format_bytes

SHOWN_CLASSES = 30


def show_datasets(as_json: bool) -> None:
    """Print the datasets known by name."""
    from rushlight.data import describe_datasets

    rows = describe_datasets()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = open_table()
    table.add_column("name", no_wrap=True)
    for heading in ("train", "test", "classes", "pixels", "download"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("here", justify="center")
    table.add_column("licence")
    for row in rows:
        pixels = "×".join(map(str, row.shape))
        size = (
            "in the package"
            if row.download_bytes == 0
            else "?"
            if row.download_bytes is None
            else format_bytes(row.download_bytes)
        )
        here = "yes" if row.is_cached else "no"
        table.add_row(
            row.name, f"{row.train_count:,}", f"{row.test_count:,}", str(row.classes), pixels, size, here, row.licence
        )
    print_titled(open_console(), "datasets by name", table)


def show_data(
    source: str, target: str | None, test: str | None, sheet: Path | None, skip_bad: bool, as_json: bool
) -> None:  # fmt: skip
    """Print what one dataset holds, and write a contact sheet of its images."""
    from rushlight.data import DataOptions, describe_data, open_source, write_contact_sheet

    opened = open_source(source, test, DataOptions(target=target, skip_bad=skip_bad), fetch_progress())
    path = Path(source)
    described = describe_data(opened, table=path if path.is_file() else None)
    if described["kind"] == "image":
        where = sheet or Path(f"contact-sheet-{path.stem}.png")
        write_contact_sheet(opened, where)
        described["contact_sheet"] = str(where)
    if as_json:
        print_json(described)
    else:
        print_overview(described)


def print_overview(described: Mapping[str, Any]) -> None:
    """Print a description as tables and sentences."""
    console = open_console()
    shape = "unknown" if described["shape"] is None else "×".join(map(str, described["shape"]))
    console.print(
        f"{described['name']}: {described['kind'] or 'batches'} of {shape} {described['dtype'] or ''}, {described['task'] or ''}"
    )
    splits = {name: split for name, split in described["splits"].items() if split is not None}
    for name, split in splits.items():
        samples = "unknown" if split["samples"] is None else f"{split['samples']:,}"
        values = "" if split["min"] is None else f", values {split['min']:g} to {split['max']:g}"
        console.print(f"  {name:<10} {samples} samples, {split['storage']}{values}", highlight=False)
    print_counts(console, splits)
    print_columns(console, described["columns"])
    duplicates = described["duplicates"]
    if duplicates is not None:
        share = f"{duplicates['count']:,} of {duplicates['of']:,} test samples are in the training split too"
        console.print(
            f"duplicates: {share}" if duplicates["count"] else "duplicates: no test sample is in the training split"
        )
        for pair in duplicates["pairs"][:3]:
            console.print(f"  train {pair[0]} = test {pair[1]}", highlight=False)
    if described["mean"]:
        numbers = ", ".join(f"{value:.4g}" for value in described["mean"])
        spreads = ", ".join(f"{value:.4g}" for value in described["std"])
        console.print(f"mean {numbers}; std {spreads}", highlight=False)
    for note in described["notes"]:
        console.print(f"note: {note}", highlight=False, soft_wrap=not console.is_terminal, markup=False)
    if "contact_sheet" in described:
        console.print(f"contact sheet: {described['contact_sheet']}", soft_wrap=True, markup=False)


def print_counts(console: Any, splits: Mapping[str, Any]) -> None:
    """Print how many samples each class has in each split."""
    counts = {name: split["counts"] for name, split in splits.items() if split["counts"]}
    if not counts:
        return
    classes = list(next(iter(counts.values())))
    table = open_table()
    table.add_column("class")
    for name in counts:
        table.add_column(name, justify="right")
    for label in classes[:SHOWN_CLASSES]:
        table.add_row(label, *(f"{found.get(label, 0):,}" for found in counts.values()))
    if len(classes) > SHOWN_CLASSES:
        table.add_row(f"… {len(classes) - SHOWN_CLASSES} more classes", *("" for _ in counts))
    print_titled(console, "samples per class", table)


def print_columns(console: Any, columns: list[Mapping[str, Any]] | None) -> None:
    """Print a table's columns: kind, gaps, and what is in them."""
    if not columns:
        return
    table = open_table()
    for heading in ("column", "kind"):
        table.add_column(heading)
    table.add_column("missing", justify="right")
    table.add_column("different", justify="right")
    table.add_column("values")
    for column in columns:
        low, high = column.get("min"), column.get("max")
        common = ", ".join(f"{value} ({count:,})" for value, count in column.get("most_common") or ())
        values = common if low is None else f"{low:.4g} to {high:.4g}"
        table.add_row(
            str(column["name"]), str(column["kind"]), f"{column['missing']:,}", f"{column['different']:,}", values
        )
    print_titled(console, "columns", table)
