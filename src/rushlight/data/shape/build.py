"""From raw samples to `Data`: check, learn the normalisation on the training split, make the specs.

Every source that fits in memory (by name, a folder of images, a table, arrays) hands its samples over as `Samples`
and ends here, so checks and normalisation are the same for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rushlight.data.feed import ResidentSplit
from rushlight.data.shape.samples import Samples
from rushlight.data.spec import (
    FLOATS,
    Column,
    FeatureKind,
    FeatureSpec,
    Floats,
    Normalization,
    NormalizeName,
    TargetSpec,
    in_floats,
)
from rushlight.data.splits import RAW, Data
from rushlight.errors import DataError
from rushlight.formats import format_names
from rushlight.texts import Note

HASHED_WHOLE = 256 << 20  # bytes; of a larger tensor the fingerprint takes evenly spaced rows
CHUNK_ROWS = 8192
EXAMPLES = 4  # kept as they are stored, for the bundle


def build_data(
    name: str,
    kind: FeatureKind,
    train: Samples,
    test: Samples | None,
    target: TargetSpec | None,
    *,
    validation: Samples | None = None,
    normalize: NormalizeName = "auto",
    columns: tuple[Column, ...] = (),
    learn_from: Tensor | None = None,
    notes: tuple[str, ...] = (),
    is_raw: bool = False,
) -> Data:
    """Make `Data` of samples in memory; the splits are already cut. `is_raw`: they are for an objective, as they are.

    The normalisation is learnt from `learn_from`, else from the training inputs.

    Raises:
        DataError: a split is empty, inputs are not finite, labels are outside 0…C-1, or there is one class only.
    """
    for split_name, samples in (("train", train), ("validation", validation), ("test", test)):
        if samples is not None:
            check_samples(name, Note(f"words.{split_name}"), samples, None if is_raw else target)
    are_given = is_raw and normalize == "auto"
    are_tokens = bool(columns) and columns[0].tokens is not None
    source = train.inputs if learn_from is None else learn_from
    normalization = learn_normalization(source, kind, "none" if are_given or are_tokens else normalize)
    dtype = "int64" if are_tokens else dtype_name(train.inputs)
    features = FeatureSpec(kind, tuple(train.inputs.shape[1:]), dtype, normalization, columns, is_raw=are_given)
    digest, may_scale = fingerprint(train, validation, test), False
    if is_raw or target is None:
        digest = f"{RAW}{digest}"
    else:
        if target.task in ("classification", "binary") and target.layout == "rows":
            check_more_than_one_class(name, train.targets, target)
        notes = (*notes, *unseen_class_notes(train.targets, target))
        is_quantity = target.task == "regression" and target.layout == "rows"
        may_scale = is_quantity and normalize in ("auto", "standard")
    return Data(
        name=name,
        train=resident(train, features),
        validation=None if validation is None else resident(validation, features),
        test=None if test is None else resident(test, features),
        features=features,
        target=target,
        fingerprint=digest,
        notes=(*notes, *normalization_notes(features)),
        examples=train.inputs[:EXAMPLES].to(torch.int64 if are_tokens else train.inputs.dtype, copy=True),
        may_scale=may_scale,
    )


def resident(samples: Samples, features: FeatureSpec) -> ResidentSplit:
    """Keep samples in memory: floats are prepared once, compact integers a batch at a time."""
    if samples.inputs.dtype in (torch.float32, torch.float64):
        return ResidentSplit(
            features.prepare(samples.inputs), samples.targets, prepare=already_prepared, names=samples.names
        )
    return ResidentSplit(samples.inputs, samples.targets, features.prepare, names=samples.names)


def standardised(target: TargetSpec, mean: np.ndarray, std: np.ndarray) -> TargetSpec:
    """Return the target with mean and std, (width,): prices in the millions then train as metres do."""
    return replace(target, mean=tuple(mean.tolist()), std=tuple(np.where(std > 0, std, 1.0).tolist()))


def already_prepared(inputs: Tensor) -> Tensor:
    """Return inputs that were prepared before they were kept."""
    return inputs


def as_stored(inputs: Tensor, floats: Floats | None = None) -> Tensor:
    """Return inputs in the dtype they are kept in: bytes as uint8, other whole numbers as int64, all else as `floats`, by default FLOATS."""
    if inputs.dtype == torch.uint8:
        return inputs
    is_whole = not (inputs.is_floating_point() or inputs.is_complex() or inputs.dtype == torch.bool)
    return inputs.long() if is_whole else in_floats(inputs, floats or FLOATS.get())


def dtype_name(tensor: Tensor) -> str:
    """Return a dtype's plain name: 'uint8', 'float32'."""
    return str(tensor.dtype).removeprefix("torch.")


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────


