"""`rushlight env`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

import rushlight
from rushlight.console import print_json
from rushlight.device import Bfloat16Speed, bfloat16_refusal, describe_environment, measure_bfloat16
from rushlight.formats import format_bytes

PAYS = 0.9  # of the time in float32: what is less is worth having


def show_environment(as_json: bool) -> None:
    """Print what this machine has and can do; whether bfloat16 pays is measured, where the hardware has it."""
    found = {"rushlight": rushlight.__version__, **describe_environment()}
    device = torch.device(found["device"])
    speed = None if bfloat16_refusal(device) else measure_bfloat16(device)
    if as_json:
        print_json({**found, "bfloat16_measured": None if speed is None else asdict(speed)})
        return
    found["bfloat16_measured"] = "not measured: the hardware does not have it" if speed is None else verdict(speed)
    width = max(map(len, LABELS.values()))
    for key, label in LABELS.items():
        print(f"{label:<{width}}  {said(key, found[key])}")  # noqa: T201
    for note in found["notes"]:
        print(f"note: {note}")  # noqa: T201


LABELS = {
    "rushlight": "Rushlight",
    "python": "Python",
    "platform": "system",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "device": "device",
    "device_name": "device name",
    "devices": "all devices",
    "cpu": "processor",
    "cores": "usable cores",
    "threads": "torch threads",
    "cpu_features": "CPU features",
    "bfloat16": "bfloat16 hardware",
    "bfloat16_measured": "bfloat16",
    "memory_available_bytes": "free memory",
    "blas": "BLAS",
    "onednn": "oneDNN",
}


def said(key: str, value: Any) -> str:
    """Return a value as a person reads it."""
    if key == "memory_available_bytes":
        return format_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{kind} ({name})" for kind, name in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none of AVX2, AVX-512, AMX"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def verdict(speed: Bfloat16Speed) -> str:
    """Return whether training in bfloat16 pays, in words."""
    is_busy = speed.threads < torch.get_num_threads()
    when = "measured now, on one thread, since the machine is busy" if is_busy else "measured now"
    shares = {"matrix products": speed.products, "convolutions": speed.convolutions}
    gains = [name for name, share in shares.items() if share < PAYS]
    if len(gains) == 1:
        (gain,), (other,) = gains, shares.keys() - gains
        return (
            f"pays here for {gain} ({shares[gain]:.2f} of the time in float32), "
            f"not for {other} ({shares[other]:.2f}); {when}"
        )
    pays = "pays here" if gains else "does not pay here"
    products, convolutions = shares.values()
    return (
        f"{pays}: matrix products take {products:.2f} of the time in float32, convolutions {convolutions:.2f} ({when})"
    )
