"""One entry for all data: the kinds of sources are asked which of them a source is, and that one opens it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rushlight.data.feed import LoaderSplit, ResidentSplit, Split, StreamedSplit
from rushlight.data.shape import (
    FOLD_CUT,
    PrepareBatch,
    Samples,
    check_same_dtype,
    check_samples,
    dtype_name,
    mean_and_std,
    resident,
    split_digest,
    standardised,
)
from rushlight.data.sources import (
    ARRAYS,
    DATASET,
    DATASETS,
    IMAGES,
    LOADER,
    MASKS,
    NAMED,
    TABLE,
    SourceKind,
    larger_table,
    read_other_table,
    stream_like,
    streamed_rows,
    tokenizer_json,
)
from rushlight.data.spec import (
    FLOATS,
    ArrayKind,
    FeatureSpec,
    Normalization,
    NormalizeName,
    Share,
    TargetSpec,
    Task,
    in_floats,
    name_of,
    reading_floats,
    with_tuples,
)
from rushlight.data.splits import Data
from rushlight.device import available_memory
from rushlight.errors import DataError, UsageError, check_choice, suggest
from rushlight.formats import format_names
from rushlight.texts import Joined, Note

NORMALIZE = ("auto", "standard", "unit", "none")
TASKS = ("classification", "binary", "multilabel", "regression")
ARRAY_KINDS = ("image", "array", "tokens")

TOKENIZER = "tokenizer.json"  # in a run's folder

FetchProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class DataOptions:
    """How to open data. What an option is for stands at `rushlight train --help`."""

    target: str | None = None  # tables: the column to predict
    text_column: str | None = None  # tables: the column to read as text; "auto": the one with most of it
    text_length: int | None = None  # tokens of a text
    tokenizer: Any = None  # of texts: None for bytes, a tokenizer.json, a tokenizer, or a function
    window: int | None = None  # tables: rows of a window of a series
    horizon: int = 1  # rows to predict after a window
    time_column: str | None = None  # orders the rows of a series
    shuffle_window: int | None = (
        None  # rows of Parquet that are shuffled together, where they are read as they are needed
    )
    task: Task | None = None  # None: by the target's kind
    kind: ArrayKind | None = None  # arrays: "tokens" are whole numbers that are ids; None: by dtype and shape
    classes: tuple[str, ...] | None = None  # names, where the data has none
    normalize: NormalizeName = "auto"
    image_size: tuple[int, int] | None = None  # (height, width); None: by the images
    test_fraction: Share = 0.2  # of all samples, set aside for testing when there is no test split; or a fold of them
    val_fraction: float | None = None  # of the training samples, set aside for validation; None: no cut
    seed: int = 0  # of these cuts
    skip_bad: bool = False  # leave unreadable images out
    workers: int = 0  # processes that read streamed data

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("normalize", self.normalize, NORMALIZE),
            ("task", self.task, TASKS),
            ("kind", self.kind, ARRAY_KINDS),
        ):
            if value is not None:
                check_choice(option, value, choices)
        for option, fraction in (("test_fraction", self.test_fraction), ("val_fraction", self.val_fraction)):
            if fraction is not None and not isinstance(fraction, tuple) and not 0 <= fraction < 1:
                raise UsageError("bad-fraction", option=option, value=fraction)
        if self.classes is not None and (
            doubled := [name for name, count in Counter(self.classes).items() if count > 1]
        ):
            raise UsageError("class-doubled", name=doubled[0])
        if self.workers < 0:
            raise UsageError("negative", option="workers", value=self.workers)

    def check_series(self) -> None:
        """Raise UsageError where only some of the options of a series are given, or those of texts beside them."""
        of_series = {
            "window": self.window,
            "time_column": self.time_column,
            "horizon": self.horizon if self.horizon != 1 else None,
        }
        if given := [option for option, value in of_series.items() if value is not None]:
            if missing := [option for option in ("window", "time_column") if of_series[option] is None]:
                raise UsageError("window-incomplete", given=", ".join(given), missing=", ".join(missing))
            for option in ("text_column", "text_length", "tokenizer"):
                if getattr(self, option) is not None:
                    raise UsageError("window-of-texts", option=option)

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, JSON-ready; a tokenizer as the file that a run keeps, or by name."""
        chosen = {option: value for option, value in vars(self).items() if value != getattr(DataOptions, option)}
        if self.tokenizer is None:
            return chosen
        is_kept = tokenizer_json(self.tokenizer) is not None
        return chosen | {"tokenizer": {"file": TOKENIZER} if is_kept else {"live": name_of(self.tokenizer)}}

    @classmethod
    def from_json(cls, content: dict[str, Any], folder: Path = Path(), tokenizer: Any = None) -> DataOptions:
        """Rebuild what `to_json` wrote to the run in `folder`; UsageError without a `tokenizer` that nothing can rebuild."""
        options = with_tuples(content)
        if "tokenizer" in options:
            if tokenizer is None and "file" not in options["tokenizer"]:
                raise UsageError("tokenizer-needed", name=options["tokenizer"].get("live"))
            options["tokenizer"] = tokenizer or folder / TOKENIZER
        return cls(**options)


