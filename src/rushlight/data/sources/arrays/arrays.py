"""Arrays as data: NumPy arrays, tensors and nested lists, told to be images or features by dtype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.shape import (
    Samples,
    as_array,
    as_floats,
    build_data,
    check_same_dtype,
    check_same_shape,
    cut_samples,
    dtype_name,
    owned,
    read_targets,
    target_notes,
)
from rushlight.data.sources.arrays.files import Pair, holds_array_files, read_array_files
from rushlight.data.sources.kind import SourceKind
from rushlight.data.spec import ArrayKind, FeatureKind, NormalizeName, Share, TargetSpec, Task
from rushlight.data.splits import Data
from rushlight.errors import DataError
from rushlight.texts import Note

CHANNELS = (1, 3, 4)


def open_arrays(
    train: Pair | str | Path,
    test: Pair | str | Path | None = None,
    *,
    validation: Pair | str | Path | None = None,
    name: str = "arrays",
    kind: ArrayKind | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    seed: int = 0,
    test_fraction: Share | None = 0.2,
    val_fraction: float | None = None,
    is_raw: bool = False,
) -> Data:
    """Make data of (inputs, targets) pairs, or of files of them; without `test` a share of the samples is set aside by `seed`.

    Images are numbers of 8 or 16 bits (uint8, uint16) of shape (n, h, w), (n, c, h, w) or (n, h, w, c), and any numbers
    of shape (n, c, h, w). Of all inputs uint8 images alone stay as they are; the others become float32, unless
    `kind="tokens"` keeps whole numbers as int64. Raises DataError or UsageError for what cannot be read so.

    `is_raw`: an objective gets the arrays as they are, NumPy's float64 alone as float32. What the targets are is then read
    only where `task` or `classes` are given.
    """
    if isinstance(train, (str, Path)):
        name, (train, own_validation, own_test) = Path(train).stem, read_array_files(Path(train))
        validation, test = own_validation if validation is None else validation, own_test if test is None else test
    given = {"train": train, "validation": validation, "test": test}
    pairs = {
        split: read_array_files(Path(pair))[0] if isinstance(pair, (str, Path)) else pair
        for split, pair in given.items()
        if pair is not None
    }
    if is_raw:
        feature_kind, samples, target, notes = read_as_given(pairs, name, task, classes)
    else:
        feature_kind, samples, target, notes = read_pairs(pairs, name, kind, task, classes)
    kept, cut_validation, cut_test, cut_notes = cut_samples(
        samples["train"], target, seed=seed,
        test_fraction=test_fraction if test is None else None, val_fraction=val_fraction if validation is None else None,
    )  # fmt: skip
    data = build_data(
        name, feature_kind, kept, samples.get("test", cut_test), target, validation=samples.get("validation", cut_validation),
        normalize=normalize, notes=(*notes, *cut_notes), is_raw=is_raw,
    )  # fmt: skip
    inputs = as_array(pairs["train"][0], name, "inputs")
    was_by_column = kind is None and feature_kind == "image" and inputs.dtype.kind in "iub" and inputs.dtype != np.uint8
    if was_by_column and not is_raw and normalize in ("auto", "standard"):
        # Earlier releases learnt mean and std by pixel column: a run of theirs is not to go on as if it were the same.
        return replace(data, fingerprint=f"channels:{data.fingerprint}")
    return data


Read = tuple[FeatureKind, dict[str, Samples], TargetSpec | None, list[str]]  # what the inputs are; samples by split; …


def read_pairs(
    pairs: dict[str, Pair], name: str, kind: ArrayKind | None, task: Task | None, classes: Sequence[str] | None
) -> Read:
    """Read the pairs of all splits, which must be alike."""
    arrays = {split: as_array(pair[0], name, "inputs") for split, pair in pairs.items()}
    read = {split: stored_inputs(array, kind, name, split) for split, array in arrays.items()}
    inputs, feature_kind, notes = read["train"]
    for split in pairs.keys() - {"train"}:
        dtypes = arrays["train"].dtype, arrays[split].dtype
        if {dtype.kind for dtype in dtypes} == {"u", "f"} and np.uint8 in dtypes:  # kept as floats, it may be, both
            check_same_dtype(name, *map(str, dtypes))
        check_same_dtype(name, dtype_name(inputs), dtype_name(read[split][0]))
        if read[split][0].shape[1:] != inputs.shape[1:]:
            shapes = tuple(inputs.shape[1:]), tuple(read[split][0].shape[1:])
            raise DataError("shapes-differ", data=name, split=split, train=shapes[0], other=shapes[1])
    raw = {split: as_array(pair[1], name, "targets") for split, pair in pairs.items()}
    are_soft = raw["train"].ndim == 2 and raw["train"].dtype.kind == "f" and raw["train"].shape[1] > 1
    numbers = {split for split, array in raw.items() if are_soft and array.ndim == 1 and array.dtype.kind in "iu"}
    kept = {split: torch.from_numpy(raw.pop(split).astype(np.int64)) for split in numbers}  # of soft labels' classes
    check_same_shape(name, raw)
    values, target = read_targets(np.concatenate(list(raw.values())), task, classes)
    notes += target_notes(raw["train"], target, task)
    kept |= zip(raw, torch.split(values, [len(array) for array in raw.values()]), strict=True)
    return feature_kind, {split: Samples(read[split][0], kept[split]) for split in pairs}, target, notes


def read_as_given(pairs: dict[str, Pair], name: str, task: Task | None, classes: Sequence[str] | None) -> Read:
    """Return the pairs of all splits as tensors of their own dtype and shape."""
    samples = {
        split: Samples(as_raw_tensor(x, name, split), as_raw_tensor(y, name, split)) for split, (x, y) in pairs.items()
    }
    inputs, targets = samples["train"].inputs, samples["train"].targets
    target = read_targets(targets, task, classes)[1] if task or classes else None
    return "image" if inputs.dim() == 4 and inputs.shape[1] in CHANNELS else "array", samples, target, []


def as_raw_tensor(values: Any, name: str, split: str) -> Tensor:
    """Return an array as a tensor of its own dtype; what torch hardly has becomes float32 or int64."""
    if isinstance(values, Tensor) and values.dtype != torch.bfloat16:
        return values.detach().cpu()
    array = as_array(values, name, split)
    if array.dtype.kind not in "biufc" or array.ndim == 0:
        raise DataError("inputs-not-numbers", data=name, split=split, dtype=array.dtype)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return as_floats(array, name, split) if array.dtype == np.float64 else owned(array)


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────


def stored_inputs(
    inputs: Any, kind: ArrayKind | None, name: str = "arrays", split: str = "train"
) -> tuple[Tensor, FeatureKind, list[str]]:
    """Return inputs as they are kept, (n, *shape) in uint8, float32 or int64, what they are, and what to say of it."""
    array = as_array(inputs, name, "inputs")
    if array.ndim < 2:
        raise DataError("inputs-one-dimensional", data=name, split=split, shape=tuple(array.shape), count=array.size)
    if array.dtype.kind in "USOcVMm":
        raise DataError("inputs-not-numbers", data=name, split=split, dtype=array.dtype)
    if array.size == 0 and len(array):
        raise DataError("inputs-without-features", data=name, split=split, shape=tuple(array.shape))
    if kind == "tokens":
        if array.dtype.kind not in "iu":
            raise DataError("tokens-not-whole", data=name, split=split, dtype=array.dtype)
        return torch.from_numpy(array.astype(np.int64)), "array", []
    if kind != "array" and (kind == "image" or looks_like_images(array)):
        return read_images(array, name, split)
    return as_floats(array, name, split), "array", []


def looks_like_images(array: np.ndarray) -> bool:
    """Tell images by dtype and shape: 8 or 16 bits in three or four dimensions, other numbers with the channels first."""
    if array.dtype in (np.uint8, np.uint16):
        return array.ndim == 3 or (array.ndim == 4 and (array.shape[1] in CHANNELS or array.shape[3] in CHANNELS))
    return array.ndim == 4 and array.shape[1] in CHANNELS


def read_images(array: np.ndarray, name: str, split: str) -> tuple[Tensor, FeatureKind, list[str]]:
    """Return images as (n, channels, height, width), in uint8 or float32."""
    notes: list[str] = []
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4 or not (array.shape[1] in CHANNELS or array.shape[3] in CHANNELS):
        raise DataError("not-an-image-shape", data=name, split=split, shape=tuple(array.shape))
    elif array.shape[1] not in CHANNELS:  # where both could be the channels, torch's own order is taken
        notes.append(Note("data.channels-moved", channels=array.shape[3]))
        array = array.transpose(0, 3, 1, 2)
    images = owned(array) if array.dtype == np.uint8 else as_floats(array, name, split)
    return images, "image", notes


ARRAYS: SourceKind = SourceKind(
    "data.kinds.arrays",
    lambda source: (
        holds_array_files(Path(source))
        if isinstance(source, (str, Path))
        else isinstance(source, (tuple, list)) and len(source) == 2
    ),
    open_arrays,
)
