"""The engine that searches for faster execution modes, and decides when each is in force.

A faster mode is adopted only after it agreed with the exact step on the run's own batches, and only where it was faster; it is
verified again 1,000, 2,000, 4,000, … steps later. The exact result is kept meanwhile. What disagrees three times in a row is
dropped.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from rushlight.data import Batch, Feed, count_samples
from rushlight.device import usable_cores
from rushlight.errors import RunError
from rushlight.runs import write_notice
from rushlight.texts import Note
from rushlight.training.checkpoint import Saver
from rushlight.training.engine.compile_job import CompileJob, steps_left
from rushlight.training.engine.exact import most_in_a_row, whole_steps_left
from rushlight.training.engine.execution import Execution, has_fused_update, sparing
from rushlight.training.engine.modes import EXACT, Mode, ModeRecord
from rushlight.training.engine.obstacles import find_obstacle, obstacle_in, settings_now, side_effects
from rushlight.training.engine.package import forget_package, layouts
from rushlight.training.engine.protocol import Plan
from rushlight.training.engine.verification import Verdict, Verification, one_by_one
from rushlight.training.interrupt import Interrupt
from rushlight.training.objective import step_hooks
from rushlight.training.record import StepsDone
from rushlight.training.state import State, Training
from rushlight.training.step import Executed, Parts, StepRunner, cut, has_images, steps_done

FEWEST_STEPS = 200  # left to do, for a faster mode to be worth its verification
TRIES = 3  # disagreements in a row that drop a mode; a single one may be an activation that is nearly 0
LEAST_GAIN = 1.05


class FastEngine:
    """Executes each step in the mode that is in force, and searches for a faster one."""

    def __init__(self, training: Training, parts: Parts, saver: Saver) -> None:
        self.training, self.parts, self.state = training, parts, training.state
        self.runner = StepRunner(training, parts, saver)
        if training.device.type == "cuda":
            from rushlight.training.engine.graph import GraphJob

            self.job: CompileJob = GraphJob(training, parts)
        else:
            self.job = CompileJob(training, parts)
        self.record = ModeRecord(training)
        self.last: tuple[list[Batch], int] = ([], 1)  # the last batches, and how many steps they held
        self.ahead = self.joins = 1  # as the feed's
        self.eager_modes: list[Mode] | None = None  # not verified yet; None: not known yet
        # what an observed step showed, in this process or an earlier one; None: none was observed; "": no obstacle
        self.observed: str | None = self.state["obstacle"]
        if self.observed is None and self.record.modes:
            self.observed = ""
        self.settings = settings_now(parts) if self.is_probed else {}
        self.obstacle = find_obstacle(training) or self.observed or None
        self.note_obstacle()
        self.reset()
        if any(mode.spared for mode in self.record.modes if mode.step <= self.state["step"]):
            torch.set_num_threads(torch.get_num_threads())  # once set, MKL chooses otherwise: as in the process before

    def reset(self) -> None:
        """Enter the recorded mode anew before the next step: another state was restored."""
        self.state["obstacle"] = self.observed
        self.epoch = 0  # the one whose beginning was checked for changes
        self.execution = Execution(self.runner, self.job)
        self.candidate: Mode | None = None  # for the next steps to verify; new unless it has a step `since`
        self.failures = 0  # of it, in a row
        self.is_entered = False  # since the last step

    def close(self) -> None:
        """End the process that compiles."""
        self.job.stop()

    # ── the next steps ────────────────────────────────────────────────────────────────────────────────────────

    def next(self, state: State, feed: Feed) -> Plan:
        """Return which steps are next: in the mode that is in force, or to verify a faster one."""
        self.ahead, self.joins = most_in_a_row(self.training, feed), feed.joins
        if state["epoch"] != self.epoch:
            self.epoch = state["epoch"]
            self.check_settings()
        if self.obstacle is not None and not self.record.modes:
            return Plan(self.row_of(1, None))
        step = state["step"]
        self.enter(self.record.at(step))
        if not self.execution.is_current:
            self.leave(Note("engine.exact.optimizer-changed"))
            self.enter(self.record.at(step))
        following = self.record.after(step)
        if following is None:
            self.share_processors(step)  # the compilation of an earlier process has ended with it
            if self.obstacle is None and self.is_probed:
                self.candidate = self.candidate or self.next_candidate(step)
            self.share_processors(step)
            if self.candidate is not None:
                count = self.candidate.count
                return Plan(count if count <= whole_steps_left(self.training) else 1, verifies=True)
        count = self.execution.mode.count
        if self.execution.fits(following):
            return Plan(count * self.row_of(count, following), count)
        # as few single steps as there may be until the next call of joined ones: each is executed otherwise
        return Plan(self.row_of(1, following) if count == 1 else 1)

    def row_of(self, count: int, following: int | None) -> int:
        """Return how many calls of `count` steps to make in a row; the mode changes at `following`."""
        if self.execution.row.calls == 1 or not self.is_settled or any(step_hooks(self.parts.optimizer)):
            return 1
        step = self.state["step"]
        change = math.inf if following is None else following - step
        most = min(self.ahead, whole_steps_left(self.training), change, self.execution.steps_to_verification(step))
        return max(1, int(min(self.execution.row.calls, most // count)))

    @property
    def is_probed(self) -> bool:
        """Whether a step was observed, by this process or an earlier one."""
        return self.observed is not None

    @property
    def is_settled(self) -> bool:
        """Whether a step was observed, or need not be."""
        return self.is_probed or self.obstacle is not None

    def next_candidate(self, step: int) -> Mode | None:
        """Return the mode to verify now: one that is new, or the one in force again; None for none."""
        if self.execution.steps_to_verification(step) < self.execution.mode.count:
            return self.execution.mode
        if steps_left(self.training) < FEWEST_STEPS and not self.job.is_first:
            if self.job.process is not None:
                self.job.stop()
                self.job.give_up(Note("engine.compile.few-steps-left", count=FEWEST_STEPS))
            return None
        if self.eager_modes is None:
            fused, images = has_fused_update(self.parts.optimizer), has_images(self.parts.model)
            if self.job.name == "graph":  # whose gain is greater; a fused kernel there wants its counters on the card
                fused = images = False
            pairs = dict.fromkeys([(fused, images), (fused, False)])
            self.eager_modes = [Mode(0, "eager", fused=pair[0], channels_last=pair[1]) for pair in pairs if any(pair)]
        if self.execution.mode.name == "exact" and self.eager_modes:
            return self.eager_modes.pop(0)
        if self.execution.mode.is_joined or self.job.is_over or not self.last[0]:
            return None
        example = cut(*self.last)[-1]
        is_whole = len(example) > 1 or count_samples(example[0]) == self.training.recipe.batch_size
        package = self.job.package(example[0], self.joins) if is_whole or self.job.process else None
        if package is None:
            return None
        fused, images = self.execution.base.fused, self.execution.base.channels_last
        count, takes = package.count, list(package.takes)
        return Mode(0, self.job.name, fused=fused, channels_last=images, key=package.key, count=count, takes=takes)

    def share_processors(self, step: int) -> None:
        """Leave a thread to the process that compiles on the same processors, until it is done.

        At the end of each operation all threads wait for the slowest, which is the one that shares its processor.
        """
        is_crowded = self.job.process is not None and torch.get_num_threads() >= max(2, usable_cores())
        if is_crowded != bool(self.execution.mode.spared):
            self.record.add(replace(self.execution.mode, step=step, message="", spared=int(is_crowded)))
            self.enter(self.record.at(step))

    # ── entering and leaving modes ───────────────────────────────────────────────────────────────────────────

    def enter(self, mode: Mode) -> None:
        """Begin to execute steps in a mode, unless it is in force.

        Where its machine code cannot be executed here, a run that may end with other bits goes on exactly.

        Raises:
            RunError: for all other runs.
        """
        if mode is self.execution.mode:
            return
        self.is_entered = True
        failure = self.execution.enter(mode)
        if failure is None:
            return
        origin, step = self.training.origin, self.state["step"]
        message = Note("engine.compile.not-here", reason=failure)
        if origin is None or not origin.is_inexact:
            listed = Note("engine.compile.listed", reason=message)
            raise RunError("not-exact", run=self.training.folder.name, remedies="", differences=listed)
        write_notice(self.training.folder, step, Note("training.not-the-same-bits", difference=message))
        self.record.add(Mode(step, "exact", message=Note("engine.exact.from-here", reason=message)))
        self.execution.enter(self.record.at(step))

    def check_settings(self) -> None:
        """Leave a faster mode where the user changed model, loss, parameters or hooks meanwhile."""
        if self.obstacle is not None or not self.is_probed:
            return
        reason = find_obstacle(self.training)
        changed = [name for name, value in settings_now(self.parts).items() if self.settings[name] != value]
        if changed:
            reason = Note("engine.exact.something-changed", what=Note(changed[0]))
        elif self.execution.joined is not None:
            self.execution.joined.find()
        if reason is not None:
            self.leave(reason)

    def leave(self, reason: str) -> None:
        """Execute every step exactly from here on, in a process that resumes the run too."""
        self.obstacle = self.observed = self.state["obstacle"] = reason
        self.candidate = None
        self.job.stop()
        if self.record.at(self.state["step"]).name != "exact":
            message = Note("engine.exact.from-here", reason=reason)
            self.record.add(Mode(self.state["step"], "exact", message=message))

    def note_obstacle(self) -> None:
        """Note why every step is executed exactly, if so, and tell whoever asked for compiled ones."""
        if self.obstacle is not None:
            if steps_left(self.training) and not self.record.at(self.state["step"]).is_joined:
                self.job.tell(self.obstacle)
            notice = Note("engine.exact.every-step", reason=self.obstacle)
            write_notice(self.training.folder, self.state["step"], notice)

    # ── executing steps ──────────────────────────────────────────────────────────────────────────────────────

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> StepsDone:
        """Execute the steps that were planned."""
        step, self.last = self.state["step"], (batches, plan.count)
        if self.is_entered:  # told once the step is done: a checkpoint from before must not have the line yet
            self.is_entered = False
            for line in self.record.messages(step):
                self.training.events.emit_after(step, **line)
        with sparing(self.execution.mode.spared):
            if plan.verifies and self.suits(plan, batches):
                executed = self.verify(plan, batches)
            elif plan.verifies or self.is_settled:
                executed = self.execution.run(plan, batches, interrupt, self.ahead)
            else:
                executed = self.run_observed(plan, batches)
        return steps_done(self.training.objective, batches, plan.count, *executed)

    def run_observed(self, plan: Plan, batches: list[Batch]) -> Executed:
        """Execute a first step, and detect side effects that no other mode would have."""
        before = side_effects(self.parts)
        executed = self.runner.run(self.execution.step, cut(batches, plan.count))
        after = side_effects(self.parts)
        self.settings = settings_now(self.parts)
        self.observed = self.state["obstacle"] = obstacle_in(before, after) or ""
        self.obstacle = self.observed or self.obstacle
        self.note_obstacle()
        return executed

    # ── verifying a mode ─────────────────────────────────────────────────────────────────────────────────────

    def suits(self, plan: Plan, batches: list[Batch]) -> bool:
        """Tell whether the candidate can be verified on these batches: whole, in its layouts."""
        assert self.candidate is not None
        mode, size = self.candidate, self.training.recipe.batch_size
        is_whole = len(batches) == 1 and count_samples(batches[0]) == plan.count * size
        is_laid_out = not mode.is_joined or layouts(self.job.prepare(batches[0])) == mode.takes
        return mode.count == plan.count and is_whole and is_laid_out

    def verify(self, plan: Plan, batches: list[Batch]) -> Executed:
        """Execute the steps exactly, compare the candidate's result, and adopt or drop it."""
        assert self.candidate is not None
        mode, self.candidate = self.candidate, None
        step, now = self.state["step"], self.execution.base
        if (now.name, self.execution.mode.name) != ("exact", "exact"):
            self.record.add(replace(EXACT, step=step, spared=now.spared))
        stretch = self.execution.stretch(cut(batches, plan.count))
        parts, generator = self.parts, self.runner.generator
        executed, verdict = Verification(parts, generator, self.execution.exact, stretch).verify(
            lambda: self.runner.run(self.execution.exact, stretch.steps),
            lambda: self.execution.executing(mode, batches[0]),
            one_by_one(parts, self.execution.step, generator) if not mode.since else None,
            mode.is_joined,
        )
        self.conclude(mode, verdict, step + plan.count)
        self.job.restart_clock()  # the time of a verification is not the steps' pace
        return executed

    def conclude(self, mode: Mode, verdict: Verdict, step: int) -> None:
        """Record what follows from a verification, from step `step` on."""
        failures, self.failures = self.failures, 0
        agrees, is_new = verdict.disagrees is None, not mode.since
        if agrees and not is_new:
            self.record.add(replace(mode, step=step, message=""))
            return
        if agrees and verdict.gain >= LEAST_GAIN:
            mode = replace(mode, step=step, since=step, gain=verdict.gain, microseconds=verdict.microseconds)
            self.record.add(replace(mode, message=mode.describe()))
            if mode.is_joined:
                self.training.events.message(mode.describe())
            return
        is_base_kept = is_new or mode.is_joined
        back = self.execution.base if is_base_kept else replace(EXACT, spared=self.execution.mode.spared)
        back = replace(back, step=step, message="")
        if agrees and mode.is_joined:
            self.job.give_up(Note("engine.faster.not-faster", gain=verdict.gain))
        elif not agrees and failures + 1 < TRIES and not verdict.is_failure:
            self.candidate, self.failures = mode, failures + 1
        elif not agrees:
            back = replace(back, message=self.drop(mode, verdict.disagrees))
        if self.record.at(self.state["step"]).name != back.name or back.message:
            self.record.add(back)

    def drop(self, mode: Mode, reason: str | None) -> str:
        """Forget a mode that disagrees, and tell it; return a message for the history if adopted."""
        message = Note("engine.faster.disagrees", name=mode.name, reason=reason)
        if mode.name == "compiled":
            forget_package(mode.key)
        if mode.since:
            self.training.events.message(message)
            return message
        write_notice(self.training.folder, self.state["step"], message)
        if mode.is_joined:
            self.job.tell(Note("engine.faster.not-near", reason=reason))
        return ""
