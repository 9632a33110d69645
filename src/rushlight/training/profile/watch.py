"""Watching the first steps of a training: how long each part of them takes, while they train as always.

Nothing is computed twice and nothing is put back: what is measured are the run's own steps, so that it ends with the same
bits whether it is watched or not. Clocks are read where a part begins; the steps do not know.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import Batch, Feed, Split
from rushlight.device import bfloat16_refusal, usable_cores
from rushlight.errors import StorageError
from rushlight.texts import Note
from rushlight.training.checkpoint import random_streams, restore_random_streams
from rushlight.training.loop import Epoch
from rushlight.training.objective import Objective, make_objective
from rushlight.training.profile.clock import Stopwatch, phases
from rushlight.training.profile.figures import PARTS, Profile, Setting, profile_to_json
from rushlight.training.profile.trace import Trace
from rushlight.training.recipe import steps_per_epoch
from rushlight.training.state import Training

FOLDER, PROFILE, TRACE = "profile", "profile.json", "trace.json"
TRACES = 4  # begun, until there is one of nothing but ordinary steps


@dataclass
class Tally:
    """What some steps took together, in nanoseconds for each part."""

    steps: int = 0
    working: int = 0  # of it, on a processor
    laps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))

    def add(self, steps: int, laps: dict[str, int], working: int) -> None:
        """Count more steps."""
        self.steps += steps
        self.working += working
        for part, lap in laps.items():
            self.laps[part] += lap

    @property
    def seconds(self) -> float:
        """How long they took."""
        return sum(self.laps.values()) * 1e-9

    def means(self) -> dict[str, float]:
        """Return the seconds per step of each part."""
        return {part: lap * 1e-9 / self.steps for part, lap in self.laps.items()}


class WatchedFeed(Feed):
    """A feed that tells a watch when a batch is asked for, and when it came."""

    def __init__(self, feed: Feed, watch: Watch) -> None:
        self.feed, self.watch = feed, watch
        self.joins, self.ahead = feed.joins, feed.ahead

    def take(self, count: int = 1) -> Batch | None:
        """Return the feed's next batches."""
        self.watch.before_batch()
        batch = self.feed.take(count)
        if batch is None:
            self.watch.after_last_batch()
        else:
            self.watch.has_batch = True
            self.watch.stopwatch.switch("rest")
        return batch

    def close(self) -> None:
        """Close the feed."""
        self.feed.close()


