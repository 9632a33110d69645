"""Reads the loss that a model returns by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rushlight.data import Batch
from rushlight.errors import UsageError
from rushlight.models import call_model, main_output


def returned_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Return the loss that a model returns for a batch, as transformers' models do where labels are among them, and its logits.

    Raises UsageError where it returns none.
    """
    answer = call_model(model, batch)
    loss = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
    if not isinstance(loss, Tensor):
        raise UsageError("model-without-loss", model=type(model).__name__, found=type(answer).__name__)
    logits = main_output(answer)
    return loss, logits if isinstance(logits, Tensor) else None
