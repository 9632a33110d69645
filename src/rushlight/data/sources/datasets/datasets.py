"""A user's own `torch.utils.data.Dataset` or `DataLoader`: kept in memory where that changes nothing, else streamed.

Reading each sample once and keeping it is right only when reading it again would give the same. Reading some samples
twice tells, and a note says what was found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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

from rushlight.data.feed import (
    BatchReader,
    BatchRequests,
    LoaderSplit,
    ResidentSplit,
    SeededDataset,
    Split,
    StreamedSplit,
    collated,
    first_collated,
    read_sample,
    seeded,
)
from rushlight.data.order import evenly_spaced
from rushlight.data.shape import (
    EXAMPLES,
    PrepareBatch,
    Samples,
    as_array,
    as_stored,
    build_data,
    check_same_dtype,
    cut_samples,
    cut_splits,
    dtype_name,
    group_split,
    has_several_inputs,
    identity_of,
    read_targets,
)
from rushlight.data.sources.datasets.samples import (
    PROBES,
    collate_samples,
    is_pair,
    is_plain_pair,
    randomness,
    read_batch,
    sample_count,
    size_of,
)
from rushlight.data.sources.kind import SourceKind
from rushlight.data.spec import FeatureKind, FeatureSpec, Normalization, NormalizeName, Share, TargetSpec, Task
from rushlight.data.splits import RAW, Data
from rushlight.errors import DataError, UsageError
from rushlight.texts import Note

LABEL_PROBES = 2000  # samples read to see which labels occur in data that is not kept
READ_BATCH = 256
ITERABLE_BATCH = 64  # samples in a batch of an iterable dataset that came without a DataLoader


@dataclass(frozen=True)
class Readers:
    """The processes that read each split: as the option says, else as its own DataLoader does."""

    workers: int  # 0: not chosen
    loaders: dict[str, Any]  # what was given for each split

    def of(self, split: str) -> int:
        """Return how many processes read a split."""
        return self.workers or getattr(self.loaders.get(split), "num_workers", 0)

    def begin(self, split: str) -> Callable[[int], object] | None:
        """Return the function with which the workers of a split's own DataLoader begin."""
        begin: Callable[[int], object] | None = getattr(self.loaders.get(split), "worker_init_fn", None)
        return begin


@dataclass(frozen=True)
class DatasetOptions:
    """How to open a dataset: `open_dataset` has the options' defaults."""

    task: Task | None
    classes: Sequence[str] | None
    normalize: NormalizeName
    seed: int
    test_fraction: Share | None
    val_fraction: float | None
    readers: Readers
    is_raw: bool

    def prepare(self, target: TargetSpec | None, features: FeatureSpec | None) -> PrepareBatch:
        """Return what makes batches for the model and the loss, or for an objective."""
        return raw_prepare(features) if self.is_raw else PrepareBatch(target, features)

    @property
    def names_targets(self) -> bool:
        """Whether targets are read; those of an objective only where the user says what they are."""
        return not self.is_raw or self.task is not None or self.classes is not None


def open_dataset(
    train: Dataset[Any] | DataLoader[Any],
    test: Any = None,
    *,
    validation: Any = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    seed: int = 0,
    test_fraction: Share | None = 0.2,
    val_fraction: float | None = None,
    workers: int = 0,
    memory_limit: int,
    is_raw: bool = False,
) -> Data:
    """Open a map-style or iterable dataset, or a DataLoader, as `Data`; `validation` and `test` may be pairs of arrays.

    Normalisation is left to the dataset (its transforms are the user's) unless `normalize` asks for it, or the samples
    are bytes, which no transform has changed. A DataLoader of an ordinary kind gives its dataset, batch size, shuffling
    and workers; one with a sampler, batch sampler or collate function of its own, or with an iterable dataset, is used as
    it is. `is_raw`: an objective gets the batches as the dataset or the loader gives them.

    Raises:
        DataError: the dataset is empty, or its samples are of a kind that cannot be batched.
    """
    readers = Readers(workers, {"train": train, "validation": validation, "test": test})
    options = DatasetOptions(task, classes, normalize, seed, test_fraction, val_fraction, readers, is_raw)
    batched = in_batches(train, workers)
    if not is_ordinary(batched):
        note = None if batched is train else Note("data.in-batches", name=type(train).__name__, size=ITERABLE_BATCH)
        return open_loader(
            batched, test, validation=validation, task=task, classes=classes, normalize=normalize,
            val_fraction=val_fraction, note=note, is_raw=is_raw,
        )  # fmt: skip
    dataset = train.dataset if isinstance(train, DataLoader) else train
    batch_size = train.batch_size if isinstance(train, DataLoader) else None
    is_shuffled = not isinstance(train, DataLoader) or isinstance(train.sampler, RandomSampler)
    notes = [] if is_shuffled else [Note("data.loader-unshuffled")]
    name = type(dataset).__name__
    others = read_others(name, validation, test, workers)
    count = sample_count(dataset, name)
    with seeded(0):
        first = read_sample(dataset, 0)
    reason = how_random = randomness(dataset, count)
    if not reason and (needed := count * size_of(first)) > memory_limit:
        reason = Note("data.would-not-fit", size=needed / 2**30)
    if not reason and not (is_plain_pair(first) if is_raw else is_pair(first)):
        reason = Note("data.not-pairs")
    if reason:
        notes.append(Note("data.streamed", name=name, reason=reason))
        are_pairs = is_plain_pair(first) if is_raw else is_pair(first)
        data = open_streamed(dataset, others, are_pairs, True if how_random else None, options, notes)
    else:
        notes.append(Note("data.in-memory", name=name, count=min(PROBES, count)))
        data = open_kept(dataset, others, options, notes)
    assert isinstance(data.train, (ResidentSplit, StreamedSplit))
    is_lost = how_random == Note("data.unknown-source") or (workers and how_random == Note("data.changes-itself"))
    return replace(
        data, train=replace(data.train, is_shuffled=is_shuffled), batch_size=batch_size,
        inexact=(Note("data.not-repeatable", name=name, reason=how_random),) if is_lost else (),
    )  # fmt: skip


