"""The kinds of moment at which training is killed: each a function that draws the moments of one case.

What is expected is the same of all of them, and checked after each kill and at the end: every published checkpoint is
whole, none that was there is lost, `resume` goes on, and the run ends with the bytes of the one never killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from faults.configurations import Configuration
from faults.points import ANY, BACKWARD, CHECKPOINT, DISK, ENDING, PUBLISHED, READ, START, STEP, TEST, Moment

Interval = tuple[float, float]  # seconds between checkpoints inside an epoch, and the share of the time they may take
ALWAYS: Interval = (0.0, 1e9)
INTERVALS: Sequence[Interval] = (ALWAYS, ALWAYS, (0.01, 1e9), (0.05, 1e9), (30.0, 0.01))
START_OPERATIONS = 40  # before and after each operation on the disk that there is before the first step


@dataclass(frozen=True)
class Reference:
    """A run that was never killed, and what a process comes past on its way through it."""

    configuration: Configuration
    threads: int
    folder: Path
    boundaries: tuple[int, ...]  # steps done at the end of each epoch
    counts: Counter[str]
    seconds: float

    @property
    def steps(self) -> int:
        """All steps of the run."""
        return self.boundaries[-1]

    def epoch(self, number: int) -> tuple[int, int]:
        """Return how many steps are done at the beginning and at the end of an epoch, from 0."""
        return (0, *self.boundaries)[number], self.boundaries[number]


@dataclass(frozen=True)
class Kind:
    """A kind of moment to kill at."""

    name: str
    moments: Callable[[Random, Reference], list[Moment]]
    suits: Callable[[Reference], bool] = lambda reference: True
    interval: Interval | None = None  # None: any


def at_random(random: Random, reference: Reference) -> list[Moment]:
    """Once to three times, at any time from the first step to the last: in the middle of whatever is being computed."""
    return [running(random, random.randrange(reference.steps)) for _ in range(random.randint(1, 3))]


def by_the_clock(random: Random, reference: Reference) -> list[Moment]:
    """At any time from the start of the process: while data is opened, the model is built, anything is written."""
    return [
        Moment(START, held=False, delay=random.uniform(0, 1.1 * reference.seconds)) for _ in range(random.randint(1, 2))
    ]


def three_in_one_epoch(random: Random, reference: Reference) -> list[Moment]:
    """Three times in one epoch, each further on than the one before."""
    begin, end = reference.epoch(random.randrange(len(reference.boundaries)))
    steps = sorted(random.sample(range(begin, end), min(3, end - begin)))
    return [Moment(STEP, step, random.randint(1, 3), held=random.random() < 0.5) for step in steps]


def after_a_resume(random: Random, reference: Reference) -> list[Moment]:
    """Once anywhere, then again at the first things that the resumed process does, once to three times over."""
    first = running(random, random.randrange(reference.steps))
    again = [Moment(random.choice((ANY, DISK, STEP)), count=random.randint(1, 8)) for _ in range(random.randint(1, 3))]
    return [first, *again]


def while_testing(random: Random, reference: Reference) -> list[Moment]:
    """While an epoch is tested: before, between and after the batches."""
    batches = max(1, reference.counts[TEST] // len(reference.boundaries))
    epoch = random.randrange(len(reference.boundaries))
    moment = Moment(
        TEST, reference.epoch(epoch)[0], random.randint(1, batches), random.random() < 0.7, random.uniform(0, 0.003)
    )
    return [moment] * random.randint(1, 2)


def in_a_checkpoint(random: Random, reference: Reference) -> list[Moment]:
    """While a checkpoint is written: before and after each operation on the disk, its rename and the deletion of old ones."""
    operations = round(reference.counts[CHECKPOINT] / max(1, reference.counts[PUBLISHED]))
    return [
        Moment(
            CHECKPOINT,
            random.randrange(reference.steps),
            random.randint(1, operations),
            delay=random.choice((0, 0.005)),
        )
        for _ in range(random.randint(1, 3))
    ]


def at_a_rename(random: Random, reference: Reference) -> list[Moment]:
    """Right after a checkpoint got its name."""
    return [Moment(PUBLISHED, random.randrange(reference.steps), random.randint(1, 2)) for _ in range(2)]


def at_the_last_batch(random: Random, reference: Reference) -> list[Moment]:
    """At the last step of an epoch: before it, after it, and once its loss is noted."""
    return [
        Moment(STEP, random.choice(reference.boundaries) - 1, random.randint(1, 4)) for _ in range(random.randint(1, 2))
    ]


def at_the_last_step(random: Random, reference: Reference) -> list[Moment]:
    """At the very last step of the run."""
    return [Moment(STEP, reference.steps - 1, random.randint(1, 4)) for _ in range(random.randint(1, 2))]


def in_mid_accumulation(random: Random, reference: Reference) -> list[Moment]:
    """Between the passes backward that make one step together."""
    last = 2 * reference.configuration.accumulate
    return [
        Moment(BACKWARD, random.randrange(reference.steps), random.randint(2, last - 1))
        for _ in range(random.randint(1, 3))
    ]


def at_the_end(random: Random, reference: Reference) -> list[Moment]:
    """While the bundle, the report and the plots are written: before and after each operation on the disk."""
    return [Moment(ENDING, count=random.randint(1, reference.counts[ENDING])) for _ in range(random.randint(1, 2))]


def in_other_files(random: Random, reference: Reference) -> list[Moment]:
    """Around an operation on the recipe, the history, the losses or the lock."""
    last = random.choice((START_OPERATIONS, reference.counts[DISK]))  # before the first step as often as after it
    return [Moment(DISK, count=random.randint(1, last)) for _ in range(random.randint(1, 2))]


def while_reading(random: Random, reference: Reference) -> list[Moment]:
    """While streamed data is read, in this process or by workers."""
    if reference.configuration.workers:  # each worker counts for itself
        count = random.randint(1, max(2, reference.counts[READ] // 2))
    else:
        count = random.randint(1, max(2, reference.counts[READ] // len(reference.boundaries)))
    step = random.randrange(reference.steps)
    return [Moment(READ, step, count, held=False, delay=random.uniform(0, 0.01)) for _ in range(random.randint(1, 2))]


def running(random: Random, step: int) -> Moment:
    """Return a moment some time after a step began; the process goes on in the meantime."""
    return Moment(STEP, step, held=False, delay=random.choice((0, random.uniform(0, 0.003), random.uniform(0, 0.03))))


def streams(workers: int) -> Callable[[Reference], bool]:
    """Return whether a run reads its samples as they are needed, with workers or without, where `READ` can tell."""
    return lambda reference: reference.configuration.workers == workers and (workers > 0 or reference.counts[READ] > 0)


def by_files(random: Random, reference: Reference) -> list[Moment]:
    """When a file appears, which is all that can be told from outside of a process that nobody watches."""
    points = [Moment(START), Moment(STEP), Moment(PUBLISHED), Moment(PUBLISHED, count=2), Moment(ENDING)]
    chosen = sorted(random.sample(range(len(points)), random.randint(1, 2)))
    return [replace(points[number], delay=random.uniform(0, 0.05)) for number in chosen]


KINDS: Sequence[Kind] = (
    Kind("at random", at_random),
    Kind("three in one epoch", three_in_one_epoch),
    Kind("right after a resume", after_a_resume),
    Kind("during testing", while_testing, lambda reference: reference.counts[TEST] > 0),
    Kind("during a checkpoint", in_a_checkpoint, interval=ALWAYS),
    Kind("right after a checkpoint's rename", at_a_rename, interval=ALWAYS),
    Kind("at the last batch of an epoch", at_the_last_batch),
    Kind("at the last step of the run", at_the_last_step),
    Kind("in mid-accumulation", in_mid_accumulation, lambda reference: reference.configuration.accumulate > 1),
    Kind("during the report and the bundle", at_the_end),
    Kind("during other files", in_other_files),
    Kind("reading with 0 workers", while_reading, streams(0)),
    Kind("reading with 2 workers", while_reading, streams(2)),
    Kind("by the clock", by_the_clock),
)
COMMAND = Kind("by the command line", by_files)  # real processes of `python -m rushlight`, with nothing in them changed
