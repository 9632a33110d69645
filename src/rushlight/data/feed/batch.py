"""What a batch is: its samples counted, its tensors found, its parts cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

ALIGNMENT = 64  # bytes: of the memory that torch allocates on the processor
Batch = Any  # usually (inputs, targets), both tensors; whatever a user's own loader or collate gives otherwise


def count_samples(batch: Batch) -> float:
    """Return how many samples a batch has: the length of the first tensor in it that has one."""
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) and batch[0].dim():
        return float(batch[0].shape[0])  # nearly always, and ten times as fast
    lengths = (len(tensor) for tensor in tensors_in(batch) if tensor.dim())
    return float(next(lengths, 1))


def equal_parts(batch: Batch, count: int) -> list[Batch]:
    """Cut a tuple of tensors into `count` equal batches that are as batches of their own would be.

    None is a view of the others, so a model may write into its batch. Each begins at a multiple of 64 bytes: kernels may
    round differently elsewhere.
    """
    columns = [tensor.unsafe_chunk(count) for tensor in batch]  # not unsafe here: nobody uses the whole
    return list(
        zip(*(parts if not parts[0].nbytes % ALIGNMENT else map(Tensor.clone, parts) for parts in columns), strict=True)
    )


def tensors_in(batch: Batch) -> Iterator[Tensor]:
    """Give the tensors in a batch of tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)