OPENED = SourceKind("data.kinds.open", lambda source: isinstance(source, Data), lambda data: data)
KINDS = (OPENED, NAMED, TABLE, ARRAYS, MASKS, IMAGES, DATASET, LOADER)  # the first that matches a source opens it


@dataclass(frozen=True)
class Given:
    """Sources as the user gave them: the training data, and validation and test data where these come apart."""

    train: Any
    validation: Any = None
    test: Any = None


def open_source(
    source: Any,
    test: Any = None,
    options: DataOptions = DataOptions(),
    progress: FetchProgress | None = None,
    *,
    validation: Any = None,
    is_raw: bool = False,
    is_whole: bool = False,
) -> Data:
    """Open data given as a name, a path, arrays, a Dataset, a DataLoader, or already opened.

    `source` may be a pair (train, test) or a triple (train, validation, test) of anything that `source`, `validation`
    and `test` may be: so Keras' `((x, y), (x_test, y_test))` is fine, and so is `(train_loader, test_loader)`.
    Validation and test data are prepared exactly as the training data. `is_raw`: an objective gets arrays, datasets and
    loaders as they are, and nobody reads their targets. `is_whole`: no test split is cut.

    Raises:
        UsageError: there is no such name or path, or it is of a kind nobody here can open.
        DataError: what is there cannot be trained on.
    """
    given = as_given(source, validation, test)
    kind = kind_of(given.train)
    check_options_apply(given, kind, options)
    if is_whole and kind.takes("test_fraction"):
        options = replace(options, test_fraction=0.0)
    return open_given(given, kind, options, progress, is_raw)


def as_given(source: Any, validation: Any = None, test: Any = None) -> Given:
    """Return the sources one by one, also where they were given in one tuple."""
    if isinstance(source, (tuple, list)) and test is None:
        if len(source) == 4:
            source, test = (source[0], source[1]), (source[2], source[3])
        elif len(source) == 2 and are_splits(source):
            source, test = source
        elif len(source) == 3 and validation is None and are_splits(source):
            source, validation, test = source
    return Given(*map(from_home, (source, validation, test)))


def are_splits(parts: Sequence[Any]) -> bool:
    """Tell whether a tuple holds a source for each split, and not one pair of (inputs, targets)."""
    if any(isinstance(part, (Dataset, DataLoader, str, Path)) for part in parts):
        return True
    return all(
        isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], (np.ndarray, Tensor))
        for part in parts
    )


def from_home(source: Any) -> Any:
    """Return a path that begins with ~ as one that begins with the home folder; anything else as it is."""
    if not isinstance(source, (str, Path)) or not str(source).startswith("~"):
        return source
    try:
        return Path(source).expanduser()
    except RuntimeError:  # there is no such user
        return source


def kind_of(source: Any) -> SourceKind:
    """Return the kind of a source; UsageError where it is of none."""
    for kind in KINDS:
        if kind.matches(source):
            return kind
    if not isinstance(source, (str, Path)):
        raise UsageError("unknown-data-kind", found=type(source).__name__)
    if Path(source).exists():
        raise UsageError("unknown-file-kind", path=source, found=Path(source).suffix or Note("data.no-ending"))
    near, known = suggest(str(source), DATASETS), ", ".join(DATASETS)
    raise UsageError("unknown-data", name=source, known=known, suggestion=near, folder=Path.cwd())


def takes(source: Any, option: str) -> bool:
    """Tell whether the kind of a source, given as `open_source` takes it, has this option."""
    return kind_of(as_given(source).train).takes(option)


