"""The columns of a table: what each one is, what is learnt of it, and how its values become numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.sources.tables.cells import (
    DAY,
    LARGEST,
    MISSING_AMONG_NUMBERS,
    DateOrder,
    as_categories,
    as_number,
    as_texts,
    encode_cells,
    parse_date,
    parse_values,
    unreadable,
)
from rushlight.data.sources.tables.frames import polars, read_frame
from rushlight.data.sources.tables.parquet import open_parquet
from rushlight.data.sources.tables.text_folder import split_folders
from rushlight.data.sources.tables.texts import as_plain_text, is_running_text, learn_tokens
from rushlight.data.spec import Column
from rushlight.errors import DataError, UsageError, suggest
from rushlight.formats import format_names
from rushlight.texts import Joined, Note

if TYPE_CHECKING:
    import polars as pl

LIKE_A_DATE = re.compile(r"\d{1,4}[-/. ](\d{1,2}|[^\W\d]{3,9})[-/. ]\d{2,4}\b|[^\W\d]{3,9} \d{1,2}, \d{4}\b")
ORDERS: tuple[DateOrder, ...] = ("ymd", "dmy", "mdy")
MOST_CATEGORIES = 1000
ROW_NUMBER_NAMES = frozenset(("", "id", "index", "unnamed: 0", "row"))


@dataclass(frozen=True)
class TextOptions:
    """How texts are read: which column ("auto": the one with most text; None: one where nothing else can be learnt from)."""

    column: str | None = None
    length: int | None = None  # tokens
    tokenizer: Any = None  # None: bytes


def learn_text(
    path: Path, frame: pl.DataFrame, name: str, train_rows: np.ndarray, options: TextOptions
) -> tuple[tuple[Column, ...], list[Note]]:
    """Learn on the training rows how the texts of one column become token ids; the other columns are left out."""
    if name not in frame.columns:
        columns, near = ", ".join(frame.columns) or "none", suggest(name, frame.columns)
        raise DataError("no-text-column", path=path, name=name, columns=columns, near=near)
    cells = frame[name].to_list()
    tokens, longer = learn_tokens([as_plain_text(cells[row]) for row in train_rows], options.tokenizer, options.length)
    by = "bytes" if tokens.tokenizer == "bytes" else "function" if callable(tokens.tokenizer) else "tokenizer"
    notes = [Note(
        "data.read-as-text", name=name, how=Note(f"data.text-by-{by}"), vocabulary=tokens.vocabulary, length=tokens.length,
        longer=longer, total=len(train_rows), padding=tokens.padding,
    )]  # fmt: skip
    if others := [other for other in frame.columns if other != name]:
        notes.append(Note("data.beside-text", names=format_names([f'"{other}"' for other in others]), name=name))
    if missing := sum(not as_plain_text(cell).strip() for cell in cells):
        notes.append(Note("data.empty-texts", name=name, count=missing))
    return (Column(name, "text", tokens=tokens),), notes


def learn_columns(
    path: Path, frame: pl.DataFrame, train_rows: np.ndarray, text: TextOptions | None = None
) -> tuple[tuple[Column, ...], list[Note]]:
    """Decide what each column is, and learn its categories or its mean on the training rows; or read one column as text.

    Without `text`, none is.
    """
    if text is not None and text.column is not None and (text.column != "auto" or "auto" in frame.columns):
        return learn_text(path, frame, text.column, train_rows, text)
    texts: dict[str, int] = {}  # columns of running text, with its size
    learnt: list[Column] = []
    left_out: dict[str, Note] = {}
    notes: list[Note] = []
    for name in frame.columns:
        series = frame[name]
        kind = kind_of_column(series)
        if kind is None:
            left_out[name] = Note("data.holds-values-of", dtype=str(series.dtype).split("(")[0].lower())
            continue
        is_text = kind == "date" and series.dtype == polars().String
        order = (date_order(texts_in(series)) if is_text else None) or "ymd"
        notes += column_notes(name, kind, order, Counter(texts_in(series) if kind == "category" else ()))
        column = learn_column(name, kind, series[train_rows.tolist()], order)
        if isinstance(column, Column):
            learnt.append(column)
        elif kind == "category" and is_running_text(values := as_texts(series[train_rows.tolist()].to_list())):
            left_out[name] = Note("data.text-beside", name=name)
            texts[name] = sum(len(value or "") for value in values)
        else:
            left_out[name] = column
    is_asked_for = text is not None and text.column is not None
    if text is not None and texts and (is_asked_for or not learnt):
        return learn_text(path, frame, max(texts, key=lambda name: texts[name]), train_rows, text)
    if is_asked_for:
        raise DataError("no-text", path=path, columns=", ".join(frame.columns))
    if text is not None and (text.length is not None or text.tokenizer is not None):
        option = "text_length" if text.length is not None else "tokenizer"
        raise UsageError(
            "option-of-other-data",
            option=option,
            value=getattr(text, option.removeprefix("text_")),
            kind=Note("data.kinds.texts"),
        )
    return tuple(learnt), [*notes, *learnt_notes(path, learnt, left_out)]


def learnt_notes(path: Path, learnt: Sequence[Column], left_out: Mapping[str, Note]) -> list[Note]:
    """Say which columns were left out, and what the others become; DataError where there are none."""
    if not learnt:
        reasons = Joined(
            "reasons", (Note("data.column-and-reason", name=name, reason=why) for name, why in left_out.items())
        )
        raise DataError("no-columns", path=path, reasons=reasons)
    kinds = Counter[str](column.kind for column in learnt)
    words = {"number": "data.of-numbers", "category": "data.of-categories", "date": "data.of-dates"}
    listed = Joined("list", (Note(key, count=kinds[kind]) for kind, key in words.items() if kinds[kind]))
    width = sum(column.width for column in learnt)
    return [
        *(Note("data.left-out", name=name, reason=why) for name, why in left_out.items()),
        Note("data.columns-become-features", columns=len(learnt), kinds=listed, features=width),
    ]


def column_notes(name: str, kind: str, order: str, texts: Counter[str]) -> list[Note]:
    """Say what may be meant otherwise: nearly all numbers, day-first dates, dates in an order that is not known.

    `texts` are those of a column of categories, and how often each occurs.
    """
    if kind == "date" and order != "ymd":
        return [Note("data.dates-day-first" if order == "dmy" else "data.dates-month-first", name=name)]
    dates = sum(count for text, count in texts.items() if LIKE_A_DATE.match(text))
    if texts and dates > 0.9 * texts.total():
        return [Note("data.dates-unread", name=name, example=next(iter(texts)))]
    others = {text: count for text, count in texts.items() if as_number(text) is None}
    if not texts or 2 * sum(others.values()) >= texts.total():
        return []
    return [Note("data.nearly-numbers", name=name, count=sum(others.values()), example=next(iter(others)))]


def learn_column(name: str, kind: str, series: pl.Series, order: DateOrder) -> Column | Note:
    """Learn one column on the training rows; return why it is left out where it is."""
    if kind == "category":
        return learn_category(name, Counter(as_categories(series.to_list())))
    column = Column(name, "number" if kind == "number" else "date", date_order=order)
    values = values_of(series, column)
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return Note("data.all-missing")
    has_gaps, is_counting = len(known) < len(values), are_whole(known) and are_rising(known)
    return learn_numbers(column, len(known), has_gaps, float(known.mean()), known.min(), known.max(), is_counting)


def learn_numbers(
    column: Column, known: int, has_gaps: bool, mean: float, low: float, high: float, is_counting: bool
) -> Column | Note:
    """Learn a column of numbers or dates of `known` cells from `low` to `high`; return why it is left out where it is.

    `is_counting` tells that the cells are whole numbers, each larger than the one before.
    """
    if not has_gaps and low == high:
        return Note("data.all-equal", value=f"{low:g}") if column.kind == "number" else Note("data.all-the-same-date")
    is_close = high - low < 2 * known  # as row numbers of a part of the rows are
    if column.name.lower() in ROW_NUMBER_NAMES and known > 2 and not has_gaps and is_counting and is_close:
        return Note("data.only-numbers-rows")
    return replace(column, fill=mean, flags_missing=has_gaps)


def are_whole(values: np.ndarray) -> bool:
    """Tell whether all values are whole numbers."""
    return bool((values % 1 == 0).all())


def are_rising(values: np.ndarray) -> bool:
    """Tell whether each value is larger than the one before."""
    return bool((np.diff(values) > 0).all())


def learn_category(name: str, cells: Counter[str | None]) -> Column | Note:
    """Learn the categories of a column, of which each occurs so often; texts that differ from row to row have none."""
    known = Counter({value: count for value, count in cells.items() if value is not None})
    if not known:
        return Note("data.all-missing")
    if len(known) == 1 and known.total() == cells.total():
        return Note("data.all-the-same-text", value=next(iter(known)))
    if len(known) >= 10 and 2 * len(known) > known.total():
        return Note("data.text-of-its-own", count=len(known), rows=known.total())
    if len(known) > MOST_CATEGORIES:
        return Note("data.too-many-categories", count=len(known), most=MOST_CATEGORIES)
    return Column(name, "category", tuple(sorted(known)))


def kind_of_column(series: pl.Series) -> str | None:
    """Tell what a column is: 'number', 'category', 'date', or None for what cannot be used."""
    kind = kind_of_dtype(series.dtype)
    if kind != "text":
        return kind
    texts = set(texts_in(series))
    if all(as_number(text) is not None for text in texts):
        return "number"
    return "date" if date_order(texts) else "category"


def kind_of_dtype(dtype: pl.DataType) -> str | None:
    """Tell what a column is by its dtype; 'text' for one of which only the cells tell, None for what cannot be used."""
    pl = polars()
    if dtype.is_numeric() or dtype == pl.Null:
        return "number"
    if dtype in (pl.Date, pl.Datetime):
        return "date"
    if dtype == pl.String:
        return "text"
    return "category" if dtype in (pl.Boolean, pl.Categorical, pl.Enum) else None


def texts_in(series: pl.Series) -> list[str]:
    """Return the texts of a column that stand for no missing value."""
    return texts_of(series.to_list())


def texts_of(cells: Iterable[object]) -> list[str]:
    """Return the cells that stand for no missing value as texts."""
    return [text for text in as_texts(cells) if text is not None and text not in MISSING_AMONG_NUMBERS]


def encode(frame: pl.DataFrame, columns: tuple[Column, ...], rows: np.ndarray | None = None) -> Tensor:
    """Return a table's rows as `encode_cells` does, as a tensor."""
    table: dict[str, Any] = {name: frame[name] for name in frame.columns}
    for column in columns:
        if column.name in table:
            series = table[column.name]
            if column.kind == "category":
                table[column.name] = category_numbers(series, column)
            else:
                table[column.name] = series.to_list() if column.kind == "text" else values_of(series, column, rows)
    return torch.from_numpy(encode_cells(table, columns, len(frame), rows))


