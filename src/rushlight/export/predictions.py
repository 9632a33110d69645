"""From raw inputs to named answers: read, check, prepare as in training, run the model, put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rushlight.data import FeatureSpec, TargetSpec, owned
from rushlight.errors import ModelError, UsageError
from rushlight.export.inputs import Array, batched, open_inputs, stored
from rushlight.models import as_figures, eval_mode, main_output


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about n samples.

    classification: `labels` are n class names, `probabilities` (n, classes) float32, of a float64 model float64.
    binary:         the same with two classes.
    multilabel:     `probabilities` (n, labels) are each label's own; `labels` joins with ", " those above 0.5.
    regression:     `values` is (n, width) of the same, in the units of the training data.

    Where each place of a sample has a target, `labels` are `(n, *places)` and `probabilities` `(n, classes, *places)`, or
    `values` as many as the model gives. Where only an objective or a loss of the user's own knows what the outputs mean, `values` are
    the outputs as they are.
    """

    labels: Array | None
    probabilities: Array | None
    values: Array | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self._numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the probabilities, or the values of a regression, for `np.asarray(predictions)`."""
        return np.array(self._numbers, dtype=dtype, copy=copy)

    @property
    def _numbers(self) -> Array:
        numbers = self.values if self.probabilities is None else self.probabilities
        assert numbers is not None
        return numbers

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return for every sample its k likeliest classes with their probabilities, the likeliest first; of places their mean."""
        if self.probabilities is None:
            raise UsageError("no-probabilities")
        shares = self.probabilities
        if shares.ndim > 2:
            shares = shares.reshape(*shares.shape[:2], -1).mean(axis=2)
        ranked = np.argsort(-shares, axis=1, kind="stable")[:, : max(k, 0)]
        return [
            [(self.classes[index], float(row[index])) for index in order]
            for row, order in zip(shares, ranked, strict=True)
        ]


def predict(
    model: nn.Module, inputs: Any, features: FeatureSpec, target: TargetSpec | None, *, batch_size: int = 512
) -> Predictions:
    """Return what the model says about `inputs`, prepared as in training; the model's modes are left as they were.

    `inputs` is a NumPy array, a tensor or a nested list of raw values as stored (images: (n, H, W), (n, H, W, C) or
    (n, C, H, W) in uint8); for images also a path, a PIL image, or a list of these; for tables also a CSV or Parquet
    path, a DataFrame, a dict of columns, a list of dicts; for any an `.npy` path. A single sample without the batch
    dimension is a batch of one; no samples give an empty result. float32 arrays reach the model without a copy.

    Raises DataError for inputs of another shape or dtype and for values that are not finite; ModelError when the model
    does not answer as `target` says.
    """
    raw = batched(open_inputs(inputs, features), features)
    device = device_of(model)
    parts = []
    with eval_mode(model), torch.no_grad():
        for first in range(0, len(raw), batch_size):
            batch = owned(stored(raw[first : first + batch_size], features, first)).to(device)
            outputs = check_answers(main_output(model(features.prepare(batch))), len(batch), target)
            parts.append(in_words(outputs, target).cpu())
            bad = torch.isnan(parts[-1]).flatten(1).any(dim=1)
            if bad.any():  # a label picked from NaN would be made up
                raise ModelError("predict-broken-model", sample=first + int(bad.nonzero()[0]))
    if parts:
        numbers = torch.cat(parts).numpy()
    else:
        width = 0 if target is None else max(target.outputs, len(target.classes))  # binary: one output, two classes
        numbers = np.zeros((0, width), np.float32)
    if target is None or not target.classes:
        return Predictions(None, None, numbers, ())
    return Predictions(name_labels(numbers, target), numbers, None, target.classes)


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's first parameter or buffer is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def check_answers(outputs: Any, samples: int, target: TargetSpec | None) -> Tensor:
    """Return the outputs as `as_figures` does, (samples, target.outputs) for rows; raises ModelError when they are anything else."""
    if isinstance(outputs, Tensor) and outputs.dim() and len(outputs) == samples:
        rows: Tensor = outputs[:, None] if outputs.dim() == 1 else outputs
        if are_as_saved(rows, target):
            return as_figures(rows)
    found = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    wanted = 1 if target is None else target.outputs
    what = "values" if target is None or target.task == "regression" else "classes"
    raise ModelError("predict-outputs", found=found, samples=samples, outputs=wanted, what=what)


def are_as_saved(outputs: Tensor, target: TargetSpec | None) -> bool:
    """Tell whether outputs have the shape that `target` says; any where nothing is known of them."""
    if target is None or target.task == "other":
        return True
    if target.layout == "dense":
        return target.task != "classification" or outputs.shape[1] == target.outputs
    return outputs.shape[1:] == (target.outputs,)


def in_words(outputs: Tensor, target: TargetSpec | None) -> Tensor:
    """Return probabilities (n, classes, …), a regression's values in the data's units, or what nobody can read as it is."""
    if target is None:
        return outputs
    if target.task != "binary":
        return target.decoded(outputs)
    outputs = outputs if target.layout != "dense" else outputs.unsqueeze(1)
    if target.gives == "probabilities":
        return torch.cat([1 - outputs, outputs], dim=1)
    return torch.cat([(-outputs).sigmoid(), outputs.sigmoid()], dim=1)


def name_labels(probabilities: Array, target: TargetSpec) -> Array:
    """Return a label for every sample, (n,) strings."""
    names: Sequence[str] = target.classes
    if target.task != "multilabel":
        labels: Array = np.array(names)[probabilities.argmax(axis=1)]
        return labels
    joined = [", ".join(names[index] for index in np.flatnonzero(row > 0.5).tolist()) for row in probabilities]
    return np.array(joined, dtype=str)
