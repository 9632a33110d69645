"""Calls a model with what a batch holds, and reads the loss that a model returns by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rushlight.data import Batch
from rushlight.errors import UsageError


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return `model(x)`, `model(*inputs)` of a tuple or list, or `model(**inputs)` of a dict."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    is_row = type(inputs) in (tuple, list)
    return model(*inputs) if is_row else model(inputs)


def returned_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss that a model returns for a batch, as transformers' models do where labels are among their inputs.

    Raises UsageError where it returns none.
    """
    answer = call_model(model, batch)
    loss = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
    if not isinstance(loss, Tensor):
        raise UsageError("model-without-loss", model=type(model).__name__, found=type(answer).__name__)
    return loss