def check_samples(name: str, split: str, samples: Samples, target: TargetSpec | None) -> None:
    """Raise DataError for an empty split, unequal counts, values that are not finite, or labels that name no class.

    Without `target`, the values are the user's own.
    """
    inputs, targets = samples.inputs, samples.targets
    if len(inputs) != len(targets):
        raise DataError("unequal-counts", data=name, split=split, inputs=len(inputs), targets=len(targets))
    if len(inputs) == 0:
        raise DataError("empty-split", data=name, split=split)
    if target is None:
        return
    if inputs.is_floating_point():
        check_finite_values(name, split, Note("words.features"), inputs)
    if targets.is_floating_point():
        check_finite_values(name, split, Note("words.targets"), targets)
    if target.task != "classification" or targets.dim() != 1:
        return
    classes = len(target.classes)
    is_bad = (targets < 0) | (targets >= classes)
    if is_bad.any():
        raise DataError(
            "labels-out-of-range", data=name, split=split, classes=classes, last=classes - 1, low=int(targets.min()),
            high=int(targets.max()), count=int(is_bad.sum()), first=int(is_bad.nonzero()[0]), value=int(targets[is_bad][0]),
        )  # fmt: skip


def check_same_dtype(name: str, expected: str, found: str) -> None:
    """Raise DataError when test inputs are stored otherwise than the training inputs: bytes and floats differ in scale."""
    if expected != found:
        raise DataError("other-dtype", data=name, expected=expected, found=found)


def check_finite_values(name: str, split: str, what: str, values: Tensor) -> None:
    """Raise DataError when any value is NaN or infinite; the first bad sample is named."""
    is_bad = [~torch.isfinite(chunk[:, None].flatten(1)).all(1) for chunk in torch.split(values, CHUNK_ROWS)]
    bad_rows = torch.cat(is_bad).nonzero().flatten().tolist()
    if bad_rows:
        row = values[bad_rows[0]].flatten()
        position = int((~torch.isfinite(row)).nonzero()[0])
        raise DataError(
            "not-finite", data=name, split=split, what=what, count=len(bad_rows), total=len(values),
            first=bad_rows[0], position=position, value=float(row[position]),
        )  # fmt: skip


def check_more_than_one_class(name: str, labels: Tensor, target: TargetSpec) -> None:
    """Raise DataError when the training split shows one class only: there is nothing to tell apart."""
    seen = np.unique(labels.numpy()).tolist()
    if len(seen) < 2:
        raise DataError("one-class", data=name, found=target.classes[int(seen[0])])


# ── what is learnt on the training split ─────────────────────────────────────────────────────────────────────


def learn_normalization(inputs: Tensor, kind: FeatureKind, name: NormalizeName) -> Normalization:
    """Learn mean and std over the training inputs: by channel for images, by column for all else."""
    divisor = 255.0 if inputs.dtype == torch.uint8 else 1.0
    if inputs.dtype == torch.int64 or name == "none":
        return Normalization("none")
    if name == "unit":
        return Normalization("unit", divisor)
    mean, std = mean_and_std(inputs, channel_dim=1 if kind == "image" else inputs.dim() - 1)
    return standard_normalization(mean / divisor, std / divisor, divisor)


