"""What `columns.py` learns of a table in memory, learnt of one that is larger, in two passes over its files.

One is over the columns of texts and categories and the target, the other over those of numbers and dates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rushlight.data.sources.tables.cells import as_categories, as_number
from rushlight.data.sources.tables.columns import (
    MOST_CATEGORIES,
    ORDERS,
    are_rising,
    are_whole,
    chosen_order,
    column_notes,
    have_dots,
    kind_of_dtype,
    learn_category,
    learn_numbers,
    learnt_notes,
    possible_orders,
    texts_of,
    values_of,
)
from rushlight.data.sources.tables.frames import polars
from rushlight.data.sources.tables.parquet import ParquetTable
from rushlight.data.sources.tables.rows import RUNS, SPLITS, RowCut, labelled_chunks, target_gaps, window_rows
from rushlight.data.sources.tables.targets import target_numbers, target_spec
from rushlight.data.spec import FLOATS, Column, TargetSpec, Task
from rushlight.errors import DataError
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

MOST_CELLS = 10_000  # different cells of a column that are counted


class CellFacts:
    """The different cells of a column and how often each occurs, and whether its texts may be numbers or dates."""

    def __init__(self, dtype: pl.DataType) -> None:
        self.is_text = dtype == polars().String
        self.rows, self.is_wide, self.are_numbers, self.has_dots = 0, False, True, True
        self.orders = list(ORDERS)
        self.every, self.train = Counter[Any](), Counter[Any]()  # empty where there are more than MOST_CELLS: is_wide

    def add(self, series: pl.Series, is_train: np.ndarray) -> None:
        """Take in the next cells."""
        self.rows += len(series)
        is_open = self.is_text and (self.are_numbers or self.orders != [])
        counts = {} if self.is_wide and not is_open else counted(series)
        if is_open:
            texts = texts_of(cell for cell in counts if cell not in self.every)
            self.are_numbers = self.are_numbers and all(as_number(text) is not None for text in texts)
            self.orders = possible_orders(texts, self.orders)
            self.has_dots = self.has_dots and have_dots(texts)
        if not self.is_wide:
            self.every.update(counts)
            self.train.update(counted(series.filter(polars().Series(is_train))))
            self.is_wide = len(self.every) > MOST_CELLS
            if self.is_wide:
                self.every, self.train = Counter(), Counter()

    def texts(self) -> Counter[str]:
        """Return how often each text that stands for no missing value occurs."""
        found = Counter[str]()
        for cell, count in self.every.items():
            found.update(dict.fromkeys(texts_of([cell]), count))
        return found

    def categories(self) -> Counter[str | None]:
        """Return how often each category occurs in the training rows, None for those without."""
        found = Counter[str | None]()
        for category, count in zip(as_categories(self.train), self.train.values(), strict=True):
            found[category] += count
        return found


def counted(series: pl.Series) -> dict[Any, int]:
    """Return the different cells, in the order of their first ones, with how often each occurs."""
    cells = polars().DataFrame({"cell": series})
    return dict(cells.group_by("cell", maintain_order=True).len("count").iter_rows())


@dataclass
class NumberFacts:
    """Count, mean, deviation and range of the numbers of the training rows, as given and as they are stored."""

    known: int = 0
    gaps: int = 0
    shift: float = 0.0  # the first value, which is subtracted from all: see `mean_and_std`
    total: float = 0.0
    stored: float = 0.0  # in the dtype of FLOATS
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    last: float = float("-inf")
    is_counting: bool = True

    def add(self, values: np.ndarray) -> None:
        """Take in the next values, NaN where one is missing."""
        known = values[~np.isnan(values)]
        self.gaps += len(values) - len(known)
        if not len(known):
            return
        self.shift = self.shift if self.known else float(known[0])
        stored = known.astype(FLOATS.get()).astype(np.float64) - self.shift
        self.known += len(known)
        self.total += float((known - self.shift).sum())
        self.stored += float(stored.sum())
        self.squares += float((stored * stored).sum())
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        if self.is_counting:
            self.is_counting = float(known[0]) > self.last and are_whole(known) and are_rising(known)
        self.last = float(known[-1])

    @property
    def mean(self) -> float:
        """The mean of the values that are there."""
        return self.shift + self.total / max(self.known, 1)

    def learn(self, column: Column) -> Column | Note:
        """Return the column with what fills its gaps, or why it is left out."""
        if not self.known:
            return Note("data.all-missing")
        return learn_numbers(column, self.known, self.gaps > 0, self.mean, self.low, self.high, self.is_counting)

    def moments(self, fill: float = 0.0) -> tuple[float, float]:
        """Return mean and deviation of the stored values, those that are missing being `fill`."""
        count, off = max(self.known + self.gaps, 1), float(np.array(fill, FLOATS.get())) - self.shift
        mean = (self.stored + self.gaps * off) / count
        variance = (self.squares + self.gaps * off * off) / count - mean * mean
        return mean + self.shift, max(variance, 0.0) ** 0.5


@dataclass(frozen=True)
class Learnt:
    """What the training rows tell of the columns and the target, and how many rows there are of each split."""

    columns: tuple[Column, ...]
    target: TargetSpec
    run: int  # rows
    counts: np.ndarray  # rows with a target of each split in each run, (3, runs)
    class_counts: np.ndarray  # of each split, (3, classes)
    moments: np.ndarray  # mean and deviation of each feature, (2, features)
    target_moments: np.ndarray  # of quantities, (2, 1)
    described: list[dict[str, Any]]
    notes: list[Note]


def learn_table(
    table: ParquetTable, target: str, task: Task | None, cut: RowCut, window: int | None, most: int
) -> Learnt:
    """Learn columns and target. `window`: rows that are shuffled together; None: as many as `most` bytes hold, about."""
    cells, labels = count_cells(table, target, cut)
    notes = target_gaps(table, target, labels.rows)
    spec, target_notes = learn_target(table, target, task, labels)
    columns, kind_notes = learn_kinds(table, target, cells)
    width = sum(max(column.width, 2) for column in columns.values() if isinstance(column, Column))
    run = max((window or window_rows(4 * (width + 1), most)) // RUNS, 1)
    counts = np.zeros((len(SPLITS), -(-table.rows // run)), dtype=np.int64)
    class_counts = np.zeros((len(SPLITS), len(spec.classes)), dtype=np.int64)
    quantities = NumberFacts()
    numbers = {
        name: NumberFacts()
        for name, column in columns.items()
        if isinstance(column, Column) and column.kind != "category"
    }
    for frame, rows, splits in labelled_chunks(table, target, list(numbers), cut):
        values = target_numbers(table.path, frame[target], spec).numpy().reshape(-1)
        for own, split_counts, split_classes in zip(splits == np.arange(3)[:, None], counts, class_counts, strict=True):
            split_counts += np.bincount((rows[own] - 1) // run, minlength=len(split_counts))
            if spec.classes:
                split_classes += np.bincount(values[own].astype(np.int64), minlength=len(spec.classes))
        for name, facts in numbers.items():
            facts.add(values_of(frame[name], columns[name], rows)[splits == 0])  # type: ignore[arg-type]
        if not spec.classes:
            quantities.add(values[splits == 0].astype(np.float64))
    for name, facts in numbers.items():
        columns[name] = facts.learn(columns[name])  # type: ignore[arg-type]
    learnt = tuple(column for column in columns.values() if isinstance(column, Column))
    left_out = {name: column for name, column in columns.items() if isinstance(column, Note)}
    notes += [
        *target_notes,
        *cut.notes(counts.sum(1).tolist()),
        *kind_notes,
        *learnt_notes(table.path, learnt, left_out),
    ]
    total = int(counts[0].sum())
    moments = [found for column in learnt for found in moments_of(column, cells, numbers, total)]
    return Learnt(
        learnt, spec, run, counts, class_counts, np.array(moments).reshape(-1, 2).T, np.array([quantities.moments()]).T,
        [described(column, cells, numbers) for column in learnt], notes,
    )  # fmt: skip


def count_cells(table: ParquetTable, target: str, cut: RowCut) -> tuple[dict[str, CellFacts], CellFacts]:
    """Read the columns of texts and categories, and the target."""
    kinds = {name: kind_of_dtype(dtype) for name, dtype in table.columns.items() if name != target}
    cells = {name: CellFacts(table.columns[name]) for name, kind in kinds.items() if kind in ("text", "category")}
    labels = CellFacts(table.columns[target])
    for frame, _, splits in labelled_chunks(table, target, list(cells), cut):
        for name, facts in (*cells.items(), (target, labels)):
            facts.add(frame[name], splits == 0)
    return cells, labels


def learn_kinds(
    table: ParquetTable, target: str, cells: dict[str, CellFacts]
) -> tuple[dict[str, Column | Note], list[Note]]:
    """Decide what each column is, as `kind_of_column` does, and learn its categories; of numbers and dates the mean is still open."""
    columns: dict[str, Column | Note] = {}
    notes: list[Note] = []
    for name, dtype in table.columns.items():
        if name == target:
            continue
        kind, order = kind_of_dtype(dtype), None
        if name in cells:
            kind = "category"
            if cells[name].is_text:
                order = chosen_order(cells[name].orders, cells[name].has_dots)
                kind = "number" if cells[name].are_numbers else "category" if order is None else "date"
        if kind is None:
            columns[name] = Note("data.holds-values-of", dtype=str(dtype).split("(")[0].lower())
        elif kind == "category":
            is_wide = cells[name].is_wide
            left_out = Note("data.more-categories", most=MOST_CATEGORIES)
            columns[name] = left_out if is_wide else learn_category(name, cells[name].categories())
            notes += column_notes(name, kind, "", cells[name].texts())
        else:
            columns[name] = Column(name, "date" if kind == "date" else "number", date_order=order or "ymd")
            notes += column_notes(name, kind, order or "ymd", Counter())
    return columns, notes


def learn_target(table: ParquetTable, name: str, task: Task | None, facts: CellFacts) -> tuple[TargetSpec, list[Note]]:
    """Decide what is predicted, as for a table in memory; a number of very many values is a quantity."""
    dtype = table.columns[name]
    if not facts.is_wide:
        return target_spec(table.path, name, task, list(facts.every), facts.rows, dtype.is_float())
    if task not in (None, "regression") or not (dtype.is_numeric() or (facts.is_text and facts.are_numbers)):
        raise DataError("more-classes", path=table.path, target=name, most=MOST_CELLS)
    return TargetSpec("regression", name=name), [] if task else [
        Note("data.target-is-many-numbers", name=name, most=MOST_CELLS)
    ]


def moments_of(
    column: Column, cells: dict[str, CellFacts], numbers: dict[str, NumberFacts], total: int
) -> Iterator[tuple[float, float]]:
    """Give mean and deviation of each feature that a column becomes, over `total` training rows."""
    if column.kind == "category":
        known = cells[column.name].categories()
        shares = [known[category] / total for category in column.categories]
    else:
        yield numbers[column.name].moments(column.fill)
        shares = [numbers[column.name].gaps / total] if column.flags_missing else []
    yield from ((share, (share * (1 - share)) ** 0.5) for share in shares)


def described(column: Column, cells: dict[str, CellFacts], numbers: dict[str, NumberFacts]) -> dict[str, Any]:
    """Return what `describe_columns` does, of the training rows; how many different numbers there are is not known."""
    entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "category":
        known = cells[column.name].categories()
        missing = known.pop(None, 0)
        return entry | {"missing": missing, "different": len(known), "most_common": known.most_common(5)}
    found = numbers[column.name]
    return entry | {
        "missing": found.gaps, "different": None, "min": found.low, "max": found.high, "mean": found.mean,
    }  # fmt: skip
