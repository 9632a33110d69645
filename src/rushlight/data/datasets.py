"""A user's own `torch.utils.data.Dataset` or `DataLoader`: kept in memory where that changes nothing, else streamed.

Reading each sample once and keeping it is right only when reading it again would give the same. That is found out
by reading some samples twice, and what was found is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
    default_collate,
)

from rushlight.data.arrays import read_targets
from rushlight.data.batches import Batch, Data, LoaderSplit, Split, StreamedSplit, failed, not_collated, seeded
from rushlight.data.build import Samples, build_data, cut_test_split, identity_of
from rushlight.data.spec import FeatureKind, FeatureSpec, Normalization, NormalizeName, TargetSpec, Task
from rushlight.errors import DataError

PROBES = 8  # samples read twice to find out whether reading is random
LABEL_PROBES = 2000  # samples read to see which labels occur in data that is not kept
READ_BATCH = 256


def open_dataset(
    train: Dataset[Any] | DataLoader[Any],
    test: Dataset[Any] | DataLoader[Any] | None,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    seed: int = 0,
    test_fraction: float = 0.2,
    workers: int = 0,
    memory_limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Data:
    """Open a map-style or iterable dataset, or a DataLoader, as `Data`.

    Normalisation is left to the dataset (its transforms are the user's) unless `normalize` asks for it, or the samples
    are bytes, which no transform has touched. A DataLoader
    of an ordinary kind gives its dataset, batch size and shuffling; one with a sampler, batch sampler or collate
    function of its own, or with an iterable dataset, is used as it is.

    Raises:
        DataError: the dataset is empty, or its samples are of a kind that cannot be batched.
    """
    if isinstance(train, DataLoader) and not is_ordinary(train):
        return open_loader(train, test, task, classes, normalize)
    dataset, batch_size, is_shuffled, loader_notes = unwrap(train)
    if isinstance(dataset, IterableDataset):
        raise DataError("iterable-without-loader", dataset=type(dataset).__name__)
    test_dataset = unwrap(test)[0] if test is not None and is_ordinary(test) else test
    name = type(dataset).__name__
    count = sample_count(dataset, name)
    first = read_one(dataset, 0, name)
    random = is_random(dataset, count)
    needed = count * size_of(first)
    notes = list(loader_notes)
    if random or needed > memory_limit:
        why = (
            "reading a sample twice gave two results" if random else f"{needed / 2**30:.1f} GiB would not fit in memory"
        )
        notes.append(f"{name} is streamed: {why}.")
        return open_streamed(
            dataset, test_dataset, first, task, classes, normalize, workers, is_shuffled, notes, batch_size
        )
    if not is_pair(first):
        notes.append(f"{name} is streamed: its samples are not (input, target).")
        return open_streamed(
            dataset, test_dataset, first, task, classes, normalize, workers, is_shuffled, notes, batch_size
        )
    notes.append(f"{name} is kept in memory: {min(PROBES, count)} samples read twice gave the same both times.")
    classes = classes or class_names(dataset)
    train_samples, target = read_all(dataset, count, task, classes, workers, progress)
    test_samples = None
    if isinstance(test_dataset, DataLoader):
        notes.append("The test DataLoader is used as it is.")
    elif test_dataset is not None:
        test_count = sample_count(test_dataset, name, "test")
        names = target.classes if classes is None and not all(map(str.isdecimal, target.classes)) else classes
        test_samples, test_target = read_all(test_dataset, test_count, target.task, names, workers, progress)
        if len(test_target.classes) > len(target.classes):
            target = test_target
    else:
        train_samples, test_samples, note = cut_test_split(train_samples, test_fraction, seed, target)
        notes.append(note)
    kind: FeatureKind = "image" if train_samples.inputs.dim() == 4 else "array"
    data = build_data(
        name, kind, train_samples, test_samples, target,
        normalize="none" if normalize == "auto" and train_samples.inputs.dtype != torch.uint8 else normalize,
        notes=tuple(notes),
    )  # fmt: skip
    if not is_shuffled:
        object.__setattr__(data.train, "is_shuffled", False)
    if isinstance(test_dataset, DataLoader):
        data = replace(data, test=LoaderSplit(test_dataset, Finish(data.target, data.features)))
    return replace(data, batch_size=batch_size)


def open_streamed(
    dataset: Dataset[Any], test: Dataset[Any] | DataLoader[Any] | None, first: Any, task: Task | None, classes: Sequence[str] | None,
    normalize: NormalizeName, workers: int, is_shuffled: bool, notes: list[str], batch_size: int | None,
) -> Data:  # fmt: skip
    """Make `Data` that reads its samples as they are needed."""
    name = type(dataset).__name__
    features = target = None
    if is_pair(first):
        inputs, _ = collate_checked([first], name)
        features = feature_spec(inputs, normalize, name, notes)
        target = probe_target(dataset, task, classes or class_names(dataset), notes)
    finish = Finish(target, features)
    if test is None:
        notes.append("There is no test split: pass test_data=, or a dataset that is the same each time it is read.")
    test_split: Split | None = None
    if isinstance(test, DataLoader):
        test_split = LoaderSplit(test, finish)
    elif test is not None:
        sample_count(test, name, "test")
        test_split = StreamedSplit(test, finish, workers, collate_samples, False)
    return Data(
        name=name, train=StreamedSplit(dataset, finish, workers, collate_samples, is_shuffled), test=test_split,
        features=features, target=target, fingerprint=describe_fingerprint(dataset), notes=tuple(notes),
        batch_size=batch_size,
    )  # fmt: skip


def open_loader(
    loader: DataLoader[Any],
    test: Dataset[Any] | DataLoader[Any] | None,
    task: Task | None,
    classes: Sequence[str] | None,
    normalize: NormalizeName,
) -> Data:
    """Use a DataLoader as it is, its order included."""
    name = type(loader.dataset).__name__
    notes = [f"The DataLoader of {name} is used as it is: its order and batches are its own."]
    with seeded(0):
        first = next(iter(loader), None)
    if first is None:
        raise DataError("empty-split", data=name, split="train")
    features = target = None
    if isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[0], Tensor):
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
    test_split: Split | None = None
    if isinstance(test, DataLoader):
        test_split = LoaderSplit(test, finish)
    elif test is not None:
        test_split = StreamedSplit(test, finish, 0, collate_samples, False)
    else:
        notes.append("There is no test split: pass test_data=.")
    return Data(
        name=name, train=LoaderSplit(loader, finish), test=test_split, features=features, target=target,
        fingerprint=describe_fingerprint(loader.dataset), notes=tuple(notes), batch_size=loader.batch_size,
    )  # fmt: skip


# ── what a dataset is like ───────────────────────────────────────────────────────────────────────────────────


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


def sample_count(dataset: Dataset[Any], name: str, split: str = "train") -> int:
    """Return the number of samples of a map-style dataset; DataError when it has none, or no length."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError("no-dataset", found=type(dataset).__name__)
    count = len(dataset)
    if count == 0:
        raise DataError("empty-split", data=name, split=split)
    return count


def read_one(dataset: Dataset[Any], index: int, name: str, seed: int = 0) -> Any:
    """Read one sample; a failure names the dataset and the sample."""
    try:
        with seeded(seed):
            return dataset[index]
    except Exception as error:
        raise failed(error, name, index).error() from error


def collate_checked(samples: list[Any], name: str) -> Any:
    """Stack samples into a batch; DataError when they are of a kind or of sizes that cannot be stacked."""
    try:
        return collate_samples(samples)
    except Exception as error:
        raise not_collated(error, name, samples).error() from error


def is_random(dataset: Dataset[Any], count: int) -> bool:
    """Tell whether reading a sample again, under other seeds, gives something else."""
    for index in sorted({round(i * (count - 1) / (PROBES - 1)) for i in range(PROBES)}):
        name = type(dataset).__name__
        one, other = (collate_checked([read_one(dataset, index, name, seed)], name) for seed in (1, 2))
        if not same(one, other):
            return True
    return False


def same(one: Any, other: Any) -> bool:
    """Tell whether two samples are equal in every value."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other) or ((one == other) | (one != one)).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def is_pair(sample: Any) -> bool:
    """Tell whether a sample is (input, target) with an input that becomes one tensor."""
    return isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(as_tensor(sample[0]), Tensor)


def size_of(sample: Any) -> int:
    """Return the bytes that one sample takes in memory."""
    if isinstance(sample, (tuple, list)):
        return sum(map(size_of, sample))
    if isinstance(sample, dict):
        return sum(map(size_of, sample.values()))
    tensor = as_tensor(sample)
    return tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 8


def class_names(dataset: Any) -> Sequence[str] | None:
    """Return `dataset.classes` where it is a list of names, looking through a Subset."""
    dataset = getattr(dataset, "dataset", dataset)
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) and names else None


def describe_fingerprint(dataset: Any) -> str:
    """Return a SHA-256 of what can be told of data that is not read: its class and length."""
    length = len(dataset) if hasattr(dataset, "__len__") else "unknown"
    return hashlib.sha256(f"{identity_of(type(dataset))}:{length}".encode()).hexdigest()


# ── samples to tensors ───────────────────────────────────────────────────────────────────────────────────────


def as_tensor(value: Any) -> Any:
    """Return a sample's part as a tensor where it can be one: arrays, numbers and PIL images (uint8, channels first)."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biuf" else value
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # a PIL image, without importing PIL to ask
        image = value if value.mode in ("L", "RGB") else value.convert("RGB")
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return value


def collate_samples(samples: list[Any]) -> Any:
    """Stack samples into a batch as torch's default_collate does, PIL images included."""
    return default_collate([to_tensors(sample) for sample in samples])


def to_tensors(sample: Any) -> Any:
    """Apply `as_tensor` to every part of a sample."""
    if isinstance(sample, dict):
        return {key: to_tensors(value) for key, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return type(sample)(to_tensors(value) for value in sample) if not hasattr(sample, "_fields") else sample
    return as_tensor(sample)


def read_all(
    dataset: Dataset[Any], count: int, task: Task | None, classes: Sequence[str] | None, workers: int,
    progress: Callable[[int, int], None],
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
                progress(min(len(inputs) * READ_BATCH, count), count)
    except Exception as error:
        first = len(inputs) * READ_BATCH
        samples = [read_one(dataset, index, name) for index in range(first, min(first + READ_BATCH, count))]
        collate_checked(samples, name)
        raise not_collated(error, name, samples).error() from error  # one by one all is well: it was the workers
    if len({tuple(part.shape[1:]) for part in inputs}) > 1:
        shapes = " and ".join(sorted({str(tuple(part.shape[1:])) for part in inputs})[:2])
        raise DataError("unequal-samples", data=name, reason=f"found {shapes}")
    x = torch.cat(inputs)
    x = x if x.dtype in (torch.uint8, torch.float32) else x.float()
    kept_targets, target = read_targets(np.concatenate(targets), task, classes)
    return Samples(x if x.dim() > 1 else x.unsqueeze(1), kept_targets), target


def feature_spec(inputs: Tensor, normalize: NormalizeName, name: str, notes: list[str]) -> FeatureSpec:
    """Return the spec of inputs that are streamed: images of bytes are divided by 255, all else is used as it comes."""
    if normalize == "standard":
        raise DataError("streamed-standard", data=name)
    kind: FeatureKind = "image" if inputs.dim() == 4 else "array"
    if inputs.dtype == torch.uint8:
        is_divided = normalize == "unit" or (normalize == "auto" and kind == "image")
        if is_divided:
            notes.append("Features are divided by 255.")
        normalization = Normalization("unit", 255.0) if is_divided else Normalization("none")
        return FeatureSpec(kind, tuple(inputs.shape[1:]), "uint8", normalization)
    dtype = "float32" if inputs.is_floating_point() else "int64"
    return FeatureSpec(kind, tuple(inputs.shape[1:]), dtype, Normalization("none"))


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


class Finish:
    """Float32 inputs, and targets of the kind the task's loss takes. A class, so that worker processes can receive it.

    With `features`, inputs are prepared as these say; without, they are as the user's dataset gives them.
    """

    def __init__(self, target: TargetSpec | None, features: FeatureSpec | None = None) -> None:
        self.target, self.features = target, features

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        if self.target is None:
            return batch
        inputs, targets = batch
        if self.features is not None:
            inputs = self.features.prepare(inputs)
        elif inputs.is_floating_point() or inputs.dtype == torch.uint8:
            inputs = inputs.float()
        if self.target.task == "classification":
            return inputs, targets.long().flatten() if targets.dim() == 2 and targets.shape[1] == 1 else targets.long()
        targets = targets.float()
        return inputs, targets.unsqueeze(1) if targets.dim() == 1 else targets


class FinishBinary:
    """What `finish` makes of a batch, with class numbers as the binary task has them: float32 0 or 1, shape (n, 1)."""

    def __init__(self, finish: Callable[[Batch], Batch]) -> None:
        self.finish = finish

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        inputs, targets = self.finish(batch)
        return inputs, targets.float().reshape(-1, 1)
