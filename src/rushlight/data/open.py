"""One way in for all data: look at what was given, and let the right reader open it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rushlight.data.feed import LoaderSplit, ResidentSplit, Split, StreamedSplit
from rushlight.data.shape import Finish, Samples, check_same_dtype, check_samples, resident, split_digest
from rushlight.data.spec import FeatureSpec, Normalization, NormalizeName, TargetSpec, Task
from rushlight.data.splits import Data
from rushlight.device import available_memory
from rushlight.errors import DataError, UsageError, check_choice, suggest

ARRAYS = (".npy", ".npz", ".gz")
NORMALIZE = ("auto", "standard", "unit", "none")
TASKS = ("classification", "binary", "multilabel", "regression")
KINDS = ("image", "array", "tokens")

KIND_WORDS = {
    "named": "data known by name", "folder": "folders of images", "table": "tables (.csv, .parquet)",
    "arrays": "arrays", "dataset": "datasets", "loader": "DataLoaders", "open": "open data",
}  # fmt: skip
NOT_OPEN_YET = "data that is not open yet (open_data takes it)"
TAKEN_BY = {  # which kinds of data an option is for; the seed is every run's
    "target": ("table",),
    "task": ("table", "arrays", "dataset", "loader"),
    "kind": ("arrays",),
    "classes": ("arrays", "dataset", "loader"),
    "normalize": ("named", "folder", "table", "arrays", "dataset", "loader"),
    "image_size": ("folder",),
    "test_fraction": ("folder", "table", "arrays", "dataset"),
    "val_fraction": ("named", "folder", "table", "arrays", "dataset", "loader"),
    "skip_bad": ("folder",),
    "workers": ("folder", "dataset"),
}

ArrayKind = Literal["image", "array", "tokens"]
FetchProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class DataOptions:
    """How to open data. What an option is for stands at `rushlight train --help`."""

    target: str | None = None  # tables: the column to predict
    task: Task | None = None  # None: by the target's kind
    kind: ArrayKind | None = (
        None  # arrays: "image", "array" or "tokens" (whole numbers that are ids); None: by their shape
    )
    classes: tuple[str, ...] | None = None  # names, where the data has none
    normalize: NormalizeName = "auto"
    image_size: tuple[int, int] | None = None  # (height, width); None: by the images
    test_fraction: float = 0.2  # of all samples, set aside for testing when there is no test split
    val_fraction: float | None = None  # of the training samples, set aside for validation; None: no cut
    seed: int = 0  # of these cuts
    skip_bad: bool = False  # leave unreadable images out
    workers: int = 0  # processes that read streamed data

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("normalize", self.normalize, NORMALIZE),
            ("task", self.task, TASKS),
            ("kind", self.kind, KINDS),
        ):
            if value is not None:
                check_choice(option, value, choices)
        for option, fraction in (("test_fraction", self.test_fraction), ("val_fraction", self.val_fraction)):
            if fraction is not None and not 0 <= fraction < 1:
                raise UsageError("bad-fraction", option=option, value=fraction)
        if self.workers < 0:
            raise UsageError("negative", option="workers", value=self.workers)


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
) -> Data:
    """Open data given as a name, a path, arrays, a Dataset, a DataLoader, or already opened.

    `source` may be a pair (train, test) or a triple (train, validation, test) of anything that `source`, `validation`
    and `test` may be: so Keras' `((x, y), (x_test, y_test))` is fine, and so is `(train_loader, test_loader)`.
    Validation and test data are prepared exactly as the training data.

    Raises:
        UsageError: there is no such name or path, or it is of a kind nobody here can open.
        DataError: what is there cannot be trained on.
    """
    given = as_given(source, validation, test)
    check_options_apply(given, options)
    return open_given(given, options, progress)


def as_given(source: Any, validation: Any = None, test: Any = None) -> Given:
    """Return the sources one by one, also where they were given in one tuple."""
    if isinstance(source, (tuple, list)) and test is None:
        if len(source) == 4:
            return Given((source[0], source[1]), validation, (source[2], source[3]))
        if len(source) == 2 and are_splits(source):
            return Given(source[0], validation, source[1])
        if len(source) == 3 and validation is None and are_splits(source):
            return Given(*source)
    return Given(source, validation, test)


def open_given(given: Given, options: DataOptions, progress: FetchProgress | None) -> Data:
    """Open train, validation and test data; options that are for other kinds of data are passed over."""
    source = given.train
    if isinstance(source, Data):
        return source
    if isinstance(source, (str, Path)):
        return open_named_or_path(given, options, progress)
    if isinstance(source, (Dataset, DataLoader)):
        from rushlight.data.sources import open_dataset

        return open_dataset(
            source, given.test, validation=given.validation, task=options.task, classes=options.classes,
            normalize=options.normalize, seed=options.seed, test_fraction=options.test_fraction,
            val_fraction=options.val_fraction, workers=options.workers, memory_limit=memory_limit(),
        )  # fmt: skip
    if isinstance(source, (tuple, list)) and len(source) == 2:
        return open_array_pairs((source[0], source[1]), given, options)
    raise UsageError("unknown-data-kind", found=type(source).__name__)


def check_options_apply(given: Given, options: DataOptions) -> None:
    """Raise UsageError for an option that this kind of data would ignore."""
    kind = kind_of(given.train)
    if kind is None:
        return  # what it is will be asked by the one who opens it
    for option, other in (("val_data", given.validation), ("test_data", given.test)):
        if kind == "open" and other is not None:
            raise UsageError("option-of-other-data", option=option, value=type(other).__name__, kind=NOT_OPEN_YET)
    if given.validation is not None and options.val_fraction:
        raise UsageError("two-validation-splits", fraction=options.val_fraction)
    for option, value in vars(options).items():
        if value == getattr(DataOptions(), option) or kind in TAKEN_BY.get(option, KIND_WORDS):
            continue
        words = NOT_OPEN_YET if kind == "open" else ", ".join(KIND_WORDS[taker] for taker in TAKEN_BY[option])
        raise UsageError("option-of-other-data", option=option, value=value, kind=words)


def kind_of(source: Any) -> str | None:
    """Return the kind of data, one of KIND_WORDS; None for what nobody here can open."""
    if isinstance(source, Data):
        return "open"
    if isinstance(source, (str, Path)):
        return kind_of_path(source)
    if isinstance(source, (Dataset, DataLoader)):
        from rushlight.data.sources import is_ordinary

        return "dataset" if is_ordinary(source) else "loader"
    return "arrays" if isinstance(source, (tuple, list)) and len(source) == 2 else None


def kind_of_path(source: str | Path) -> str | None:
    """Return the kind of data that a name or path stands for."""
    from rushlight.data.sources import DATASETS

    path = Path(source).expanduser()
    if str(source) in DATASETS:
        return "named"
    if not path.exists():
        return None
    if is_table(path):
        return "table"
    if holds_arrays(path):
        return "arrays"
    return "folder" if path.is_dir() else None


def are_splits(parts: Sequence[Any]) -> bool:
    """Tell whether a tuple holds a source for each split, and not one pair of (inputs, targets)."""
    if any(isinstance(part, (Dataset, DataLoader, str, Path)) for part in parts):
        return True
    return all(
        isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], (np.ndarray, Tensor))
        for part in parts
    )


def open_named_or_path(given: Given, options: DataOptions, progress: FetchProgress | None) -> Data:
    """Open a dataset by name, or a file or folder by path."""
    from rushlight.data.sources import DATASETS

    source = given.train
    path = Path(source).expanduser()
    if str(source) in DATASETS:
        return with_others(open_by_name(str(source), options, progress), given, options, progress)
    if not path.exists():
        raise UsageError(
            "unknown-data", name=source, known=", ".join(DATASETS), suggestion=suggest(str(source), DATASETS),
            folder=Path.cwd(),
        )  # fmt: skip
    if is_table(path):
        from rushlight.data.sources import open_table

        return open_table(
            path, target=options.target, validation=given.validation, test=given.test, normalize=options.normalize,
            seed=options.seed, test_fraction=options.test_fraction, val_fraction=options.val_fraction, task=options.task,
        )  # fmt: skip
    if holds_arrays(path):
        return open_array_path(path, given, options)
    if not path.is_dir():
        raise UsageError("unknown-file-kind", path=path, found=path.suffix or "no ending")
    from rushlight.data.sources import open_image_folder

    images = open_image_folder(
        path, normalize=options.normalize, image_size=options.image_size, seed=options.seed,
        test_fraction=None if given.test is not None else options.test_fraction, val_fraction=options.val_fraction,
        skip_bad=options.skip_bad, workers=options.workers, memory_limit=memory_limit(),
    )  # fmt: skip
    return with_others(images, given, options, progress)


def with_others(data: Data, given: Given, options: DataOptions, progress: FetchProgress | None) -> Data:
    """Return the data with the validation and test splits that were given apart, prepared as its own samples are."""
    assert data.features is not None
    assert data.target is not None
    opened = {
        split: open_like(source, data.features, data.target, options, progress)
        for split, source in (("validation", given.validation), ("test", given.test))
        if source is not None
    }
    if isinstance(validation := opened.get("validation"), ResidentSplit):  # what chooses has its part in the bits
        digest = split_digest(Samples(validation.inputs, validation.targets))
        data = replace(data, fingerprint=f"{data.fingerprint}-{digest}")
    return data.with_splits(opened)


def is_table(path: Path) -> bool:
    """Tell a table by its ending."""
    from rushlight.data.sources import TABLE_ENDINGS

    return path.name.lower().endswith(TABLE_ENDINGS)


def holds_arrays(path: Path) -> bool:
    """Tell whether a file, or what is in a folder, is arrays: .npz, .npy or idx."""
    if path.is_dir():
        from rushlight.data.sources import holds_array_files

        return holds_array_files(path)
    return path.suffix.lower() in ARRAYS or "ubyte" in path.name


def open_by_name(name: str, options: DataOptions, progress: FetchProgress | None) -> Data:
    """Open one of the datasets we know by name."""
    from rushlight.data.shape import Samples, build_data, cut_samples
    from rushlight.data.sources import open_named

    arrays = open_named(name, progress=progress)
    train = Samples(torch.from_numpy(arrays.train_inputs), torch.from_numpy(arrays.train_targets))
    test = Samples(torch.from_numpy(arrays.test_inputs), torch.from_numpy(arrays.test_targets))
    target = TargetSpec("classification", tuple(arrays.classes))
    train, validation, _, cut_notes = cut_samples(
        train, target, test_fraction=None, val_fraction=options.val_fraction, seed=options.seed
    )
    return build_data(
        name, "image", train, test, target, validation=validation, normalize=options.normalize,
        notes=(*arrays.notes, *cut_notes),
    )  # fmt: skip


def open_array_path(path: Path, given: Given, options: DataOptions) -> Data:
    """Open .npz, .npy or idx files; of files given apart, the training arrays are read."""
    from rushlight.data.sources import read_array_files

    def first_of(source: Any) -> Any:
        return read_array_files(Path(source))[0] if isinstance(source, (str, Path)) else source

    train, validation, test = read_array_files(path)
    validation = validation if given.validation is None else first_of(given.validation)
    test = test if given.test is None else first_of(given.test)
    return open_array_pairs(train, Given(train, validation, test), options, name=path.stem)


def open_array_pairs(train: tuple[Any, Any], given: Given, options: DataOptions, name: str = "arrays") -> Data:
    """Open (inputs, targets) pairs in memory."""
    from rushlight.data.sources import open_arrays

    return open_arrays(
        train, given.test, validation=given.validation, name=name, kind=options.kind, task=options.task,
        classes=options.classes, normalize=options.normalize, seed=options.seed, test_fraction=options.test_fraction,
        val_fraction=options.val_fraction,
    )  # fmt: skip


def memory_limit() -> int:
    """Return the bytes of samples to keep in memory at the most: half of what is free."""
    return available_memory() // 2


def retarget(data: Data, task: Task) -> Data:
    """Return the data with two-class targets as the binary task has them: float32 0 or 1, shape (n, 1)."""
    if data.target is None or data.target.task == task:
        return data
    if len(data.target.classes) != 2:
        raise DataError("not-binary", classes=len(data.target.classes), data=data.name)
    target = replace(data.target, task=task)
    splits = {name: retarget_split(split, target) for name, split in data.splits.items()}
    return replace(data, target=target).with_splits(splits)


def retarget_split(split: Split, target: TargetSpec) -> Split:
    """Return one split with its targets as the binary task has them."""
    if isinstance(split, ResidentSplit):
        return replace(split, targets=split.targets.float().reshape(-1, 1))
    from rushlight.data.shape import FinishBinary

    assert isinstance(split, (StreamedSplit, LoaderSplit))
    return replace(split, finish=FinishBinary(split.finish))


def options_to_json(options: DataOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults, JSON-ready."""
    defaults = asdict(DataOptions())
    return {key: value for key, value in asdict(options).items() if value != defaults[key]}


