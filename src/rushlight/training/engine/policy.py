"""The ways to execute a step, and which one is in force at which step.

    exact       torch's eager kernels in the plain loop's order
    eager       the same, with the optimizer's fused kernel, and images laid out channels last
    compiled    forward, backward and update in one piece, several small steps at a time

A faster way is adopted only after it agreed with the exact one on the run's own batches (`agreement.py`), and only where it was
faster; it is looked at again 1,000, 2,000, 4,000, … steps later. While it is looked at, the exact way's result is kept. What
disagrees three times in a row is dropped. When to begin is a matter of time, so every change is written to `ways.json`
before it takes effect, and a run that is resumed follows what is written there.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import Batch, Feed, count_samples, step_seed
from rushlight.device import available_memory, usable_cores
from rushlight.errors import RunError
from rushlight.runs import write_notice
from rushlight.training.checkpoint import Saver, random_streams, restore_random_streams
from rushlight.training.engine import step_check as agreement
from rushlight.training.engine.capture import Pieces, pieces_of
from rushlight.training.engine.compiled import (
    Compilation,
    CompiledSteps,
    Package,
    find_package,
    forget_package,
    key_of,
    laid_out,
    layouts,
    products_from,
    start_compiling,
    why_not_here,
)
from rushlight.training.engine.eager import eager_step, has_fused_update, with_channels_last
from rushlight.training.engine.exact import most_in_a_row, whole_steps_left
from rushlight.training.engine.fingerprint import hooks_in, is_step_hooked, settings_of, trained_of
from rushlight.training.engine.protocol import Plan
from rushlight.training.engine.step_check import Outcome, Rates, Stretch, copies, put, tensors_of
from rushlight.training.engine.updates import rule_of
from rushlight.training.interrupt import Interrupt
from rushlight.training.objective import step_hooks
from rushlight.training.recipe import steps_per_epoch
from rushlight.training.record import StepsDone
from rushlight.training.state import State, Training
from rushlight.training.step import (
    Parts,
    Row,
    Step,
    StepFailed,
    StepRunner,
    cut,
    exact_step,
    has_images,
    steps_done,
)

WAYS = "ways.json"
FEWEST_STEPS = 200  # left to do, for a faster way to be worth a look
LOOK_AGAIN = 1000  # steps after which an adopted way is looked at again; then twice as many, …
TRIES = 3  # disagreements in a row that drop a way; a single one may be an activation that is nearly 0
LEAST_GAIN = 1.05
ROUNDS = 3  # of measuring the gain
COMPILE_SECONDS, LAYER_SECONDS = 8.0, 0.5  # what compiling is taken to cost, and for each layer that has parameters
EXPECTED_GAIN = 0.5  # of the time left, that a compiled step is taken to save
IMAGES_GAIN = 0.3  # the same, where most of a step are convolutions
DECIDE_AFTER = 1.0  # seconds of training, for the time left to be known
POLL_SECONDS = 0.2  # between two looks at the process that compiles
SMALL_STEP = 5e6  # floating-point operations, about: below that, several steps are taken in one call
STEPS_TOGETHER = 8
LOOK_BYTES = 100  # for each parameter: the states compared, and the reference in float64


@dataclass(frozen=True)
class Way:
    """From `step` on (from 0, as many are done then), steps are executed like this."""

    step: int
    name: str  # "exact", "eager" or "compiled"
    message: str = ""  # for people; empty where a way is only looked at
    fused: bool = False  # the optimizer's fused kernel; compiled: for the steps that are too short for one call
    channels_last: bool = False  # the layout of images, likewise
    spared: int = 0  # threads that are left to the process that compiles
    since: int = 0  # the step it was adopted at; from `step` on it is in force again, after a look at it
    key: str = ""  # compiled: the package
    count: int = 1  # compiled: the steps in one call
    products: list[dict[str, Any]] = field(default_factory=list)  # compiled: those that oneDNN computes
    takes: list[Any] = field(default_factory=list)  # compiled: the layouts of samples and targets
    gain: float = 1.0  # how many times as fast as the way before it, when it was adopted
    microseconds: float = 0.0  # a step, when it was adopted


EXACT = Way(0, "exact")

Done = tuple[list[float | Tensor], Tensor | None, list[float]]  # losses by step, the last outputs, rates by step


class Record:
    """The ways of a run, in the order of their steps: on the disk before they take effect, and in the state."""

    def __init__(self, training: Training) -> None:
        self.path, self.state = training.folder / WAYS, training.state
        written = read_ways(self.path)
        kept = [Way(**way) for way in self.state["ways"]]
        self.ways = written if written[: len(kept)] == kept else kept
        self.save_state()

    def add(self, way: Way) -> None:
        """Add a way that takes effect at its step, after which nothing is recorded yet. Raises StorageError, and has not.

        One that was recorded for the same step stays, and is in force no more: what is said of it is in the history.
        """
        ways = [*(earlier for earlier in self.ways if earlier.step <= way.step), way]
        files.write_json(self.path, {"ways": [to_json(each) for each in ways]})
        self.ways = ways
        self.save_state()

    def save_state(self) -> None:
        """Let the next checkpoint have what is recorded."""
        self.state["ways"] = [to_json(each) for each in self.ways]

    def at(self, step: int) -> Way:
        """Return the way in force at a step."""
        return next((way for way in reversed(self.ways) if way.step <= step), EXACT)

    def messages(self, step: int) -> Iterator[dict[str, Any]]:
        """Give the lines of history that say what changes at a step."""
        for way in self.ways:
            if way.step == step and way.message:
                yield {"kind": "event", "event": "way", "step": step, "way": way.name, "message": way.message}

    def after(self, step: int) -> int | None:
        """Return the step of the next way after a step, if it is recorded already."""
        return next((way.step for way in self.ways if way.step > step), None)


def to_json(way: Way) -> dict[str, Any]:
    """Return a way as it is once written and read: tuples become lists."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(way)))
    return content


