"""Executes optimizer steps: exactly, or in faster modes verified against the exact one."""

from rushlight.texts import text
from rushlight.training.checkpoint import Saver
from rushlight.training.engine.exact import ExactEngine
from rushlight.training.engine.protocol import Engine, Plan
from rushlight.training.state import Training
from rushlight.training.step import Parts


def open_engine(training: Training, parts: Parts, saver: Saver) -> Engine:
    """Return the engine that a recipe asks for; the exact one needs no other module here."""
    if training.world.is_shared:
        from rushlight.training.engine.shared import SharedEngine

        if training.recipe.compile == "first":
            training.events.message(text("engine.compile.not-compiled", reason=text("engine.exact.processes")))
        return SharedEngine(training, parts, saver)
    if training.recipe.numerics == "exact" or training.objective.step is not None:
        if training.recipe.compile == "first":
            training.events.message(text("engine.compile.not-compiled", reason=text("engine.exact.asked")))
        return ExactEngine(training, parts, saver)
    from rushlight.training.engine.fast import FastEngine

    return FastEngine(training, parts, saver)
