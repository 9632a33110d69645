"""Tables larger than memory: the rows of Parquet files, read as they are needed, in runs that are decoded once an epoch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rushlight.data.feed import StreamedSplit
from rushlight.data.order import Windows
from rushlight.data.shape import PrepareBatch
from rushlight.data.sources.tables.columns import encode
from rushlight.data.sources.tables.parquet import ParquetTable
from rushlight.data.sources.tables.rows import RUNS, WINDOW_BYTES, RowCut, labelled_chunks, target_gaps, window_rows
from rushlight.data.sources.tables.targets import check_target, has_value, target_numbers
from rushlight.data.spec import Column, FeatureSpec, Floats, TargetSpec, reading_floats
from rushlight.errors import DataError
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

KEPT = 2 * RUNS  # runs that are kept decoded: a batch may begin in one window and end in the next
KEPT_IN_ORDER = 4
ALL_ROWS = RowCut()


class RowsDataset(Dataset[tuple[Tensor, Tensor]]):
    """The rows of one split: features as `encode` gives them, and targets. The runs that were read last are kept."""

    def __init__(
        self, table: ParquetTable, columns: tuple[Column, ...], target: TargetSpec, floats: Floats, run: int,
        counts: np.ndarray, cut: RowCut = ALL_ROWS, split: int = 0, kept: int = KEPT_IN_ORDER,
    ) -> None:  # fmt: skip
        self.table, self.columns, self.target, self.floats = table, columns, target, floats
        self.run, self.counts, self.cut, self.split, self.kept = run, counts, cut, split, kept
        self.ends = np.cumsum(counts)
        self.class_counts: np.ndarray | None = None
        self.moments: tuple[np.ndarray, np.ndarray] | None = None  # of the targets
        self.described: list[dict[str, Any]] = []
        self.forget()

    def forget(self) -> None:
        """Keep no run."""
        self.lock = threading.Lock()  # threads read
        self.held: OrderedDict[int, None] = OrderedDict()  # runs, the one used last at the end
        self.slots = np.full(len(self.counts), -1, dtype=np.int64)  # of each run that is kept
        self.inputs, self.targets = torch.empty(0), torch.empty(0)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker process is sent."""
        left = ("lock", "held", "slots", "inputs", "targets")
        return {name: value for name, value in vars(self).items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forget()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.take([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, tuple[Tensor, Tensor]]]:
        """Return the rows at `indices` for `collate_rows`, each with its place among them: nothing is done row by row."""
        rows = self.take(indices)
        return [(place, rows) for place in range(len(indices))]

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the rows at `indices` together."""
        wanted = np.asarray(indices)
        runs = self.run_of(wanted)
        offsets = wanted - (self.ends - self.counts)[runs]
        different = list(dict.fromkeys(runs.tolist()))
        heres, found = [], []
        for first in range(0, len(different), self.kept):
            here = np.flatnonzero(np.isin(runs, different[first : first + self.kept]))
            with self.lock:
                self.hold(different[first : first + self.kept])
                places = torch.from_numpy(self.slots[runs[here]] * self.run + offsets[here])
                found.append((self.inputs[places], self.targets[places]))
            heres.append(here)
        if len(found) == 1:
            return found[0]
        order = torch.from_numpy(np.concatenate(heres)).argsort()
        inputs, targets = (torch.cat(parts)[order] for parts in zip(*found, strict=True))
        return inputs, targets

    def run_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the runs that rows of the split lie in."""
        return np.searchsorted(self.ends, indices, side="right")

    def hold(self, runs: Sequence[int]) -> None:
        """Keep these runs, at most `kept`, in place of those that were used longest ago."""
        for run in runs:
            if run in self.held:
                self.held.move_to_end(run)
        for run in runs:
            if run in self.held:
                continue
            inputs, targets = self.read_run(run)
            if len(self.inputs) == 0:
                size = min(self.kept, len(self.counts)) * self.run
                self.inputs, self.targets = (each.new_empty((size, *each.shape[1:])) for each in (inputs, targets))
            slot = len(self.held)
            if slot * self.run == len(self.inputs):
                oldest, _ = self.held.popitem(last=False)
                slot, self.slots[oldest] = self.slots[oldest], -1
            place = slice(slot * self.run, slot * self.run + len(inputs))
            self.inputs[place], self.targets[place] = inputs, targets
            self.slots[run], self.held[run] = slot, None

    def read_run(self, run: int) -> tuple[Tensor, Tensor]:
        """Read and encode one run."""
        frame, rows = self.rows_of(run, [column.name for column in self.columns])
        with reading_floats(self.floats):
            inputs = encode(frame, self.columns, rows)
            return inputs, target_numbers(self.table.path, frame[self.target.name], self.target)

    def rows_of(self, run: int, columns: Sequence[str] = ()) -> tuple[pl.DataFrame, np.ndarray]:
        """Return the split's rows of a run, and their numbers in the table (from 1)."""
        first = run * self.run
        names = [name for name in dict.fromkeys([*columns, self.target.name]) if name in self.table.columns]
        frame = self.table.read(first, self.run, names)
        own = has_value(frame[self.target.name]) & (self.cut.splits(first, len(frame)) == self.split)
        chosen = np.flatnonzero(own)
        if len(chosen) != self.counts[run]:
            raise DataError("table-not-readable", path=self.table.path, reason=Note("data.has-changed"))
        return frame[chosen], first + chosen + 1


def collate_rows(samples: list[tuple[int, tuple[Tensor, Tensor]]]) -> list[Tensor]:
    """Return the batch of what one or several `__getitems__` gave."""
    parts = [rows for place, rows in samples if place == 0]
    return list(parts[0]) if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]


