"""Why every step of a training must be executed exactly: what a faster mode would not notice, or would change."""

from __future__ import annotations

from typing import Any

from torch import nn

from rushlight.device import available_memory
from rushlight.training.checkpoint import random_streams
from rushlight.training.engine.exact import whole_steps_left
from rushlight.training.engine.fingerprint import hooks_in, is_step_hooked, settings_of, trained_of
from rushlight.training.state import Training
from rushlight.training.step import Parts

VERIFIED_BYTES = 100  # for each parameter: the states compared, and the reference in float64


def find_obstacle(training: Training) -> str | None:
    """Return why every step of this training must be executed exactly; None where it need not be."""
    if training.device.type != "cpu":
        return "faster modes are for the processor, up to now"
    if not isinstance(training.objective.loss, nn.Module):
        return "its loss is a function"
    if (hooks := find_hooks(training)) is not None:
        return hooks
    if whole_steps_left(training) + training.state["window"] < 1:
        return "an epoch has no whole batch"
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    is_large = parameters * VERIFIED_BYTES > available_memory() / 2
    return "verifying a faster mode would take more memory than there is" if is_large else None


def find_hooks(training: Training) -> str | None:
    """Return who is called in the midst of a step; None where nobody is."""
    hooked = next(hooks_in(training.model), None)
    if hooked is not None:
        return f"{hooked} has hooks"
    return "somebody has hooks on the optimizer's steps" if is_step_hooked(training.optimizer) else None


def settings_now(parts: Parts) -> dict[str, Any]:
    """Return digests of what may be changed between two epochs, or by a forward pass, unnoticed by a faster mode."""
    loss = parts.objective.loss
    return {
        "the model's settings": settings_of(parts.model, with_identity=True),
        "the loss's settings": settings_of(loss, with_identity=True) if isinstance(loss, nn.Module) else None,
        "which parameters are trained": trained_of(parts.optimizer),
    }


def side_effects(parts: Parts) -> dict[str, Any]:
    """Return digests of all that a step must leave as it is, for a faster mode to be possible."""
    loss, streams = parts.objective.loss, random_streams()
    versions = [buffer._version for buffer in loss.buffers()] if isinstance(loss, nn.Module) else []
    return {**settings_now(parts), "buffers": versions, "streams": repr((streams["python"], streams["numpy"]))}


def obstacle_in(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Return what a step has done that no other mode would do: `side_effects` before and after it."""
    if any(after[name] != value for name, value in before.items() if name != "streams"):
        return "the model or its loss changes its own attributes when it is called"
    if after["streams"] != before["streams"]:
        return "the model's forward pass draws from Python's or NumPy's random numbers"
    return None
