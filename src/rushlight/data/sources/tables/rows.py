"""Which rows of a table larger than memory are whose: by a draw for each row, whatever the files and the runs read of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rushlight.data.order import row_draws, split_seed, validation_seed
from rushlight.data.shape import FOLD_CUT
from rushlight.data.sources.tables.parquet import ParquetTable
from rushlight.data.sources.tables.targets import has_value
from rushlight.data.spec import Share
from rushlight.errors import DataError
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

SPLITS = ("train", "validation", "test")
RUNS = 8  # of rows, from anywhere in the table, that are shuffled together
WINDOW_BYTES = 128 << 20
LEAST_WINDOW, MOST_WINDOW = 1 << 14, 1 << 20  # rows


@dataclass(frozen=True)
class RowCut:
    """Which rows of a table are set aside: a row is tested on where its draw is below the fraction, or in the fold.

    The draws of `row_draws` are seeded by `split_seed`, those for validation, among all other rows, by `validation_seed`.
    """

    seed: int = 0
    test_fraction: Share | None = None
    val_fraction: float | None = None

    def splits(self, first: int, count: int) -> np.ndarray:
        """Return for each of `count` rows from row `first` on the place of its split in SPLITS, (count,)."""
        found = np.zeros(count, dtype=np.int8)
        if self.val_fraction:
            found[row_draws(validation_seed(self.seed), first, count) < self.val_fraction] = 1
        if self.test_fraction:
            draws = row_draws(split_seed(self.seed), first, count)
            if isinstance(self.test_fraction, tuple):
                number, folds = self.test_fraction
                found[(draws * folds).astype(np.int64) == number - 1] = 2
            else:
                found[draws < self.test_fraction] = 2
        return found

    def notes(self, counts: Sequence[int]) -> list[Note]:
        """Say how many rows are in each split that was cut; `counts` are in the order of SPLITS."""
        train, validation, test = counts
        notes = []
        if isinstance(self.test_fraction, tuple):
            number, folds = self.test_fraction
            notes.append(Note(FOLD_CUT, number=number, folds=folds, count=test, total=sum(counts), seed=self.seed))
        elif self.test_fraction:
            notes.append(Note("data.test-split-cut", count=test, total=sum(counts), seed=self.seed))
        elif self.test_fraction is not None:
            notes.append(Note("data.no-test-split"))
        if self.val_fraction:
            cut = {"count": validation, "total": train + validation, "seed": self.seed}
            notes.append(Note("data.validation-split-cut", **cut))
        return notes


def labelled_chunks(
    table: ParquetTable, target: str, columns: Sequence[str], cut: RowCut
) -> Iterator[tuple[pl.DataFrame, np.ndarray, np.ndarray]]:
    """Give the rows that have a target, some at a time, with their numbers (from 1) and the places of their splits."""
    for first, frame in table.chunks([*columns, target]):
        known = np.flatnonzero(has_value(frame[target]))
        yield frame[known], first + known + 1, cut.splits(first, len(frame))[known]


def target_gaps(table: ParquetTable, target: str, known: int) -> list[Note]:
    """Say how many rows have no target; DataError where none has one."""
    if not known:
        raise DataError("target-all-missing", path=table.path, target=target)
    missing, total = table.rows - known, table.rows
    note = Note("data.rows-without-target", count=missing, total=total, name=table.path.name, target=target)
    return [note] if missing else []


def window_rows(row_bytes: int, most: int) -> int:
    """Return how many rows are shuffled together: a power of two, so that little more or less memory makes no other order."""
    fits = max(most // row_bytes, 1)
    return min(max(1 << (fits.bit_length() - 1), LEAST_WINDOW), MOST_WINDOW)