def check_options_apply(given: Given, kind: SourceKind, options: DataOptions) -> None:
    """Raise UsageError for an option that this kind of data would ignore; the seed is every run's."""
    if given.validation is not None and options.val_fraction:
        raise UsageError("two-validation-splits", fraction=options.val_fraction)
    apart = {"val_data": given.validation, "test_data": given.test}
    chosen = {option: type(other).__name__ for option, other in apart.items() if kind is OPENED and other is not None}
    chosen |= options.to_json()
    for option, value in chosen.items():
        is_share_of_published = kind is NAMED and option == "test_fraction" and not isinstance(value, tuple)
        if option == "seed" or (kind.takes(option) and not is_share_of_published):
            continue
        takers = [other.words for other in KINDS if other.takes(option)]
        words = Joined("list", map(Note, ["data.kinds.not-open-yet"] if kind is OPENED else takers))
        raise UsageError("option-of-other-data", option=option, value=value, kind=words)
    options.check_series()


def open_given(
    given: Given, kind: SourceKind, options: DataOptions, progress: FetchProgress | None, is_raw: bool = False
) -> Data:
    """Open train, validation and test data; options that are for other kinds of data are passed over."""
    offered = {**vars(options), "progress": progress, "memory_limit": memory_limit(), "is_raw": is_raw}
    offered |= {"validation": given.validation, "test": given.test}
    if given.test is not None:
        offered["test_fraction"] = None
    data = kind.open(given.train, **{name: value for name, value in offered.items() if kind.takes(name)})
    if isinstance(options.test_fraction, tuple) and not any(
        getattr(note, "key", "") == FOLD_CUT for note in data.notes
    ):
        raise UsageError("folds-beside-test", data=data.name)
    if data.features is not None and data.features.floats != FLOATS.get():
        data = with_floats(data, data.features)
    is_whole = kind.takes("test") or (given.validation is None and given.test is None)
    return data if is_whole else with_others(data, given, options, progress)


def with_floats(data: Data, features: FeatureSpec) -> Data:
    """Return data that was opened before, with inputs and targets as FLOATS says, of numbers that are rounded already."""
    floats, is_float = FLOATS.get(), features.dtype in ("float32", "float64") and not features.is_raw
    features = replace(features, floats=floats, dtype=floats if is_float else features.dtype)
    target = None if data.target is None else replace(data.target, floats=floats)
    splits: dict[str, Split] = {}
    for name, split in data.splits.items():
        if isinstance(split, ResidentSplit):
            inputs = in_floats(split.inputs, floats) if is_float else split.inputs
            splits[name] = replace(split, inputs=inputs, prepare=split.prepare if is_float else features.prepare)
        else:
            assert isinstance(split, (StreamedSplit, LoaderSplit))
            splits[name] = replace(split, prepare=PrepareBatch(target, features))
    notes = (*data.notes, Note("data.opened-before")) if is_float else data.notes
    return replace(data, features=features, target=target, notes=notes).with_splits(splits)


def with_others(data: Data, given: Given, options: DataOptions, progress: FetchProgress | None) -> Data:
    """Return the data with the validation and test splits that were given apart, prepared as its own samples are."""
    opened = {}
    for split, source in (("validation", given.validation), ("test", given.test)):
        if source is not None:
            assert data.features is not None
            assert data.target is not None
            opened[split] = open_like(source, data.features, data.target, options, progress)
    if isinstance(validation := opened.get("validation"), ResidentSplit):  # what chooses has its part in the bits
        digest = split_digest(Samples(validation.inputs, validation.targets))
        data = replace(data, fingerprint=f"{data.fingerprint}-{digest}")
    return data.with_splits(opened)


def memory_limit() -> int:
    """Return the bytes of samples to keep in memory at the most: half of what is free."""
    return available_memory() // 2


def retarget(data: Data, target: TargetSpec) -> Data:
    """Return the data with its targets as the loss takes them, by `target`; standardised where the data may be scaled."""
    train, notes = data.train, data.notes
    if data.target is not None:
        target = replace(target, floats=data.target.floats)
    moments = None
    if data.may_scale and isinstance(train, ResidentSplit):
        moments = mean_and_std(train.targets, channel_dim=1)
    elif data.may_scale and (rows := streamed_rows(train)) is not None:
        moments = rows.moments
    if moments is not None:
        target = standardised(target, *moments)
        notes = (*notes, Note("data.targets-standardised"))
    check_same_width(data, target)
    splits: dict[str, Split] = {}
    for name, split in data.splits.items():
        if isinstance(split, ResidentSplit):
            splits[name] = replace(split, targets=target.for_loss(split.targets))
        elif isinstance(prepare := getattr(split, "prepare", None), PrepareBatch):
            splits[name] = replace(split, prepare=prepare.with_target(target))  # type: ignore[type-var]
    return replace(data, target=target, notes=notes, may_scale=False).with_splits(splits)


