"""The last layer of a network, with another number of outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def replace_head(model: nn.Module, name: str, outputs: int, seed: int) -> None:
    """Give the Linear or convolution of this name `outputs` outputs, with new weights by `seed`; its other settings stay.

    Raises AttributeError where the model has no such layer, TypeError for one of another kind.
    """
    layer: Any = model.get_submodule(name)
    if type(layer) not in HEADS:
        raise TypeError(type(layer).__name__)
    layer.weight = nn.Parameter(layer.weight.new_empty(outputs, *layer.weight.shape[1:]))
    layer.bias = None if layer.bias is None else nn.Parameter(layer.bias.new_empty(outputs))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", outputs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer.reset_parameters()
