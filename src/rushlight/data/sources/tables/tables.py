"""Tables as data: which column is predicted, which rows are for testing, and rows to predict.

Rows are split first; what is learnt of a column (its categories, the mean that fills a gap) is learnt on the training
rows alone, and `encode` then does the same to training, test and predicted rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.feed import Split, StreamedSplit
from rushlight.data.shape import (
    EXAMPLES,
    Names,
    Samples,
    build_data,
    check_more_than_one_class,
    check_samples,
    cut_splits,
    normalization_notes,
    resident,
    standard_normalization,
    unseen_class_notes,
)
from rushlight.data.sources.kind import SourceKind
from rushlight.data.sources.tables.cells import column_missing, last_rows
from rushlight.data.sources.tables.columns import TextOptions, encode, feature_names, learn_columns, values_of
from rushlight.data.sources.tables.frames import (
    PARQUET_ENDINGS,
    as_frame,
    is_frame,
    is_single,
    open_frame,
    polars,
    read_frame,
)
from rushlight.data.sources.tables.parquet import (
    ParquetTable,
    fingerprint_of,
    is_parquet_folder,
    is_table,
    open_parquet,
    parquet_files,
)
from rushlight.data.sources.tables.passes import learn_table
from rushlight.data.sources.tables.rows import RUNS, SPLITS, WINDOW_BYTES, RowCut
from rushlight.data.sources.tables.streamed import KEPT, RowsDataset, stream_like, stream_rows
from rushlight.data.sources.tables.targets import check_target, read_target, target_numbers, with_target
from rushlight.data.sources.tables.text_folder import FILE, LABEL, TEXT, is_text_folder, read_text_folder, split_folders
from rushlight.data.sources.tables.texts import as_plain_text
from rushlight.data.sources.tables.windows import as_windows, cut_by_time, learn_time, time_order, window_notes
from rushlight.data.spec import FLOATS, Column, FeatureSpec, Normalization, NormalizeName, Share, TargetSpec, Task
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TABLE", "encode", "feature_names", "open_table", "read_frame", "read_rows"]

SHOWN_OF_A_TEXT = 80  # characters, in the name of a sample


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
    shuffle_window: int | None = None,
    workers: int = 0,
    memory_limit: int | None = None,
) -> Data:
    """Open a table in a file or in memory, or a folder of text files by class, as data that predicts its column `target`.

    The Parquet files of a folder are one table. Where reading Parquet would take twice `memory_limit` bytes or more, or with a
    `shuffle_window`, its rows are read as they are needed, for training by `workers` processes.

    A sample is called "row 7", the seventh row of the file's data (the header is not counted), with the file's name
    before it where there are several files.
    Without `test`, a share of the rows is set aside by `seed`, the same of every class; of a series, the last ones.
    Raises DataError for a file that cannot be read, a target that is not there, or columns from which nothing can be learnt.
    """
    text, name = TextOptions(text_column, text_length, tokenizer), ""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folders, name = split_folders(Path(source)), Path(source).resolve().name
        if not is_parquet_folder(Path(source)):
            target, text = target or LABEL, replace(text, column=text.column or TEXT)
        elif not parquet_files(folders["train"]):
            raise DataError("no-parquet", path=folders["train"])
        source = folders["train"]
        validation = folders.get("validation") if validation is None else validation
        test = folders.get("test") if test is None else test
    test_fraction = test_fraction if test is None else None
    val_fraction = val_fraction if validation is None else None
    given = {split: other for split, other in (("validation", validation), ("test", test)) if other is not None}
    is_parquet = parquet_path(source) is not None
    if (table := larger_table((source, *given.values()), memory_limit, shuffle_window)) is not None:
        whole = {"text_column": text_column, "text_length": text_length, "tokenizer": tokenizer, "window": window}
        for option in (option for option, value in whole.items() if value is not None):
            raise UsageError("option-reads-whole", option=option, path=table.path)
        row_cut = RowCut(seed, test_fraction, val_fraction)
        return open_larger(
            table,
            name or table.path.name,
            given,
            target,
            task,
            normalize,
            row_cut,
            shuffle_window,
            workers,
            memory_limit,
        )
    for option, value in (("shuffle_window", shuffle_window), ("workers", workers)):
        if value and not is_parquet:
            raise UsageError("option-of-other-data", option=option, value=value, kind=Note("data.kinds.parquet"))
    path, frame, notes = open_table_source(source)
    target = check_target(path, frame.schema, target)
    frame, rows, dropped = with_target(path, frame, target)
    labels = read_target(path, frame, target, "regression" if window is not None else task)
    is_text_folder = path.is_dir() and not is_parquet
    values, spec, unused = labels.values, labels.spec, [target, FILE] if is_text_folder else [target]
    notes += dropped + labels.notes
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


def parquet_path(source: Any) -> Path | None:
    """Return the Parquet file, or the folder of such files, that a source is, of several splits the one to test on; else None."""
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source)
    if is_parquet_folder(path):
        folders = split_folders(path)
        return folders.get("test", folders["train"])
    return path if path.name.lower().endswith(PARQUET_ENDINGS) else None


def larger_table(
    sources: Sequence[Any], memory_limit: int | None, shuffle_window: int | None = None
) -> ParquetTable | None:
    """Return the first source where it is Parquet, and memory has no room for all of them; None where they are read whole."""
    paths = list(map(parquet_path, sources))
    if paths[0] is None or (shuffle_window is None and memory_limit is None):
        return None
    tables = [open_parquet(path) for path in paths if path is not None]
    is_larger = memory_limit is not None and sum(table.bytes for table in tables) > 2 * memory_limit
    return tables[0] if is_larger or shuffle_window is not None else None


def open_larger(
    table: ParquetTable, name: str, given: Mapping[str, Any], target: str | None, task: Task | None,
    normalize: NormalizeName, cut: RowCut, window: int | None, workers: int, memory_limit: int | None,
) -> Data:  # fmt: skip
    """Open a table whose rows are read as they are needed, with other sources for some of its splits."""
    most = WINDOW_BYTES if memory_limit is None else min(WINDOW_BYTES, memory_limit // 8)
    learnt = learn_table(table, check_target(table.path, table.columns, target), task, cut, window, most)
    columns, spec = learnt.columns, learnt.target
    normalization = standard_normalization(*learnt.moments)
    if normalize in ("none", "unit"):
        normalization = Normalization(normalize)
    features = FeatureSpec("table", (sum(each.width for each in columns),), FLOATS.get(), normalization, columns)
    if not learnt.counts[0].sum():
        raise DataError("empty-split", data=name, split=Note("words.train"))
    present = torch.from_numpy(np.flatnonzero(learnt.class_counts[0]))
    if spec.classes:
        check_more_than_one_class(name, present, spec)
    splits: dict[str, Split] = {}
    for place, split in enumerate(SPLITS):
        if not learnt.counts[place].sum():
            continue
        dataset = RowsDataset(table, columns, spec, features.floats, learnt.run, learnt.counts[place], cut, place)
        dataset.class_counts = learnt.class_counts[place] if spec.classes else None
        if split == "train":
            dataset.kept, dataset.described = KEPT, learnt.described
            dataset.moments = learnt.target_moments[0], learnt.target_moments[1]
        is_train = split == "train"
        splits[split] = stream_rows(dataset, features, workers if is_train else 0, trains=is_train)
    notes, tables = [*learnt.notes, *unseen_class_notes(present, spec)], [table]
    for split, other in given.items():
        if (path := parquet_path(other)) is not None:
            tables.append(open_parquet(path))
            splits[split], other_notes = stream_like(tables[-1], features, spec, most)
        else:
            samples, other_notes = read_other_table(other, features, spec)
            check_samples(name, Note(f"words.{split}"), samples, spec)
            splits[split] = resident(samples, features)
        notes += other_notes
        key = "data.tested-on" if split == "test" else "data.validated-on"
        notes += [] if is_frame(other) else [Note(key, name=Path(other).name)]
    notes.append(Note(
        "data.table-streamed", rows=table.rows, files=len(table.files), run=learnt.run, window=RUNS * learnt.run, together=RUNS,
    ))  # fmt: skip
    train = splits["train"]
    assert isinstance(train, StreamedSplit)
    return Data(
        name=name, train=train, validation=splits.get("validation"), test=splits.get("test"), features=features,
        target=spec, fingerprint=fingerprint_of(tables, learnt.counts.sum(1).tolist()), notes=(*notes, *normalization_notes(features)),
        examples=torch.stack([train.dataset[index][0] for index in range(min(EXAMPLES, train.samples))]),
        may_scale=spec.task == "regression" and normalize in ("auto", "standard"),
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
    if (path := parquet_path(source)) is not None and path.is_dir():
        return path, open_parquet(path).read_whole(), []
    path = Path(source)
    if path.is_dir():
        splits = split_folders(path)
        path = splits.get("test", splits["train"])
        return path, read_text_folder(path), []
    return path, *open_frame(path)


def names_of(path: Path, frame: pl.DataFrame, rows: np.ndarray, columns: tuple[Column, ...], key: str) -> Names:
    """Return the names of samples: their rows, or files; with the beginning of each, where these are texts."""
    texts = None
    if columns[0].kind == "text":
        beginnings = [as_plain_text(cell)[:SHOWN_OF_A_TEXT] for cell in frame[columns[0].name].to_list()]
        texts = np.array(beginnings, dtype=object)
    if path.is_dir() and parquet_files(path):
        return Names(rows, open_parquet(path).name_of, texts=texts)
    if path.is_dir():
        return Names(np.array(frame[FILE].to_list(), dtype=object), texts=texts)
    return Names(rows, key, path.name, texts)


def read_other_table(source: Any, features: FeatureSpec, target: TargetSpec) -> tuple[Samples, list[Note]]:
    """Read the rows of another table, named by file and row, with the columns and the classes learnt on the training one."""
    path, frame, notes = open_table_source(source)
    name, columns = check_target(path, frame.schema, target.name), features.columns
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


TABLE: SourceKind = SourceKind(
    "data.kinds.table",
    lambda source: (
        (is_table(source) and Path(source).exists()) or is_text_folder(Path(source))
        if isinstance(source, (str, Path))
        else is_frame(source)
    ),
    open_table,
)
