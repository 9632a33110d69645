"""From a collated batch to what the model and the loss receive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rushlight.data.feed import Batch
from rushlight.data.shape.build import as_stored, check_same_dtype, dtype_name
from rushlight.data.spec import FeatureSpec, TargetSpec
from rushlight.texts import Note


class PrepareBatch:
    """Makes float32 inputs, and targets of the kind that the task's loss takes.

    With `features`, inputs are prepared as these say; without, they are as the user's dataset gives them. `numbers`
    gives each class of the dataset its number in `target`, where these differ. A class, so that it can be pickled.
    """

    def __init__(
        self, target: TargetSpec | None, features: FeatureSpec | None = None, numbers: Tensor | None = None
    ) -> None:
        self.target, self.features, self.numbers = target, features, numbers

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        if self.target is None:
            return batch
        inputs, targets = batch
        if self.features is not None:
            inputs = as_stored(inputs)
            check_same_dtype(Note("words.the-samples"), self.features.dtype, dtype_name(inputs))
            inputs = self.features.prepare(inputs)
        elif inputs.is_floating_point() or inputs.dtype == torch.uint8:
            inputs = inputs.float()
        if self.numbers is not None:
            targets = self.numbers[targets.long().flatten()]
        if self.target.task == "classification":
            return inputs, targets.long().flatten() if targets.dim() == 2 and targets.shape[1] == 1 else targets.long()
        targets = targets.float()
        targets = targets.unsqueeze(1) if targets.dim() == 1 else targets
        if self.target.mean:  # learnt on data kept in memory, whose targets are stored so
            targets = (targets - targets.new_tensor(self.target.mean)) / targets.new_tensor(self.target.std)
        return inputs, targets


class PrepareBinaryBatch:
    """Makes what `prepare` does, with targets as the binary task has them: float32 0 or 1, shape (n, 1)."""

    def __init__(self, prepare: Callable[[Batch], Batch]) -> None:
        self.prepare = prepare

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        inputs, targets = self.prepare(batch)
        return inputs, targets.float().reshape(-1, 1)
