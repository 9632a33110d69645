"""The loss curves of some runs over one range of an axis, as bytes for the page.

The bytes are a header (its length as uint32, then JSON, filled up to 8 bytes), the places on the axis (float64), and for each run
the raw values at these places (float32), then, where they are asked for, the smoothed ones. All numbers are little-endian.
"""

from __future__ import annotations

import json
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight import files
from rushlight.board.axis import Axis, Clock, edges_of, place_of, step_at
from rushlight.board.series import COARSE, LEAST_SMOOTHED, Cells, Losses, Truncated

FEW = 32  # runs; of more, a step may be drawn beside its place by half a pixel column
COARSE_OF_MANY = 1  # blocks
MOST_SUMMARIES = 1_000_000  # in memory: of 128 million steps
SLOTS = np.array(
    [0.125, 0.375, 0.625, 0.875]
)  # where in a pixel column its first, lowest, highest and last value stand


@dataclass(frozen=True)
class View:
    """A range of an axis (None: as far as the runs reach), and how it is drawn."""

    axis: Axis
    low: float | None
    high: float | None
    columns: int
    half_life: float  # of the smoothing, in steps; 0 for none
    is_log: bool  # the axis of the steps
    is_log_y: bool = False  # values of 0 or less have no place


class Curves:
    """Reads losses, and keeps the summaries of the runs that were asked for last."""

    def __init__(self) -> None:
        self.losses: dict[Path, Losses] = {}  # the one asked for last stands last
        self.clocks: dict[Path, Clock] = {}
        self.lock = threading.Lock()

    def read(self, runs: dict[str, Path], view: View) -> bytes:
        """Return the curves of runs, given by id, as bytes."""
        with self.lock:
            for folder in runs.values():
                losses = self.losses.pop(folder) if folder in self.losses else Losses(folder / "losses.f32")
                self.losses[folder] = losses
            packed = None
            for _ in range(3):
                try:
                    packed = pack_points(*self.curves(runs, view))
                    break
                except Truncated:
                    continue
            self.forget(len(runs))
            return packed or pack_points({"runs": [], "slots": 1}, np.empty(0), [])

    def forget(self, asked: int) -> None:
        """Forget the runs that were asked for longest ago, where the summaries need too much memory."""
        while len(self.losses) > asked and sum(losses.size for losses in self.losses.values()) > MOST_SUMMARIES:
            oldest = next(iter(self.losses))
            self.clocks.pop(oldest, None)
            del self.losses[oldest]

    def curves(self, runs: dict[str, Path], view: View) -> tuple[dict[str, Any], NDArray[np.float64], list[Any]]:
        """Return the header, the places, and the values."""
        knots = {identity: self.refresh(folder, view.axis) for identity, folder in runs.items()}
        counts = {identity: self.losses[folder].count for identity, folder in runs.items()}
        ends = {run: float(place_of(np.array([float(counts[run])]), knots[run])[0]) for run in runs if counts[run]}
        first = 1.0 if view.axis == "step" else 0.0
        if view.is_log and view.axis != "step":
            first = min((float(place_of(np.ones(1), knots[run])[0]) for run in runs if counts[run]), default=0.0)
        low = first if view.low is None else view.low
        high = max([low, *ends.values()]) if view.high is None else max(view.high, low)
        edges, places, slots = grid(low, high, view)
        coarse = COARSE if len(runs) <= FEW else COARSE_OF_MANY
        header: dict[str, Any] = {"low": low, "high": high, "slots": slots, "axis": view.axis, "runs": []}
        arrays: list[Any] = []
        for identity, folder in runs.items():
            losses, known = self.losses[folder], knots[identity]
            steps = np.ceil(step_at(edges, known) - 1).astype(np.int64)  # loss 0 is that of step 1
            if identity in ends and edges[-1] >= ends[identity] * (1 - 1e-12):
                steps[-1] = losses.count
            cells = losses.curve(steps, coarse=coarse)
            is_smoothed = bool(view.half_life) and losses.count >= LEAST_SMOOTHED
            arrays.append(drawn_values(cells, slots))
            if is_smoothed:
                arrays.append(drawn_values(losses.curve(steps, view.half_life, coarse), slots))
            marked = cells.counts if view.is_log_y else cells.counts[:-1]
            bad = np.flatnonzero(marked.any(axis=0))
            header["runs"].append(
                {
                    "id": identity, "smoothed": is_smoothed, **files.without_nan(losses.figures()),
                    "marks": np.concatenate([bad[None], marked[:, bad]]).T.tolist(),
                    "knots": None if known is None else known.tolist(),
                }
            )  # fmt: skip
        return header, places, arrays

    def refresh(self, folder: Path, axis: Axis) -> NDArray[np.float64] | None:
        """Read what a run has new; return where its steps stand on the axis, None where steps are the axis."""
        self.losses[folder].refresh()
        if axis == "step":
            return None
        clock = self.clocks.setdefault(folder, Clock(folder))
        clock.refresh()
        return clock.knots(axis)


def grid(low: float, high: float, view: View) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the edges of the cells, the places of their values, and how many values a cell has.

    Where the range holds no more steps than the page draws points, each step is a cell of its own, at its own place.
    """
    if view.axis == "step" and high - low < view.columns * len(SLOTS):
        first, last = np.floor(low), np.ceil(high)
        return np.arange(first, last + 2), np.arange(first, last + 1), 1
    edges = edges_of(low, high, view.columns, view.is_log)
    places = edges[:-1, None] + np.diff(edges)[:, None] * SLOTS
    edges[-1] = np.nextafter(edges[-1], np.inf)  # the last step belongs to the last column
    return edges, places.reshape(-1), len(SLOTS)


def drawn_values(cells: Cells, slots: int) -> NDArray[np.float32]:
    """Return the values that are drawn of some cells, in the order of their places."""
    parts = (cells.first,) if slots == 1 else (cells.first, cells.low, cells.high, cells.last)
    return np.stack(parts, axis=1).reshape(-1).astype("<f4")


def pack_points(header: dict[str, Any], places: NDArray[np.float64], arrays: list[NDArray[np.float32]]) -> bytes:
    """Return the bytes that the page reads."""
    header = {**header, "places": len(places)}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-(len(content) + 4) % 8)
    return b"".join(
        [struct.pack("<I", len(content)), content, places.astype("<f8").tobytes(), *(a.tobytes() for a in arrays)]
    )