def options_from_json(content: dict[str, Any]) -> DataOptions:
    """Rebuild what `options_to_json` wrote."""
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    return DataOptions(**options)


def open_like(
    source: Any,
    features: FeatureSpec,
    target: TargetSpec,
    options: DataOptions,
    progress: FetchProgress | None = None,
) -> Split:
    """Open `source` (anything `open_source` takes) as a split to test on: its test split where it has one, else all of it.

    Raises:
        DataError: the samples have another shape than the model takes, or classes it does not know.
    """
    if features.kind == "table" and isinstance(source, (str, Path)) and is_table(Path(source)):
        from rushlight.data.sources import read_other_table

        samples, _ = read_other_table(Path(source), features.columns, target)
        return kept(str(source), samples, features, target)
    size = (features.shape[1], features.shape[2]) if features.kind == "image" else None
    plain = replace(options, normalize="none", test_fraction=0.0, val_fraction=None, image_size=size)
    opened = open_given(as_given(source), plain, progress)
    split = opened.test if opened.test is not None else opened.train
    if opened.features is not None:
        check_same_dtype(opened.name, features.dtype, opened.features.dtype)
    if opened.features is None or opened.target is None or opened.features.shape != features.shape:
        found = None if opened.features is None else opened.features.shape
        raise DataError("other-shape", data=opened.name, expected=features.shape, found=found)
    numbers = known_classes(opened, target)
    if isinstance(split, ResidentSplit):
        if isinstance(source, Data):
            check_same_scaling(source, features, target)
        targets = split.targets if numbers is None else numbers[split.targets.long().flatten()]
        if isinstance(source, Data) and is_scaled(source):
            return replace(split, targets=targets.float().reshape(-1, 1) if target.task == "binary" else targets)
        return replace(kept(opened.name, Samples(split.inputs, targets), features, target), names=split.names)
    assert isinstance(split, (StreamedSplit, LoaderSplit))
    return replace(split, finish=Finish(target, features, numbers))