def check_same_width(data: Data, target: TargetSpec) -> None:
    """Raise DataError where a split in memory has more or fewer numbers for each sample; class numbers may for soft labels."""
    kept = {split: found.targets for split, found in data.splits.items() if isinstance(found, ResidentSplit)}
    for split, targets in kept.items() if target.task != "classification" and "train" in kept else ():
        if targets.shape[1:].numel() != kept["train"].shape[1:].numel():
            train, other = (f"{dtype_name(each)} {tuple(each.shape)}" for each in (kept["train"], targets))
            raise DataError("targets-differ", data=data.name, split=split, train=train, other=other)


def open_like(
    source: Any,
    features: FeatureSpec | None,
    target: TargetSpec | None,
    options: DataOptions,
    progress: FetchProgress | None = None,
) -> Split:
    """Open `source` (anything `open_source` takes) as a split to test on: its test split where it has one, else all of it.

    It is prepared as `features` and `target` say; without `target`, an objective gets it as it is.

    Raises:
        DataError: the samples have another shape than the model takes, or classes it does not know.
    """
    with reading_floats((features or target or TargetSpec("other")).floats):
        if target is not None and features is not None and features.kind == "table" and TABLE.matches(source):
            if features.time is None and features.tokens is None:
                table = larger_table((source,), memory_limit())
                if table is not None:
                    return stream_like(table, features, target)[0]
            samples, _ = read_other_table(source, features, target)
            name = str(source) if isinstance(source, (str, Path)) else "table"
            return kept(name, samples, features, target)
        size = (features.shape[1], features.shape[2]) if features is not None and features.kind == "image" else None
        is_raw = features is None or target is None or features.is_raw
        scaling: NormalizeName = "auto" if is_raw else "none"
        plain = replace(options, normalize=scaling, test_fraction=0.0, val_fraction=None, image_size=size)
        given = as_given(source)
        opened = open_given(given, kind_of(given.train), plain, progress, is_raw)
        split = opened.test if opened.test is not None else opened.train
        if features is None or features.is_raw:
            return split
        if target is None:
            if isinstance(split, ResidentSplit):
                return replace(split, prepare=features.prepare)
            assert isinstance(split, (StreamedSplit, LoaderSplit))
            return replace(split, prepare=PrepareBatch(None, features))
        if opened.features is not None:
            check_same_dtype(opened.name, features.dtype, opened.features.dtype)
        if opened.features is None or opened.target is None or not features.fits(opened.features.shape):
            found = None if opened.features is None else opened.features.shape
            raise DataError("other-shape", data=opened.name, expected=features.shape, found=found)
        numbers = known_classes(opened, target)
        if isinstance(split, ResidentSplit):
            targets = split.targets if numbers is None else numbers[split.targets.long().flatten()]
            has_scaled_inputs = (
                opened.features.dtype in ("float32", "float64") and opened.features.normalization != Normalization()
            )
            if isinstance(source, Data) and has_scaled_inputs:  # not as they were stored
                if opened.features.normalization != features.normalization:
                    raise DataError("scaled-otherwise", data=source.name)
                return replace(split, targets=target.for_loss(targets))
            return replace(kept(opened.name, Samples(split.inputs, targets), features, target), names=split.names)
        assert isinstance(split, (StreamedSplit, LoaderSplit))
        return replace(split, prepare=PrepareBatch(target, features, numbers))


def kept(name: str, samples: Samples, features: FeatureSpec, target: TargetSpec) -> ResidentSplit:
    """Check samples and keep them, prepared as `features` and `target` say."""
    check_samples(name, Note("words.test"), samples, target)
    split = resident(samples, features)
    return replace(split, targets=target.for_loss(split.targets))


def known_classes(opened: Data, target: TargetSpec) -> Tensor | None:
    """Return the model's number of each of the other data's classes, by name; None where the numbers are the same.

    Classes 0, 1, 2, … that the model has no such names for are taken for its own class numbers.
    """
    assert opened.target is not None
    names = opened.target.classes
    are_classes = all(task in ("classification", "binary") for task in (opened.target.task, target.task))
    is_same = names == target.classes[: len(names)]  # a first batch may not have all
    is_known = target.layout == "dense" and set(names) <= set(target.classes)  # the classes of a mask are its numbers
    if not are_classes or is_known or is_same:
        return None
    unknown = [name for name in names if name not in target.classes]
    if unknown and names == tuple(map(str, range(len(names)))):
        return None
    if unknown:
        raise DataError(
            "unknown-class", data=opened.name, name=unknown[0], known=format_names(target.classes, 20),
            suggestion=suggest(unknown[0], target.classes),
        )  # fmt: skip
    return torch.tensor([target.classes.index(name) for name in names])
