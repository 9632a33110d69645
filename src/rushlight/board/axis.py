"""Where a step stands on an axis: by its number, by epochs, or by the seconds of training, in which pauses do not count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rushlight.board.files import read_new_lines

Axis = Literal["step", "epoch", "time"]
BEGINNINGS = ("started", "resumed")
LAST_SECOND = 1e11


class Clock:
    """The epochs and times of one run, read as its history grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cursor = ""
        self.lines: list[tuple[float, float, float | None]] = []  # (time, step, epoch where one ends)
        self.steps_per_epoch: float | None = None

    def refresh(self) -> None:
        """Read the lines that are new."""
        before = None
        while before != self.cursor:
            before = self.cursor
            lines, self.cursor, is_anew = read_new_lines(self.folder / "history.jsonl", before)
            if is_anew:
                self.lines = []
            for line in lines:
                self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Add one line of history; what is no number is left out."""
        kind, time, step = line.get("kind"), number(line.get("time")), number(line.get("step"))
        if kind == "start":
            self.steps_per_epoch = number(line.get("steps_per_epoch"))
            self.lines.append((time or 0.0, 0.0, None))
        elif time is not None and step is not None:
            epoch = number(line.get("epoch")) if kind == "epoch" else None
            if kind == "steps" and len(self.lines) > 1 and self.lines[-1][2] is None:
                self.lines.pop()  # of the lines between two epochs, the last is enough
            self.lines.append((time, step, epoch))

    def knots(self, axis: Axis) -> NDArray[np.float64]:
        """Return (steps, places on the axis), both ascending; between two of them the axis is straight."""
        found = self.epoch_knots() if axis == "epoch" else self.time_knots()
        steps, places = np.array(found, np.float64).reshape(-1, 2).T
        return np.array([np.maximum.accumulate(steps), np.maximum.accumulate(places)])

    def epoch_knots(self) -> list[tuple[float, float]]:
        """Return the last step of each epoch with its number, and one step more beyond the last."""
        ends = [(0.0, 0.0), *((step, epoch) for _, step, epoch in self.lines if epoch is not None)]
        length = self.steps_per_epoch or (ends[-1][0] / ends[-1][1] if ends[-1][1] else None)
        return [*ends, (ends[-1][0] + length, ends[-1][1] + 1)] if length else ends

    def time_knots(self) -> list[tuple[float, float]]:
        """Return steps with the seconds of training until then."""
        begins = []
        for line in read_new_lines(self.folder / "sessions.jsonl")[0]:
            time, step = number(line.get("time")), number(line.get("step"))
            if time is not None and step is not None and line.get("event") != "notice":
                begins.append((time, step, line.get("event") in BEGINNINGS))
        events = sorted([*((time, step, False) for time, step, _ in self.lines), *begins])
        knots, seconds, before = [(0.0, 0.0)], 0.0, None
        for time, step, is_begin in events:
            if is_begin:  # what was trained beyond this step is trained again, and the pause does not count
                while len(knots) > 1 and knots[-1][0] > step:
                    knots.pop()
                seconds = knots[-1][1]
            elif before is not None:
                seconds += time - before
            before = time
            if step > knots[-1][0]:  # testing after a step does not move it
                knots.append((step, seconds))
        return knots


def number(value: Any) -> float | None:
    """Return a finite number that may be a step, an epoch or a time; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < LAST_SECOND:
        return None
    return float(value) if math.isfinite(value) else None


def edges_of(low: float, high: float, columns: int, is_log: bool) -> NDArray[np.float64]:
    """Return the edges of the pixel columns between two places on an axis."""
    if is_log:
        return np.geomspace(max(low, 1e-9), max(high, low, 1e-9), columns + 1)
    return np.linspace(low, high, columns + 1)


def step_at(places: NDArray[np.float64], knots: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the steps (from 0, not whole) at some places on an axis; beyond the last knot the last slope goes on."""
    return places if knots is None else extended(places, knots[1], knots[0])


def place_of(steps: NDArray[np.float64], knots: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the places of some steps on an axis."""
    return steps if knots is None else extended(steps, knots[0], knots[1])


def extended(
    values: NDArray[np.float64], known: NDArray[np.float64], image: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate; beyond the last known value, go on with the mean slope."""
    found: NDArray[np.float64] = np.interp(values, known, image)
    run = known[-1] - known[0]
    slope = (image[-1] - image[0]) / run if run > 0 else 0.0
    return np.where(values > known[-1], image[-1] + (values - known[-1]) * slope, found)