def open_kept(dataset: Dataset[Any], others: dict[str, Any], options: DatasetOptions, notes: list[Note]) -> Data:
    """Read a dataset into memory, its other splits too, except DataLoaders; for an objective in its own dtypes and shapes."""
    name, classes = type(dataset).__name__, options.classes or class_names(dataset)
    loaders = {split: other for split, other in others.items() if isinstance(other, DataLoader)}
    notes += [Note("data.loader-of-split", split=Note(f"words.{split}")) for split in loaders]
    sources = {split: other for split, other in others.items() if split not in loaders}
    normalize: NormalizeName = options.normalize
    target: TargetSpec | None
    if options.is_raw:
        columns = {
            split: read_columns(each, split, options.readers) for split, each in {"train": dataset, **sources}.items()
        }
        read = {split: Samples(torch.cat(list(x)), torch.cat(list(y))) for split, (x, y) in columns.items()}
        samples = read["train"]
        target = read_targets(samples.targets, options.task, classes)[1] if options.names_targets else None
    else:
        samples, target, read = read_alike(dataset, sources, classes, options)
        normalize = "none" if normalize == "auto" and samples.inputs.dtype != torch.uint8 else normalize
    train, validation, test, cut_notes = cut_samples(
        samples, target, seed=options.seed,
        test_fraction=None if "test" in others else options.test_fraction,
        val_fraction=None if "validation" in others else options.val_fraction,
    )  # fmt: skip
    notes += [*cut_notes, *([] if options.is_raw else whole_number_notes(samples.inputs))]
    data = build_data(
        name, feature_kind(samples.inputs), train, read.get("test", test), target,
        validation=read.get("validation", validation), normalize=normalize, notes=tuple(notes), is_raw=options.is_raw,
    )  # fmt: skip
    if options.is_raw and mark_of(train.inputs, train.targets) == "":
        data = replace(data, fingerprint=data.fingerprint.removeprefix(RAW))
    prepare = options.prepare(data.target, data.features)
    return data.with_splits({split: LoaderSplit(loader, prepare) for split, loader in loaders.items()})


def read_alike(
    dataset: Dataset[Any], sources: dict[str, Any], classes: Sequence[str] | None, options: DatasetOptions
) -> tuple[Samples, TargetSpec, dict[str, Samples]]:
    """Read a dataset and its other splits; return its samples, the target of the most classes, and the others' samples."""
    train, target = read_all(dataset, "train", options.task, classes, options.readers)
    kept: dict[str, Samples] = {}
    for split, source in sources.items():
        names = target.classes if classes is None and not all(map(str.isdecimal, target.classes)) else classes
        kept[split], other_target = read_all(source, split, target.task, names, options.readers)
        check_same_dtype(type(dataset).__name__, dtype_name(train.inputs), dtype_name(kept[split].inputs))
        if len(other_target.classes) > len(target.classes):
            target = other_target
    return train, target, kept


