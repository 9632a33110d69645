"""From the cells of a table to a model's features: numbers, dates, categories and gaps. Needs neither torch nor polars.

Training, `predict` and a server encode their rows with this module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import numpy as np

from rushlight.data.sources.tables.texts import encode_texts
from rushlight.data.spec import FLOATS, Column, FeatureSpec
from rushlight.errors import DataError, suggest
from rushlight.texts import Note

Array = np.ndarray[Any, np.dtype[Any]]
DateOrder: TypeAlias = Literal["ymd", "dmy", "mdy"]
MISSING = frozenset(("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"))
MISSING_AMONG_NUMBERS = MISSING | {"None", "none", "?", "-", "na", "Null", "NAN"}  # a category may be called "None"
DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})(?:[T ]+(\d.*))?$")
DAY = 86_400.0  # seconds
LARGEST = float(np.finfo(np.float32).max)


def encode_cells(
    table: Mapping[str, Sequence[object] | Array], columns: tuple[Column, ...], count: int, rows: Array | None = None
) -> Array:
    """Return `count` rows as features in the dtype FLOATS, shape (count, sum of the columns' widths), in the order of `columns`.

    A column of texts is alone: its token ids, (count, tokens), are whole numbers.
    `table` has the cells of each column, or what is read of them already: an array of the categories' numbers, -1 for what is
    none, or of float64 values (dates as days since 1970, NaN for gaps).
    Columns that were not learnt are ignored. `rows` are the rows' numbers in their file, where some of it were left out.
    Raises DataError for a column that is not there, or a value that is no number or date where these were learnt.
    """
    features = np.zeros((count, sum(column.width for column in columns)), dtype=FLOATS.get())
    first = 0
    for column in columns:
        if column.orders:
            continue
        if column.name not in table:
            raise column_missing(column.name, table)
        if column.tokens is not None:
            return encode_texts(table[column.name], column.tokens)
        write_column(table[column.name], column, features[:, first : first + column.width], rows)
        first += column.width
    return features


def write_column(cells: Sequence[object] | Array, column: Column, features: Array, rows: Array | None) -> None:
    """Write one column's features, shape (n, column.width), into zeros."""
    if column.kind == "category":
        number_of = {category: number for number, category in enumerate(column.categories)}
        found: Sequence[int] | Array = (
            cells
            if isinstance(cells, np.ndarray)
            else [-1 if value is None else number_of.get(value, -1) for value in as_categories(cells)]
        )
        numbers = np.asarray(found, dtype=np.int64)
        known = np.flatnonzero(numbers >= 0)
        features[known, numbers[known]] = 1.0
        return
    values = cells if isinstance(cells, np.ndarray) else parse_values(cells, column, rows)
    gaps = np.isnan(values)
    features[:, 0] = np.where(gaps, column.fill, values)
    if column.flags_missing:
        features[:, 1] = gaps


def encode_rows(rows: Sequence[Mapping[str, object]], features: FeatureSpec) -> Array:
    """Return rows of plain cells as `encode_cells` does; of a series only the last ones, as many as a window has."""
    table = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    if (time := features.time) is not None:
        if time.name not in table:
            raise column_missing(time.name, table)
        last = last_rows(parse_values(table[time.name], time, None), features)
        table = {name: [cells[row] for row in last.tolist()] for name, cells in table.items()}
    return encode_cells(table, features.columns, len(rows) if time is None else features.shape[0])


def column_missing(name: str, table: Iterable[str]) -> DataError:
    """Return the error of a column that the rows do not have."""
    return DataError("column-not-there", name=name, columns=", ".join(table) or "none", near=suggest(name, table))


def last_rows(times: Array, features: FeatureSpec) -> Array:
    """Return the indices of the last rows of a series in the order of time, as many as a window has; DataError for fewer."""
    assert features.time is not None
    order, needed = order_by_time(times, features.time.name), features.shape[0]
    if len(order) < needed:
        raise DataError("window-too-few-rows", split=Note("words.the-table"), rows=len(order), needed=needed)
    return order[-needed:]


def order_by_time(times: Array, name: str, rows: Array | None = None) -> Array:
    """Return the indices of rows in the order of their times; DataError for a time that is missing, or there twice."""
    rows = np.arange(1, len(times) + 1) if rows is None else rows
    if (gaps := np.flatnonzero(np.isnan(times))).size:
        raise DataError("time-missing", column=name, count=len(gaps), row=int(rows[gaps[0]]))
    order = np.argsort(times, kind="stable")
    if (same := np.flatnonzero(np.diff(times[order]) == 0)).size:
        first, second = rows[order[same[0] : same[0] + 2]].tolist()
        raise DataError("time-twice", column=name, count=len(same), first=first, second=second)
    return order


def as_texts(cells: Iterable[object]) -> list[str | None]:
    """Return cells as texts without blanks around them, None where a value is missing."""
    texts = [None if value is None else str(value).strip() for value in cells]
    return [None if text is None or text in MISSING else text for text in texts]


def as_categories(cells: Iterable[object]) -> list[str | None]:
    """Return cells as categories; 'True', 'TRUE' and true are one and the same."""
    return [
        text.lower() if text is not None and text.lower() in ("true", "false") else text for text in as_texts(cells)
    ]


def parse_values(cells: Sequence[object], column: Column, rows: Array | None) -> Array:
    """Return the cells of a column of numbers or dates as float64, NaN for missing values.

    Raises DataError that names the first value that is no number or no date, by its number in `rows`.
    """

    def read(value: object) -> float | None:
        is_gap = value is None or (isinstance(value, float) and math.isnan(value))
        if is_gap or (isinstance(value, str) and value.strip() in MISSING_AMONG_NUMBERS):
            return math.nan
        if column.kind == "date":  # in days since 1970
            return parse_date(value.strip(), column.date_order) if isinstance(value, str) else None
        return as_number(value)

    texts = {value: read(value) for value in {cell for cell in cells if isinstance(cell, str)}}  # each is read once
    found = [texts[value] if isinstance(value, str) else read(value) for value in cells]
    if None in found:
        raise unreadable(found.index(None), cells, column, rows)
    return np.array(found, dtype=np.float64)


def unreadable(row: int, cells: Any, column: Column, rows: Array | None) -> DataError:
    """Return the error of the cell in a row, counted from 0, that is no number or no date."""
    key = "not-a-date" if column.kind == "date" else "not-a-number"
    return DataError(key, column=column.name, row=row + 1 if rows is None else int(rows[row]), value=cells[row])


def parse_date(text: str, order: DateOrder) -> float | None:
    """Return days since 1970 of a date, or a date and time, such as '2024-01-31', '31/1/2024 12:30'; None of others."""
    match = DATE.match(text)
    if match is None:
        return None
    first, month, last, time = match.groups()
    year, month, day = (first, month, last) if order == "ymd" else (last, month, first)
    if order == "mdy":
        month, day = day, month
    try:
        if len(year) != 4:
            return None
        moment = datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}" + (f"T{time.replace(' ', '')}" if time else ""))
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() / DAY
    except (ValueError, OverflowError):
        return None


def as_number(value: object) -> float | None:
    """Return a cell as a finite number, or None when it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever float() takes, decimals among it
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST and "_" not in str(value) else None
