"""The loss of every step: read as the file grows, smoothed, and reduced for drawing without losing an extreme.

`losses.f32` is read by position and never mapped into memory: resume and roll-back truncate it, and a process that reads a
mapping beyond the end of its file is killed (SIGBUS).

The reduction is M4 (Jugel et al., PVLDB 2014): the first, lowest, highest and last value of every pixel column give the
same picture as all points. NaN and infinities are no points; they are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight.board.files import read_range, read_status

BLOCK = 128  # steps of one summary
PIECE = 2048 * BLOCK  # steps summarized at once
REDUCED_AT_ONCE = 256 * BLOCK  # steps of a curve: the memory for more would grow with the run
PART = 256  # blocks that lie together in memory
STATE_BLOCKS = 16  # between two states of the smoothing that are kept
COARSE = 8  # blocks of a pixel column from which its edges are moved to whole blocks: by at most 1/16 of a pixel
TAIL_BYTES = 4096  # compared to tell whether the file is still the one that was read
CSV_STEPS = 10_000  # in one piece
LEAST_SMOOTHED = 20  # points; fewer are not smoothed
KINDS = ("nan", "up", "down", "under")  # NaN, +infinity, -infinity, and finite values ≤ 0, which a log axis cannot show

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Cells:
    """Consecutive stretches of steps, each by its first, lowest, highest and last value; NaN where there is none."""

    first: Floats
    low: Floats
    high: Floats
    last: Floats
    counts: Integers  # (4, cells), in the order of KINDS

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: slice) -> Cells:
        return Cells(*(part[..., chosen] for part in vars(self).values()))


def join(pieces: list[Cells]) -> Cells:
    """Return the cells of some pieces in a row."""
    if not pieces:
        return single(np.empty(0, np.float32))
    return Cells(*(np.concatenate(parts, axis=-1) for parts in zip(*(vars(p).values() for p in pieces), strict=True)))


def single(values: Floats) -> Cells:
    """Return one cell for each value."""
    counts = np.zeros((len(KINDS), len(values)), np.uint8)
    counts[3] = values <= 0
    if not np.isfinite(values).all():
        counts[0], counts[1], counts[2] = np.isnan(values), values == np.inf, values == -np.inf
        counts[3] &= ~counts[2]
        values = np.where(np.isfinite(values), values, np.float32("nan"))
    return Cells(values, values, values, values, counts)


def merge(cells: Cells, edges: Integers) -> Cells:
    """Return one cell for each stretch `cells[edges[k]:edges[k + 1]]`; an empty stretch has NaN and counts of 0."""
    count = len(edges) - 1
    full = np.flatnonzero(np.diff(edges) > 0)
    parts = [np.full(count, np.nan, np.float32) for _ in range(4)]
    merged = Cells(parts[0], parts[1], parts[2], parts[3], np.zeros((len(KINDS), count), np.int32))
    if len(full):
        starts, upto = edges[full], int(edges[full[-1] + 1])
        merged.first[full], merged.last[full] = cells.first[starts], cells.last[edges[full + 1] - 1]
        least, most = (
            (np.fmin, np.fmax) if np.isnan(cells.low[:upto]).any() else (np.minimum, np.maximum)
        )  # five times as fast
        merged.low[full] = least.reduceat(cells.low[:upto], starts)
        merged.high[full] = most.reduceat(cells.high[:upto], starts)
        if cells.counts[:, :upto].any():
            merged.counts[:, full] = np.add.reduceat(cells.counts[:, :upto], starts, axis=1, dtype=np.int32)
    return merged


def blocks_of(values: Floats) -> Cells:
    """Return one cell for every `BLOCK` values."""
    if not np.isfinite(values).all():
        merged = merge(single(values), np.arange(0, len(values) + 1, BLOCK))
        return replace(merged, counts=merged.counts.astype(np.uint8))
    rows = values.reshape(-1, BLOCK)
    low = rows.min(axis=1)
    counts = np.zeros((len(KINDS), len(rows)), np.uint8)  # of at most `BLOCK` values: a long run has many blocks
    if low.min(initial=1) <= 0:
        counts[3] = (rows <= 0).sum(axis=1)
    return Cells(rows[:, 0].copy(), low, rows.max(axis=1), rows[:, -1].copy(), counts)


def smooth(values: Floats, half_life: float, state: tuple[float, float]) -> tuple[Floats, NDArray[np.float64]]:
    """Return the debiased exponential mean at each value, and the states at the end of every whole `BLOCK` of values.

    The mean of steps 0 to t is Σ dᵗ⁻ⁱ xᵢ / Σ dᵗ⁻ⁱ over the finite values, d = 2^(-1/half_life): the first value weighs no
    more than any other, and a prefix has the same values as the whole. A state is both sums.
    """
    decay = 0.5 ** (1 / half_life)
    rows = -(-len(values) // BLOCK)
    finite = np.isfinite(values)
    is_whole = bool(finite.all())
    found = np.zeros((rows, BLOCK))
    found.reshape(-1)[: len(values)] = values if is_whole else np.where(finite, values, 0)
    sums, ends = decaying_sums(found, decay, state[0])
    if is_whole:
        weights, weight_ends = weights_of_whole(rows, decay, state[1])
    else:
        known = np.zeros((rows, BLOCK))
        known.reshape(-1)[: len(values)] = finite
        weights, weight_ends = decaying_sums(known, decay, state[1])
    mean, different = np.empty((rows, BLOCK), np.float32), len(weights)
    with np.errstate(invalid="ignore"):
        np.divide(sums[:different], weights, out=mean[:different], casting="same_kind")
        np.divide(sums[different:], weights[-1:], out=mean[different:], casting="same_kind")
    return mean.reshape(-1)[: len(values)], np.array([ends, weight_ends])[:, 1 : len(values) // BLOCK + 1]


def decaying_sums(found: NDArray[np.float64], decay: float, start: float) -> tuple[NDArray[np.float64], list[float]]:
    """Return Σ dᵗ⁻ⁱ xᵢ at each place of some rows (rows, BLOCK), and before each row and after the last (rows + 1)."""
    powers = decay ** np.arange(BLOCK)  # at least 2^-127
    across = decay**BLOCK
    sums = np.divide(found, powers, out=found)  # it is the caller's no more
    np.cumsum(sums, axis=1, out=sums)
    ends = (sums[:, -1] * powers[-1]).tolist()
    states = list(itertools.accumulate(ends, lambda carry, end: carry * across + end, initial=start))
    sums += np.array(states[:-1])[:, None] * decay
    sums *= powers
    return sums, states


def weights_of_whole(rows: int, decay: float, start: float) -> tuple[NDArray[np.float64], list[float]]:
    """Return the `decaying_sums` of rows of ones; of the rows, those until all further ones are like the last."""
    end, states = decaying_sums(np.ones((1, BLOCK)), decay, 0)[1][1], [start]
    while len(states) <= rows and states[-1] not in states[-2:-1]:
        states.append(states[-1] * decay**BLOCK + end)
    sums = decaying_sums(np.ones((len(states) - 1, BLOCK)), decay, start)[0]
    return sums, states + states[-1:] * (rows + 1 - len(states))


class Track:
    """The summaries of a run's whole blocks, of the losses themselves (`half_life` 0) or smoothed."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self.parts: list[Cells] = []  # each of at least `PART` blocks, but for the last
        self.states = np.zeros((2, 1))  # both sums of the smoothing before every `STATE_BLOCKS` blocks
        self.state = (0.0, 0.0)  # after the last block

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def cells(self) -> Cells:
        """All summaries in a row."""
        return join(self.parts)

    def extend(self, pieces: Iterable[Floats]) -> None:
        """Add the summaries of the next whole blocks."""
        cells, states, state, block = list[Cells](), [self.states], self.state, len(self)
        for values in pieces:
            if self.half_life:
                values, ends = smooth(values, self.half_life, state)
                states.append(ends[:, STATE_BLOCKS - 1 - block % STATE_BLOCKS :: STATE_BLOCKS])
                state = (float(ends[0, -1]), float(ends[1, -1]))
            cells.append(blocks_of(values))
            block += len(cells[-1])
        if not cells:
            return
        if self.parts and len(self.parts[-1]) < PART:  # a full one is not moved: memory would get holes
            cells.insert(0, self.parts.pop())
        self.parts.append(join(cells))
        self.states, self.state = np.concatenate(states, axis=1), state


