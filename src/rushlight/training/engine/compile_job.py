"""Obtains machine code for steps: from the cache, or compiled where that will pay."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rushlight.data import Batch
from rushlight.runs import write_notice
from rushlight.texts import Note
from rushlight.training.engine.capture import pieces_of
from rushlight.training.engine.compiler import Compilation, start_compiling, why_not_here
from rushlight.training.engine.modes import Mode
from rushlight.training.engine.package import (
    CompiledSteps,
    JoinedSteps,
    Layout,
    Package,
    find_package,
    key_of,
    laid_out,
    layouts,
    with_channels_last,
)
from rushlight.training.engine.updates import rule_of
from rushlight.training.objective import held_parameters
from rushlight.training.recipe import steps_per_epoch
from rushlight.training.state import Training
from rushlight.training.step import Parts, has_images

COMPILE_SECONDS, LAYER_SECONDS = 8.0, 0.5  # that compiling is expected to cost, and for each layer with parameters
EXPECTED_GAIN = 0.5  # of the time left, that compiled steps are expected to save
IMAGES_GAIN = 0.3  # the same, where most of a step are convolutions
DECIDE_AFTER = 1.0  # seconds of training, for the time left to be known
SMALL_STEP = 5e6  # floating-point operations, about: below that, one call executes several steps
STEPS_TOGETHER = 8


class CompileJob:
    """Owns the search for machine code of a training's steps, and the process that compiles it."""

    name = "compiled"  # of the mode that it is for

    def __init__(self, training: Training, parts: Parts) -> None:
        self.training, self.parts, self.state = training, parts, training.state
        self.has_images = has_images(training.model)
        self.is_first = training.recipe.compile == "first"
        self.is_sought = self.is_over = False  # in the cache; at all
        self.process: Compilation | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the pace of the steps from here on."""
        self.began, self.first_step = time.perf_counter(), self.state["step"]

    def package(self, batch: Batch, joins: int) -> Package | None:
        """Return new machine code, or begin to compile it; `batch` is of an earlier step."""
        if self.process is not None:
            return self.poll(self.process)
        if (reason := self.why_not(batch)) is not None:
            self.give_up(reason)
            return None
        count = self.count_together(batch, joins)
        example = self.prepare(tuple(torch.cat([each] * count) for each in batch))
        if not self.is_sought:
            self.is_sought = True
            if (package := find_package(self.key(layouts(example), count))) is not None:
                self.is_over = True
                return package
        if not self.is_first and (time.perf_counter() - self.began < DECIDE_AFTER or not self.will_pay()):
            return None
        started = self.start(example, count, self.key(layouts(example), count))
        if isinstance(started, str):
            self.give_up(started, aloud=True)
            return None
        self.process = started
        return self.poll(started) if self.is_first else None

    def start(self, example: Sequence[Tensor], count: int, key: str) -> Compilation | str:
        """Begin to compile `count` steps on such samples and targets; or return why that cannot be."""
        try:
            return why_not_here() or start_compiling(pieces_of(self.parts), example, count, key)
        except OSError as error:  # no room for another process
            return str(error)

    def poll(self, process: Compilation) -> Package | None:
        """Return the package of the process; None while it is at work, or where it failed."""
        if self.is_first:
            self.training.events.message(Note("engine.compile.begun"))
        result = process.result(self.is_first)
        if result is None:
            return None
        self.process = None
        if isinstance(result, str):
            self.give_up(result, aloud=True)
            return None
        self.is_over = True
        return result

    def will_pay(self) -> bool:
        """Tell whether compiling will save more time than it costs; give up where it will not."""
        elapsed = time.perf_counter() - self.began
        steps = steps_left(self.training)
        is_known = math.isfinite(steps)  # else it is expected to take as many steps again as it has taken
        left = elapsed / max(self.state["step"] - self.first_step, 1) * (steps if is_known else self.state["step"])
        saved = left * (IMAGES_GAIN if self.has_images else EXPECTED_GAIN)
        cost = compile_seconds(self.parts.model)
        if saved < cost and is_known:
            self.give_up(Note("engine.compile.costs-more", saved=saved, left=left, cost=cost))
        return bool(saved >= cost)

    def why_not(self, batch: Batch) -> str | None:
        """Return why the steps of this training cannot be compiled; None where they can."""
        recipe, parts = self.training.recipe, self.parts
        if recipe.compile == "never":
            return Note("engine.compile.asked")
        if recipe.accumulate > 1 or self.state["micro_batch"] is not None:
            return Note("engine.compile.accumulates")
        if parts.skips_bad:
            return Note("engine.compile.checks-gradients")
        if rule_of(parts.optimizer) is None:
            return Note("engine.compile.no-rule", optimizer=type(parts.optimizer).__name__)
        if getattr(self.training.schedule.live, "cycle_momentum", False):
            return Note("engine.compile.momentum-moves")
        if len(batch) != 2 or not all(isinstance(each, Tensor) for each in batch):
            return Note("engine.compile.no-pairs")
        if self.has_images and not batch[0].is_contiguous():
            return Note("engine.compile.odd-images")
        counts = {float(kept["step"]) for kept in parts.optimizer.state.values() if "step" in kept}
        trained = [each for each in held_parameters(parts.optimizer) if each.requires_grad]
        is_partial = len(counts) > 1 or any(each.grad is None for each in trained)
        return Note("engine.compile.partial-updates") if is_partial else None

    def give_up(self, reason: str, aloud: bool = False) -> None:
        """Search no further; note why, and tell it `aloud` or to whoever asked for compiled steps."""
        self.is_over = True
        notice = Note("engine.compile.were-not-compiled", reason=reason)
        write_notice(self.training.folder, self.state["step"], notice)
        self.tell(reason, aloud)

    def tell(self, reason: str, aloud: bool = False) -> None:
        """Tell why the steps are not compiled, `aloud` or to whoever asked for it."""
        if aloud or self.is_first:
            self.training.events.message(Note("engine.compile.not-compiled", reason=reason))

    def count_together(self, batch: Batch, joins: int) -> int:
        """Return how many steps to compile into one call: several, where a step is little work."""
        if self.has_images or self.training.schedule.by_step or joins < STEPS_TOGETHER:
            return 1  # a convolution's weights are used at every place: much work even with few of them
        operations = 6.0 * sum(each.numel() for each in self.parts.model.parameters()) * self.training.recipe.batch_size
        if batch[0].dim() > 2:  # likewise at every place of a sequence
            operations *= batch[0].shape[1]
        return STEPS_TOGETHER if operations <= SMALL_STEP else 1

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch in the layout of compiled steps: channels last for convolutions."""
        return with_channels_last(batch) if self.has_images else batch

    def key(self, takes: Sequence[Layout], count: int) -> str:
        """Return the key of this training's package for `count` steps in a call, on such layouts."""
        return key_of(pieces_of(self.parts), takes, count)

    def open(self, mode: Mode) -> JoinedSteps | None:
        """Return what executes the machine code of a mode; None where the cache has it no more."""
        package = find_package(mode.key)
        return None if package is None else CompiledSteps(pieces_of(self.parts), package)

    def open_recorded(self, mode: Mode) -> JoinedSteps | str:
        """Return the machine code of a recorded mode, compiled anew if lost; or why there is none."""
        if rule_of(self.parts.optimizer) is None or self.key(mode.takes, mode.count) != mode.key:
            return Note("engine.compile.something-else")
        if (compiled := self.open(mode)) is not None:
            return compiled
        if mode.products:
            return Note("engine.compile.earlier-release")
        self.training.events.message(Note("engine.compile.begun-again"))
        process = self.start(laid_out(mode.takes), mode.count, mode.key)
        result = process if isinstance(process, str) else process.result(waits=True)
        return result if isinstance(result, str) else self.open(mode) or Note("engine.compile.process-gone")

    def stop(self) -> None:
        """End the process that compiles, if it is at work: nobody can use what it would make."""
        if self.process is not None:
            self.process.stop()
            self.process = None


def compile_seconds(model: nn.Module) -> float:
    """Return about how many seconds a training loses while its steps are being compiled."""
    layers = sum(any(True for _ in module.parameters(recurse=False)) for module in model.modules())
    return COMPILE_SECONDS + LAYER_SECONDS * layers


def steps_left(training: Training) -> float:
    """Return how many steps are left to the end of the run; infinite where that is unknown."""
    steps = steps_per_epoch(training.data.train, training.recipe)
    return math.inf if steps is None else steps * training.recipe.epochs - training.state["step"]
