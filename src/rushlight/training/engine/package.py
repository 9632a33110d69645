"""Machine code for steps, kept in this account's cache.

    <cache>/compiled/<key>/steps.so      machine code, for this processor and this torch
                           steps.json    what it takes; the SHA-256 of the code

The key is a digest of all that the code depends on: the model's layers and their settings, the optimizer's, the shapes, torch,
the processor, the threads.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rushlight import files
from rushlight.data import cache_folder
from rushlight.device import cpu_name
from rushlight.training.engine.capture import Noise, Pieces
from rushlight.training.engine.fingerprint import settings_of, source_of

Layout = list[Any]  # shape, strides and dtype of a tensor
FORMAT = 4
KEPT = 64  # packages in the cache
CODE, CONTENT = "steps.so", "steps.json"
LEFTOVER_SECONDS = 86400.0  # what a killed process left in the cache is deleted after


@dataclass(frozen=True)
class Package:
    """Machine code on the disk, and what it takes."""

    key: str
    count: int  # steps in one call
    noise: tuple[Noise, ...]  # of all steps, in order
    takes: tuple[Layout, Layout]  # samples and targets of one call

    @property
    def path(self) -> Path:
        """Where the machine code is."""
        return compiled_folder() / self.key / CODE


def compiled_folder() -> Path:
    """Return where machine code is kept: RUSHLIGHT_COMPILED, or this account's cache folder."""
    return cache_folder("RUSHLIGHT_COMPILED", "compiled")


def key_of(pieces: Pieces, takes: Sequence[Layout], count: int) -> str:
    """Return the digest of all that the code depends on; `takes` are the layouts of the samples and targets of one call."""
    parts = pieces.parts
    groups = [
        {key: repr(value) for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
        for group in parts.optimizer.param_groups
    ]
    content = {
        "format": FORMAT, "count": count, "takes": takes, "tensors": layouts(pieces.written()),
        "names": [each.name for each in pieces.trained],
        "groups": groups, "group": [each.group for each in pieces.trained], "optimizer": type(parts.optimizer).__name__,
        "model": settings_of(parts.model), "loss": settings_of(pieces.loss), "code": source_of(parts.model, pieces.loss),
        "precision": parts.precision, "clip_norm": parts.clip_norm, "torch": torch.__version__, "python": sys.version,
        "processor": [cpu_name(), torch.backends.cpu.get_cpu_capability()], "threads": torch.get_num_threads(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def layouts(tensors: Sequence[Tensor]) -> list[Layout]:
    """Return shape, strides and dtype of each tensor, JSON-ready."""
    return [[list(tensor.shape), list(tensor.stride()), str(tensor.dtype)] for tensor in tensors]


def laid_out(takes: Sequence[Layout]) -> list[Tensor]:
    """Return tensors of these layouts, filled with zeros."""
    return [
        torch.empty_strided(shape, strides, dtype=getattr(torch, dtype.removeprefix("torch."))).zero_()
        for shape, strides, dtype in takes
    ]


def find_package(key: str) -> Package | None:
    """Return the package of a key, if it is in the cache and whole."""
    folder = compiled_folder() / key
    try:
        content = json.loads((folder / CONTENT).read_bytes())
        if hashlib.sha256((folder / CODE).read_bytes()).hexdigest() != content["code_sha256"]:
            return None
        noise = tuple(
            Noise(each["kind"], tuple(each["shape"]), tuple(each["strides"]), tuple(each["settings"]), each["dtype"])
            for each in content["noise"]
        )
        samples, targets = content["takes"]
        return Package(key, content["count"], noise, (samples, targets))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_package(folder: Path, code: bytes, count: int, noise: Sequence[Noise], batch: Sequence[Tensor]) -> None:
    """Write a package's files into its folder."""
    content = {
        "count": count, "noise": [asdict(each) for each in noise], "products": [], "takes": layouts(batch),
        "code_sha256": hashlib.sha256(code).hexdigest(),
    }  # fmt: skip
    files.write_new(folder / CODE, [code])
    files.write_new(folder / CONTENT, [json.dumps(content).encode()])


def forget_package(key: str) -> None:
    """Delete a package that turned out wrong."""
    files.delete_folder(compiled_folder() / key)


def tidy_cache() -> None:
    """Delete what killed processes left in the cache, and the packages that were made the longest ago."""
    entries = sorted(filter(Path.is_dir, compiled_folder().iterdir()), key=lambda path: path.stat().st_mtime)
    packages = [path for path in entries if (path / CONTENT).is_file()]
    is_old = time.time() - LEFTOVER_SECONDS
    left = [path for path in entries if path not in packages and path.stat().st_mtime < is_old]
    for path in [*left, *packages[: max(0, len(packages) - KEPT)]]:
        files.delete_folder(path)
