"""Which device to train on, and what this machine can do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rushlight import files
from rushlight.errors import UsageError, first_line
from rushlight.texts import Note

CPUINFO = Path("/proc/cpuinfo")


def choose_device(name: str = "auto") -> tuple[torch.device, tuple[str, ...]]:
    """Return the device to use and the notes to say aloud.

    `auto` is CUDA, else XPU, else MPS, else the CPU; a GPU that this build of torch cannot use is named with the
    reason. A device asked for by name that cannot be used raises UsageError.
    """
    if name != "auto":
        return named_device(name), ()
    notes: list[str] = []
    for kind in ("cuda", "xpu", "mps"):
        if is_available(kind):
            reason = trial(torch.device(kind))
            if reason is None:
                return torch.device(kind), tuple(notes)
            notes.append(Note("device.gpu-unusable", name=device_name(torch.device(kind)), reason=reason))
    if torch.version.cuda and not notes and (reason := warning_of(torch.cuda.is_available)):
        notes.append(Note("device.gpu-unusable", name=nvidia_card() or "NVIDIA", reason=with_way_out(reason)))
    elif not torch.version.cuda and not notes and (card := nvidia_card()):
        notes.append(Note("device.gpu-without-cuda", name=card, torch=torch.__version__))
    return torch.device("cpu"), tuple(notes)


def nvidia_card() -> str:
    """Return the model of the first NVIDIA card whose driver is loaded; '' where none is."""
    models = (entry_of(card, "Model") for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")))
    return next(filter(None, models), "")


def named_device(name: str) -> torch.device:
    """Return the device called `name` ('cpu', 'cuda', 'cuda:1', 'mps', 'xpu'), tried before it is trusted."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError("unknown-device", name=name, available=", ".join(available_devices())) from error
    if device.type not in available_devices():
        raise UsageError("no-such-device", name=name, available=", ".join(available_devices()), torch=torch.__version__)
    reason = trial(device)
    if reason is not None:
        raise UsageError("device-unusable", name=name, reason=reason)
    return device


def available_devices() -> list[str]:
    """Return the kinds of device that torch says it has here."""
    return [kind for kind in ("cuda", "xpu", "mps") if is_available(kind)] + ["cpu"]


def is_available(kind: str) -> bool:
    """Ask torch whether it has such a device; its warnings about old drivers come out as notes, not as noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool((torch.backends.mps if kind == "mps" else getattr(torch, kind)).is_available())


def warning_of(ask: Callable[[], object]) -> str | None:
    """Return the first line of what torch warns of when it is asked; None where it does not."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ask()
    return first_line(told[0].message) if told and isinstance(told[0].message, Warning) else None


def with_way_out(reason: str) -> str:
    """Return why a card cannot be used, with what helps, where that is known."""
    is_known = {
        "too-old": reason.count("kernel image"), "driver": reason.count("driver"), "memory": reason.count("out of memory")
    }  # fmt: skip
    key = next((key for key, count in is_known.items() if count), None)
    if key is None:
        return reason
    return Note("device.with-way-out", reason=reason, way_out=Note(f"device.way-out.{key}"))


def trial(device: torch.device) -> str | None:
    """Run one small product on the device; return why that failed, or None when it worked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ones = torch.ones(8, 8, device=device)
            return None if float((ones @ ones).sum()) == 512.0 else Note("device.wrong-product")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return with_way_out(first_line(error))


def wait_for(device: torch.device) -> None:
    """Return when the device has finished its queued work; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return cpu_name()
    return device.type.upper()


def entry_of(file: Path, key: str) -> str:
    """Return the first value of a key in one of Linux's `key: value` files; '' where there is none."""
    if not file.is_file():
        return ""
    with files.explained(file):
        pairs = [line.partition(":") for line in file.read_text(errors="replace").splitlines()]
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


# ── the CPU ──────────────────────────────────────────────────────────────────────────────────────────────────


