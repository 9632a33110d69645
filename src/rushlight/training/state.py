"""The training state: one visible dict, and what it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from rushlight.data import Data, Held, Split
from rushlight.events import Events
from rushlight.runs import History
from rushlight.training.distributed import ALONE, Shards, World
from rushlight.training.objective import Average, Objective, Schedule, Switched
from rushlight.training.recipe import Recipe

State = dict[str, Any]  # the content of a checkpoint besides the model's, optimizer's and scheduler's own state


@dataclass(frozen=True)
class Origin:
    """Where a training that was begun earlier goes on from."""

    checkpoint: Path | None  # None: it was stopped before it wrote one
    goes_back: bool = False  # whether the checkpoint was asked for by name, newer ones or not
    differences: tuple[str, ...] = ()  # what changed that the bits depend on
    is_inexact: bool = False  # whether the user allowed other bits, for these or for what shows later
    settings: tuple[dict[str, tuple[Any, Any]], ...] = ()  # a live optimizer's that changed, by group: (then, now)


@dataclass(frozen=True)
class Training:
    """Everything one execution of a recipe works with; training changes `state` and the objects."""

    recipe: Recipe
    model: nn.Module
    data: Data
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    device: torch.device
    folder: Path
    history: History
    events: Events
    state: State
    conditions: dict[str, Any]  # what the bits depend on besides the recipe
    origin: Origin | None = None  # None: it is new
    held: Held = field(default_factory=Held)  # the state that model, loss and data hold besides tensors
    keep: tuple[Any, ...] = ()  # objects whose state is in the checkpoints besides
    scaler: GradScaler | None = None  # of the loss, where gradients in float16 would be too small to be told from 0
    average: Average | Switched | None = None  # of the weights, which are evaluated and saved then
    world: World = ALONE  # the processes that train it
    shards: Shards | None = None  # this process's rows of the model, where it is divided

    @property
    def chooses(self) -> bool:
        """Whether evaluations decide: when to stop, which weights are kept, the learning rate."""
        return self.recipe.keeps_best or self.schedule.plateau is not None

    @property
    def evaluated_name(self) -> str:
        """The split that every epoch is evaluated on, by name: validation if there is one, or test."""
        return "test" if self.data.validation is None else "validation"

    @property
    def evaluated(self) -> Split | None:
        """The split that every epoch is evaluated on; it decides early stopping, best and plateaus."""
        return self.data.splits.get(self.evaluated_name)


def new_state() -> State:
    """Return the state before the first step."""
    return {
        "epoch": 1,  # the epoch in training
        "window": 0,  # its steps that are done; the name is that of earlier checkpoints
        "step": 0,  # all steps that are done
        "loss_sum": 0.0,  # of this epoch, weighted
        "weight_sum": 0.0,
        "samples": 0,  # of this epoch
        "line_sum": 0.0,  # since the last line of history, weighted
        "line_weight": 0.0,
        "numbers": {},  # of this epoch, by name: [sum, weight] of what the user's objective told
        "seconds": 0.0,  # spent in training and evaluating this epoch
        "best": None,  # {"epoch", "step", "split", "name", "value", "loss"} of the best evaluation so far
        "epochs_since_best": 0,
        "micro_batch": None,  # samples at a time, where memory ran out for more
        "skipped": 0,  # steps left out one after the other, up to here
        "rollbacks": 0,  # of this epoch
        "ways": [],  # its execution modes, from which step on; the name is that of earlier checkpoints
        "obstacle": None,  # why every step from here on is executed exactly, where a step showed it
        "inexact": [],  # what a resume cannot restore, a sentence each
    }
