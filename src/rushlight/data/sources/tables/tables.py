"""Tables as data: which column is predicted, which rows are for testing, and rows to predict.

Rows are split first; what is learnt of a column (its categories, the mean that fills a gap) is learnt on the training
rows alone, and `encode` then does the same to training, test and predicted rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.shape import Names, Samples, build_data, cut_splits
from rushlight.data.sources.kind import SourceKind
from rushlight.data.sources.tables.cells import MISSING, as_number
from rushlight.data.sources.tables.columns import encode, feature_names, learn_columns
from rushlight.data.sources.tables.frames import (
    as_frame,
    is_frame,
    is_single,
    is_table,
    open_table_source,
    polars,
    read_frame,
)
from rushlight.data.spec import FLOATS, Column, FeatureSpec, NormalizeName, Share, TargetSpec, Task, in_floats
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError, suggest
from rushlight.formats import format_names
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TABLE", "encode", "feature_names", "open_table", "read_frame", "read_rows"]

MOST_CLASSES = 20  # more are accepted only where each occurs twice or more, on average
MOST_CLASSES_OF_NUMBERS = 20  # more different whole numbers than this are a quantity, not classes


def open_table(
    source: Any,
    *,
    target: str | None,
    validation: Any = None,
    test: Any = None,
    normalize: NormalizeName = "auto",
    seed: int = 0,
    test_fraction: Share | None = 0.2,
    val_fraction: float | None = None,
    task: Task | None = None,
) -> Data:
    """Open a CSV or Parquet file, or a table in memory, as data that predicts its column `target` from the others.

    A sample is called "row 7", the seventh row of the file's data (the header is not counted), with the file's name
    before it where there are several files.
    Without `test`, a share of the rows is set aside by `seed`, the same of every class. Raises DataError for a file
    that cannot be read, a target that is not there, or columns from which nothing can be learnt.
    """
    path, frame, notes = open_table_source(source)
    target = check_target(path, frame, target)
    frame, rows, dropped = with_target(path, frame, target)
    labels = read_target(path, frame, target, task)
    notes += dropped + labels.notes
    cut = cut_splits(
        labels.values.numpy().reshape(-1), stratified=labels.spec.task != "regression", seed=seed,
        test_fraction=test_fraction if test is None else None, val_fraction=val_fraction if validation is None else None,
    )  # fmt: skip
    columns, column_notes = learn_columns(path, frame.drop(target), cut.train)
    key = "data.row" if validation is None and test is None else "data.row-of-file"
    samples = Samples(encode(frame, columns, rows), labels.values, Names(rows, key, path.name))
    held_out = {
        split: None if rows is None else samples.take(rows)
        for split, rows in (("validation", cut.validation), ("test", cut.test))
    }
    notes += cut.notes
    for split, other in (("validation", validation), ("test", test)):
        if other is not None:
            held_out[split], other_notes = read_other_table(other, columns, labels.spec)
            key = "data.tested-on" if split == "test" else "data.validated-on"
            notes += [*other_notes, *([] if is_frame(other) else [Note(key, name=Path(other).name)])]
    return build_data(
        path.name, "table", samples.take(cut.train), held_out["test"], labels.spec, validation=held_out["validation"],
        normalize=normalize, columns=columns, notes=(*notes, *column_notes),
    )  # fmt: skip


def read_other_table(source: Any, columns: tuple[Column, ...], target: TargetSpec) -> tuple[Samples, list[Note]]:
    """Read the rows of another table, named by file and row, with the columns and the classes learnt on the training one."""
    path, frame, notes = open_table_source(source)
    name = check_target(path, frame, target.name)
    frame, rows, dropped = with_target(path, frame, name)
    values = target_numbers(path, frame[name], target)
    return Samples(encode(frame, columns, rows), values, Names(rows, "data.row-of-file", path.name)), [*notes, *dropped]


def read_rows(source: Any, features: FeatureSpec) -> Tensor:
    """Encode rows to predict: a path, a polars or pandas DataFrame, a dict of columns, or a list of dicts.

    A dict of single values is one row, and a 2-D array has its columns in the order of training. Returns raw float32
    features, shape (n, features); DataError for what does not fit the columns that were learnt.
    """
    pl = polars()
    if isinstance(source, (str, Path)):
        return encode(read_frame(Path(source)), features.columns)
    if isinstance(source, (np.ndarray, Tensor)):
        values, names = np.asarray(source), [column.name for column in features.columns]
        if values.ndim != 2 or values.shape[1] != len(names):
            shape = tuple(values.shape)
            raise DataError("wrong-number-of-columns", found=shape, expected=len(names), columns=", ".join(names))
        return encode(pl.DataFrame(values, schema=names, orient="row"), features.columns)
    if isinstance(source, Mapping) and all(is_single(value) for value in source.values()):
        source = [source]
    return encode(as_frame(source), features.columns)


# ── the target ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Labels:
    """The target column as numbers, with its spec and notes."""

    values: Tensor
    spec: TargetSpec
    notes: list[Note]


def check_target(path: Path, frame: pl.DataFrame, target: str | None) -> str:
    """Return the target's name; DataError when none was named or there is no such column."""
    if target is None:
        raise DataError("no-target", path=path, columns=", ".join(frame.columns))
    if target not in frame.columns:
        near, columns = suggest(target, frame.columns), ", ".join(frame.columns)
        raise DataError("unknown-target", path=path, target=target, columns=columns, near=near)
    if frame[target].dtype.is_nested():
        raise DataError("nested-target", path=path, target=target)
    return target


