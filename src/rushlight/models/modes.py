"""The modes of a model's modules: training or evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a block, then every module back into the mode it was in.

    Without gradients it is to be used with `torch.no_grad`, not `inference_mode`: what a model keeps from a forward pass
    in inference mode (a cached mask, say) can never be trained with again.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
