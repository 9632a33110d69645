"""`rushlight env`."""

from __future__ import annotations

from typing import Any

import rushlight
from rushlight.console import print_json
from rushlight.device import describe_environment
from rushlight.formats import format_bytes

ENTRIES = {
    "rushlight": "Rushlight", "python": "Python", "platform": "system", "torch": "PyTorch", "numpy": "NumPy", "device": "device",
    "device_name": "device name", "devices": "all devices", "cpu": "processor", "cores": "usable cores",
    "threads": "torch threads", "cpu_features": "CPU features", "bfloat16": "bfloat16 hardware",
    "memory_available_bytes": "free memory", "blas": "BLAS", "onednn": "oneDNN",
}  # fmt: skip


def show_environment(as_json: bool) -> None:
    """Print what this machine has and can do."""
    found = {"rushlight": rushlight.__version__, **describe_environment()}
    if as_json:
        print_json(found)
        return
    width = max(map(len, ENTRIES.values()))
    for key, label in ENTRIES.items():
        print(f"{label:<{width}}  {as_text(key, found[key])}")  # noqa: T201
    for note in found["notes"]:
        print(f"note: {note}")  # noqa: T201


def as_text(key: str, value: Any) -> str:
    """Return a value as a person reads it."""
    if key == "memory_available_bytes":
        return format_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{kind} ({name})" for kind, name in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none of AVX2, AVX-512, AMX"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