def is_scaled(data: Data) -> bool:
    """Tell whether data in memory holds its inputs or targets scaled, not as they were stored."""
    assert data.features is not None
    assert data.target is not None
    return (data.features.dtype == "float32" and data.features.normalization != Normalization()) or bool(
        data.target.mean
    )


def check_same_scaling(data: Data, features: FeatureSpec, target: TargetSpec) -> None:
    """Raise DataError for data that is open already and was scaled otherwise than the model's own."""
    assert data.features is not None
    assert data.target is not None
    theirs = data.features.normalization, data.target.mean, data.target.std
    if is_scaled(data) and theirs != (features.normalization, target.mean, target.std):
        raise DataError("scaled-otherwise", data=data.name)


def kept(name: str, samples: Samples, features: FeatureSpec, target: TargetSpec) -> ResidentSplit:
    """Check samples and keep them, prepared as `features` and `target` say."""
    check_samples(name, "test", samples, target)
    split = resident(samples, features, target)
    return replace(split, targets=split.targets.float().reshape(-1, 1)) if target.task == "binary" else split


def known_classes(opened: Data, target: TargetSpec) -> Tensor | None:
    """Return the model's number of each of the other data's classes, by name; None where the numbers are the same.

    Classes 0, 1, 2, … that the model has no such names for are taken for its own class numbers.
    """
    assert opened.target is not None
    names = opened.target.classes
    are_classes = all(task in ("classification", "binary") for task in (opened.target.task, target.task))
    if not are_classes or names == target.classes:
        return None
    unknown = [name for name in names if name not in target.classes]
    if unknown and names == tuple(map(str, range(len(names)))):
        return None
    if unknown:
        raise DataError(
            "unknown-class", data=opened.name, name=unknown[0], known=", ".join(target.classes[:20]),
            suggestion=suggest(unknown[0], target.classes),
        )  # fmt: skip
    return torch.tensor([target.classes.index(name) for name in names])
