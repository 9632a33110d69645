"""Finds why every step of a training must be executed exactly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from torch import nn

from rushlight.device import free_memory
from rushlight.texts import Note
from rushlight.training.engine.exact import whole_steps_left
from rushlight.training.engine.fingerprint import is_step_hooked, settings_of
from rushlight.training.state import Training
from rushlight.training.step import Parts, hooks_in

VERIFIED_BYTES = 100  # for each parameter: the states compared, and the reference in float64


def find_obstacle(training: Training) -> str | None:
    """Return why every step of this training must be executed exactly; None if it need not."""
    if training.device.type not in ("cpu", "cuda"):
        return Note("engine.exact.device")
    if training.recipe.data.get("floats") == "float64":
        return Note("engine.exact.float64")
    if training.average is not None and training.average.is_by_step:
        return Note("engine.exact.averages")
    if training.scaler is not None:
        return Note("engine.exact.scaled-gradients")
    if not isinstance(training.objective.loss, nn.Module):
        return Note("engine.exact.function")
    if training.data.features is None:
        return Note("engine.exact.several-inputs")
    if any(parameter.requires_grad for parameter in training.objective.loss.parameters()):
        return Note("engine.exact.loss-parameters")
    if (hooks := find_hooks(training)) is not None:
        return hooks
    if whole_steps_left(training) + training.state["window"] < 1:
        return Note("engine.exact.no-whole-batch")
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    is_large = parameters * VERIFIED_BYTES > free_memory(training.device) / 2
    return Note("engine.exact.memory") if is_large else None


def find_hooks(training: Training) -> str | None:
    """Return whose hooks are called in the midst of a step; None where there are none."""
    hooked = next(hooks_in(training.model), None)
    if hooked is not None:
        return Note("engine.exact.model-hooks", name=hooked)
    return Note("engine.exact.optimizer-hooks") if is_step_hooked(training.optimizer) else None


def settings_now(parts: Parts) -> dict[str, Any]:
    """Return digests of settings that may change between epochs or in a step, by text key."""
    loss, groups = parts.objective.loss, parts.optimizer.param_groups
    return {
        "engine.exact.model-settings": settings_of(parts.model, with_identity=True),
        "engine.exact.loss-settings": settings_of(loss, with_identity=True) if isinstance(loss, nn.Module) else None,
        "engine.exact.trained-parameters": [
            (id(each), each.requires_grad) for group in groups for each in group["params"]
        ],
    }


def side_effects(parts: Parts) -> dict[str, Any]:
    """Return digests of all that a step must leave as it is, for a faster mode to be possible."""
    loss, stream = parts.objective.loss, np.random.get_state(legacy=False)
    versions = [buffer._version for buffer in loss.buffers()] if isinstance(loss, nn.Module) else []
    words = [word.tobytes() if isinstance(word, np.ndarray) else word for word in stream["state"].values()]
    return {**settings_now(parts), "buffers": versions, "streams": (random.getstate(), {**stream, "state": words})}


def obstacle_in(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Return why a step's side effects, before and after it, forbid other modes; None if not."""
    if any(after[name] != value for name, value in before.items() if name != "streams"):
        return Note("engine.exact.changes-itself")
    return Note("engine.exact.random-forward") if after["streams"] != before["streams"] else None