class Truncated(Exception):
    """The file became shorter while it was read: read it again."""


class Losses:
    """The losses of one run. A file that was truncated or replaced is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        """Forget all that was read."""
        self.count = 0  # of steps
        self.identity: tuple[int, int] | None = None
        self.tail = b""  # the last bytes of the blocks that are summarized
        self.state: tuple[int, int] | None = None  # the file's size and time of change (ns)
        self.told: dict[str, float | int | None] | None = None  # the figures, until the file changes
        self.tracks: dict[float, Track] = {0: Track(0)}

    @property
    def size(self) -> int:
        """The number of summaries in memory."""
        return sum(map(len, self.tracks.values()))

    def refresh(self) -> None:
        """Summarize the bytes that the file has gained; all of it where it is not the file that was read."""
        status = read_status(self.path)
        if status is None:
            self.forget()
            return
        identity, count, end = (
            (status.st_dev, status.st_ino),
            status.st_size // 4,
            len(self.tracks[0]) * BLOCK * 4,
        )
        is_same = identity == self.identity and count * 4 >= end
        if end and not (is_same and read_range(self.path, end - len(self.tail), len(self.tail)) == self.tail):
            self.forget()
        if self.state != (status.st_size, status.st_mtime_ns):
            self.told = None
        self.identity, self.count, self.state = identity, count, (status.st_size, status.st_mtime_ns)
        self.extend(self.tracks[0])
        end = len(self.tracks[0]) * BLOCK * 4
        self.tail = read_range(self.path, max(0, end - TAIL_BYTES), min(end, TAIL_BYTES))

    def extend(self, track: Track) -> None:
        """Summarize the file's whole blocks that a track does not have yet."""
        whole = self.count // BLOCK * BLOCK
        track.extend(self.read(start, min(start + PIECE, whole)) for start in range(len(track) * BLOCK, whole, PIECE))

    def read(self, start: int, stop: int) -> Floats:
        """Return the losses of the steps from `start` to before `stop`, counted from 0."""
        content = read_range(self.path, start * 4, (stop - start) * 4)
        if len(content) < (stop - start) * 4:
            raise Truncated
        return np.frombuffer(content, "<f4").astype(np.float32, copy=False)

    def values(self, track: Track, start: int, stop: int) -> Floats:
        """Return the values of a track from step `start` to before `stop`."""
        if not track.half_life:
            return self.read(start, stop)
        kept = min(start // (STATE_BLOCKS * BLOCK), track.states.shape[1] - 1)
        begin = kept * STATE_BLOCKS * BLOCK
        state = (float(track.states[0, kept]), float(track.states[1, kept]))
        return smooth(self.read(begin, stop), track.half_life, state)[0][start - begin :]

    def curve(self, edges: Integers, half_life: float = 0, coarse: int = COARSE) -> Cells:
        """Return a cell for the steps between each two neighbouring `edges` (ascending, counted from 0).

        Where a cell has at least `coarse` blocks on average, its edges are moved to whole blocks.
        """
        if half_life not in self.tracks:
            self.tracks = {0: self.tracks[0], half_life: Track(half_life)}  # of smoothings, the last one is kept
        track = self.tracks[half_life]
        self.extend(track)
        edges = np.clip(edges, 0, self.count)
        start, stop = int(edges[0]), int(edges[-1])
        if stop - start < coarse * BLOCK * (len(edges) - 1):
            cuts = np.searchsorted(edges, np.arange(start, stop, REDUCED_AT_ONCE)).tolist()
            parts = itertools.pairwise(dict.fromkeys([0, *cuts, len(edges) - 1]))
            return join([self.merged(track, edges[first : last + 1]) for first, last in parts])
        whole = len(track)
        rest = single(self.values(track, whole * BLOCK, self.count))
        cells = join([*track.parts, merge(rest, np.array([0, len(rest)]))]) if len(rest) else track.cells
        snapped = np.where(edges == self.count, len(cells), (edges + BLOCK // 2) // BLOCK)
        return merge(cells, np.minimum(snapped, len(cells)))

    def merged(self, track: Track, edges: Integers) -> Cells:
        """Return a cell for the steps between each two neighbouring edges, of the values themselves."""
        return merge(single(self.values(track, int(edges[0]), int(edges[-1]))), edges - edges[0])

    def figures(self) -> dict[str, float | int | None]:
        """Return the counts, the first and last loss, and the extremes with their steps (counted from 1)."""
        if self.told is None:
            self.told = self.find_figures()
        return self.told

    def find_figures(self) -> dict[str, float | int | None]:
        """Read them."""
        whole = len(self.tracks[0])
        cells = join([*self.tracks[0].parts, single(self.read(whole * BLOCK, self.count))])
        found: dict[str, Any] = dict(zip(KINDS, map(int, cells.counts.sum(axis=1)), strict=True))
        found |= {"count": self.count, "low": None, "low_step": None, "high": None, "high_step": None}
        for name, step in (("first", 0), ("last", self.count - 1)):
            found[name] = float(self.read(step, step + 1)[0]) if self.count else None
        if not (np.isfinite(cells.low)).any():
            return found
        for name, values, choose in (("low", cells.low, np.nanargmin), ("high", cells.high, np.nanargmax)):
            cell = int(choose(values))
            start = cell * BLOCK if cell < whole else whole * BLOCK + cell - whole
            inside = single(self.read(start, start + BLOCK if cell < whole else start + 1)).low
            place = int(choose(inside))
            found |= {name: float(inside[place]), f"{name}_step": start + place + 1}
        return found


def csv_of(path: Path) -> Iterator[bytes]:
    """Give all losses as lines of "step,loss", piece by piece; each reads back as the same float32."""
    yield b"step,loss\n"
    start = 0
    while content := read_range(path, start * 4, CSV_STEPS * 4):
        values = np.frombuffer(content[: len(content) // 4 * 4], "<f4").astype(np.float32)
        if not len(values):
            return
        yield "".join(f"{step},{value}\n" for step, value in enumerate(values, start + 1)).encode()
        start += len(values)