class Watch:
    """Owns what the watched steps took, and says it when there are enough of them.

    A step begins where its first batch is asked for, and ends where the next step's is; or with its update, where the
    epoch has no more batches. A compiled step shows no parts, and several of them may be taken at once. One in which a
    faster way is tried beside the exact one, or whose update is left out, is like no other and not counted.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.stopwatch = training, Stopwatch(training.device)
        self.phases = phases(steps_left(training))
        self.remaining = [name for name, phase in self.phases.items() if phase.most_steps]
        self.tallies = {name: (Tally(), Tally()) for name in self.phases}  # of steps in parts, and of compiled ones
        self.begin()
        self.is_compiled = False  # what was measured last
        self.process = os.getpid()
        self.trace: Trace | None = None
        self.spoilt = 0  # traces
        self.is_told = False
        optimizer = training.optimizer
        self.hooks = [
            optimizer.register_step_pre_hook(lambda *_: self.stopwatch.switch("update")),
            optimizer.register_step_post_hook(lambda *_: self.after_update()),
        ]

    def begin(self) -> None:
        """Know nothing yet of the step that begins."""
        self.first_step = self.training.state["step"]  # the steps done before it
        self.updates = 0
        self.has_batch = self.is_computed = self.is_epoch_read = False

    # ── where the parts of a step begin ──────────────────────────────────────────────────────────────────────

    def reading(self, split: Split) -> Split:
        """Return the split with the reading of its training batches watched."""
        watched, opened = copy.copy(split), split.batches

        def batches(size: int, **named: Any) -> Feed:
            self.stopwatch.drop()
            return WatchedFeed(opened(size, **named), self)

        object.__setattr__(watched, "batches", batches)  # of this instance; all else about it is as it was
        return watched

    def before_batch(self) -> None:
        """A batch is asked for: another one of the same step, or the first of the next."""
        taken = self.training.state["step"] - self.first_step
        if self.stopwatch.is_on and not taken:
            self.stopwatch.switch("data")
            return
        if self.stopwatch.is_on:
            self.end_step(taken)
        if self.remaining:
            self.begin()
            self.stopwatch.begin("data")

    def after_last_batch(self) -> None:
        """The epoch has no more batches: the step that was begun has some already, or it is none."""
        if self.has_batch:
            self.is_epoch_read = True
            self.stopwatch.switch("rest")
        else:
            self.stopwatch.drop()

    def computing(self, objective: Objective) -> Objective:
        """Return the objective with its passes watched."""
        plain, loss, switch = objective.compute, objective.loss, self.stopwatch.switch

        def watched_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            switch("loss")
            assert loss is not None
            return loss(outputs, targets)

        in_parts = plain if loss is None else make_objective(watched_loss).compute

        def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
            is_beside = os.getpid() != self.process  # a fork that compiles this: the clock is nothing to compile
            if is_beside or not self.stopwatch.is_on:
                return plain(model, batch)
            self.is_computed = True
            switch("forward")
            result = in_parts(model, batch)
            switch("backward")
            return result

        return replace(objective, compute=compute)

    def after_update(self) -> None:
        """The optimizer is done; so is the step, where no batch follows that would show it."""
        self.updates += 1
        self.stopwatch.switch("rest")
        if self.stopwatch.is_on and self.is_epoch_read:
            self.end_step(1)

    # ── from step to step ────────────────────────────────────────────────────────────────────────────────────

    def end_step(self, steps: int) -> None:
        """Count the steps that are done, and go on to the next phase when there are enough of them."""
        phase, laps, is_compiled = self.remaining[0], self.stopwatch.end(), not self.is_computed
        if is_compiled:
            laps["compiled"], laps["rest"] = laps["rest"], 0
        is_like_no_other = not is_compiled and self.updates != steps
        if phase == "tracing" and (is_like_no_other or is_compiled != self.is_compiled):
            self.spoilt += 1
            self.stop_trace()
            self.trace = None
            self.enter(["tracing"] if self.spoilt < TRACES else [])
        elif not is_like_no_other:
            tally = self.tallies[phase][is_compiled]
            tally.add(steps, laps, self.stopwatch.working)
            if self.phases[phase].is_over(tally.steps, tally.seconds):
                self.is_compiled = is_compiled
                self.enter(self.remaining[1:])

    def enter(self, remaining: list[str]) -> None:
        """Begin the first of the phases that remain, with nothing counted; tell what was found when none does."""
        self.remaining = remaining
        if not remaining:
            self.tell()
            return
        self.tallies[remaining[0]] = (Tally(), Tally())
        if remaining == ["tracing"]:
            self.start_trace()

    def start_trace(self) -> None:
        """Begin to trace; where that cannot be, the profile has no trace."""
        trace = Trace(self.training.device)
        try:
            with undisturbed():
                trace.start()
        except RuntimeError as error:  # the user's own profiler is at work
            self.training.events.warning(Note("training.no-trace", reason=str(error).splitlines()[0]))
            self.enter([])
        else:
            self.trace = self.stopwatch.trace = trace

    def stop_trace(self) -> None:
        """End the trace that is being taken, if there is one."""
        trace, self.stopwatch.trace = self.stopwatch.trace, None
        if trace is not None:
            trace.stop()

    def let_go(self) -> None:
        """Stop watching: no hook is left, and no profiler at work. More than once does no harm."""
        self.stopwatch.drop()
        for hook in self.hooks:
            hook.remove()
        self.stop_trace()

    # ── what was found ───────────────────────────────────────────────────────────────────────────────────────

    def tell(self) -> None:
        """Stop watching; write and say what was found, once: a run that ends early gives what there is."""
        if self.is_told:
            return
        self.is_told, self.remaining = True, []
        self.let_go()
        events, profile = self.training.events, self.profile()
        if profile is None:
            events.message(Note("training.no-profile"))
            return
        with undisturbed():
            content = {**profile_to_json(profile), "trace": TRACE if profile.traced_steps else None}
            try:
                self.write(content)
            except StorageError as error:  # a measurement must not cost the run its end
                events.warning(Note("training.profile-not-written", problem=error.record))
            events.emit("profile", **content, folder=str(self.training.folder / FOLDER))

    def profile(self) -> Profile | None:
        """Return the profile of the measured steps; of those to warm up, where there are no others; None without any."""
        for phase in ("measuring", "warm-up"):
            tally = max(self.tallies[phase], key=lambda tally: tally.steps)
            if tally.steps:
                warm_up = sum(each.steps for each in self.tallies["warm-up"]) if phase == "measuring" else 0
                traced = 0 if self.trace is None else self.tallies["tracing"][self.is_compiled].steps
                operators = self.trace.operators(traced) if self.trace is not None and traced else ()
                working = tally.working * 1e-9 / tally.steps
                return Profile(
                    setting_of(self.training), tally.means(), tally.steps, working, warm_up, operators, traced
                )
        return None

    def write(self, content: dict[str, Any]) -> None:
        """Publish the profile in the run's folder, with its trace if there is one. Raises StorageError."""
        body = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with files.replacing_folder(self.training.folder / FOLDER) as folder:
            files.write_new(folder / PROFILE, [body.encode()])
            if self.trace is not None and content["trace"]:
                files.save(folder / TRACE, self.trace.write)


def profiled(training: Training, train: Callable[[Training], Generator[Epoch]]) -> Generator[Epoch]:
    """Train as `train` does, and tell where the time of its first steps went."""
    watch = Watch(training)
    data = replace(training.data, train=watch.reading(training.data.train))
    try:
        yield from train(replace(training, data=data, objective=watch.computing(training.objective)))
    except GeneratorExit:  # whoever iterates stopped between two epochs
        watch.tell()
        raise
    finally:
        watch.let_go()
    watch.tell()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the global random streams as they are, whatever a block draws from them."""
    streams = random_streams()
    try:
        yield
    finally:
        restore_random_streams(streams)


def steps_left(training: Training) -> int | None:
    """Return how many optimizer steps are still to be taken; None when the data does not tell its length."""
    recipe, state = training.recipe, training.state
    steps = steps_per_epoch(training.data.train.samples, recipe)
    return None if steps is None else max(0, steps * (recipe.epochs - state["epoch"] + 1) - state["window"])


def setting_of(training: Training) -> Setting:
    """Return what there is to choose otherwise in this training."""
    recipe, split = training.recipe, training.data.train
    loader = getattr(split, "loader", None)
    return Setting(
        reading="loader" if loader is not None else split.kind,
        workers=getattr(split, "workers", 0) if loader is None else loader.num_workers,
        cores=usable_cores(),
        optimizer=type(training.optimizer).__name__,
        parameters=sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad),
        precision=recipe.precision,
        numerics=recipe.numerics,
        device=training.device.type,
        threads=torch.get_num_threads(),
        has_bfloat16=bfloat16_refusal(training.device) is None,
        has_loss=training.objective.loss is not None,
    )
