"""A user's own `torch.utils.data.Dataset` or `DataLoader`: kept in memory where that changes nothing, else streamed.

Reading each sample once and keeping it is right only when reading it again would give the same. That is found out
by reading some samples twice, and what was found is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from rushlight.data.feed import LoaderSplit, ResidentSplit, StreamedSplit, not_collated, seeded
from rushlight.data.shape import (
    EXAMPLES,
    Finish,
    Samples,
    as_stored,
    build_data,
    check_same_dtype,
    cut_samples,
    cut_splits,
    dtype_name,
    identity_of,
    read_targets,
)
from rushlight.data.sources.datasets.samples import (
    PROBES,
    can_read_together,
    collate_checked,
    collate_samples,
    is_pair,
    randomness,
    read_one,
    sample_count,
    size_of,
)
from rushlight.data.sources.kind import SourceKind
from rushlight.data.spec import FeatureKind, FeatureSpec, Normalization, NormalizeName, TargetSpec, Task
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError

LABEL_PROBES = 2000  # samples read to see which labels occur in data that is not kept
READ_BATCH = 256
ITERABLE_BATCH = 64  # samples in a batch of an iterable dataset that came without a DataLoader


def open_dataset(
    train: Dataset[Any] | DataLoader[Any],
    test: Dataset[Any] | DataLoader[Any] | None = None,
    *,
    validation: Dataset[Any] | DataLoader[Any] | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    seed: int = 0,
    test_fraction: float | None = 0.2,
    val_fraction: float | None = None,
    workers: int = 0,
    memory_limit: int,
) -> Data:
    """Open a map-style or iterable dataset, or a DataLoader, as `Data`.

    Normalisation is left to the dataset (its transforms are the user's) unless `normalize` asks for it, or the samples
    are bytes, which no transform has touched. A DataLoader
    of an ordinary kind gives its dataset, batch size and shuffling; one with a sampler, batch sampler or collate
    function of its own, or with an iterable dataset, is used as it is.

    Raises:
        DataError: the dataset is empty, or its samples are of a kind that cannot be batched.
    """
    batched, validation, test = (in_batches(source, workers) for source in (train, validation, test))
    if isinstance(batched, DataLoader) and not is_ordinary(batched):
        return open_loader(
            batched, test, validation=validation, task=task, classes=classes, normalize=normalize, val_fraction=val_fraction,
            note="" if batched is train else f"{type(train).__name__} is read in batches of {ITERABLE_BATCH}, in its own order.",
        )  # fmt: skip
    dataset, batch_size, is_shuffled, loader_notes = unwrap(train)
    given = {"validation": validation, "test": test}
    others: dict[str, Any] = {
        split: unwrap(other)[0] if is_ordinary(other) else other for split, other in given.items() if other is not None
    }
    name = type(dataset).__name__
    count = sample_count(dataset, name)
    first = read_one(dataset, 0, name)
    how_random = randomness(dataset, count)
    draws = True if how_random else None
    needed = count * size_of(first)
    notes = list(loader_notes)
    if how_random or needed > memory_limit or not is_pair(first):
        too_large = f"{needed / 2**30:.1f} GiB would not fit in memory" if needed > memory_limit else ""
        notes.append(f"{name} is streamed: {how_random or too_large or 'its samples are not (input, target)'}.")
        cut = None if "validation" in others else val_fraction
        return open_streamed(
            dataset, others, first, task, classes, normalize, workers, is_shuffled, notes, batch_size, draws, cut, seed
        )
    notes.append(
        f"{name} is kept in memory: {min(PROBES, count)} samples read again gave the same, and drew nothing at random."
    )
    classes = classes or class_names(dataset)
    train_samples, target = read_all(dataset, count, task, classes, workers)
    kept: dict[str, Samples] = {}
    loaders = {split: other for split, other in others.items() if isinstance(other, DataLoader)}
    for split, other in others.items():
        if split in loaders:
            notes.append(f"The {split} DataLoader is used as it is.")
            continue
        names = target.classes if classes is None and not all(map(str.isdecimal, target.classes)) else classes
        kept[split], other_target = read_all(other, sample_count(other, name, split), target.task, names, workers)
        check_same_dtype(name, dtype_name(train_samples.inputs), dtype_name(kept[split].inputs))
        if len(other_target.classes) > len(target.classes):
            target = other_target
    train_samples, cut_validation, cut_test, cut_notes = cut_samples(
        train_samples, target, seed=seed,
        test_fraction=None if "test" in others else test_fraction,
        val_fraction=None if "validation" in others else val_fraction,
    )  # fmt: skip
    notes += cut_notes
    notes += whole_number_notes(train_samples.inputs)
    data = build_data(
        name, feature_kind(train_samples.inputs), train_samples, kept.get("test", cut_test), target,
        validation=kept.get("validation", cut_validation),
        normalize="none" if normalize == "auto" and train_samples.inputs.dtype != torch.uint8 else normalize,
        notes=tuple(notes),
    )  # fmt: skip
    if not is_shuffled:
        assert isinstance(data.train, ResidentSplit)
        data = replace(data, train=replace(data.train, is_shuffled=False))
    as_they_are = {split: LoaderSplit(loader, Finish(data.target, data.features)) for split, loader in loaders.items()}
    return replace(data, batch_size=batch_size).with_splits(as_they_are)


def cut_dataset(
    dataset: Dataset[Any], fraction: float, seed: int
) -> tuple[Dataset[Any], Dataset[Any] | None, tuple[str, ...]]:
    """Cut a validation split off a map-style dataset, by index; stratified where the dataset lists its targets."""
    count, listed = len(dataset), getattr(dataset, "targets", ())  # type: ignore[arg-type]
    labels = np.asarray(listed) if len(listed) == count else np.zeros((count, 0))
    stratified = labels.ndim == 1 and labels.dtype.kind in "iubU"
    cut = cut_splits(labels, test_fraction=None, val_fraction=fraction, seed=seed, stratified=stratified)
    if cut.validation is None:
        return dataset, None, cut.notes
    return Subset(dataset, cut.train.tolist()), Subset(dataset, cut.validation.tolist()), cut.notes


def open_streamed(
    dataset: Dataset[Any], others: dict[str, Any], first: Any, task: Task | None, classes: Sequence[str] | None,
    normalize: NormalizeName, workers: int, is_shuffled: bool, notes: list[str], batch_size: int | None, draws: bool | None,
    val_fraction: float | None, seed: int,
) -> Data:  # fmt: skip
    """Make `Data` that reads its samples as they are needed. `draws`: as in `StreamedSplit`."""
    name = type(dataset).__name__
    together = draws is None and can_read_together(dataset, sample_count(dataset, name), name, notes)
    features = target = examples = None
    if is_pair(first):
        few = [
            first,
            *(read_one(dataset, index, name) for index in range(1, min(EXAMPLES, sample_count(dataset, name)))),
        ]
        inputs, _ = collate_checked(few, name)
        examples = as_stored(inputs)
        features = feature_spec(inputs, normalize, name, notes)
        target = probe_target(dataset, task, classes or class_names(dataset), notes)
    finish = Finish(target, features)
    train = dataset
    if val_fraction:
        train, others["validation"], cut_notes = cut_dataset(dataset, val_fraction, seed)
        notes += cut_notes
    if "test" not in others:
        notes.append("There is no test split: pass test_data=, or a dataset that is the same each time it is read.")
    return Data(
        name=name,
        train=StreamedSplit(train, finish, workers, collate_samples, is_shuffled, draws=draws, together=together),
        validation=open_other("validation", others.get("validation"), finish, workers, name, notes),
        test=open_other("test", others.get("test"), finish, workers, name, notes),
        features=features, target=target, fingerprint=describe_fingerprint(dataset), notes=tuple(notes),
        batch_size=batch_size, examples=examples,
    )  # fmt: skip


def open_other(
    split: str, source: Dataset[Any] | DataLoader[Any] | None, finish: Finish, workers: int, name: str, notes: list[str]
) -> StreamedSplit | LoaderSplit | None:
    """Make a validation or test split that is read as it is needed; its first sample is checked, a DataLoader's is not."""
    if source is None or isinstance(source, DataLoader):
        return None if source is None else LoaderSplit(source, finish)
    count = sample_count(source, name, split)
    first = read_one(source, 0, name)
    if finish.features is not None and is_pair(first):
        inputs, _ = collate_checked([first], name)
        check_same_dtype(name, finish.features.dtype, dtype_name(as_stored(inputs)))
    if not hasattr(source, "__getitems__") or randomness(
        source, count
    ):  # finding out is worth it for whole batches only
        return StreamedSplit(source, finish, workers, collate_samples, False)
    together = can_read_together(source, count, name, notes)
    return StreamedSplit(source, finish, workers, collate_samples, False, draws=None, together=together)


def open_loader(
    loader: DataLoader[Any],
    test: Dataset[Any] | DataLoader[Any] | None = None,
    *,
    validation: Dataset[Any] | DataLoader[Any] | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    val_fraction: float | None = None,
    note: str = "",
) -> Data:
    """Use a DataLoader as it is, its order included; UsageError where a validation split is to be cut from it."""
    name = type(loader.dataset).__name__
    if val_fraction:
        raise UsageError("loader-not-cut", data=name, option="val_fraction")
    notes = [note or f"The DataLoader of {name} is used as it is: its order and batches are its own."]
    with seeded(0):
        first = next(iter(loader), None)
    if first is None:
        raise DataError("empty-split", data=name, split="train")
    features = target = examples = None
    if isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[0], Tensor):
        examples = as_stored(first[0][:EXAMPLES]).clone()
        features = feature_spec(first[0], normalize, name, notes)
        names = classes or class_names(loader.dataset)
        if isinstance(first[1], Tensor) and has_plain_samples(loader):
            target = probe_target(loader.dataset, task, names, notes)
        elif isinstance(first[1], Tensor):
            target = read_targets(first[1], task, names)[1]
            if target.task == "classification" and names is None:
                notes.append(
                    f"Labels 0 to {len(target.classes) - 1} are in the first batch; more outputs of the model mean more classes."
                )
    finish = Finish(target, features)
    if test is None:
        notes.append("There is no test split: pass test_data=.")
    return Data(
        name=name, train=LoaderSplit(loader, finish), validation=open_other("validation", validation, finish, 0, name, notes),
        test=open_other("test", test, finish, 0, name, notes), features=features, target=target,
        fingerprint=describe_fingerprint(loader.dataset), notes=tuple(notes), batch_size=loader.batch_size,
        examples=examples,
    )  # fmt: skip