def open_streamed(
    dataset: Dataset[Any], others: dict[str, Any], are_pairs: bool, is_random: bool | None, options: DatasetOptions,
    notes: list[Note],
) -> Data:  # fmt: skip
    """Make `Data` that reads its samples as they are needed. `is_random`: as in `StreamedSplit`."""
    name = type(dataset).__name__
    features = target = examples = None
    mark = ""
    if are_pairs:
        inputs, targets = read_batch(dataset, range(min(EXAMPLES, len(dataset))))  # type: ignore[arg-type]
        examples = inputs if options.is_raw else as_stored(inputs)
        features = feature_spec(inputs, options.normalize, name, notes, options.is_raw)
        mark = mark_of(inputs, targets) if options.is_raw else ""
        if options.names_targets:
            target = probe_target(dataset, options.task, options.classes or class_names(dataset), notes)
    prepare = options.prepare(target, features)
    train = dataset
    if options.val_fraction and "validation" not in others:
        train, cut, cut_notes = cut_dataset(dataset, options.val_fraction, options.seed)
        others = {**others, "validation": cut} if cut is not None else others
        notes += cut_notes
    if "test" not in others:
        notes.append(Note("data.no-test-split-random"))
    return Data(
        name=name, train=streamed(train, prepare, options.readers, "train", is_random=is_random), test=None,
        features=features, target=target, fingerprint=f"{mark}{describe_fingerprint(dataset)}", notes=tuple(notes),
        examples=examples,
    ).with_splits(open_others(others, prepare, options.readers, name))  # fmt: skip


def streamed(
    dataset: Dataset[Any], prepare: PrepareBatch, readers: Readers, split: str, *, is_random: bool | None,
    is_shuffled: bool = True,
) -> StreamedSplit:  # fmt: skip
    """Make a split that reads its samples as they are needed."""
    return StreamedSplit(
        dataset, prepare, readers.of(split), readers.begin(split), collate_samples, is_shuffled, is_random=is_random
    )


def cut_dataset(
    dataset: Dataset[Any], fraction: float, seed: int
) -> tuple[Dataset[Any], Dataset[Any] | None, tuple[Note, ...]]:
    """Cut a validation split off a map-style dataset, by index; stratified where the dataset lists its targets."""
    count, listed = len(dataset), getattr(dataset, "targets", ())  # type: ignore[arg-type]
    labels = np.asarray(listed) if len(listed) == count else np.zeros((count, 0))
    stratified = labels.ndim == 1 and labels.dtype.kind in "iubU"
    cut = cut_splits(labels, test_fraction=None, val_fraction=fraction, seed=seed, stratified=stratified)
    if cut.validation is None:
        return dataset, None, cut.notes
    return Subset(dataset, cut.train.tolist()), Subset(dataset, cut.validation.tolist()), cut.notes


def open_loader(
    loader: DataLoader[Any],
    test: Any = None,
    *,
    validation: Any = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    val_fraction: float | None = None,
    note: Note | None = None,
    is_raw: bool = False,
) -> Data:
    """Use a DataLoader as it is, its order included; UsageError where a validation split is to be cut from it."""
    dataset = loader.dataset
    name = type(dataset).__name__
    notes = [note or Note("data.loader-as-it-is", name=name)]
    if loader.persistent_workers:
        notes.append(Note("data.new-workers"))
    if val_fraction:
        raise UsageError("loader-not-cut", data=name, option="val_fraction")
    if isinstance(dataset, IterableDataset) and not loader.num_workers and (begun := iter(dataset)) is iter(dataset):
        raise DataError("begins-once", data=name, found=type(begun).__name__)
    others = read_others(name, validation, test, workers=0)
    first, samples = first_collated(loader, name)
    if first is None:
        raise DataError("empty-split", data=name, split="train")
    notes += [Note("data.samples-not-counted", name=name)] if samples is None else []
    features = target = examples = None
    mark = ""
    if type(first) in (tuple, list) and len(first) == 2 and isinstance(first[0], Tensor):
        examples = (first[0][:EXAMPLES] if is_raw else as_stored(first[0][:EXAMPLES])).clone()
        features = feature_spec(first[0], normalize, name, notes, is_raw)
        is_sequence = features.dtype == "int64" or (features.kind == "array" and first[0].dim() > 2)
        features = replace(features, varies=is_sequence and loader.collate_fn is not default_collate)
        mark = mark_of(*first) if is_raw else ""
        if isinstance(first[1], Tensor) and not (is_raw and task is None and classes is None):
            target = loader_target(loader, first[1], task, classes or class_names(dataset), notes)
    prepare = raw_prepare(features) if is_raw else PrepareBatch(target, features)
    if test is None:
        notes.append(Note("data.no-test-split-pass"))
    return Data(
        name=name, train=LoaderSplit(loader, prepare), test=None, features=features, target=target,
        fingerprint=f"{mark}{describe_fingerprint(dataset)}", notes=tuple(notes), batch_size=loader.batch_size, examples=examples,
    ).with_splits(open_others(others, prepare, Readers(0, {"validation": validation, "test": test}), name))  # fmt: skip


