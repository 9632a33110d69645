"""From raw inputs to named answers: read, check, prepare as in training, run the model, put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rushlight.data import FeatureSpec, TargetSpec
from rushlight.errors import ModelError, UsageError
from rushlight.export.inputs import Array, batched, open_inputs, stored
from rushlight.models import eval_mode


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about n samples.

    classification: `labels` are n class names, `probabilities` (n, classes) float32.
    binary:         the same with two classes.
    multilabel:     `probabilities` (n, labels) are each label's own; `labels` joins with ", " those above 0.5.
    regression:     `values` is (n, width) float32, in the units of the training data.
    """

    labels: Array | None
    probabilities: Array | None
    values: Array | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self._numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the probabilities, or the values of a regression, for `np.asarray(predictions)`."""
        array = np.asarray(self._numbers, dtype=dtype)
        if copy is False and array is not self._numbers:
            raise ValueError("these predictions cannot be given in another dtype without a copy")
        return array.copy() if copy and array is self._numbers else array

    @property
    def _numbers(self) -> Array:
        numbers = self.values if self.probabilities is None else self.probabilities
        assert numbers is not None
        return numbers

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return for every sample its k likeliest classes with their probabilities, the likeliest first."""
        if self.probabilities is None:
            raise UsageError("no-probabilities")
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, : max(k, 0)]
        return [
            [(self.classes[index], float(row[index])) for index in order]
            for row, order in zip(self.probabilities, ranked, strict=True)
        ]


def predict(
    model: nn.Module,
    inputs: Any,
    features: FeatureSpec,
    target: TargetSpec,
    *,
    device: torch.device | None = None,
    batch_size: int = 512,
) -> Predictions:
    """Return what the model says about `inputs`, prepared as in training; the model's modes are left as they were.

    `inputs` is a NumPy array, a tensor or a nested list of raw values as stored (images: (n, H, W), (n, H, W, C) or
    (n, C, H, W) in uint8); for images also a path, a PIL image, or a list of these; for tables also a CSV or Parquet
    path, a DataFrame, a dict of columns, a list of dicts; for any an `.npy` path. A single sample without the batch
    dimension is a batch of one; no samples give an empty result. float32 arrays reach the model without a copy.

    `device` is where the model is; by default, where its first parameter is. Raises DataError for inputs of another
    shape or dtype and for values that are not finite; ModelError when the model does not answer as `target` says.
    """
    raw = batched(open_inputs(inputs, features), features)
    device = device or device_of(model)
    parts = []
    with eval_mode(model), torch.no_grad():
        for first in range(0, len(raw), batch_size):
            batch = stored(raw[first : first + batch_size], features, first).to(device)
            outputs = check_outputs(model(features.prepare(batch)), len(batch), target)
            parts.append(in_words(outputs, target).cpu())
            bad = torch.isnan(parts[-1]).any(dim=1)
            if bad.any():  # a label picked from NaN would be made up
                raise ModelError("predict-broken-model", sample=first + int(bad.nonzero()[0]))
    width = max(target.outputs, len(target.classes))  # binary has one output, and two classes
    numbers = torch.cat(parts).numpy() if parts else np.zeros((0, width), np.float32)
    if target.task == "regression":
        return Predictions(None, None, numbers, ())
    return Predictions(name_labels(numbers, target), numbers, None, target.classes)


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's first parameter or buffer is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def check_outputs(outputs: Any, samples: int, target: TargetSpec) -> Tensor:
    """Return the outputs as float32 (samples, target.outputs); raises ModelError when they are anything else."""
    if isinstance(outputs, Tensor) and target.outputs == 1 and outputs.shape == (samples,):
        outputs = outputs[:, None]
    if isinstance(outputs, Tensor) and outputs.shape == (samples, target.outputs):
        return outputs.float()
    found = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    what = "values" if target.task == "regression" else "classes"
    raise ModelError("predict-outputs", found=found, samples=samples, outputs=target.outputs, what=what)


def in_words(outputs: Tensor, target: TargetSpec) -> Tensor:
    """Return probabilities (n, classes) from logits, or a regression's values in the data's units."""
    if target.task == "regression":
        return target.in_units(outputs)
    if target.task == "classification":
        return outputs.softmax(dim=1)
    if target.task == "multilabel":
        return outputs.sigmoid()
    return torch.cat([(-outputs).sigmoid(), outputs.sigmoid()], dim=1)


def name_labels(probabilities: Array, target: TargetSpec) -> Array:
    """Return a label for every sample, (n,) strings."""
    names: Sequence[str] = target.classes
    if target.task != "multilabel":
        return np.array(names)[probabilities.argmax(axis=1)] if len(probabilities) else np.array([], dtype=str)
    joined = [", ".join(names[index] for index in np.flatnonzero(row > 0.5).tolist()) for row in probabilities]
    return np.array(joined, dtype=str)
