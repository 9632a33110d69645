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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

EPOCH_STRIDE = 1_000_003  # a prime, so that seeds near each other do not meet in near epochs


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return the permutation of `range(n)` that epoch `epoch` (from 1) visits; int64, shape (n,)."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed + EPOCH_STRIDE * epoch))


@dataclass(frozen=True, eq=False)
class Windows:
    """The runs of rows in which a table is read, and how many of them are shuffled together: a window."""

    counts: np.ndarray  # samples in each run, (runs,)
    together: int  # runs
    rows: int  # of a window in the table, where nothing is left out

    def order(self, seed: int, epoch: int) -> WindowedOrder:
        """Return the order of an epoch."""
        return WindowedOrder(self, seed, epoch)


class WindowedOrder:
    """The order of an epoch of `Windows`: the runs are shuffled, and so are the samples of each window of them.

    The runs go in the order `epoch_order(seed, epoch, runs)`; a window has the next `together` of them, or what is left.
    Window `w` (from 0) visits their samples, one run after another, in the order of a permutation that is drawn as that of
    `epoch_order`, seeded by CRC-32 of 'window/seed/epoch/w'. Only the windows that are asked for are made.
    """

    def __init__(self, windows: Windows, seed: int, epoch: int) -> None:
        self.seed, self.epoch, self.counts, self.together = seed, epoch, windows.counts, windows.together
        self.firsts = np.cumsum(self.counts) - self.counts
        self.runs = epoch_order(seed, epoch, len(self.counts)).numpy()
        sizes = np.add.reduceat(self.counts[self.runs], np.arange(0, len(self.counts), self.together))
        self.ends = np.cumsum(sizes)  # of the windows
        self.window = lru_cache(maxsize=2)(self.make_window)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: slice) -> Tensor:
        """Return the indices at `places`, int64."""
        first, end, _ = places.indices(len(self))
        parts = [torch.empty(0, dtype=torch.int64)]
        for number in range(int(np.searchsorted(self.ends, first, side="right")), len(self.ends)):
            begin = int(self.ends[number - 1]) if number else 0
            if begin >= end:
                break
            parts.append(self.window(number)[max(first - begin, 0) : end - begin])
        return torch.cat(parts)

    def make_window(self, number: int) -> Tensor:
        """Return the indices of one window in their order."""
        runs = self.runs[number * self.together : (number + 1) * self.together]
        samples = torch.cat([torch.arange(self.firsts[run], self.firsts[run] + self.counts[run]) for run in runs])
        seed = zlib.crc32(b"window/%d/%d/%d" % (self.seed, self.epoch, number))
        return samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))]


class BatchIndices(Sequence[list[int]]):
    """The indices of each batch of an epoch from batch `start` on, or of one process's share of it; made when asked for."""

    def __init__(self, order: Tensor | WindowedOrder, size: int, start: int, rank: int, processes: int) -> None:
        self.order, self.size, self.start, self.rank, self.processes = order, size, start, rank, processes

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.size)
        shares = [len(share_of(count, self.rank, self.processes)) for count in (self.size, rest)]
        return max(whole * (shares[0] > 0) + (shares[1] > 0) - self.start, 0)

    def __getitem__(self, number: int) -> list[int]:  # type: ignore[override]  # nobody asks for a slice
        if not 0 <= number < len(self):
            raise IndexError(number)
        first = (self.start + number) * self.size
        own = share_of(min(self.size, len(self.order) - first), self.rank, self.processes)
        found: list[int] = self.order[first + own.start : first + own.stop].tolist()
        return found


def row_draws(seed: int, first: int, count: int) -> np.ndarray:
    """Return the numbers in [0, 1) that NumPy's PCG64 of this seed draws for `count` rows of a table from row `first` on."""
    generator = np.random.PCG64(seed)
    generator.advance(first)
    return np.random.Generator(generator).random(count)


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