def with_target(path: Path, frame: pl.DataFrame, target: str) -> tuple[pl.DataFrame, np.ndarray, list[Note]]:
    """Leave out the rows whose target is missing; return the rest, their row numbers (from 1) and what to say."""
    texts = [value.strip() if isinstance(value, str) else value for value in frame[target].to_list()]
    known = np.array([value is not None and value == value and value not in MISSING for value in texts])  # NaN is not
    rows, count = np.flatnonzero(known), int((~known).sum())
    if count == len(known):
        raise DataError("target-all-missing", path=path, target=target)
    if count == 0:
        return frame, rows + 1, []
    note = Note("data.rows-without-target", count=count, total=len(known), name=path.name, target=target)
    return frame[rows], rows + 1, [note]


def read_target(path: Path, frame: pl.DataFrame, name: str, task: Task | None) -> Labels:
    """Decide what is predicted and turn the target column into numbers."""
    if task == "multilabel":
        raise UsageError("multilabel-of-a-table", target=name)
    values = [cell(value) for value in frame[name].to_list()]
    different = sorted_classes(values)
    is_numeric = not isinstance(different[0], str)
    are_whole = (
        is_numeric
        and not frame[name].dtype.is_float()
        and all(
            re.fullmatch(r"[+-]?\d+", str(value).strip())
            for value in frame[name].to_list()  # written 3, not 3.0
        )
    )
    is_few = len(different) <= MOST_CLASSES_OF_NUMBERS and 2 * len(different) <= len(values)
    chosen = task or ("classification" if not is_numeric or (are_whole and is_few) else "regression")
    if chosen != "regression" and len(different) > MOST_CLASSES and 2 * len(different) > len(values):
        raise DataError("too-many-classes", path=path, target=name, count=len(different), rows=len(values))
    classes = tuple(str(value) for value in different) if chosen != "regression" else ()
    if chosen == "binary" and len(classes) != 2:
        listed = format_names(classes, 10)
        raise DataError("binary-target-of-a-table", path=path, target=name, count=len(classes), classes=listed)
    spec = TargetSpec(chosen, classes, name=name)
    return Labels(target_numbers(path, frame[name], spec), spec, [] if task else [target_note(spec, different)])


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
    values = [cell(value) for value in series.to_list()]
    if spec.task == "regression":
        numbers = [as_number(value) for value in values]
        if None in numbers:
            raise DataError("target-not-a-number", path=path, target=spec.name, value=values[numbers.index(None)])
        return in_floats(torch.tensor(numbers, dtype=torch.float64), FLOATS.get()).reshape(-1, 1)
    number_of = {name: number for number, name in enumerate(spec.classes)}
    named = {value: str(value) if str(value) in number_of else class_name(value) for value in set(values)}
    if strangers := sorted(name for name in named.values() if name not in number_of):
        known = format_names(spec.classes, 20)
        raise DataError("class-not-in-training", path=path, target=spec.name, value=strangers[0], known=known)
    labels = torch.tensor([number_of[named[value]] for value in values], dtype=torch.int64)
    return labels.float().reshape(-1, 1) if spec.task == "binary" else labels


def class_name(value: object) -> str:
    """Return the name of a numeric class however it is written: 3, 3.0 and 03 are all '3'."""
    number = as_number(value)
    return str(value) if number is None else str(int(number) if number.is_integer() else number)


TABLE: SourceKind = SourceKind(
    "data.kinds.table",
    lambda source: is_table(source) and Path(source).exists() if isinstance(source, (str, Path)) else is_frame(source),
    open_table,
)
