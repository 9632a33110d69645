"""`rushlight env`."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len

import rushlight
from rushlight.console import print_json, print_lines
from rushlight.device import describe_environment
from rushlight.formats import format_bytes
from rushlight.texts import shown, text

ENTRIES = (
    "rushlight", "python", "platform", "torch", "numpy", "device", "device_name", "devices", "cpu", "cores", "threads",
    "cpu_features", "bfloat16", "tf32", "compute_capability", "card_memory_bytes", "card_memory_available_bytes", "driver",
    "cuda", "cudnn", "memory_available_bytes", "blas", "onednn",
)  # fmt: skip


def show_environment(as_json: bool) -> None:
    """Print what this machine has and can do."""
    found = {"rushlight": rushlight.__version__, **describe_environment()}
    if as_json:
        print_json(found)
        return
    labels = {key: text(f"console.environment.{key.replace('_', '-')}") for key in ENTRIES if key in found}
    width = max(map(cell_len, labels.values()))
    for key, label in labels.items():
        print_lines(f"{label}{' ' * (width - cell_len(label))}  {as_text(key, found[key])}")
    for note in found["notes"]:
        print_lines(f"{text('console.note')} {shown(note)}")


def as_text(key: str, value: Any) -> str:
    """Return a value as a person reads it."""
    if key.endswith("_bytes"):
        return format_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{kind} ({name})" for kind, name in value.items())
    if isinstance(value, list):
        return ", ".join(value) or text("console.environment.no-features")
    if isinstance(value, bool):
        return text("console.environment.yes" if value else "console.environment.no")
    return shown(value) if isinstance(value, str) else str(value)