def standard_normalization(mean: np.ndarray, std: np.ndarray, divisor: float = 1.0) -> Normalization:
    """Return what gives each column the mean 0 and the deviation 1; a constant column becomes zeros, not NaN."""
    std = np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    return Normalization("standard", divisor, tuple(mean.tolist()), tuple(std.tolist()))


def mean_and_std(values: Tensor, channel_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 mean and population std along every dimension but `channel_dim`.

    Floats are summed a chunk at a time. Their first row is subtracted from all, since `E[x²] - E[x]²` loses everything
    when the mean is large.
    """
    if values.dtype == torch.uint8:  # exactly: from how often each of the 256 values occurs
        levels = np.arange(256, dtype=np.float64)
        counts = [torch.bincount(each.flatten(), minlength=256).numpy() for each in values.unbind(channel_dim)]
        shares = [each / each.sum() for each in counts]
        means = [float(share @ levels) for share in shares]
        variances = [float(share @ (levels - mean) ** 2) for share, mean in zip(shares, means, strict=True)]
        return np.array(means), np.sqrt(variances)
    dims = [dim for dim in range(values.dim()) if dim != channel_dim]
    count = values.numel() // values.shape[channel_dim]
    shift = values[:1].double().mean(dims, keepdim=True)
    total, squares = np.zeros(values.shape[channel_dim]), np.zeros(values.shape[channel_dim])
    for chunk in torch.split(values, CHUNK_ROWS):
        shifted = chunk.double() - shift
        total = total + shifted.sum(dims).numpy()
        squares = squares + (shifted * shifted).sum(dims).numpy()
    mean = total / count
    variance = np.maximum(squares / count - mean * mean, 0.0)
    return np.asarray(mean + shift.flatten().numpy()), np.sqrt(variance)


def unseen_class_notes(targets: Tensor, target: TargetSpec) -> tuple[Note, ...]:
    """Say which classes no training sample has: labels that start at 1 leave class 0 empty, for one."""
    if target.task != "classification" or targets.dim() > 1:
        return ()
    counts = torch.bincount(targets, minlength=len(target.classes)).tolist()
    unseen = [name for name, count in zip(target.classes, counts, strict=True) if count == 0]
    if not unseen:
        return ()
    note = Note("data.class-unseen", classes=format_names([f'"{name}"' for name in unseen]))
    return (note, Note("data.labels-from-one")) if target.classes[0] == "0" == unseen[0] else (note,)


def normalization_notes(features: FeatureSpec) -> tuple[Note, ...]:
    """Say how features are scaled."""
    if features.is_raw:
        return (Note("data.as-given"),)
    if features.tokens is not None:
        return ()
    if features.normalization.name == "none":
        return (Note("data.not-scaled"),)
    if features.normalization.name == "unit":
        return (Note("data.divided", divisor=features.normalization.divisor),)
    per_channel = features.kind == "image"
    return (Note("data.standardised-by-channel" if per_channel else "data.standardised-by-column"),)


def fingerprint(train: Samples, validation: Samples | None, test: Samples | None) -> str:
    """Return a SHA-256 over train and test as they are stored before any preparation, and "-" and one of validation.

    A run that was begun before there were validation splits still knows its data: the first half is what it recorded.
    """
    digest = split_digest(train, test)
    return digest if validation is None else f"{digest}-{split_digest(validation)}"


def split_digest(*splits: Samples | None) -> str:
    """Return a SHA-256 over the samples of some splits; of large tensors evenly spaced rows are hashed."""
    digest = hashlib.sha256()
    for samples in splits:
        for tensor in () if samples is None else (samples.inputs, samples.targets):
            digest.update(f"{dtype_name(tensor)}{tuple(tensor.shape)}".encode())
            size = tensor.numel() * tensor.element_size()
            step = -(-size // HASHED_WHOLE) if size else 1
            digest.update(np.ascontiguousarray(tensor[::step].numpy()).data)
    return digest.hexdigest()


def identity_of(make: Callable[[], object]) -> str:
    """Return the qualified name of a class or function, for descriptions."""
    return f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', type(make).__name__)}"