class RowNames(Sequence[str]):
    """The names of a split's rows: file and row there, found when asked for."""

    def __init__(self, dataset: RowsDataset) -> None:
        self.dataset = dataset
        self.last: tuple[int, np.ndarray] = -1, np.empty(0)  # a run, and its rows

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """Return the name of one row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        run = int(self.dataset.run_of(np.asarray(index)))
        if self.last[0] != run:
            self.last = run, self.dataset.rows_of(run)[1]
        before = self.dataset.ends[run] - self.dataset.counts[run]
        return self.dataset.table.name_of(int(self.last[1][index - before]))


def streamed_rows(split: object) -> RowsDataset | None:
    """Return the rows of a table that a streamed split reads; None for any other split."""
    is_rows = isinstance(split, StreamedSplit) and isinstance(split.dataset, RowsDataset)
    return split.dataset if is_rows else None  # type: ignore[attr-defined]


def stream_rows(
    dataset: RowsDataset, features: FeatureSpec, workers: int = 0, *, trains: bool = False
) -> StreamedSplit:
    """Return the split that reads a dataset; only what is trained on is shuffled, and read by worker processes.

    Workers are started anew: a fork of a process that has used polars hangs where it uses it too.
    """
    windows = Windows(dataset.counts, RUNS, RUNS * dataset.run) if trains else None
    return StreamedSplit(
        dataset, PrepareBatch(dataset.target, features), workers, collate=collate_rows, is_random=False, names=RowNames(dataset),
        windows=windows, start_method="spawn",
    )  # fmt: skip


def stream_like(
    table: ParquetTable, features: FeatureSpec, target: TargetSpec, most: int = WINDOW_BYTES
) -> tuple[StreamedSplit, list[Note]]:
    """Return all rows of a table that have a target as a split to test on, and how many have none.

    It is read once, so that what cannot be read is found at once.
    """
    name = check_target(table.path, table.columns, target.name)
    run = window_rows(4 * (features.size + 1), most) // RUNS
    counts = np.zeros(-(-table.rows // run), dtype=np.int64)
    classes = np.zeros(len(target.classes), dtype=np.int64)
    columns = [column.name for column in features.columns if column.name in table.columns and column.name != name]
    for frame, rows, _ in labelled_chunks(table, name, columns, ALL_ROWS):
        encode(frame, features.columns, rows)
        values = target_numbers(table.path, frame[name], target)
        counts += np.bincount((rows - 1) // run, minlength=len(counts))
        if target.classes:
            classes += np.bincount(values.numpy().reshape(-1).astype(np.int64), minlength=len(classes))
    notes = target_gaps(table, name, int(counts.sum()))
    dataset = RowsDataset(table, features.columns, target, features.floats, run, counts)
    dataset.class_counts = classes if target.classes else None
    return stream_rows(dataset, features), notes
