"""Keeps machine code in this account's cache, and executes it on a training's tensors.

    <cache>/compiled/<key>/steps.so      machine code, for this processor and this torch
                           steps.json    what it takes; the SHA-256 of the code

The key is a digest of all that the code depends on: the model's layers and their settings, the optimizer's, the shapes, torch,
the processor, the threads.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rushlight import files
from rushlight.data import CPU, Batch, cache_folder
from rushlight.device import cpu_name
from rushlight.training.engine.capture import Noise, Pieces, no_numbers
from rushlight.training.engine.fingerprint import constants_of, settings_of, source_of
from rushlight.training.engine.updates import Group, Rates
from rushlight.training.step import step_generator

Layout = list[Any]  # shape, strides and dtype of a tensor
FORMAT = 4
KEPT = 64  # packages in the cache
MOST_CODE = 1 << 30  # bytes
CODE, CONTENT = "steps.so", "steps.json"
CACHE_VARIABLE = "RUSHLIGHT_COMPILED"


@dataclass(frozen=True)
class Package:
    """Machine code on the disk, and the layouts that it takes."""

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
    return cache_folder(CACHE_VARIABLE, "compiled")


def key_of(pieces: Pieces, takes: Sequence[Layout], count: int) -> str:
    """Return the digest of all that the code depends on; `takes` are the layouts of its batch."""
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


def laid_out(takes: Sequence[Layout], device: torch.device = CPU) -> list[Tensor]:
    """Return tensors of these layouts on a device, filled with zeros."""
    return [
        torch.empty_strided(shape, strides, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device).zero_()
        for shape, strides, dtype in takes
    ]


def with_channels_last(batch: Batch) -> Batch:
    """Return a batch whose images have the channels of a pixel next to each other in memory."""
    inputs, *rest = batch
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return batch
    _, channels, height, width = inputs.shape
    if channels == 1:  # only the strides differ: that is what convolutions go by
        return inputs.contiguous().as_strided(inputs.shape, (height * width, 1, width, 1)), *rest
    return inputs.contiguous(memory_format=torch.channels_last), *rest


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────


def find_package(key: str) -> Package | None:
    """Return the package of a key, if the cache has it whole and nobody else can have written it."""
    folder = compiled_folder() / key
    try:
        if not all(map(files.is_ours_alone, (folder.parent, folder, folder / CODE))):
            return None
        content = files.parse_json(files.read_bytes(folder / CONTENT, files.MOST_JSON))
        if hashlib.sha256(files.read_bytes(folder / CODE, MOST_CODE)).hexdigest() != content["code_sha256"]:
            return None
        samples, targets = content["takes"]
        return Package(key, content["count"], tuple(Noise(**each) for each in content["noise"]), (samples, targets))
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
    """Keep the `KEPT` newest folders of the cache, also those that other processes write now."""
    entries = sorted(filter(Path.is_dir, compiled_folder().iterdir()), key=lambda path: path.stat().st_mtime)
    for path in entries[:-KEPT]:
        files.delete_folder(path)


# ── executing it ─────────────────────────────────────────────────────────────────────────────────────────────


class JoinedSteps:
    """Whole steps, several where they are short, that one call executes on a training's own tensors, in place."""

    def __init__(self, pieces: Pieces, key: str, count: int, takes: Sequence[Layout], draws: bool) -> None:
        self.pieces, self.key, self.count = pieces, key, count
        self.draws = draws  # random numbers
        self.constants = constants_of(pieces.parts.optimizer)
        self.last_rates: list[Rates] = []  # that the numbers are for, unless these change with each step
        self.wanted = [(tuple(shape), tuple(strides), dtype) for shape, strides, dtype in takes]
        self.find()

    def find(self) -> None:
        """Look up the tensors again: loading a state replaces them."""
        state = self.pieces.parts.optimizer.state
        self.written = self.pieces.written()
        self.counters = [state[each.parameter]["step"] for each in self.pieces.trained if self.pieces.rule.counts]

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that are built in here."""
        return constants_of(self.pieces.parts.optimizer) == self.constants

    def takes(self, batch: Any) -> bool:
        """Tell whether samples and targets lie in memory as those that this was made for."""
        return all(
            tensor.shape == shape and tensor.stride() == strides and str(tensor.dtype) == dtype
            for tensor, (shape, strides, dtype) in zip(batch, self.wanted, strict=True)
        )

    def take(self, batch: Sequence[Tensor], rates: Sequence[Rates], seeds: Sequence[int]) -> tuple[Tensor, Any]:
        """Execute the steps on a batch; return the losses (count,) and the last outputs, which the next call may overwrite.

        `rates` are the learning rates of each step and group; `seeds` those of each step's random numbers.
        """
        raise NotImplementedError

    def numbers_of(self, rates: Sequence[Rates]) -> list[list[tuple[float, ...]]]:
        """Return the numbers that the next steps are computed with, by step and group."""
        groups = self.pieces.parts.optimizer.param_groups
        done = int(self.counters[0]) if self.counters else 0
        return [
            [self.numbers_for({**group, "lr": rate}, step) for group, rate in zip(groups, of_step, strict=True)]
            for step, of_step in enumerate(rates, done + 1)
        ]

    def numbers_for(self, group: Group, step: int) -> tuple[float, ...]:
        """Return the numbers of one step (from 1) and group."""
        return self.pieces.rule.numbers(group, step)


class CompiledSteps(JoinedSteps):
    """Executes the steps of a package."""

    def __init__(self, pieces: Pieces, package: Package) -> None:
        self.package = package
        self.runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(package.path), 1)
        self.each = len(package.noise) // package.count  # drawings in a step
        self.numbers = no_numbers(pieces, package.count)
        self.generator = step_generator(pieces.parts.device)
        super().__init__(pieces, package.key, package.count, package.takes, self.each > 0)

    def take(self, batch: Sequence[Tensor], rates: Sequence[Rates], seeds: Sequence[int]) -> tuple[Tensor, Any]:
        """Execute the steps on a batch; return the losses and the last outputs."""
        if self.counters or list(rates) != self.last_rates:
            self.numbers, self.last_rates = torch.tensor(self.numbers_of(rates), dtype=torch.float64), list(rates)
        noise: list[Tensor] = []
        for step, seed in enumerate(seeds if self.each else ()):
            self.generator.manual_seed(seed)
            noise += [each.draw() for each in self.package.noise[step * self.each : (step + 1) * self.each]]
        losses, outputs = self.runner.run([*self.written, self.numbers, *batch, *noise])
        if self.counters:
            torch._foreach_add_(self.counters, self.count)
        return losses, outputs
