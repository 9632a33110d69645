"""Windows of a series: the rows of a table in the order of time, some rows as inputs, the target of the next ones to predict.

Rows are split first, by time: the last share of them is for testing, the last share of the rest for validation. A window and
what is predicted from it lie in one split; columns and their standardisation are learnt on the training rows, each counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rushlight.data.shape import Cut, Samples
from rushlight.data.sources.tables.cells import DAY, order_by_time
from rushlight.data.sources.tables.columns import date_order, kind_of_column, texts_in, values_of
from rushlight.data.sources.tables.frames import polars
from rushlight.data.spec import Column, FeatureSpec, TargetSpec
from rushlight.errors import DataError
from rushlight.formats import format_duration, format_figure
from rushlight.texts import Joined, Note

if TYPE_CHECKING:
    import polars as pl

LONGER = 1.5  # times the usual step: months and leap days are no gaps


def learn_time(path: Path, frame: pl.DataFrame, name: str) -> Column:
    """Return the column of time, of numbers or dates, as one that orders rows; DataError where it is neither."""
    if name not in frame.columns:
        raise DataError("unknown-time", path=path, column=name, columns=", ".join(frame.columns))
    series = frame[name]
    kind = kind_of_column(series)
    if kind not in ("number", "date"):
        raise DataError("no-time", path=path, column=name, example=next(iter(series.drop_nulls()), ""))
    order = date_order(texts_in(series)) if kind == "date" and series.dtype == polars().String else None
    return Column(name, "date" if kind == "date" else "number", date_order=order or "ymd", orders=True)


def time_order(frame: pl.DataFrame, rows: np.ndarray, time: Column) -> tuple[np.ndarray, list[Note]]:
    """Return the indices of rows in the order of time, and what there is to say of it; `rows` are their numbers in the file."""
    values = values_of(frame[time.name], time, rows)
    order = order_by_time(values, time.name, rows)
    moved = int((order != np.arange(len(order))).sum())
    notes = [Note("data.sorted-by-time", time=time.name, count=moved, total=len(order))] if moved else []
    steps = np.diff(values[order])
    usual = float(np.median(steps)) if len(steps) else 0.0
    if count := int((steps > LONGER * usual).sum()):
        place = int(steps.argmax())
        said = [format_duration(step * DAY) if time.kind == "date" else f"{step:g}" for step in (usual, steps[place])]
        notes.append(Note(
            "data.gaps-in-time", time=time.name, count=count, total=len(steps), usual=said[0], longest=said[1],
            row=int(rows[order[place]]),
        ))  # fmt: skip
    return order, notes


def cut_by_time(count: int, test_fraction: float | None, val_fraction: float | None) -> Cut:
    """Cut rows in the order of time: the last ones are for testing, those before them for validation."""
    tested = count - round(count * (test_fraction or 0))
    validated = tested - round(tested * (val_fraction or 0))
    train, validation, test = np.split(np.arange(count), [validated, tested])
    return Cut(train, validation if len(validation) else None, test if len(test) else None, ())


def as_windows(rows: Samples, window: int, horizon: int, where: str) -> Samples:
    """Return every window of the rows of a split, (window, features), with the targets of the next ones, (horizon,).

    It is named by the first row that is predicted. DataError that names the split where there are too few rows.
    """
    count = len(rows.inputs) - window - horizon + 1
    if count < 1:
        raise DataError("window-too-few-rows", split=where, rows=len(rows.inputs), needed=window + horizon)
    inputs = rows.inputs.unfold(0, window, 1)[:count].transpose(1, 2)
    targets = rows.targets.flatten().unfold(0, horizon, 1)[window:]
    names = None if rows.names is None else rows.names[np.arange(window, window + count)]
    return Samples(inputs.contiguous(), targets.contiguous(), names)


def window_notes(splits: Mapping[str, Samples | None], features: FeatureSpec, target: TargetSpec) -> list[Note]:
    """Say what the samples are, and by how much the last known value would be off: what a model has to beat."""
    assert features.time is not None
    found = {split: samples for split, samples in splits.items() if samples is not None}
    counts = [
        Note("data.windows-of", split=Note(f"words.{split}"), count=len(samples.inputs))
        for split, samples in found.items()
    ]
    notes = [Note(
        "data.windows", window=features.shape[0], target=target.name, horizon=target.width, time=features.time.name,
        counts=Joined("list", counts),
    )]  # fmt: skip
    names = [column.name for column in features.columns]
    if "test" in found and target.name in names:
        place = sum(column.width for column in features.columns[: names.index(target.name)])
        off = (found["test"].targets - found["test"].inputs[:, -1, place, None]).abs().mean()
        notes.append(Note("data.last-value-off", target=target.name, error=format_figure(float(off))))
    return notes