# ── what a dataset is like ───────────────────────────────────────────────────────────────────────────────────


def in_batches(source: Any, workers: int) -> Any:
    """Return an iterable dataset, which has no batches, in a DataLoader that makes them; all else as it is."""
    if not isinstance(source, IterableDataset):
        return source
    return DataLoader(source, batch_size=ITERABLE_BATCH, num_workers=workers, collate_fn=collate_samples)


def is_ordinary(loader: Dataset[Any] | DataLoader[Any]) -> bool:
    """Tell whether a DataLoader does nothing that its dataset, batch size and shuffling do not say."""
    if not isinstance(loader, DataLoader):
        return True
    sampler = loader.sampler
    is_plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    return is_plain and loader.collate_fn is default_collate and loader.batch_size is not None and not loader.drop_last


def has_plain_samples(loader: DataLoader[Any]) -> bool:
    """Tell whether the loader's batches are stacked samples of a map-style dataset, in whatever order."""
    dataset = loader.dataset
    is_map_style = not isinstance(dataset, IterableDataset) and hasattr(dataset, "__len__")
    return is_map_style and loader.collate_fn is default_collate and loader.batch_size is not None


def unwrap(source: Dataset[Any] | DataLoader[Any]) -> tuple[Dataset[Any], int | None, bool, tuple[str, ...]]:
    """Return (dataset, batch size, whether to shuffle, what to say) of a dataset or an ordinary DataLoader."""
    if not isinstance(source, DataLoader):
        return source, None, True, ()
    is_shuffled = isinstance(source.sampler, RandomSampler)
    note = (
        ()
        if is_shuffled
        else (
            "The DataLoader does not shuffle, so neither does training: DataLoader(…, shuffle=True) usually learns better.",
        )
    )
    return source.dataset, source.batch_size, is_shuffled, note


