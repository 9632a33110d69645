"""A trace of some steps by torch's profiler: every operator with its time, for a viewer of Chrome traces."""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rushlight.training.profile.figures import PARTS, Operator

RANGE = "rushlight: "  # what the names of our own ranges begin with
LOG_LEVEL = "KINETO_LOG_LEVEL"  # of the library below torch's profiler, which otherwise writes to standard error


class Trace:
    """Owns torch's profiler while it runs, and the range of the part of the step that is being done."""

    def __init__(self, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU]
        if device.type in ("cuda", "xpu"):
            activities.append(getattr(ProfilerActivity, device.type.upper()))
        self.is_on_device = len(activities) > 1
        self.times_operators = self.is_on_device or device.type == "cpu"
        self.profiler = profile(activities=activities)
        self.range: Any = None

    def start(self) -> None:
        """Begin to record. Raises RuntimeError where another profiler is at work: this one would end it."""
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            raise RuntimeError("another profiler is at work")
        is_ours = LOG_LEVEL not in os.environ
        os.environ.setdefault(LOG_LEVEL, "99")  # it is read when the first profiler of a process starts
        try:
            self.profiler.start()
        finally:
            if is_ours:
                del os.environ[LOG_LEVEL]

    def enter(self, part: str | None) -> None:
        """Begin the range of a part, which ends that of the part before; None only ends it."""
        if self.range is not None:
            self.range.__exit__(None, None, None)
        self.range = None if part is None else record_function(RANGE + part)
        if self.range is not None:
            self.range.__enter__()

    def stop(self) -> None:
        """End the recording."""
        self.enter(None)
        self.profiler.stop()

    def write(self, path: Path) -> None:
        """Write all that was recorded as a Chrome trace."""
        self.profiler.export_chrome_trace(str(path))

    def operators(self, steps: int) -> tuple[Operator, ...]:
        """Return the operators of the `steps` steps recorded, by part, with their calls and their own seconds per step.

        On a GPU their seconds are the GPU's; none are known on a device that torch's profiler does not time (MPS).
        """
        if not self.times_operators:
            return ()
        events = [event for event in self.profiler.events() if event.device_type.name == "CPU"]  # type: ignore[no-untyped-call]
        part_at = parts_by_time(events)
        found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for event in filter(is_operator, events):
            part = part_at(event.time_range.start)
            if part is not None:
                found[event.name, part][0] += 1
                found[event.name, part][1] += (
                    event.self_device_time_total if self.is_on_device else event.self_cpu_time_total
                )
        return tuple(
            Operator(name, part, calls / steps, microseconds * 1e-6 / steps)
            for (name, part), (calls, microseconds) in found.items()
        )


def is_operator(event: Any) -> bool:
    """Tell whether an event is an operator: "aten::mm", "torchvision::nms", and none of autograd's own records."""
    return "::" in event.name and "autograd::" not in event.name and not event.is_user_annotation


def parts_by_time(events: list[Any]) -> Any:
    """Return the function that tells in which of our ranges a moment lies: backward passes may run in other threads."""
    ranges = sorted(our_ranges(events))
    starts = [start for start, _, _ in ranges]

    def part_at(moment: float) -> str | None:
        place = bisect.bisect_right(starts, moment) - 1
        return ranges[place][2] if place >= 0 and moment <= ranges[place][1] else None

    return part_at


def our_ranges(events: list[Any]) -> Iterator[tuple[float, float, str]]:
    """Give the start, the end and the part of each of our ranges."""
    for event in events:
        part = event.name.removeprefix(RANGE)
        if event.name != part and part in PARTS:
            yield event.time_range.start, event.time_range.end, part
