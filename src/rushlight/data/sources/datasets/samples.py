"""Samples of a user's dataset: whether reading them is random, and how they become tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rushlight.data.feed import Held, are_same, collated, generator_states, generators_in, read_sample, seeded
from rushlight.data.order import evenly_spaced
from rushlight.errors import DataError
from rushlight.texts import Note

PROBES = 8  # samples read twice to find out whether reading is random


def sample_count(dataset: Dataset[Any], name: str, split: str = "train") -> int:
    """Return the number of samples of a map-style dataset; DataError when it has none, or no length."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError("no-dataset", found=type(dataset).__name__)
    count = len(dataset)
    if count == 0:
        raise DataError("empty-split", data=name, split=split)
    return count


def read_batch(dataset: Dataset[Any], indices: Sequence[int]) -> Any:
    """Return some samples stacked into a batch, read one by one and without drawing from the global generators."""
    with seeded(0):
        return collated([read_sample(dataset, index) for index in indices], collate_samples, type(dataset).__name__)


def randomness(dataset: Dataset[Any], count: int) -> str:
    """Return in words why a sample that is read again may be another; empty where it is always the same.

    Values alone do not tell: a flip that is done one time in two often gives the same picture. So drawing from one of
    the generators counts as random, whatever its effect. The dataset's own are among them.
    """
    own, held, draws = generators_in(dataset), Held({"dataset": dataset}), False

    def read(index: int) -> Any:
        nonlocal draws
        with seeded(index, own):
            before = generator_states(own)
            sample = read_sample(dataset, index)
            draws = draws or not are_same(before, generator_states(own))
        return collated([sample], collate_samples, type(dataset).__name__)

    for index in evenly_spaced(count, PROBES):
        if are_equal_samples(read(index), read(index)):
            continue
        again = []
        for _ in range(PROBES):
            held.restore({})
            again.append(read(index))
        held.restore({})
        is_same = all(are_equal_samples(again[0], each) for each in again)
        return Note("data.changes-itself" if is_same else "data.unknown-source")
    return Note("data.draws-random") if draws else ""


def are_equal_samples(one: Any, other: Any) -> bool:
    """Tell whether two samples are equal in every value; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | (one != one)).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal_samples(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(are_equal_samples, one, other))
    return bool(one == other)


def is_pair(sample: Any) -> bool:
    """Tell whether a sample is (input, target) with an input that becomes one tensor, and a target that is no dict."""
    is_row = isinstance(sample, (tuple, list)) and len(sample) == 2
    return is_row and isinstance(as_tensor(sample[0]), Tensor) and not isinstance(sample[1], Mapping)


def is_plain_pair(sample: Any) -> bool:
    """Tell whether a sample is a tuple or list of an input and a target that each become one tensor."""
    numbers = (Tensor, bool, int, float, np.number)
    return type(sample) in (tuple, list) and is_pair(sample) and isinstance(as_tensor(sample[1]), numbers)


def size_of(sample: Any) -> int:
    """Return the bytes that one sample takes in memory."""
    if isinstance(sample, (tuple, list)):
        return sum(map(size_of, sample))
    if isinstance(sample, dict):
        return sum(map(size_of, sample.values()))
    tensor = as_tensor(sample)
    return tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 8


def as_tensor(value: Any) -> Any:
    """Return a value of a sample as a tensor where it can be one: an array, or a PIL image (uint8, channels first)."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biuf" else value
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # a PIL image, without importing PIL to ask
        image = value if value.mode in ("L", "RGB") else value.convert("RGB")
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return value


def collate_samples(samples: list[Any]) -> Any:
    """Stack samples into a batch as torch's default_collate does, PIL images included."""
    try:
        return default_collate(samples)
    except (TypeError, ValueError):  # what it does not take: PIL images, arrays whose strides are negative
        return default_collate([to_tensors(sample) for sample in samples])


def to_tensors(sample: Any) -> Any:
    """Apply `as_tensor` to every value of a sample."""
    if isinstance(sample, dict):
        return {key: to_tensors(value) for key, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return type(sample)(to_tensors(value) for value in sample) if not hasattr(sample, "_fields") else sample
    return as_tensor(sample)
