"""Calls a model with one input or with several."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return `model(x)`, `model(*inputs)` of a tuple or list, or `model(**inputs)` of a dict.

    A Keras model looks at its argument `training` and not at `model.training`, and would leave its dropout out: it is given it.
    """
    layer = getattr(sys.modules.get("keras"), "Layer", ())
    mode = {"training": model.training} if isinstance(model, layer) else {}
    if isinstance(inputs, Tensor):
        return model(inputs, **mode)
    if isinstance(inputs, Mapping):
        return model(**inputs, **mode)
    return model(*inputs, **mode) if type(inputs) in (tuple, list) else model(inputs, **mode)


def main_output(answer: Any) -> Any:
    """Return the tensor that a loss takes from a model's answer by names: its "logits", its "out", or the only one; else all.

    transformers' and torchvision's models name their outputs so.
    """
    if isinstance(answer, Mapping):
        found = answer.get("logits", answer.get("out", next(iter(answer.values())) if len(answer) == 1 else None))
    else:
        found = getattr(answer, "logits", None)
    return found if isinstance(found, Tensor) else answer


def floats_of(model: nn.Module | None) -> Literal["float32", "float64"]:
    """Return "float64" where all weights of a model are of that dtype, and "float32" else; None: one that torch is to build."""
    parameters = () if model is None else model.parameters()
    dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    return "float64" if (dtypes or {torch.get_default_dtype()}) == {torch.float64} else "float32"


def as_figures(outputs: Tensor) -> Tensor:
    """Return outputs as float32; those of float64 as they are."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()
