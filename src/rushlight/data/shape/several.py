"""Batches of several inputs: (x, y, target), ({"a": x, "b": y}, target)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.feed import Batch, Split, changed
from rushlight.data.shape.to_model import PrepareBatch
from rushlight.data.spec import Floats, TargetSpec, in_floats


class PrepareInputs(PrepareBatch):
    """Makes (inputs, targets) of a batch whose last part is its targets; the inputs are a tuple, or the nest they are.

    Inputs of float64 become float32, where the weights are; targets are prepared as those of a single input.
    """

    def with_target(self, target: TargetSpec) -> PrepareInputs:
        """Return what prepares the same inputs with these targets."""
        return PrepareInputs(target, numbers=self.numbers)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        *inputs, targets = batch
        _, prepared = super().__call__((torch.empty(0), targets))
        assert self.target is not None
        return as_inputs(inputs[0] if len(inputs) == 1 else tuple(inputs), self.target.floats), prepared


def as_inputs(inputs: Any, floats: Floats) -> Any:
    """Return a nest of inputs with arrays as tensors, and its float32 and float64 numbers as `floats`."""
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
    if isinstance(inputs, Tensor):
        return in_floats(inputs, floats) if inputs.dtype in (torch.float32, torch.float64) else inputs
    return changed(inputs, lambda part: as_inputs(part, floats))


def group_split(split: Split, target: TargetSpec) -> Split:
    """Return a split whose batches of several inputs are (inputs, targets)."""
    grouped: Any = split
    prepared: Split = replace(grouped, prepare=PrepareInputs(target))
    return prepared


def has_several_inputs(sample: Any) -> bool:
    """Tell whether a sample or a batch is inputs and a target: (x, y, target), or a nest and a target."""
    if type(sample) not in (tuple, list) or len(sample) < 2:
        return False
    *inputs, target = sample
    is_target = isinstance(target, (Tensor, int, float)) or type(target).__module__ == "numpy"
    return is_target and (len(inputs) > 1 or isinstance(inputs[0], (dict, tuple, list)))
