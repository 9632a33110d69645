"""Averages of the weights, with which a model is tested and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.errors import UsageError
from rushlight.training.objective.optimizers import held_parameters


class Average:
    """Averages the parameters that train, as torch's AveragedModel does: the first weights are copied. Buffers stay the model's own.

    With `decay`, after every step of the optimizer: v ← decay · v + (1 − decay) · w; evaluations and the end have this average.
    Without, the mean of all weights that `update` was called with, each counting the same: v ← v + (w − v) / (n + 1) (Izmailov
    et al. 2018, arXiv:1803.05407); only the end has it, since BatchNorm's statistics are to be taken anew then.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float | None) -> None:
        held = set(map(id, held_parameters(optimizer)))
        self.parameters = {
            name: each for name, each in model.named_parameters() if each.requires_grad or id(each) in held
        }
        self.values = copied_weights(self.parameters)
        self.decay, self.count, self.is_by_step = decay, 0, decay is not None
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

    def train(self) -> None:
        """Training has the model's own weights anyway."""

    def load_into_model(self) -> None:
        """Give the model the averaged weights, where there are any."""
        give_weights(self.parameters, self.values if self.count else {})

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the model have the averaged weights for a block, where evaluations do, and its own bits again after it."""
        own = copied_weights(self.parameters) if self.is_by_step else {}
        try:
            if self.is_by_step:
                self.load_into_model()
            yield
        finally:
            give_weights(self.parameters, own)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: "values" are what a model in the making is tested with."""
        return {"values" if self.is_by_step else "equal": self.values, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        saved = state["values" if self.is_by_step else "equal"]
        for name, value in self.values.items():
            value.copy_(saved[name])
        self.count = state.get("count", 1 if state.get("is_begun") else 0)  # earlier checkpoints did not count


class Switched:
    """The weights of an optimizer that trains others than those to use, as schedule-free ones do: its `train()` and `eval()` switch.

    Training has the first, evaluations, the end and a model in the making the second; a checkpoint has both.
    """

    is_by_step = True

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        held = set(map(id, held_parameters(optimizer)))
        self.parameters = {name: each for name, each in model.named_parameters() if id(each) in held}
        self.optimizer, self.is_training = optimizer, False

    def train(self) -> None:
        """Switch to the weights to train."""
        self.optimizer.train()
        self.is_training = True

    def load_into_model(self) -> None:
        """Switch to the weights to use."""
        self.optimizer.eval()
        self.is_training = False

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Switch for a block, and until training goes on, as the plain loop does; where the block fails, every bit is as it was."""
        own = copied_weights(self.parameters)
        try:
            self.load_into_model()
            yield
        except BaseException:
            self.train()
            give_weights(self.parameters, own)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the weights to use, and which are in force; no bit changes."""
        own, was_training = copied_weights(self.parameters), self.is_training
        if was_training:
            self.load_into_model()
        values = copied_weights(self.parameters)
        if was_training:
            self.train()
            give_weights(self.parameters, own)
        return {"values": values, "is_training": was_training}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Note which weights the restored model and optimizer have."""
        self.is_training = state["is_training"]


def averaging(model: nn.Module, optimizer: Optimizer, ema: float | None, swa: int | None) -> Average | Switched | None:
    """Return what keeps the weights that a model is tested and saved with, where these are not those in training.

    Raises UsageError for an average of a schedule-free optimizer's weights, which are one already.
    """
    is_switched = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
    if is_switched and (option := "ema" if ema is not None else "swa" if swa is not None else None):
        raise UsageError("average-of-schedule-free", option=option, optimizer=type(optimizer).__name__)
    if is_switched:
        return Switched(model, optimizer)
    return None if ema is None and swa is None else Average(model, optimizer, ema)


def copied_weights(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the weights as they are now."""
    return {name: each.detach().clone() for name, each in parameters.items()}


@torch.no_grad()
def give_weights(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Give parameters these weights."""
    for name, value in values.items():
        parameters[name].copy_(value)


def averaged(state: dict[str, Tensor], average: dict[str, Any]) -> dict[str, Tensor]:
    """Return a model's state with the averaged weights of the same checkpoint in it."""
    return {**state, **average.get("values", {})}
