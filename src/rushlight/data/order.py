"""Which samples in which order: pure functions of (seed, epoch), of nothing else.

The order of epoch `e` (epochs count from 1) of `n` samples under seed `s` is

    torch.randperm(n, generator=torch.Generator().manual_seed(s + 1_000_003 * e))

so a plain PyTorch script reproduces it in that one line. Batch `k` (from 0) holds the samples at positions
`k * batch_size` up to, and not including, `(k + 1) * batch_size`; the last batch may be smaller and is kept.

What is random inside a step (dropout) is drawn from torch's default generator, which is seeded before every
step with `step_seed`; what is random in reading one sample (augmentation) comes from `sample_seed`. Torch's CPU
generator keeps only the low 32 bits of a seed, so the pieces are mixed into 32 bits rather than shifted apart.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

EPOCH_STRIDE = 1_000_003  # a prime, so that seeds near each other do not meet in near epochs


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return the permutation of `range(n)` that epoch `epoch` (from 1) visits; int64, shape (n,)."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed + EPOCH_STRIDE * epoch))


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Return the seed of step `step` (from 0) of an epoch: CRC-32 of the ASCII text 'step/seed/epoch/step'.

    In a process of another rank than 0, '/rank' follows.
    """
    text = b"step/%d/%d/%d" % (seed, epoch, step)
    return zlib.crc32(b"%s/%d" % (text, rank) if rank else text)


def share_of(samples: int, rank: int, processes: int) -> range:
    """Return the places, in a batch of `samples`, of the samples that the process of this rank computes.

    They follow one another: from ceil(samples · rank / processes) on. So no process has fewer than one of a higher rank
    by more than one, and the first has some wherever there are any.
    """
    return range(-(-samples * rank // processes), -(-samples * (rank + 1) // processes))


def shared_order(order: Tensor, size: int, rank: int, processes: int) -> tuple[Tensor, int]:
    """Return the indices of one process's shares of all batches of `size` samples, batch after batch, and a share's size."""
    if processes == 1:
        return order, size
    whole = len(order) // size * size
    own, last = share_of(size, rank, processes), share_of(len(order) - whole, rank, processes)
    shares = order[:whole].view(-1, size)[:, own.start : own.stop].flatten()
    return torch.cat([shares, order[whole:][last.start : last.stop]]), len(own)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of reading sample `index` in an epoch: CRC-32 of 'sample/seed/epoch/index'."""
    return zlib.crc32(b"sample/%d/%d/%d" % (seed, epoch, index))


def split_seed(seed: int) -> int:
    """Return the seed of cutting a test split from data that has none: CRC-32 of 'split/seed'."""
    return zlib.crc32(b"split/%d" % seed)


def validation_seed(seed: int) -> int:
    """Return the seed of cutting a validation split from the training samples: CRC-32 of 'validation/seed'."""
    return zlib.crc32(b"validation/%d" % seed)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` indices, evenly spaced, the first and the last among them: neighbours are often alike."""
    found: list[int] = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return found