def category_numbers(series: pl.Series, column: Column) -> np.ndarray:
    """Return the number of each cell's category, -1 where it is missing or not known."""
    number_of = {category: number for number, category in enumerate(column.categories)}

    def numbers(cells: list[Any]) -> list[int]:
        return [-1 if text is None else number_of.get(text, -1) for text in as_categories(cells)]

    return by_distinct(series, numbers)


def by_distinct(series: pl.Series, numbers: Callable[[list[Any]], list[int]]) -> np.ndarray:
    """Return a whole number for each cell, where `numbers` gives those of the different cells."""
    pl = polars()
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return np.array(numbers(series.to_list()), dtype=np.int64)
    cells = series.unique()
    found = series.replace_strict(cells, numbers(cells.to_list()), return_dtype=pl.Int64)
    return np.asarray(found.to_numpy())


def values_of(series: pl.Series, column: Column, rows: np.ndarray | None = None) -> np.ndarray:
    """Return a column as float64, dates as days since 1970, NaN for missing values.

    Raises DataError that names the first value that is no number or no date, by its number in `rows`.
    """
    pl = polars()
    is_date = column.kind == "date"
    if is_date and series.dtype in (pl.Date, pl.Datetime):
        moments = series.cast(pl.Datetime("us")) if series.dtype == pl.Date else series.dt.cast_time_unit("us")
        return np.asarray(moments.to_physical().cast(pl.Float64).to_numpy() / (DAY * 1e6))
    if is_date or not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        return parse_values(series.to_list(), column, rows)
    values = np.asarray(series.cast(pl.Float64).to_numpy().astype(np.float64))
    if len(bad := np.flatnonzero(np.abs(values) > LARGEST)):
        raise unreadable(int(bad[0]), series, column, rows)
    return values