def class_names(dataset: Any) -> Sequence[str] | None:
    """Return `dataset.classes` where it is a list of names, looking through a Subset."""
    dataset = getattr(dataset, "dataset", dataset)
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) and names else None


def describe_fingerprint(dataset: Any) -> str:
    """Return a SHA-256 of what can be told of data that is not read: its class and length."""
    length = len(dataset) if hasattr(dataset, "__len__") else "unknown"
    return hashlib.sha256(f"{identity_of(type(dataset))}:{length}".encode()).hexdigest()


def read_all(
    dataset: Dataset[Any], count: int, task: Task | None, classes: Sequence[str] | None, workers: int,
) -> tuple[Samples, TargetSpec]:  # fmt: skip
    """Read every sample once and keep it."""
    name = type(dataset).__name__
    loader = DataLoader(
        dataset,
        batch_size=READ_BATCH,
        num_workers=workers,
        collate_fn=collate_samples,
        generator=torch.Generator(),
    )
    inputs: list[Tensor] = []
    targets: list[np.ndarray] = []
    try:
        with seeded(0):
            for x, y in loader:
                inputs.append(x)
                targets.append(np.asarray(y))
    except Exception as error:
        first = len(inputs) * READ_BATCH
        samples = [read_one(dataset, index, name) for index in range(first, min(first + READ_BATCH, count))]
        collate_checked(samples, name)
        raise not_collated(error, name, samples).error() from error  # one by one all is well: it was the workers
    if len({tuple(part.shape[1:]) for part in inputs}) > 1:
        shapes = " and ".join(sorted({str(tuple(part.shape[1:])) for part in inputs})[:2])
        raise DataError("unequal-samples", data=name, reason=f"found {shapes}")
    x = as_stored(torch.cat(inputs))
    kept_targets, target = read_targets(np.concatenate(targets), task, classes)
    return Samples(x if x.dim() > 1 else x.unsqueeze(1), kept_targets), target