def read_ways(path: Path) -> list[Way]:
    """Return the ways that are recorded for a run; none where there is no record."""
    try:
        return [Way(**way) for way in json.loads(path.read_bytes())["ways"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way that is to be looked at."""

    way: Way
    is_new: bool
    failures: int = 0  # in a row


class FastEngine:
    """Executes each step in the way that is in force, and looks for a faster one."""

    def __init__(self, training: Training, parts: Parts, saver: Saver) -> None:
        self.training, self.parts, self.state = training, parts, training.state
        self.exact = exact_step(parts)
        self.runner = StepRunner(training, parts, saver)
        self.generator = self.runner.generator
        self.record = Record(training)
        self.row = Row()
        self.ahead = self.joins = 1  # batches that the feed has at once, and can join
        self.epoch = 0  # the one in which changes by the user were looked for
        self.way = EXACT  # in force
        self.is_entered = False  # since the last step
        self.base = EXACT  # for steps that the compiled way cannot take
        self.eager: Step = self.exact
        self.compiled: CompiledSteps | None = None
        self.compiled_key = ""  # of these
        self.candidate: Candidate | None = None  # what the next steps look at
        self.eager_ways: list[Way] | None = None  # that nobody has looked at; None: not known yet
        self.tried: set[str] = set()
        self.compilation: Compilation | None = None
        self.looked_at = 0.0  # when the compilation was
        self.began, self.first_step = time.perf_counter(), self.state["step"]
        self.is_probed = bool(self.record.ways)  # by a process before this one
        self.settings = self.all_settings() if self.is_probed else {}  # after the last look at them
        self.last_batches: Sequence[Batch] = ()
        self.has_images = has_images(training.model)
        self.is_on_processor = training.device.type == "cpu"
        self.obstacle = self.find_obstacle()
        self.note_obstacle()
        if any(way.spared for way in self.record.ways if way.step <= self.state["step"]):
            torch.set_num_threads(
                torch.get_num_threads()
            )  # once it was set, MKL chooses otherwise: as in the process before

    # ── which way ────────────────────────────────────────────────────────────────────────────────────────

    def find_obstacle(self) -> str | None:
        """Say why every step of this training is executed exactly; None where it need not be."""
        training = self.training
        if training.recipe.numerics == "exact":
            return "exact numerics were asked for"
        if not self.is_on_processor:
            return "faster ways are for the processor, up to now"
        if not isinstance(training.objective.loss, nn.Module):
            return "its loss is a function"
        if (hooks := self.hooks()) is not None:
            return hooks
        if whole_steps_left(self.training) + self.state["window"] < 1:
            return "an epoch has no whole batch"
        parameters = sum(parameter.numel() for parameter in training.model.parameters())
        is_large = parameters * LOOK_BYTES > available_memory() / 2
        return "looking at a faster way would take more memory than there is" if is_large else None

    def note_obstacle(self) -> None:
        """Note why every step is executed exactly, if there is a reason; whoever asked for compiled steps is told too."""
        if self.obstacle is None:
            return
        if self.steps_left() and self.record.at(self.state["step"]).name != "compiled":
            self.tell_not_compiled(self.obstacle)
        if self.training.recipe.numerics == "fast":
            self.note(f"Every step was executed exactly: {self.obstacle}.")

    def hooks(self) -> str | None:
        """Say who wants to know of what happens in a step; None where nobody does."""
        hooked = next(hooks_in(self.training.model), None)
        if hooked is not None:
            return f"{hooked} has hooks"
        return "somebody has hooks on the optimizer's steps" if is_step_hooked(self.training.optimizer) else None

    def next(self, state: State, feed: Feed) -> Plan:
        """Return which steps are next: in the way that is in force, or to look at a faster one."""
        self.ahead, self.joins = most_in_a_row(self.training, feed), feed.joins
        if state["epoch"] != self.epoch:
            self.epoch = state["epoch"]
            self.check_settings()
        if self.obstacle is None or self.record.ways:
            return self.choose_way()
        return Plan(self.calls_in_a_row(1, None))

    def choose_way(self) -> Plan:
        """Enter the way that is in force, look for a faster one, and choose how many steps are next."""
        step = self.state["step"]
        way = self.record.at(step)
        if way is not self.way:
            self.enter(way)
        if self.way.name == "compiled" and self.compiled is not None and not self.compiled.is_current:
            self.leave("the optimizer's settings are others now")
            self.enter(self.record.at(step))
        following = self.record.after(step)
        if following is None:
            self.share_processors(step)  # what the process before this one compiled has ended with it
            if self.obstacle is None and self.is_probed:
                self.candidate = self.candidate or self.next_candidate(step)
            self.share_processors(step)
            if self.candidate is not None:
                count = way.count if (way := self.candidate.way).count <= whole_steps_left(self.training) else 1
                return Plan(count, count, verifies=True)
        if not self.fits(following):
            # as few single steps as there may be until the next call of machine code: each is executed otherwise
            return Plan(self.calls_in_a_row(1, following) if self.way.count == 1 else 1)
        return Plan(self.way.count * self.calls_in_a_row(self.way.count, following), self.way.count)

    def calls_in_a_row(self, count: int, following: int | None) -> int:
        """Return how many calls of `count` steps to make one after the other; the way changes at step `following`."""
        if (
            self.row.calls == 1 or not self.is_settled or any(step_hooks(self.parts.optimizer))
        ):  # somebody looks at one step after the other
            return 1
        step = self.state["step"]
        change = math.inf if following is None else following - step
        steps = min(self.ahead, whole_steps_left(self.training), change, self.steps_to_look(step))
        return max(1, int(min(self.row.calls, steps // count)))

    def fits(self, following: int | None) -> bool:
        """Tell whether the next steps can be taken in one call of the compiled way."""
        if self.way.name != "compiled" or self.state["micro_batch"] is not None:
            return False
        count, ends = self.way.count, self.state["step"] + self.way.count
        return (
            self.state["window"] % count == 0
            and count <= whole_steps_left(self.training)
            and (following is None or ends <= following)
        )

    def steps_left(self) -> float:
        """Return how many steps are left to the end of the run; infinite where that is unknown."""
        recipe = self.training.recipe
        steps = steps_per_epoch(self.training.data.train.samples, recipe)
        return math.inf if steps is None else steps * recipe.epochs - self.state["step"]

    def share_processors(self, step: int) -> None:
        """Do without a thread while another process compiles on the same processors, and have all of them when it is done.

        At the end of each operation all threads wait for the slowest, which is the one that shares its processor. Where
        there were two, a training that kept both lost 17 s beside a process that compiled for 15, this one 6 to 7.
        """
        is_crowded = self.compilation is not None and torch.get_num_threads() >= max(2, usable_cores())
        if is_crowded != bool(self.way.spared):
            self.record.add(replace(self.way, step=step, message="", spared=int(is_crowded)))
            self.enter(self.record.at(step))

    @contextlib.contextmanager
    def sparing(self, spared: int) -> Iterator[None]:
        """Let torch use so many threads fewer than it has, for a block."""
        if not spared:
            yield
            return
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(max(1, threads - spared))
            yield
        finally:
            torch.set_num_threads(threads)

    def enter(self, way: Way) -> None:
        """Begin to execute steps in another way."""
        if way.name == "compiled":
            ready = self.ready(way)
            if ready is None:
                return
            self.compiled = ready
        self.base = replace(way, name="eager" if way.fused or way.channels_last else "exact")
        self.eager = self.eager_way(self.base) if self.base.name == "eager" else self.exact
        self.way = way
        self.row = Row()
        self.is_entered = True

    def next_candidate(self, step: int) -> Candidate | None:
        """Return what is worth a look now: a way that is new, or the one in force again."""
        if self.steps_to_look(step) < self.way.count:
            return Candidate(self.way, is_new=False)
        if self.steps_left() < FEWEST_STEPS and self.training.recipe.compile != "first":
            if self.compilation is not None:
                self.stop_compiling()
                self.give_up_compiling(f"that was not done when {FEWEST_STEPS} steps were left")
            return None
        if self.way.name == "exact":
            if self.eager_ways is None:
                self.eager_ways = self.find_eager_ways()
            if self.eager_ways:
                return Candidate(self.eager_ways.pop(0), is_new=True)
        package = self.compiled_package()
        if package is None:
            return None
        products = [asdict(each) for each in package.products]
        way = Way(
            0, "compiled", fused=self.base.fused, channels_last=self.base.channels_last, key=package.key,
            count=package.count, products=products, takes=list(package.takes),
        )  # fmt: skip
        return Candidate(way, is_new=True)

    def steps_to_look(self, step: int) -> float:
        """Return how many steps are left until the way in force is to be looked at again; infinite for the exact one."""
        if self.way.name == "exact":
            return math.inf
        done = step - self.way.since
        doublings = (max(done - 1, 0) // LOOK_AGAIN).bit_length()
        return (LOOK_AGAIN << doublings) - done

    def find_eager_ways(self) -> list[Way]:
        """Return the faster ways that torch's own kernels have for this training, the fastest first."""
        fused, images = has_fused_update(self.parts.optimizer), self.has_images
        pairs = {(fused, images): None, (fused, False): None}
        return [Way(0, "eager", fused=fused, channels_last=images) for fused, images in pairs if fused or images]

    # ── the compiled way ─────────────────────────────────────────────────────────────────────────────────

    def compiled_package(self) -> Package | None:
        """Return compiled steps that nobody has looked at yet; begin to compile them when that will pay."""
        if "compiled" in self.tried or self.way.name == "compiled" or not self.last_batches:
            return None  # without a window there is nothing to compile for: this process has taken no step yet
        if self.compilation is not None:
            return self.compilation_result()
        is_first = self.training.recipe.compile == "first"
        if "package" not in self.tried:
            self.tried.add("package")
            if (reason := self.why_not_compiled()) is not None:
                self.give_up_compiling(reason)
                return None
            count = self.count_together()
            package = find_package(self.key(layouts(self.example(count)), count))
            if package is not None:
                self.tried.add("compiled")
                return package
        elapsed = time.perf_counter() - self.began
        if elapsed < DECIDE_AFTER and not is_first:
            return None
        left = elapsed / max(self.state["step"] - self.first_step, 1) * self.steps_left()
        gain, cost = IMAGES_GAIN if self.has_images else EXPECTED_GAIN, compile_seconds(self.parts.model)
        if left * gain < cost and not is_first:
            saved = f"it would save about {left * gain:.0f} of the {left:.0f} seconds that were left"
            self.give_up_compiling(f"{saved}, and compiling costs about {cost:.0f}")
            return None
        if (reason := self.why_not_compiled()) is not None:  # memory may have run out since
            self.give_up_compiling(reason)
            return None
        if (reason := why_not_here()) is not None:
            self.give_up_compiling(reason, aloud=True)
            return None
        count = self.count_together()
        example = self.example(count)
        try:
            self.compilation = start_compiling(self.pieces(), *example, count, self.key(layouts(example), count), None)
        except OSError as error:  # no room for another process
            self.give_up_compiling(str(error))
            return None
        return self.compilation_result() if is_first else None

    def why_not_compiled(self) -> str | None:
        """Say why the steps of this training cannot be compiled; None where they can."""
        recipe, parts = self.training.recipe, self.parts
        if recipe.compile == "never":
            return "it was not asked for"
        if recipe.accumulate > 1 or self.state["micro_batch"] is not None:
            return "several batches make one update"
        if parts.skips_bad:
            return "every gradient is looked at"
        if rule_of(parts.optimizer) is None:
            return f"{type(parts.optimizer).__name__} has no rule for it, as it is set"
        if getattr(self.training.schedule.live, "cycle_momentum", False):
            return "its schedule changes the momentum in every step"
        if not all(isinstance(part, Tensor) for part in self.last_batches[0]) or len(self.last_batches[0]) != 2:
            return "its batches are not pairs of tensors"
        if self.has_images and not self.last_batches[0][0].is_contiguous():
            return "its images lie in memory in an order of their own"
        counts = {float(kept["step"]) for kept in parts.optimizer.state.values() if "step" in kept}
        trained = [each for group in parts.optimizer.param_groups for each in group["params"] if each.requires_grad]
        is_partial = len(counts) > 1 or any(each.grad is None for each in trained)
        return "its parameters are not all updated in every step" if is_partial else None

    def give_up_compiling(self, reason: str, aloud: bool = False) -> None:
        """Do not think of compiling again, and note why for whoever asks (`rushlight runs RUN`)."""
        self.tried.add("compiled")
        self.note(f"The steps were not compiled: {reason}.")
        self.tell_not_compiled(reason, aloud)

    def tell_not_compiled(self, reason: str, aloud: bool = False) -> None:
        """Say why the steps are not compiled, `aloud` or to whoever asked for it."""
        if aloud or self.training.recipe.compile == "first":
            self.training.events.message(f"The steps are not compiled: {reason}. Training goes on as it is.")

    def note(self, message: str) -> None:
        """Note for this session what depends on the machine and the moment."""
        write_notice(self.training.folder, self.state["step"], message)

    def pieces(self) -> Pieces:
        """Return what whole steps read and write."""
        return pieces_of(self.parts)

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        """Return samples and targets of `count` steps, for their shapes."""
        inputs, targets = self.last_batches[0]
        samples, targets = self.for_compiled((torch.cat([inputs] * count), torch.cat([targets] * count)))
        return samples, targets

    def for_compiled(self, batch: Batch) -> Batch:
        """Return a batch as compiled steps take it: convolutions are faster with channels last."""
        return with_channels_last(batch) if self.has_images else batch

    def count_together(self) -> int:
        """Return how many steps to compile into one call: several, where a step is little work."""
        if self.has_images:
            return 1  # the same weights at every place: much work even with few of them
        operations = 6.0 * sum(each.numel() for each in self.parts.model.parameters()) * self.training.recipe.batch_size
        inputs = self.last_batches[0][0]
        if inputs.dim() > 2:  # likewise at every place of a sequence
            operations *= inputs.shape[1]
        schedule = self.training.schedule
        if schedule.by_step or operations > SMALL_STEP:
            return 1
        return STEPS_TOGETHER if self.joins >= STEPS_TOGETHER else 1

    def key(self, takes: Sequence[Any], count: int) -> str:
        """Return the key of the package for this training with `count` steps in a call on such samples and targets."""
        return key_of(self.pieces(), takes, count)

    def compilation_result(self) -> Package | None:
        """Return the package that the process beside has made; None while it is at work, or where it failed."""
        assert self.compilation is not None
        waits, now = self.training.recipe.compile == "first", time.perf_counter()
        if now - self.looked_at < POLL_SECONDS and not waits:
            return None
        self.looked_at = now
        if waits:
            self.training.events.message("The steps are being compiled …")
        result = self.compilation.result(waits)
        if result is None:
            return None
        self.compilation = None
        if isinstance(result, str):
            self.give_up_compiling(result, aloud=True)
            return None
        self.tried.add("compiled")
        return result

    def ready(self, way: Way) -> CompiledSteps | None:
        """Return the compiled steps that are recorded: those just looked at, or, in another process, made anew if the cache lost them.

        None where that fails in a run that may end with other bits, which then goes on exactly; in all others RunError is raised.
        """
        if self.compiled_key == way.key:
            return self.compiled
        reason = self.why_not_recorded(way)
        if reason is None:
            package = find_package(way.key) or self.compiled_again(way)
            if isinstance(package, Package):
                self.compiled, self.compiled_key = CompiledSteps(self.pieces(), package), way.key
                return self.compiled
            reason = package
        message = f"its steps were compiled, and cannot be here: {reason}"
        origin = self.training.origin
        if origin is None or not origin.is_inexact:
            raise RunError("not-exact", run=self.training.folder.name, remedies="", differences=f"\n  - {message}")
        write_notice(self.training.folder, self.state["step"], f"Not the same bits from here on: {message}.")
        self.record.add(Way(self.state["step"], "exact", message=f"From here on exactly: {message}."))
        self.enter(self.record.at(self.state["step"]))
        return None

    def why_not_recorded(self, way: Way) -> str | None:
        """Say why the compiled steps that are recorded are not those of this training; None where they are."""
        if (hooks := self.hooks()) is not None:
            return hooks
        if rule_of(self.parts.optimizer) is None or self.key(way.takes, way.count) != way.key:
            return "torch, the processor, the model or the optimizer is another"
        return None

    def compiled_again(self, way: Way) -> Package | str:
        """Compile once more what the cache has lost, with the same choices; return why that failed where it did."""
        self.training.events.message("The steps are being compiled again …")
        if (reason := why_not_here()) is not None:
            return reason
        samples, targets = laid_out(way.takes)
        products = products_from(way.products)
        try:
            compilation = start_compiling(self.pieces(), samples, targets, way.count, way.key, products)
        except OSError as error:
            return str(error)
        return compilation.result(waits=True) or "the process that compiled is gone"

    # ── taking steps ─────────────────────────────────────────────────────────────────────────────────────

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> StepsDone:
        """Execute the steps that were planned."""
        step, self.last_batches = self.state["step"], cut(batches, plan.count)[-1]
        with self.sparing(self.way.spared):
            if plan.verifies or not self.is_settled:
                done = self.run_some(plan, batches)
            else:
                done = self.run_row(plan, batches, interrupt)
        if self.is_entered:  # said now that the step is done: what is saved before it must not have the line yet
            self.is_entered = False
            for line in self.record.messages(step):
                self.training.events.emit(**line)
        return steps_done(self.training.objective, batches, plan.count, *done)

    def run_some(self, plan: Plan, batches: list[Batch]) -> Done:
        """Execute one step or several, and find out what is to be known of them."""
        steps = cut(batches, plan.count)
        is_whole = len(steps[-1]) == 1 and count_samples(steps[-1][0]) == self.training.recipe.batch_size
        if (
            self.candidate is not None
            and self.candidate.way.count == plan.count
            and is_whole
            and self.suits(batches[0])
        ):
            stretch = Stretch(steps, self.rates(plan.count), self.seeds(plan.count))
            return self.look(self.candidate, stretch, batches[0])
        watch = None if self.is_settled else self.watched()
        done = self.runner.run(self.base_step(), steps)
        if watch is not None:
            self.probe(watch)
        return done

    def run_row(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> Done:
        """Execute steps with nothing around them; find out how many calls are short enough to be made in a row."""
        began = time.perf_counter()
        prepared: list[Batch] = []
        if self.way.name == "compiled" and plan.per_call == self.way.count and self.fits(None):
            calls = cut(batches, plan.count // plan.per_call)
            prepared = [self.for_compiled(batch) for [batch] in calls] if len(batches) == 1 else []
        if self.compiled is not None and prepared and self.compiled.takes(prepared[0]):
            done = self.run_compiled(prepared, interrupt)
        else:
            done = self.runner.run(self.base_step(), cut(batches, plan.count), lambda: interrupt.requested)
        calls_made = max(1, len(done[0]) // plan.per_call)
        self.row.measure(calls_made, time.perf_counter() - began, self.ahead // plan.per_call)
        return done

    def base_step(self) -> Step:
        """Return what executes the steps that are not compiled."""
        return self.exact if self.base.name == "exact" else self.eager

    def suits(self, batch: Batch) -> bool:
        """Tell whether the candidate can take a batch: machine code reads its memory as it was laid out for."""
        way = self.candidate.way if self.candidate is not None else EXACT
        return way.name != "compiled" or layouts(self.for_compiled(batch)) == way.takes

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to find out about the model."""
        return self.is_probed or self.obstacle is not None

    def run_compiled(self, batches: list[Batch], interrupt: Interrupt) -> Done:
        """Execute the steps of each batch, laid out for it, in one call; no more of them once there is a signal."""
        assert self.compiled is not None
        state, count = self.state, self.way.count
        losses: list[float | Tensor] = []
        rates: list[float] = []
        for batch in batches:
            outputs = losses_of_call = None  # as in `StepRunner.run`
            rates_of_call = self.rates(count)
            seeds = self.seeds(count) if self.compiled.each else ()
            try:
                losses_of_call, outputs = self.compiled.take(batch[0], batch[1], rates_of_call, seeds, self.generator)
            except RuntimeError as error:
                raise StepFailed(error, batch) from error
            losses += losses_of_call.reshape(-1).tolist()
            rates += [rate[0] for rate in rates_of_call]
            state["window"] += count
            state["step"] += count
            if interrupt.requested:
                break
        return losses, outputs, rates

    def rates(self, count: int) -> list[Rates]:
        """Return the learning rates of the next steps; the optimizer has the last ones' afterwards."""
        schedule, groups = self.training.schedule, self.parts.optimizer.param_groups
        if not schedule.moves:
            return [[group["lr"] for group in groups]] * count
        found = []
        for step in range(self.state["step"], self.state["step"] + count):
            schedule.before_step(step)
            found.append([group["lr"] for group in groups])
        return found

    def seeds(self, count: int) -> list[int]:
        """Return the seeds of the next steps' random numbers."""
        first, seed, epoch = self.state["window"], self.training.recipe.seed, self.state["epoch"]
        return [step_seed(seed, epoch, window) for window in range(first, first + count)]

    # ── looking at a way ─────────────────────────────────────────────────────────────────────────────────

    def all_settings(self) -> dict[str, Any]:
        """Return what somebody may change between two epochs, or a forward pass by itself, that faster ways would not notice."""
        loss = self.parts.objective.loss
        return {
            "the model's settings": settings_of(self.parts.model, with_identity=True),
            "the loss's settings": settings_of(loss, with_identity=True) if isinstance(loss, nn.Module) else None,
            "which parameters are trained": trained_of(self.parts.optimizer),
        }

    def watched(self) -> dict[str, Any]:
        """Return what a step must not change, for a faster way to be possible at all."""
        loss, streams = self.parts.objective.loss, random_streams()
        versions = [buffer._version for buffer in loss.buffers()] if isinstance(loss, nn.Module) else []
        return {**self.all_settings(), "buffers": versions, "streams": repr((streams["python"], streams["numpy"]))}

    def probe(self, before: dict[str, Any]) -> None:
        """Find out whether a step has changed what no other way would change."""
        self.is_probed, self.settings, after = True, self.all_settings(), self.watched()
        if after["streams"] != before.pop("streams"):
            self.obstacle = "the model's forward pass draws from Python's or NumPy's random numbers"
        if any(after[name] != value for name, value in before.items()):
            self.obstacle = "the model or its loss changes its own attributes when it is called"
        self.note_obstacle()

    def check_settings(self) -> None:
        """Leave a faster way when somebody has changed the model, its loss, what is trained, or the hooks since; at an epoch's start."""
        if self.obstacle is not None or not self.is_probed:
            return
        reason = self.find_obstacle()
        changed = [name for name, value in self.all_settings().items() if self.settings[name] != value]
        if changed:
            reason = f"somebody has changed {changed[0]}"
        elif self.compiled is not None:
            self.compiled.find()
        if reason is not None:
            self.leave(reason)

    def leave(self, reason: str) -> None:
        """Execute every step exactly from here on."""
        self.obstacle, self.candidate = reason, None
        self.stop_compiling()
        if self.record.at(self.state["step"]).name != "exact":
            self.record.add(Way(self.state["step"], "exact", message=f"From here on exactly: {reason}."))

    def reset(self) -> None:
        """Enter the way that is recorded anew before the next step: the state is another, and so are the optimizer's tensors."""
        self.epoch = 0
        self.way = self.base = EXACT
        self.eager, self.compiled, self.compiled_key, self.candidate = self.exact, None, "", None

    def look(self, candidate: Candidate, stretch: Stretch, batch: Batch) -> Done:
        """Take steps exactly, and compare what the candidate makes of them; adopt it, keep it or drop it."""
        self.candidate = None
        step, way, now = self.state["step"], candidate.way, self.base
        if (self.base.name, self.way.name) != ("exact", "exact"):
            self.record.add(replace(EXACT, step=step, spared=now.spared))
        live = tensors_of(self.parts)
        before = copies(live)
        done = self.runner.run(self.exact, stretch.windows)
        exact = Outcome(
            torch.tensor(done[0], dtype=torch.float64),
            copies({**tensors_of(self.parts), **agreement.gradients_of(self.parts)}),
        )
        streams = random_streams()
        gain, microseconds = 1.0, way.microseconds
        try:
            execute = self.executing(way, batch)
            reason = self.compare(execute, way, stretch, before, exact)
            if reason is None and candidate.is_new:
                gain, microseconds = self.measure(execute, now, stretch, before)
        except Exception as error:  # whatever it is, the exact way goes on
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else '?'}"
        finally:
            put(live, exact.tensors)
            restore_random_streams(streams)
            agreement.set_rates(self.parts, stretch.rates[-1])
        self.conclude(candidate, reason, replace(way, step=step + stretch.count, gain=gain, microseconds=microseconds))
        self.began, self.first_step = time.perf_counter(), step + stretch.count  # looking tells nothing of the pace
        return done

    def conclude(self, candidate: Candidate, reason: str | None, way: Way) -> None:
        """Record what follows from a look at a way, from its step on: `reason` says what disagreed."""
        if reason is None and not candidate.is_new:
            self.record.add(replace(candidate.way, step=way.step, message=""))
            return
        if reason is None and way.gain >= LEAST_GAIN:
            way = replace(way, since=way.step, message=adopted(way))
            self.record.add(way)
            if way.name == "compiled":
                self.training.events.message(way.message)
            return
        base = self.base if candidate.is_new or way.name == "compiled" else replace(EXACT, spared=self.way.spared)
        back = replace(base, step=way.step, message="")
        if reason is not None and candidate.failures + 1 < TRIES:
            self.candidate = replace(candidate, failures=candidate.failures + 1)
        elif reason is not None:
            message = f"The {way.name} way is not used: {reason} disagrees with the exact one."
            if way.name == "compiled":
                forget_package(way.key)
            if candidate.is_new:
                self.note(message)
                if way.name == "compiled":
                    self.tell_not_compiled(f"what they computed was not near enough ({reason})")
            else:
                back = replace(back, message=message)
                self.training.events.message(message)
        elif way.name == "compiled":
            self.give_up_compiling(f"that was only {way.gain:.2f} times as fast")
        if self.record.at(self.state["step"]).name != back.name or back.message:
            self.record.add(back)

    def executing(self, way: Way, batch: Batch) -> Callable[[Stretch], Tensor]:
        """Return a function that takes the steps of a stretch in a way, and returns their losses."""
        if way.name == "compiled":
            compiled = self.compiled_for(way)

            def together(stretch: Stretch) -> Tensor:
                samples, targets = self.for_compiled(batch)
                return compiled.take(samples, targets, stretch.rates, stretch.seeds, self.generator)[0]

            return together
        execute = self.eager_way(way) if way.name == "eager" else self.exact

        def one_by_one(stretch: Stretch) -> Tensor:
            losses = []
            for window, rates, seed in zip(stretch.windows, stretch.rates, stretch.seeds, strict=True):
                agreement.set_rates(self.parts, rates)
                self.generator.manual_seed(seed)
                losses.append(execute(window)[0])
            return torch.stack(losses)

        return one_by_one

    def compiled_for(self, way: Way) -> CompiledSteps:
        """Return the steps of a compiled way that is looked at: those that are in force, or its package's."""
        if self.compiled is None or self.compiled_key != way.key:
            package = find_package(way.key)
            assert package is not None
            self.compiled, self.compiled_key = CompiledSteps(self.pieces(), package), way.key
        return self.compiled

    def eager_way(self, way: Way) -> Step:
        """Return the step of the eager way."""
        return eager_step(self.parts, way.fused, way.channels_last)

    def compare(
        self,
        execute: Callable[[Stretch], Tensor],
        way: Way,
        stretch: Stretch,
        before: agreement.Tensors,
        exact: Outcome,
    ) -> str | None:
        """Say what of a way's result is further from the reference than it may be; None when nothing is."""
        parts, live = self.parts, tensors_of(self.parts)
        put(live, before)
        fast = self.outcome(execute(stretch), way)
        reason = agreement.disagreement(fast, exact, agreement.reference(parts, before, stretch, self.generator))
        rates = agreement.revealing_rates(parts, before, stretch.count, stretch.rates[-1])
        if reason is not None or rates is None or way.name != "compiled":
            return reason
        revealing = replace(stretch, rates=rates)
        outcomes = []
        for take in (execute, self.executing(EXACT, None)):
            put(live, before)
            outcomes.append(self.outcome(take(revealing), way))
        expected = agreement.reference(parts, before, revealing, self.generator)
        return agreement.disagreement(outcomes[0], outcomes[1], expected)

    def outcome(self, losses: Tensor, way: Way) -> Outcome:
        """Return what the steps just taken led to."""
        gradients = {} if way.name == "compiled" else agreement.gradients_of(self.parts)
        return Outcome(losses.reshape(-1).double(), copies({**tensors_of(self.parts), **gradients}))

    def measure(
        self, execute: Callable[[Stretch], Tensor], now: Way, stretch: Stretch, before: agreement.Tensors
    ) -> tuple[float, float]:
        """Return how many times as fast as the way `now` the candidate is, and the microseconds of its step: the best of some rounds."""
        live, best = tensors_of(self.parts), [math.inf, math.inf]
        contenders = (execute, self.executing(now, None))
        for _ in range(ROUNDS):
            for number, take in enumerate(contenders):
                put(live, before)
                began = time.perf_counter()
                take(stretch)
                best[number] = min(best[number], time.perf_counter() - began)
        return best[1] / best[0], best[0] / stretch.count * 1e6

    def close(self) -> None:
        """End the process that compiles beside the training, and give torch its threads back."""
        self.stop_compiling()

    def stop_compiling(self) -> None:
        """End the process that compiles beside the training, if it is still at work: nobody can use what it would make."""
        if self.compilation is not None:
            self.compilation.stop()
            self.compilation = None


def compile_seconds(model: nn.Module) -> float:
    """Return about how many seconds a training loses by compiling its steps beside it.

    Compiling took 15 s for 3 layers, 24 for 7, 33 for 18 (AMD EPYC); beside the first, the training lost half of that.
    """
    layers = sum(any(True for _ in module.parameters(recurse=False)) for module in model.modules())
    return COMPILE_SECONDS + LAYER_SECONDS * layers


def adopted(way: Way) -> str:
    """Say that a way is in force from its step on, and what that gains."""
    means = {
        "compiled": "compiled" if way.count == 1 else f"compiled, {way.count} at a time",
        "eager": " and ".join(
            [*(["with the fused update"] if way.fused else []), *(["with channels last"] if way.channels_last else [])]
        ),
    }[way.name]
    return f"From step {way.step + 1:,} on, steps are executed {means}: {way.microseconds:,.0f} µs each, {way.gain:.1f} times as fast."
