"""The column of a table that is predicted: which rows have it, what it is, and its cells as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.sources.tables.cells import LARGEST, MISSING, as_number
from rushlight.data.sources.tables.columns import by_distinct
from rushlight.data.sources.tables.frames import polars
from rushlight.data.spec import FLOATS, TargetSpec, Task, in_floats
from rushlight.errors import DataError, UsageError, suggest
from rushlight.formats import format_names
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

MOST_CLASSES = 20  # more are accepted only where each occurs twice or more, on average
MOST_CLASSES_OF_NUMBERS = 20  # more different whole numbers than this are a quantity, not classes


@dataclass(frozen=True)
class Labels:
    """The target column as numbers, with its spec and notes."""

    values: Tensor
    spec: TargetSpec
    notes: list[Note]


def check_target(path: Path, columns: Mapping[str, pl.DataType], target: str | None) -> str:
    """Return the target's name; DataError when none was named or there is no such column of usable values."""
    if target is None:
        raise DataError("no-target", path=path, columns=", ".join(columns))
    if target not in columns:
        near = suggest(target, columns)
        raise DataError("unknown-target", path=path, target=target, columns=", ".join(columns), near=near)
    if columns[target].is_nested():
        raise DataError("nested-target", path=path, target=target)
    return target


def with_target(path: Path, frame: pl.DataFrame, target: str) -> tuple[pl.DataFrame, np.ndarray, list[Note]]:
    """Leave out the rows whose target is missing; return the rest, their row numbers (from 1) and what to say."""
    known = has_value(frame[target])
    rows, count = np.flatnonzero(known), int((~known).sum())
    if count == len(known):
        raise DataError("target-all-missing", path=path, target=target)
    if count == 0:
        return frame, rows + 1, []
    note = Note("data.rows-without-target", count=count, total=len(known), name=path.name, target=target)
    return frame[rows], rows + 1, [note]


def has_value(series: pl.Series) -> np.ndarray:
    """Tell of each cell of a target whether it holds anything."""

    def known(cells: list[Any]) -> list[int]:
        texts = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
        return [int(text is not None and text == text and text not in MISSING) for text in texts]  # NaN is not

    return by_distinct(series, known).astype(bool)


def read_target(path: Path, frame: pl.DataFrame, name: str, task: Task | None) -> Labels:
    """Decide what is predicted and turn the target column into numbers."""
    spec, notes = target_spec(
        path, name, task, frame[name].unique().to_list(), len(frame), frame[name].dtype.is_float()
    )
    return Labels(target_numbers(path, frame[name], spec), spec, notes)


def target_spec(
    path: Path, name: str, task: Task | None, cells: list[Any], rows: int, is_float: bool
) -> tuple[TargetSpec, list[Note]]:
    """Decide what is predicted by the different cells of a target of so many rows; `is_float` tells its dtype."""
    if task == "multilabel":
        raise UsageError("multilabel-of-a-table", target=name)
    different = sorted_classes([cell(value) for value in cells])
    is_numeric = not isinstance(different[0], str)
    are_whole = (
        is_numeric
        and not is_float
        and all(re.fullmatch(r"[+-]?\d+", str(value).strip()) for value in cells)  # written 3, not 3.0
    )
    is_few = len(different) <= MOST_CLASSES_OF_NUMBERS and 2 * len(different) <= rows
    chosen = task or ("classification" if not is_numeric or (are_whole and is_few) else "regression")
    if chosen != "regression" and len(different) > MOST_CLASSES and 2 * len(different) > rows:
        raise DataError("too-many-classes", path=path, target=name, count=len(different), rows=rows)
    classes = tuple(str(value) for value in different) if chosen != "regression" else ()
    if chosen == "binary" and len(classes) != 2:
        listed = format_names(classes, 10)
        raise DataError("binary-target-of-a-table", path=path, target=name, count=len(classes), classes=listed)
    spec = TargetSpec(chosen, classes, name=name)
    return spec, [] if task else [target_note(spec, different)]


def target_note(spec: TargetSpec, different: Sequence[str | float]) -> Note:
    """Say what the target was taken for and how to have it otherwise."""
    count = len(different)
    if spec.task == "regression":
        return Note("data.target-is-a-number", name=spec.name, count=count)
    is_text = isinstance(different[0], str)
    key = "data.target-is-classes" if is_text else "data.target-is-numbered-classes"
    return Note(key, name=spec.name, count=count, classes=format_names(spec.classes, 10))


def cell(value: object) -> object:
    """Return a target cell in one way of writing: text without blanks around it, booleans as 'true' and 'false'."""
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip() if isinstance(value, str) else value


def sorted_classes(values: Sequence[object]) -> list[str | float]:
    """Return the different values, sorted: as numbers where all of them are, whole ones as integers, else as text."""
    numbers = {value: as_number(value) for value in set(values)}
    if all(number is not None for number in numbers.values()):
        found = sorted({number for number in numbers.values() if number is not None})
        return [int(number) if number.is_integer() else number for number in found]
    return sorted({str(value) for value in numbers})


def target_numbers(path: Path, series: pl.Series, spec: TargetSpec) -> Tensor:
    """Return a target column as what `spec` says: class numbers, 0 or 1, or quantities; DataError for a class not in `spec`."""
    if spec.task == "regression":
        return in_floats(torch.from_numpy(quantities(path, series, spec.name)), FLOATS.get()).reshape(-1, 1)
    number_of = {name: number for number, name in enumerate(spec.classes)}

    def class_numbers(cells: list[Any]) -> list[int]:
        values = [cell(value) for value in cells]
        names = [str(value) if str(value) in number_of else class_name(value) for value in values]
        if strangers := sorted(name for name in names if name not in number_of):
            known = format_names(spec.classes, 20)
            raise DataError("class-not-in-training", path=path, target=spec.name, value=strangers[0], known=known)
        return [number_of[name] for name in names]

    labels = torch.from_numpy(by_distinct(series, class_numbers).copy())
    return labels.float().reshape(-1, 1) if spec.task == "binary" else labels


def quantities(path: Path, series: pl.Series, name: str) -> np.ndarray:
    """Return the target of a regression as float64, (n,); DataError for a cell that is no finite number."""
    if series.dtype.is_numeric() and not series.dtype.is_decimal():
        values = np.array(series.cast(polars().Float64).to_numpy(), dtype=np.float64)
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST)).tolist()
    else:
        cells = [as_number(cell(value)) for value in series.to_list()]
        bad = [cells.index(None)] if None in cells else []
        values = np.array([] if bad else cells, dtype=np.float64)
    if bad:
        raise DataError("target-not-a-number", path=path, target=name, value=cell(series[bad[0]]))
    return values


def class_name(value: object) -> str:
    """Return the name of a numeric class however it is written: 3, 3.0 and 03 are all '3'."""
    number = as_number(value)
    return str(value) if number is None else str(int(number) if number.is_integer() else number)