def feature_spec(inputs: Tensor, normalize: NormalizeName, name: str, notes: list[str]) -> FeatureSpec:
    """Return the spec of inputs that are streamed: images of bytes are divided by 255, all else is used as it comes."""
    if normalize == "standard":
        raise DataError("streamed-standard", data=name)
    notes += whole_number_notes(as_stored(inputs))
    kind = feature_kind(inputs)
    if inputs.dtype == torch.uint8:
        is_divided = normalize == "unit" or (normalize == "auto" and kind == "image")
        if is_divided:
            notes.append("Features are divided by 255.")
        normalization = Normalization("unit", 255.0) if is_divided else Normalization("none")
        return FeatureSpec(kind, tuple(inputs.shape[1:]), "uint8", normalization)
    return FeatureSpec(kind, tuple(inputs.shape[1:]), dtype_name(as_stored(inputs)), Normalization("none"))


def feature_kind(inputs: Tensor) -> FeatureKind:
    """Tell images, (n, channels, height, width), from all else; whole numbers other than bytes are no pixels."""
    return "image" if inputs.dim() == 4 and as_stored(inputs[:1]).dtype != torch.int64 else "array"


def whole_number_notes(inputs: Tensor) -> list[str]:
    """Say that whole numbers stay whole, since few layers but embeddings take them."""
    if inputs.dtype != torch.int64:
        return []
    return ["Inputs are whole numbers and reach the model as int64; where they are quantities, return x.float()."]


def probe_target(dataset: Any, task: Task | None, classes: Sequence[str] | None, notes: list[str]) -> TargetSpec:
    """Find out what the targets of streamed data are, from its `targets` where it has them, else from some samples."""
    labels = getattr(dataset, "targets", None)
    count = len(dataset)
    if labels is None or len(labels) != count:
        chosen = (
            sorted({round(i * (count - 1) / (LABEL_PROBES - 1)) for i in range(LABEL_PROBES)}) if count > 1 else [0]
        )
        name = type(dataset).__name__
        labels = collate_checked([read_one(dataset, index, name)[1] for index in chosen], name)
        notes.append(f"What the targets are was found out from {len(chosen):,} samples.")
    if not isinstance(labels, Tensor) and isinstance(first := next(iter(labels)), str):
        raise DataError("streamed-texts", data=type(dataset).__name__, found=first)
    return read_targets(labels, task, classes)[1]


DATASET = SourceKind(
    "data.kinds.dataset", lambda source: isinstance(source, (Dataset, DataLoader)) and is_ordinary(source), open_dataset
)
LOADER = SourceKind("data.kinds.loader", lambda source: isinstance(source, DataLoader), open_loader)
