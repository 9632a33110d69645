"""Averages of the weights, with which a model is tested and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Average:
    """Averages the parameters that train, as torch's AveragedModel does: the first weights are copied. Buffers stay the model's own.

    With `decay`, after every step of the optimizer: v ← decay · v + (1 − decay) · w; evaluations and the end have this average.
    Without, the mean of all weights that `update` was called with, each counting the same: v ← v + (w − v) / (n + 1) (Izmailov
    et al. 2018, arXiv:1803.05407); only the end has it, since BatchNorm's statistics are to be taken anew then.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float | None) -> None:
        held = {id(each) for group in optimizer.param_groups for each in group["params"]}  # some may train later
        self.parameters = {
            name: each for name, each in model.named_parameters() if each.requires_grad or id(each) in held
        }
        self.values = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.decay, self.count = decay, 0
        # a step that calls a hook is executed by itself
        self.hook = None if decay is None else optimizer.register_step_post_hook(lambda *_: self.update())

    def update(self) -> None:
        """Add the parameters as they are now."""
        values, now = [*self.values.values()], [each.detach() for each in self.parameters.values()]
        with torch.no_grad():
            if self.decay is not None or not self.count:
                torch._foreach_lerp_(values, now, 1 - self.decay if self.decay is not None and self.count else 1.0)
            else:
                torch._foreach_add_(values, torch._foreach_div(torch._foreach_sub(now, values), self.count + 1))
        self.count += 1

    def load_into_model(self) -> None:
        """Give the model the averaged weights, where there are any."""
        with torch.no_grad():
            for name, value in self.values.items() if self.count else ():
                self.parameters[name].copy_(value)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the model have the averaged weights for a block, where evaluations do, and its own bits again after it."""
        if self.decay is None:
            yield
            return
        own = {name: each.detach().clone() for name, each in self.parameters.items()}
        try:
            self.load_into_model()
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    self.parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: "values" are what a model in the making is tested with."""
        return {"values" if self.decay is not None else "equal": self.values, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        saved = state["values" if self.decay is not None else "equal"]
        for name, value in self.values.items():
            value.copy_(saved[name])
        self.count = state.get("count", 1 if state.get("is_begun") else 0)  # earlier checkpoints did not count


def averaged(state: dict[str, Tensor], average: dict[str, Any]) -> dict[str, Tensor]:
    """Return a model's state with the averaged weights of the same checkpoint in it."""
    return {**state, **average.get("values", {})}