def cpu_name() -> str:
    """Return the processor's marketing name where the system tells it."""
    return entry_of(CPUINFO, "model name") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use (containers and `taskset` give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of main memory that can be used without swapping; 4 GiB where the system does not tell."""
    if available := entry_of(Path("/proc/meminfo"), "MemAvailable"):
        return int(available.split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30


def free_memory(device: torch.device) -> int:
    """Return the bytes of the device's memory that tensors can still have."""
    if device.type != "cuda":
        return available_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def keep_freed_memory(is_kept: bool = True) -> bool:
    """Let glibc's allocator keep what is freed for the next step, or give it back; return whether it does.

    By default it gives blocks of some megabytes back to the system at once, so each step's gradients are new pages that
    the kernel must first clear. Nothing is computed differently. Where the user has set up the allocator (MALLOC_…,
    GLIBC_TUNABLES), or there is no glibc, nothing is changed. A model that is divided gathers its units and lets them go
    all the time, and what is left of them lies scattered: that is given back.
    """
    is_set_up = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or is_set_up:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    size = 1 << 30 if is_kept else 1 << 16
    return all(library.mallopt(parameter, size) == 1 for parameter in (trim_threshold, mmap_threshold))


def give_back_memory() -> None:
    """Give what was freed back to the system, where the allocator is glibc's."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def cpu_features() -> dict[str, bool]:
    """Return which instruction sets that matter here the CPU has, as far as the system tells."""
    flags = entry_of(CPUINFO, "flags").split()
    names = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 bfloat16": "avx512_bf16", "AMX bfloat16": "amx_bf16"}
    return {name: flag in flags for name, flag in names.items()}


def precision_refusal(precision: str, device: torch.device) -> str | None:
    """Return why a precision would not be fast (or not work) on the device, or None when the hardware has it."""
    if precision == "float32" or (precision == "float16" and device.type == "cuda"):
        return None
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        found = {"name": device_name(device), "found": f"{major}.{minor}", "precision": precision}
        return None if major >= 8 else Note("device.compute-capability", **found)
    if precision != "bfloat16":
        return Note("device.for-cards", precision=precision)
    if device.type == "cpu":
        features = cpu_features()
        has_it = features["AVX-512 bfloat16"] or features["AMX bfloat16"]
        return None if has_it else Note("device.no-bfloat16", name=cpu_name())
    return None if device.type == "xpu" else Note("device.bfloat16-unsupported", device=device.type)


@contextlib.contextmanager
def products_in_tf32() -> Iterator[None]:
    """Have a card compute products of float32 with 10 bits of fraction (TF32, from compute capability 8.0), for a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def describe_card(device: torch.device) -> dict[str, Any]:
    """Return what an NVIDIA card has and can do, JSON-ready."""
    free, total = torch.cuda.mem_get_info(device)
    words = entry_of(Path("/proc/driver/nvidia/version"), "NVRM version").split()
    return {
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "card_memory_bytes": total,
        "card_memory_available_bytes": free,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": next((word for word in words if word[0].isdecimal()), ""),
        "tf32": precision_refusal("tf32", device) or "yes",
    }


def describe_environment() -> dict[str, Any]:
    """Return what this machine has and can do, JSON-ready: for `rushlight env`, environment.json and bug reports."""
    import numpy

    device, notes = choose_device("auto")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": str(device),
        "device_name": device_name(device),
        "devices": {kind: device_name(torch.device(kind)) for kind in available_devices()},
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cpu_features": [name for name, has_it in cpu_features().items() if has_it],
        "bfloat16": precision_refusal("bfloat16", device) or "yes",
        **(describe_card(device) if device.type == "cuda" else {}),
        "memory_available_bytes": available_memory(),
        "blas": "MKL" if torch.backends.mkl.is_available() else "other",  # type: ignore[no-untyped-call]
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "notes": list(notes),
    }