def group_inputs(data: Data, task: Task | None, classes: Sequence[str] | None) -> Data:
    """Return data of several inputs with batches of (inputs, targets); any other data as it is.

    Raises:
        DataError: the targets are of a kind that no task here has.
    """
    train: Any = data.train
    notes: list[Any] = list(data.notes)
    if isinstance(train, StreamedSplit):
        with seeded(0):
            first: Any = read_sample(train.dataset, 0)
        if not has_several_inputs(first):
            return data
        target = probe_target(train.dataset, task, classes or class_names(train.dataset), notes)
    else:
        first, _ = first_collated(train.loader, data.name)
        if not has_several_inputs(first) or not isinstance(first[-1], Tensor):
            return data
        target = loader_target(train.loader, first[-1], task, classes or class_names(train.loader.dataset), notes)
    grouped = {name: group_split(split, target) for name, split in data.splits.items()}
    return replace(data, target=target, notes=tuple(notes)).with_splits(grouped)


# ── validation and test data that come apart ─────────────────────────────────────────────────────────────────


def read_others(name: str, validation: Any, test: Any, workers: int) -> dict[str, Any]:
    """Return {split: a map-style dataset, or a DataLoader that is used as it is} of the splits that were given.

    Raises:
        DataError: a pair of arrays differs in length, or what was given is neither arrays nor a dataset.
    """
    given = {"validation": validation, "test": test}
    return {split: read_other(name, split, source, workers) for split, source in given.items() if source is not None}


def read_other(name: str, split: str, source: Any, workers: int) -> Any:
    """Return one split's map-style dataset or DataLoader; a pair of arrays becomes a list of samples."""
    if isinstance(source, DataLoader):
        return source.dataset if is_ordinary(source) else source
    if isinstance(source, IterableDataset):
        return in_batches(source, workers)
    if isinstance(source, (str, Path, np.ndarray, Tensor)):  # of a length, but no samples with targets
        raise UsageError("no-split-of-dataset", data=name, split=split, found=type(source).__name__)
    is_array = isinstance(source, tuple) or (isinstance(source, list) and isinstance(source[0], (np.ndarray, Tensor)))
    if not is_array or len(source) != 2:
        return source
    inputs, targets = as_array(source[0], name, "inputs"), as_array(source[1], name, "targets")
    if len(inputs) != len(targets):
        raise DataError("unequal-counts", data=name, split=split, inputs=len(inputs), targets=len(targets))
    return list(zip(inputs, targets, strict=True))


def open_others(others: dict[str, Any], prepare: PrepareBatch, readers: Readers, name: str) -> dict[str, Split]:
    """Make validation and test splits that are read as they are needed; of a dataset the first sample is checked."""
    splits: dict[str, Split] = {}
    for split, source in others.items():
        if isinstance(source, DataLoader):
            splits[split] = LoaderSplit(source, prepare)
            continue
        sample_count(source, name, split)
        with seeded(0):
            first = read_sample(source, 0)
        if prepare.features is not None and is_pair(first):
            inputs, _ = read_batch(source, [0])
            check_same_dtype(name, prepare.features.dtype, dtype_name(as_stored(inputs)))
            if isinstance(first[1], str):
                raise DataError("streamed-texts", data=name, found=first[1])
        splits[split] = streamed(source, prepare, readers, split, is_random=None, is_shuffled=False)
    return splits


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
    dataset: Dataset[Any], split: str, task: Task | None, classes: Sequence[str] | None, readers: Readers
) -> tuple[Samples, TargetSpec]:
    """Read every sample once and keep it; the targets as what `read_targets` takes them for."""
    inputs, targets = read_columns(dataset, split, readers)
    x = as_stored(torch.cat(list(inputs)))
    kept_targets, target = read_targets(np.concatenate([np.asarray(batch) for batch in targets]), task, classes)
    return Samples(x if x.dim() > 1 else x.unsqueeze(1), kept_targets), target


