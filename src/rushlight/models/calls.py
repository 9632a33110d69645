"""Calls a model with one input or with several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return `model(x)`, `model(*inputs)` of a tuple or list, or `model(**inputs)` of a dict."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if type(inputs) in (tuple, list) else model(inputs)
