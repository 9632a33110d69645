"""The last layer of a network: another one in its place, with another number of outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def replace_head(model: nn.Module, name: str, outputs: int, seed: int) -> None:
    """Put a new layer in the place of the Linear or convolution of this name, with `outputs` outputs and weights by `seed`.

    Its other settings, dtype and device stay. Raises AttributeError where the model has no such layer, TypeError for another kind.
    """
    layer: Any = model.get_submodule(name)
    if type(layer) not in HEADS:
        raise TypeError(type(layer).__name__)
    like = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(layer, nn.Linear):
            new: nn.Module = nn.Linear(layer.in_features, outputs, **like)
        else:
            settings = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
            new = type(layer)(layer.in_channels, outputs, **{key: getattr(layer, key) for key in settings}, **like)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new.train(layer.training))
