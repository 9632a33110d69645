"""Executing compiled steps on a training's own tensors, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rushlight.training.engine.capture import Pieces, no_numbers
from rushlight.training.engine.fingerprint import constants_of
from rushlight.training.engine.package import Package


class CompiledSteps:
    """Executes the steps of a package on a training's own tensors, in place."""

    def __init__(self, pieces: Pieces, package: Package) -> None:
        self.pieces, self.package, self.key = pieces, package, package.key
        self.runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(package.path), 1)
        self.count = package.count
        self.each = len(package.noise) // package.count  # drawings in a step
        self.constants = constants_of(pieces.optimizer)
        self.last_rates: list[Sequence[float]] = []  # that `numbers` are for, unless they change with each step
        self.numbers = no_numbers(pieces, self.count)
        self.wanted = [(tuple(shape), tuple(strides), dtype) for shape, strides, dtype in package.takes]
        self.find()

    def find(self) -> None:
        """Look up the tensors again: loading a state puts others in their place."""
        optimizer = self.pieces.optimizer
        self.written = self.pieces.written()
        self.counters = [
            optimizer.state[each.parameter]["step"] for each in self.pieces.trained if self.pieces.rule.counts
        ]

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that are built in here."""
        return constants_of(self.pieces.optimizer) == self.constants

    def takes(self, batch: Any) -> bool:
        """Tell whether samples and targets lie in memory as those that this was compiled for."""
        return all(
            tensor.shape == shape and tensor.stride() == strides and str(tensor.dtype) == dtype
            for tensor, (shape, strides, dtype) in zip(batch, self.wanted, strict=True)
        )

    def take(
        self,
        batch: Sequence[Tensor],
        rates: Sequence[Sequence[float]],
        seeds: Sequence[int],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Execute `count` steps on the samples and targets of a batch; return the losses (count,) and the last outputs.

        `rates` are the learning rates of each step and group; `seeds` those of each step's random numbers.
        """
        if self.counters or list(rates) != self.last_rates:
            self.numbers, self.last_rates = torch.tensor(self.numbers_of(rates), dtype=torch.float64), list(rates)
        noise: list[Tensor] = []
        for step, seed in enumerate(seeds if self.each else ()):
            generator.manual_seed(seed)
            noise += [each.draw() for each in self.package.noise[step * self.each : (step + 1) * self.each]]
        losses, outputs = self.runner.run([*self.written, self.numbers, *batch, *noise])
        if self.counters:
            torch._foreach_add_(self.counters, self.count)
        return losses, outputs

    def numbers_of(self, rates: Sequence[Sequence[float]]) -> list[list[tuple[float, ...]]]:
        """Return the numbers that the next steps are computed with, by step and group."""
        rule, groups = self.pieces.rule, self.pieces.optimizer.param_groups
        done = int(self.counters[0]) if self.counters else 0
        return [
            [rule.numbers({**group, "lr": rate}, step) for group, rate in zip(groups, rates_of_step, strict=True)]
            for step, rates_of_step in enumerate(rates, done + 1)
        ]
