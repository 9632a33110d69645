"""Predictions of batches as they are: a DataLoader's, or the inputs of a model of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rushlight.data import Batch, FeatureSpec, Floats, TargetSpec, as_inputs, has_several_inputs, owned, to_device
from rushlight.errors import ModelError
from rushlight.export.inputs import stored
from rushlight.export.predictions import Predictions, check_answers, device_of, in_words, name_labels
from rushlight.models import as_figures, call_model, eval_mode, floats_of, main_output


def predict_batches(
    model: nn.Module, source: Any, features: FeatureSpec | None, target: TargetSpec | None
) -> Predictions:
    """Return what the model says about the batches of a DataLoader, whose targets are left out, or about one batch of inputs.

    A tuple of inputs is given as `model(*inputs)`, a dict as `model(**inputs)`. Where nothing is known of the outputs they are
    `values` as they are: the logits of an answer that has them, else its first tensor.

    Raises ModelError when the model does not answer as `target` says.
    """
    device, floats, parts = device_of(model), floats_of(model), []
    is_loader = isinstance(source, DataLoader)
    with eval_mode(model), torch.no_grad():
        for batch in source if is_loader else [source]:
            inputs = without_targets(batch, features, target, floats) if is_loader else as_inputs(batch, floats)
            if features is not None and isinstance(inputs, Tensor):
                inputs = features.prepare(owned(stored(inputs.numpy(), features, 0)))
            outputs = outputs_of(call_model(model, to_device(inputs, device)), model)
            if target is not None:
                outputs = in_words(check_answers(outputs, len(outputs), target), target)
            parts.append(as_figures(outputs).cpu())
    if len({part.shape[1:] for part in parts}) > 1:  # sequences of several lengths
        numbers = np.empty(sum(map(len, parts)), dtype=object)
        numbers[:] = [row.numpy() for part in parts for row in part]
    else:
        numbers = torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32)
    if target is None or not target.classes:
        return Predictions(None, None, numbers, ())
    return Predictions(name_labels(numbers, target), numbers, None, target.classes)


def without_targets(batch: Batch, features: FeatureSpec | None, target: TargetSpec | None, floats: Floats) -> Any:
    """Return the inputs of a loader's batch: its first part of a pair, all but its last of several inputs, else all of it."""
    is_row = type(batch) in (tuple, list)
    if is_row and len(batch) == 2 and isinstance(batch[0], Tensor) and (features is not None or target is not None):
        return as_inputs(batch[0], floats) if features is None else batch[0]
    if target is not None and has_several_inputs(batch):
        inputs = batch[:-1]
        return as_inputs(inputs[0] if len(inputs) == 1 else tuple(inputs), floats)
    return as_inputs(batch, floats)


def outputs_of(answer: Any, model: nn.Module) -> Tensor:
    """Return an answer's outputs: itself, its logits, or the first tensor in it that has a row for each sample."""
    if isinstance(answer, Tensor) and answer.dim():
        return answer
    rows = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, (tuple, list)) else ()
    for found in (main_output(answer), *rows):
        if isinstance(found, Tensor) and found.dim():
            return found
    raise ModelError("predict-no-tensor", model=type(model).__name__, found=type(answer).__name__)