def date_order(texts: Iterable[str]) -> DateOrder | None:
    """Return the only order of year, month and day in which all texts are dates; None where there is none, or two.

    Who writes dots (31.12.2024) writes the day first.
    """
    texts = list(texts)
    return chosen_order(possible_orders(texts, ORDERS), have_dots(texts))


def possible_orders(texts: Sequence[str], orders: Iterable[DateOrder]) -> list[DateOrder]:
    """Return those of the orders in which all texts are dates."""
    return [order for order in orders if all(parse_date(text, order) is not None for text in texts)]


def have_dots(texts: Iterable[str]) -> bool:
    """Tell whether all dates are written with dots."""
    return all("." in text.split()[0] for text in texts)


def chosen_order(found: Sequence[DateOrder], has_dots: bool) -> DateOrder | None:
    """Return the only one of the orders that were found, or the day first where dots tell so."""
    if list(found) == ["dmy", "mdy"] and has_dots:
        return "dmy"
    return found[0] if len(found) == 1 else None


def describe_columns(path: Path, columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """Return for each learnt column its kind and, over the file's rows, missing values and range or counts."""
    frame = open_parquet(split_folders(path)["train"]).read_whole() if path.is_dir() else read_frame(path)
    described = []
    for column in columns:
        series = frame[column.name]
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if column.kind == "text":
            texts = [as_plain_text(cell) for cell in series.to_list()]
            entry |= {"missing": sum(not text.strip() for text in texts), "different": len(set(texts))}
        elif column.kind == "category":
            counts = Counter(as_categories(series.to_list()))
            missing = counts.pop(None, 0)
            entry |= {"missing": missing, "different": len(counts), "most_common": counts.most_common(5)}
        else:
            values = values_of(series, column)
            known = values[~np.isnan(values)]
            entry |= {"missing": len(values) - len(known), "different": len(np.unique(known))}
            if len(known):
                entry |= {"min": float(known.min()), "max": float(known.max()), "mean": float(known.mean())}
        described.append(entry)
    return described


def feature_names(columns: tuple[Column, ...]) -> list[str]:
    """Return one name per feature, in the order of `encode`: 'age', 'age is missing', 'colour=red'."""
    names: list[str] = []
    for column in columns:
        if column.orders:
            continue
        if column.kind == "category":
            names += [f"{column.name}={category}" for category in column.categories]
        else:
            names += [column.name, *([Note("data.column-missing", name=column.name)] if column.flags_missing else [])]
    return names
