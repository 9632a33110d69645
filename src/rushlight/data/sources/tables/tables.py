"""Tables as data: which column is predicted, which rows are for testing, and rows to predict.

Rows are split first; what is learnt of a column (its categories, the mean that fills a gap) is learnt on the training
rows alone, and `encode` then does the same to training, test and predicted rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.shape import Names, Samples, build_data, cut_splits
from rushlight.data.sources.kind import SourceKind
from rushlight.data.sources.tables.cells import MISSING, as_number, column_missing, last_rows
from rushlight.data.sources.tables.columns import TextOptions, encode, feature_names, learn_columns, values_of
from rushlight.data.sources.tables.frames import (
    as_frame,
    is_frame,
    is_single,
    is_table,
    open_frame,
    polars,
    read_frame,
)
from rushlight.data.sources.tables.text_folder import FILE, LABEL, TEXT, is_text_folder, read_text_folder, text_splits
from rushlight.data.sources.tables.texts import as_plain_text
from rushlight.data.sources.tables.windows import as_windows, cut_by_time, learn_time, time_order, window_notes
from rushlight.data.spec import FLOATS, Column, FeatureSpec, NormalizeName, Share, TargetSpec, Task, in_floats
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError, suggest
from rushlight.formats import format_names
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TABLE", "encode", "feature_names", "open_table", "read_frame", "read_rows"]

SHOWN_OF_A_TEXT = 80  # characters, in the name of a sample
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
    text_column: str | None = None,
    text_length: int | None = None,
    tokenizer: Any = None,
    window: int | None = None,
    horizon: int = 1,
    time_column: str | None = None,
) -> Data:
    """Open a table in a file or in memory, or a folder of text files by class, as data that predicts its column `target`.

    A sample is called "row 7", the seventh row of the file's data (the header is not counted), with the file's name
    before it where there are several files.
    Without `test`, a share of the rows is set aside by `seed`, the same of every class; of a series, the last ones.
    Raises DataError for a file that cannot be read, a target that is not there, or columns from which nothing can be learnt.
    """
    text, name = TextOptions(text_column, text_length, tokenizer), ""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folders, name = text_splits(Path(source)), Path(source).resolve().name
        source, target, text = folders["train"], target or LABEL, replace(text, column=text.column or TEXT)
        validation = folders.get("validation") if validation is None else validation
        test = folders.get("test") if test is None else test
    path, frame, notes = open_table_source(source)
    target = check_target(path, frame, target)
    frame, rows, dropped = with_target(path, frame, target)
    labels = read_target(path, frame, target, "regression" if window is not None else task)
    values, spec, unused = labels.values, labels.spec, [target, FILE] if path.is_dir() else [target]
    notes += dropped + labels.notes
    test_fraction = test_fraction if test is None else None
    val_fraction = val_fraction if validation is None else None
    given = {split: other for split, other in (("validation", validation), ("test", test)) if other is not None}
    times: tuple[Column, ...] = ()
    if window is None:
        stratified = spec.task != "regression"
        cut = cut_splits(
            values.numpy().reshape(-1),
            stratified=stratified,
            seed=seed,
            test_fraction=test_fraction,
            val_fraction=val_fraction,
        )
        columns, column_notes = learn_columns(path, frame.drop(unused), cut.train, text)
    else:
        if task not in (None, "regression"):
            raise UsageError("window-task", task=task)
        if isinstance(test_fraction, tuple):
            raise UsageError("window-folds")
        times = (learn_time(path, frame, str(time_column)),)
        order, order_notes = time_order(frame, rows, times[0])
        frame, rows, values = frame[order], rows[order], values[torch.from_numpy(order)]
        notes += order_notes
        cut = cut_by_time(len(rows), test_fraction, val_fraction)
        columns, column_notes = learn_columns(path, frame.drop(times[0].name), cut.train)
        columns, spec = (*columns, *times), replace(spec, width=horizon)
    key = "data.row-of-file" if given else "data.row"
    samples = Samples(encode(frame, columns, rows), values, names_of(path, frame, rows, columns, key))
    train, parts = samples.take(cut.train), {"validation": cut.validation, "test": cut.test}
    splits = {"train": train, **{split: None if part is None else samples.take(part) for split, part in parts.items()}}
    learn_from, shape = train.inputs, tuple(samples.inputs.shape[1:])
    if window is not None:
        shape = (window, *shape)
        splits = {
            split: part and as_windows(part, window, horizon, Note(f"words.{split}")) for split, part in splits.items()
        }
    features = FeatureSpec("table", shape, "float32", columns=columns)
    notes += [*cut.notes, *column_notes]
    for split, other in given.items():
        splits[split], other_notes = read_other_table(other, features, spec)
        key = "data.tested-on" if split == "test" else "data.validated-on"
        notes += [*other_notes, *([] if is_frame(other) else [Note(key, name=Path(other).name)])]
    notes += window_notes(splits, features, spec) if times else []
    assert splits["train"] is not None
    return build_data(
        name or path.name, "table", splits["train"], splits["test"], spec, validation=splits["validation"],
        normalize=normalize, columns=columns, learn_from=learn_from, notes=tuple(notes),
    )  # fmt: skip


def open_table_source(source: Any) -> tuple[Path, pl.DataFrame, list[Note]]:
    """Return a table's file, or "table" for one in memory, with its content and what had to be decided on the way.

    Of a folder of texts with several splits, the one to test on.
    """
    if is_frame(source):
        frame = as_frame(source)
        if len(frame) == 0:
            raise DataError("table-without-rows", path="table")
        return Path("table"), frame, []
    path = Path(source)
    if path.is_dir():
        splits = text_splits(path)
        path = splits.get("test", splits["train"])
        return path, read_text_folder(path), []
    return path, *open_frame(path)


def names_of(path: Path, frame: pl.DataFrame, rows: np.ndarray, columns: tuple[Column, ...], key: str) -> Names:
    """Return the names of samples: their rows, or files; with the beginning of each, where these are texts."""
    texts = None
    if columns[0].kind == "text":
        beginnings = [as_plain_text(cell)[:SHOWN_OF_A_TEXT] for cell in frame[columns[0].name].to_list()]
        texts = np.array(beginnings, dtype=object)
    if path.is_dir():
        return Names(np.array(frame[FILE].to_list(), dtype=object), texts=texts)
    return Names(rows, key, path.name, texts)


def read_other_table(source: Any, features: FeatureSpec, target: TargetSpec) -> tuple[Samples, list[Note]]:
    """Read the rows of another table, named by file and row, with the columns and the classes learnt on the training one."""
    path, frame, notes = open_table_source(source)
    name, columns = check_target(path, frame, target.name), features.columns
    frame, rows, dropped = with_target(path, frame, name)
    values, notes = target_numbers(path, frame[name], target), [*notes, *dropped]
    if features.time is not None:
        order, order_notes = time_order(frame, rows, features.time)
        frame, rows, values = frame[order], rows[order], values[torch.from_numpy(order)]
        notes += order_notes
    names = names_of(path, frame, rows, columns, "data.row-of-file")
    samples = Samples(encode(frame, columns, rows), values, names)
    if features.time is not None:
        samples = as_windows(samples, features.shape[0], target.width, path.name)
    return samples, notes


def read_rows(source: Any, features: FeatureSpec) -> Tensor:
    """Encode rows to predict: a path, a polars or pandas DataFrame, a dict of columns, or a list of dicts.

    A dict of single values is one row, and a 2-D array has its columns in the order of training. Returns raw float32
    features, shape (n, features), or token ids, (n, tokens), or one window of the last rows of a series, (rows, features).
    Raises DataError for what does not fit the columns that were learnt.
    """
    pl = polars()
    if isinstance(source, (str, Path)):
        frame = open_table_source(source)[1]
    elif isinstance(source, (np.ndarray, Tensor)):
        values, names = np.asarray(source), [column.name for column in features.columns]
        if values.ndim != 2 or values.shape[1] != len(names):
            shape = tuple(values.shape)
            raise DataError("wrong-number-of-columns", found=shape, expected=len(names), columns=", ".join(names))
        frame = pl.DataFrame(values, schema=names, orient="row")
    else:
        is_row = isinstance(source, Mapping) and all(is_single(value) for value in source.values())
        frame = as_frame([source] if is_row else source)
    if (time := features.time) is not None:
        if time.name not in frame.columns:
            raise column_missing(time.name, frame.columns)
        frame = frame[last_rows(values_of(frame[time.name], time), features)]
    return encode(frame, features.columns)


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
    lambda source: (
        (is_table(source) and Path(source).exists()) or is_text_folder(Path(source))
        if isinstance(source, (str, Path))
        else is_frame(source)
    ),
    open_table,
)
