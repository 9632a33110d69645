"""The exponential moving average of the weights, with which a model is tested and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Average:
    """Averages the parameters that train, after every step of the optimizer: v ← decay · v + (1 − decay) · w.

    The first step copies them, as torch's AveragedModel does. Buffers stay the model's own.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float) -> None:
        held = {id(each) for group in optimizer.param_groups for each in group["params"]}  # some may train later
        self.parameters = {
            name: each for name, each in model.named_parameters() if each.requires_grad or id(each) in held
        }
        self.values = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.decay, self.is_begun = decay, False
        self.hook = optimizer.register_step_post_hook(
            lambda *_: self.update()
        )  # so that every step is executed by itself

    def update(self) -> None:
        """Add the parameters as they are after a step."""
        weight = 1 - self.decay if self.is_begun else 1.0
        with torch.no_grad():
            torch._foreach_lerp_([*self.values.values()], [each.detach() for each in self.parameters.values()], weight)
        self.is_begun = True

    def load_into_model(self) -> None:
        """Give the model the averaged weights."""
        with torch.no_grad():
            for name, value in self.values.items():
                self.parameters[name].copy_(value)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the model have the averaged weights for a block, and its own bits again after it."""
        own = {name: each.detach().clone() for name, each in self.parameters.items()}
        try:
            self.load_into_model()
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    self.parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"values": self.values, "is_begun": self.is_begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        for name, value in self.values.items():
            value.copy_(state["values"][name])
        self.is_begun = state["is_begun"]


def averaged(state: dict[str, Tensor], average: dict[str, Any]) -> dict[str, Tensor]:
    """Return a model's state with the averaged weights of the same checkpoint in it."""
    return {**state, **average["values"]}
