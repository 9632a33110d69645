"""From a collated batch to what the model and the loss receive."""

from __future__ import annotations

import torch
from torch import Tensor

from rushlight.data.feed import Batch
from rushlight.data.shape.build import as_stored, check_same_dtype, dtype_name
from rushlight.data.spec import FeatureSpec, TargetSpec, in_floats
from rushlight.texts import Note


class PrepareBatch:
    """Makes inputs in the dtype of the model, and targets of the kind that the task's loss takes.

    With `features`, inputs are prepared as these say; without, they are as the user's dataset gives them. Without `target`,
    targets are as the dataset gives them. `numbers` gives each class of the dataset its number in `target`, where these
    differ. A class, so that it can be pickled.
    """

    def __init__(
        self, target: TargetSpec | None, features: FeatureSpec | None = None, numbers: Tensor | None = None
    ) -> None:
        self.target, self.features, self.numbers = target, features, numbers

    def with_target(self, target: TargetSpec) -> PrepareBatch:
        """Return what prepares the same inputs with these targets."""
        return PrepareBatch(target, self.features, self.numbers)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch as the model and the loss receive it."""
        if self.target is None and self.features is None:
            return batch
        inputs, targets = batch
        if self.features is not None:
            inputs = as_stored(inputs, self.features.floats)
            check_same_dtype(Note("words.the-samples"), self.features.dtype, dtype_name(inputs))
            inputs = self.features.prepare(inputs)
        elif self.target is not None and (inputs.is_floating_point() or inputs.dtype == torch.uint8):
            inputs = in_floats(inputs, self.target.floats)
        if self.target is None:
            return inputs, targets
        if self.numbers is not None:
            targets = self.numbers.to(targets.device)[targets.long().flatten()]
        return inputs, self.target.for_loss(targets)
