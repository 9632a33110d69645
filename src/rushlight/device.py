"""Which device to train on, and what this machine can do."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.errors import UsageError

LEAST_USED = 0.75  # of the processor time that a measurement's threads could have had


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
            notes.append(
                f"{device_name(torch.device(kind))} is there but this torch cannot use it: {reason}. Using the CPU."
            )
    if not notes and (gpu := nvidia_gpu_without_cuda()):
        notes.append(f"{gpu}; this torch ({torch.__version__}) was built without CUDA. Using the CPU.")
    return torch.device("cpu"), tuple(notes)


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
        if kind == "mps":
            return torch.backends.mps.is_available()
        module = getattr(torch, kind, None)
        return bool(module is not None and module.is_available())


def trial(device: torch.device) -> str | None:
    """Run one small product on the device; return why that failed, or None when it worked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ones = torch.ones(8, 8, device=device)
            return None if float((ones @ ones).sum()) == 512.0 else "it computed a wrong product"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).strip().splitlines()[0]


def wait_for(device: torch.device) -> None:
    """Come back when the device has done all it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return cpu_name()
    return device.type.upper()


def nvidia_gpu_without_cuda() -> str | None:
    """Return a sentence about an NVIDIA GPU whose driver is loaded while torch has no CUDA, or None."""
    if torch.version.cuda is not None:
        return None
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    for card in cards:
        for line in card.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return f"This machine has an {line.removeprefix('Model:').strip()}"
    return None


# ── the CPU ──────────────────────────────────────────────────────────────────────────────────────────────────


def cpu_name() -> str:
    """Return the processor's marketing name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use (containers and `taskset` give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of main memory that can be used without swapping; 4 GiB where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed for the next step; return whether it does.

    By default it gives blocks of some megabytes back to the system at once, so each step's gradients are new pages that
    the kernel must first clear. Nothing is computed differently. Where the user has set up the allocator (MALLOC_…,
    GLIBC_TUNABLES), or there is no glibc, nothing is changed.
    """
    is_set_up = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or is_set_up:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return all(library.mallopt(parameter, 1 << 30) == 1 for parameter in (trim_threshold, mmap_threshold))


def cpu_features() -> dict[str, bool]:
    """Return which instruction sets that matter here the CPU has, as far as torch can tell."""
    flags = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    names = {
        "AVX2": "avx2",
        "AVX-512": "avx512f",
        "AVX-512 bfloat16": "avx512_bf16",
        "AMX bfloat16": "amx_bf16",
    }
    return {name: flag in flags for name, flag in names.items()}


def bfloat16_refusal(device: torch.device) -> str | None:
    """Return why bfloat16 would not be fast (or not work) on the device, or None when the hardware has it."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return (
            None if major >= 8 else f"{device_name(device)} has compute capability {major}.{minor}; bfloat16 needs 8.0"
        )
    if device.type == "cpu":
        features = cpu_features()
        has_it = features["AVX-512 bfloat16"] or features["AMX bfloat16"]
        return None if has_it else f"{cpu_name()} has neither AVX-512 bfloat16 nor AMX, so bfloat16 would be slower"
    return None if device.type == "xpu" else f"bfloat16 training on {device.type} is not supported"


@dataclass(frozen=True)
class Bfloat16Speed:
    """How long a forward and backward pass takes in bfloat16, as a multiple of its time in float32."""

    products: float
    convolutions: float
    threads: int  # of the processor, that it was measured on


def measure_bfloat16(device: torch.device, seconds: float = 1.0) -> Bfloat16Speed:
    """Measure in about `seconds` whether bfloat16 pays on a device that has it, run as training runs it: under autocast.

    The matrix products are those of Linear(512, 512) on 64 rows; the convolution is 3 by 3, from 32 to 32 channels, on 32
    images of 16 by 16 in channels_last. All four take turns, and the fastest passes are compared: what else the
    machine does can only make one slower. Where other programs take so much of the processor that torch's threads
    wait for each other, it is measured once more, on one thread. The random streams are left as they are.
    """
    with torch.random.fork_rng(devices=[]):
        linear, rows = nn.Linear(512, 512), torch.randn(64, 512)
        convolution, images = nn.Conv2d(32, 32, 3, padding=1), torch.randn(32, 32, 16, 16)
    in_channels_last: Any = {"memory_format": torch.channels_last}
    convolution, images = convolution.to(**in_channels_last), images.contiguous(**in_channels_last)
    works = [
        passes_of(layer.to(device), inputs.to(device).requires_grad_(), is_bfloat16)
        for layer, inputs in ((linear, rows), (convolution, images)) for is_bfloat16 in (False, True)
    ]  # fmt: skip
    threads = torch.get_num_threads()
    began, processor_began = time.perf_counter(), time.process_time()
    fastest = fastest_of(works, device, began + seconds)
    took, used = time.perf_counter() - began, time.process_time() - processor_began
    if device.type == "cpu" and threads > 1 and used < LEAST_USED * took * threads:
        try:
            torch.set_num_threads(1)
            fastest = fastest_of(works, device, time.perf_counter() + seconds)
        finally:
            torch.set_num_threads(threads)
        threads = 1
    return Bfloat16Speed(fastest[1] / fastest[0], fastest[3] / fastest[2], threads)


def passes_of(layer: nn.Module, inputs: Tensor, is_bfloat16: bool) -> Callable[[], None]:
    """Return the function that runs a layer forward and backward once."""
    precision = torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=is_bfloat16)
    with precision, torch.no_grad():
        gradient = torch.ones_like(layer(inputs))

    def passes() -> None:
        layer.zero_grad()
        inputs.grad = None
        with precision:
            outputs = layer(inputs)
        outputs.backward(gradient)

    return passes


def fastest_of(works: Sequence[Callable[[], None]], device: torch.device, deadline: float) -> list[float]:
    """Return the fewest seconds that each of some works takes, by turns until `deadline` (of `time.perf_counter`)."""
    fastest = [math.inf] * len(works)
    rounds = 0
    while rounds < 3 or time.perf_counter() < deadline:
        for index, work in enumerate(works):
            wait_for(device)
            began = time.perf_counter()
            work()
            wait_for(device)
            fastest[index] = min(fastest[index], time.perf_counter() - began)
        rounds += 1
    return fastest


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
        "bfloat16": bfloat16_refusal(device) or "yes",
        "memory_available_bytes": available_memory(),
        "blas": "MKL" if torch.backends.mkl.is_available() else "other",  # type: ignore[no-untyped-call]
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "notes": list(notes),
    }
