"""What a training takes of its machine, for the board: `machine.jsonl`, a line every ten seconds.

{"epoch", "step", "time", "values": {"machine/processor": cores that this process keeps busy, "machine/load": of all processes,
 "machine/memory": GB of this process, "machine/free": GB that are left, and "machine/gpu-memory", "machine/temperature" (°C)
 where known}}
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rushlight import files
from rushlight.device import available_memory, entry_of
from rushlight.errors import StorageError
from rushlight.events import Event
from rushlight.runs import json_line

MACHINE = "machine.jsonl"
EVERY = 10.0  # seconds
MOST_OF_A_LINE = 1 << 12  # bytes
STATUS = Path("/proc/self/status")
ZONE = Path("/sys/class/thermal/thermal_zone0/temp")


def machine_lines(folder: Path) -> Callable[[Event], None]:
    """Return the follower that writes a line where the last one is old enough."""
    due, spent, since = 0.0, 0.0, 0.0

    def write(event: Event) -> None:
        nonlocal due, spent, since
        if event.kind != "progress" or (now := time.monotonic()) < due:
            return
        used = sum(os.times()[:2])
        values = {"machine/processor": (used - spent) / (now - since)} if since else {}
        due, spent, since = now + EVERY, used, now
        data = event.data
        step = data["step"] + (data["epoch"] - 1) * (data["steps"] or 0)
        line = {"epoch": data["epoch"], "step": step, "time": event.time, "values": values | figures()}
        with contextlib.suppress(StorageError):  # a line less
            files.append_bytes(folder / MACHINE, json_line(line))

    return write


def figures() -> dict[str, float]:
    """Return what can be read at once; nothing waits for a device."""
    found = {"machine/free": available_memory() / 1e9}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found["machine/load"] = os.getloadavg()[0]
    if memory := entry_of(STATUS, "VmRSS"):
        found["machine/memory"] = int(memory.split()[0]) * 1024 / 1e9
    with contextlib.suppress(OSError, ValueError):
        found["machine/temperature"] = int(files.read_bytes(ZONE, MOST_OF_A_LINE)) / 1000
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["machine/gpu-memory"] = torch.cuda.memory_reserved() / 1e9
    return found
