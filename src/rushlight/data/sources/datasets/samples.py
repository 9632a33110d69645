"""Reading the samples of a user's dataset: one by one, twice to find out whether that is random, and into tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rushlight.data.feed import are_same, failed, failed_together, not_collated, read_together, seeded, streams
from rushlight.errors import DataError

PROBES = 8  # samples read three times to find out whether reading is random


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


def randomness(dataset: Dataset[Any], count: int) -> str:
    """Say how reading a sample is random; empty when it is not.

    Values alone do not tell: a flip that is done one time in two often comes out alike. So drawing from one of the
    generators counts as random, whatever came of it.
    """
    name, is_random = type(dataset).__name__, False
    for number, index in enumerate(probed(count)):
        reads = [read_watched(dataset, index, name, seed) for seed in (2 * number, 2 * number, 2 * number + 1)]
        one, again, other = (collate_checked([sample], name) for sample, _ in reads)
        draws = any(drew for _, drew in reads)
        if not same(one, again) or not (draws or same(one, other)):
            return "it draws from a random generator of its own, which no seed governs: a run on it cannot be repeated exactly"
        is_random = is_random or draws
    return "reading a sample draws random numbers" if is_random else ""


def can_read_together(dataset: Dataset[Any], count: int, name: str, notes: list[str]) -> bool:
    """Tell whether the dataset gives several samples at once, by torch's `__getitems__`, as it gives them one by one."""
    if not callable(getattr(dataset, "__getitems__", None)):
        return False
    indices = probed(count)[::-1]  # a reader of files that wants them sorted would give them in another order
    one_by_one = [read_one(dataset, index, name) for index in indices]
    try:
        with seeded(0):
            at_once = read_together(dataset, indices)
    except Exception as error:
        raise failed_together(error, name, indices).error() from error
    pairs = zip(at_once, one_by_one, strict=True)
    if all(same(collate_checked([one], name), collate_checked([other], name)) for one, other in pairs):
        return True
    notes.append(f"{name} is read one sample at a time: its __getitems__ gives other samples than its __getitem__.")
    return False


def probed(count: int) -> list[int]:
    """Return the indices of up to PROBES of `count` samples, evenly spaced, the first and the last among them."""
    return sorted({round(i * (count - 1) / (PROBES - 1)) for i in range(PROBES)})


def read_watched(dataset: Dataset[Any], index: int, name: str, seed: int) -> tuple[Any, bool]:
    """Return a sample, and whether reading it drew from Python's, NumPy's or torch's generator."""
    with seeded(seed):
        before = streams()
        try:
            sample = dataset[index]
        except Exception as error:
            raise failed(error, name, index).error() from error
        return sample, not are_same(streams(), before)


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
