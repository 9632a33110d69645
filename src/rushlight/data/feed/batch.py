"""What a batch is: any nest of tuples, named tuples, lists, dicts, dataclasses and objects, down to tensors.

Its samples are counted, its tensors found and moved, its parts cut; every nest keeps its type.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

ALIGNMENT = 64  # bytes: of the memory that torch allocates on the processor
DEEPEST = 8  # levels of a nest that are searched: an object may lead back to itself
COUNTED = "_rushlight_samples"  # on a batch's first tensor, or on the batch: how many samples were collated into it
Batch = Any  # usually (inputs, targets), both tensors; whatever a user's own loader or collate gives otherwise


# ── its samples, counted ─────────────────────────────────────────────────────────────────────────────────────


def count_samples(batch: Batch) -> float:
    """Return how many samples a batch has: what was noted when it was collated, else what its form tells; 1 if nothing does."""
    if type(batch) in (tuple, list) and batch and isinstance(batch[0], Tensor) and batch[0].dim():
        return float(getattr(batch[0], COUNTED, batch[0].shape[0]))  # nearly always, and ten times as fast
    known = getattr(bearer(batch), COUNTED, None)
    return float(known or samples_by_form(batch) or 1)


def samples_by_form(batch: Batch, depth: int = DEEPEST) -> int | None:
    """Return how many samples a batch's form tells of; None for nothing.

    An object tells by `num_graphs` or `batch_size`, a PackedSequence by its first step, and all else by the first in it
    that tells: a tensor by its first dimension, a list of texts or numbers by its length.
    """
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    for name in ("num_graphs", "batch_size"):
        count = getattr(batch, name, None)
        count = count[0] if isinstance(count, torch.Size) and count else count
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    if isinstance(batch, (list, tuple)) and batch and all(isinstance(part, (str, int, float)) for part in batch):
        return len(batch)
    told = (samples_by_form(part, depth - 1) for part in entries_of(batch)) if depth else iter(())
    return next((count for count in told if count is not None), None)


def note_samples(batch: Batch, count: int) -> Batch:
    """Note on a batch how many samples were collated into it, where its form tells otherwise; return it."""
    if samples_by_form(batch) != count:
        with contextlib.suppress(AttributeError, TypeError):  # a nest without any tensor
            object.__setattr__(bearer(batch), COUNTED, count)
    return batch


def bearer(batch: Batch) -> Any:
    """Return what the number of a batch's samples is noted on: its first tensor, or itself."""
    return next(tensors_in(batch), batch)


# ── its tensors ──────────────────────────────────────────────────────────────────────────────────────────────


def tensors_in(batch: Batch, depth: int = DEEPEST) -> Iterator[Tensor]:
    """Give the tensors in a batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif depth:
        for part in entries_of(batch):
            yield from tensors_in(part, depth - 1)


def entries_of(batch: Batch) -> Iterator[Any]:
    """Give what a nest holds; nothing for a leaf."""
    if isinstance(batch, type):  # a graph of PyTorch Geometric holds classes, dataclasses among them
        return
    if isinstance(batch, Mapping):
        yield from batch.values()
    elif isinstance(batch, (list, tuple)):
        yield from batch
    elif dataclasses.is_dataclass(batch):
        yield from (getattr(batch, field.name) for field in dataclasses.fields(batch))
    elif type(batch).__module__ != "builtins" and hasattr(batch, "__dict__"):
        yield from vars(batch).values()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to `device`: every tensor, and every object that has a `to` of its own (graphs, BatchEncoding)."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    return changed(batch, lambda part: to_device(part, device))


def pinned(batch: Batch) -> Batch:
    """Return a batch in memory that a card copies from by itself, while the processor goes on."""
    return batch.pin_memory() if callable(getattr(batch, "pin_memory", None)) else changed(batch, pinned)


def changed(batch: Batch, change: Callable[[Any], Any]) -> Batch:
    """Return a nest of the same type with all that it holds changed; a leaf as it is."""
    if type(batch) is dict:
        return {key: change(value) for key, value in batch.items()}
    if isinstance(batch, MutableMapping):
        clone: Any = copy.copy(batch)
        clone.update({key: change(value) for key, value in batch.items()})
        return clone
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(change, batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(map(change, batch))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(clone, field.name, change(getattr(batch, field.name)))
        return clone
    return batch


# ── its parts, cut ───────────────────────────────────────────────────────────────────────────────────────────


def equal_parts(batch: Batch, count: int) -> list[Batch]:
    """Cut a tuple of tensors into `count` equal batches that are as batches of their own would be.

    None is a view of the others, so a model may write into its batch. Each begins at a multiple of 64 bytes: kernels may
    round differently elsewhere.
    """
    columns = [tensor.unsafe_chunk(count) for tensor in batch]  # not unsafe here: nobody uses the whole
    return list(
        zip(*(parts if not parts[0].nbytes % ALIGNMENT else map(Tensor.clone, parts) for parts in columns), strict=True)
    )


def split_batch(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into pieces of at most `size` samples; one that holds an object which cannot be cut stays whole."""
    samples = int(count_samples(batch))
    first = next(tensors_in(batch), None)
    if samples <= size or first is None or not is_cuttable(batch):
        return [batch]
    dim = 1 if first.dim() > 1 and first.shape[0] != samples == first.shape[1] else 0  # 1: time first
    places = [slice(start, start + size) for start in range(0, samples, size)]
    return [note_samples(rows(batch, place, samples, dim), len(range(samples)[place])) for place in places]


def is_cuttable(batch: Batch) -> bool:
    """Tell whether a batch holds nothing but tensors, nests of known types, and values without samples."""
    if isinstance(batch, (Tensor, str, bytes, int, float, complex)) or batch is None:
        return True
    is_nest = isinstance(batch, (MutableMapping, list, tuple)) or dataclasses.is_dataclass(batch)
    if callable(getattr(batch, "to", None)) or not is_nest:
        return not any(True for _ in tensors_in(batch))
    return all(map(is_cuttable, entries_of(batch)))


def rows(batch: Batch, chosen: slice, samples: int, dim: int) -> Batch:
    """Return the rows of each tensor and list that has one for each sample; all else as it is."""
    if isinstance(batch, Tensor):
        if dim and batch.dim() > dim and batch.shape[dim] == samples:
            return batch[:, chosen]
        return batch[chosen] if batch.dim() and len(batch) == samples else batch
    if (
        isinstance(batch, (list, tuple))
        and len(batch) == samples
        and not any(has_samples(part, samples, dim) for part in batch)
    ):
        return batch[chosen]
    return changed(batch, lambda part: rows(part, chosen, samples, dim))


def has_samples(part: Any, samples: int, dim: int) -> bool:
    """Tell whether a part of a nest has one row, or one entry, for each sample."""
    if isinstance(part, Tensor):
        return samples in part.shape[: dim + 1]
    return isinstance(part, (list, tuple)) and len(part) == samples