def read_columns(dataset: Dataset[Any], split: str, readers: Readers) -> tuple[Sequence[Any], Sequence[Any]]:
    """Read all samples in batches; return the batches' inputs and targets. DataError where shapes of inputs differ."""
    name = type(dataset).__name__
    indices = range(sample_count(dataset, name, split))
    requests = BatchRequests(
        0, 0, [indices[first : first + READ_BATCH] for first in range(0, len(indices), READ_BATCH)]
    )
    samples = SeededDataset(dataset, collate_samples, is_random=None)
    reader = BatchReader(samples, readers.of(split), readers.begin(split))
    inputs, targets = zip(*reader.batches(requests, is_pinned=False), strict=True)
    for column in (inputs, targets):
        shapes = sorted({str(tuple(batch.shape[1:])) for batch in column if isinstance(batch, Tensor)})
        if len(shapes) > 1:
            reason = Note("data.found-two", first=shapes[0], second=shapes[1])
            raise DataError("unequal-samples", data=name, reason=reason)
    return inputs, targets


def raw_prepare(features: FeatureSpec | None) -> PrepareBatch:
    """Return what leaves batches as they are, but for a normalisation that was asked for."""
    return PrepareBatch(None, None if features is None or features.is_raw else features)


def mark_of(inputs: Tensor, targets: Any) -> str:
    """Return what begins the fingerprint of data for an objective: nothing where the previous release gave it the same."""
    are_classes = isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1
    return "" if are_classes and inputs.dtype in (torch.float32, torch.int64) and inputs.dim() > 1 else RAW


def feature_spec(
    inputs: Tensor, normalize: NormalizeName, name: str, notes: list[Note], is_raw: bool = False
) -> FeatureSpec:
    """Return the spec of inputs that are streamed: images of bytes are divided by 255, all else is used as it comes."""
    if normalize == "standard":
        raise DataError("streamed-standard", data=name)
    if is_raw and normalize == "auto":
        return FeatureSpec(feature_kind(inputs), tuple(inputs.shape[1:]), dtype_name(inputs), is_raw=True)
    stored, kind, normalization = as_stored(inputs), feature_kind(inputs), Normalization("none")
    notes += whole_number_notes(stored)
    if inputs.dtype == torch.uint8 and (normalize == "unit" or (normalize == "auto" and kind == "image")):
        notes.append(Note("data.divided", divisor=255))
        normalization = Normalization("unit", 255.0)
    return FeatureSpec(kind, tuple(inputs.shape[1:]), dtype_name(stored), normalization)


def feature_kind(inputs: Tensor) -> FeatureKind:
    """Tell images, (n, channels, height, width), from all else; whole numbers other than bytes are no pixels."""
    return "image" if inputs.dim() == 4 and as_stored(inputs[:1]).dtype != torch.int64 else "array"


def whole_number_notes(inputs: Tensor) -> list[Note]:
    """Say that whole numbers stay whole, since few layers but embeddings take them."""
    return [Note("data.whole-inputs")] if inputs.dtype == torch.int64 else []


def loader_target(
    loader: DataLoader[Any], targets: Tensor, task: Task | None, names: Sequence[str] | None, notes: list[Note]
) -> TargetSpec:
    """Tell what a DataLoader's targets are: from its dataset where it batches plainly, else from its first batch."""
    is_map_style = not isinstance(loader.dataset, IterableDataset) and hasattr(loader.dataset, "__len__")
    if is_map_style and loader.collate_fn is default_collate and loader.batch_size is not None:
        return probe_target(loader.dataset, task, names, notes)
    target = read_targets(targets, task, names)[1]
    if target.task == "classification" and names is None:
        notes.append(Note("data.labels-of-first-batch", last=len(target.classes) - 1))
    return target


def probe_target(dataset: Any, task: Task | None, classes: Sequence[str] | None, notes: list[Note]) -> TargetSpec:
    """Find out what the targets of streamed data are, from its `targets` where it has them, else from some samples."""
    labels = getattr(dataset, "targets", None)
    if labels is None or len(labels) != len(dataset):
        chosen = evenly_spaced(len(dataset), LABEL_PROBES)
        with seeded(0):
            samples = [read_sample(dataset, index)[-1] for index in chosen]
        labels = collated(samples, collate_samples, type(dataset).__name__)
        notes.append(Note("data.targets-probed", count=len(chosen)))
    if not isinstance(labels, Tensor) and isinstance(first := next(iter(labels)), str):
        raise DataError("streamed-texts", data=type(dataset).__name__, found=first)
    return read_targets(labels, task, classes)[1]


DATASET: SourceKind = SourceKind(
    "data.kinds.dataset",
    lambda source: (
        len(source) > 4  # a list of samples to read one by one
        if isinstance(source, list)
        else isinstance(source, (Dataset, DataLoader)) and is_ordinary(source)
    ),
    open_dataset,
)
LOADER: SourceKind = SourceKind("data.kinds.loader", lambda source: isinstance(source, DataLoader), open_loader)
