"""Power cuts: every write of real training runs is logged, and the log is cut off everywhere.

After each operation the disk may be in many states (`replay`). On each the recovery is run as `resume` does it. No
checkpoint that was reported as written may be lost, and nothing may be taken for whole that is not as it was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from faults.log import LoggedDisk
from faults.outcome import Outcome, case_random
from faults.recovery import Judge, Recovered, Recovery, digest_of
from faults.replay import Choice, SimulatedDisk, State, fixed_choices, random_choice
from faults.scenarios import SCENARIOS, Recorded, record
from faults.small import fast_pace, scratch_folder

RESUMED = 500  # one state in so many is really trained to its end
MANY, SHORT, LONG = 10_000, 2, 6  # that many states take longer runs, or they would be the same ones again
SHOWN = 20  # failures that are told in full


def campaign(
    count: int, seed: int, work: Path, say: Callable[[str], None], *,
    disk: type[LoggedDisk] = LoggedDisk, scenarios: Sequence[str] = SCENARIOS, resumed: int = RESUMED,
) -> Outcome:  # fmt: skip
    """Judge the recovery from `count` states of the disk, spread evenly over every moment of several runs."""
    epochs = LONG if count >= MANY else SHORT
    with scratch_folder("power", work) as scratch, fast_pace():
        recorded = [record(name, scratch / "recorded" / name, disk, seed, epochs) for name in scenarios]
        return replay_all(recorded, count, seed, scratch / "replayed", say, resumed)


def replay_all(
    recorded: list[Recorded], count: int, seed: int, scratch: Path, say: Callable[[str], None], resumed: int
) -> Outcome:
    """Replay all logs, each with its share of the states."""
    figures: Counter[str] = Counter(
        runs=len(recorded), states=0, distinct=0, resumed=0, lost=0, accepted_bad=0, raised=0
    )
    moments = sum(len(run.operations) for run in recorded)
    failures: list[str] = []
    done = 0
    for run in recorded:
        done += len(run.operations)
        replay = Replay(run, scratch / run.name, seed, resumed, figures)
        failures += replay.all(count * done // moments - figures["states"])
        say(
            f"power: {run.name}: {len(run.operations):,} operations, {figures['states']:,} of {count:,} states, {len(failures)} failures"
        )
    figures["operations"] = moments
    return Outcome("power", figures["states"], tuple(failures[:SHOWN]), dict(figures))


class Replay:
    """Cuts the power at each moment of one recorded run."""

    def __init__(self, run: Recorded, scratch: Path, seed: int, resumed: int, figures: Counter[str]) -> None:
        self.run, self.seed, self.resumed, self.figures = run, seed, resumed, figures
        self.recovery = Recovery(run, scratch)
        self.known: dict[bytes, Recovered] = {}  # by the state's digest: what was recovered from it
        self.since_resumed = 0

    def all(self, count: int) -> list[str]:
        """Judge `count` states; the first moments get one more where they do not come out even."""
        disk, judge, failures = SimulatedDisk(), Judge(self.run), []
        moments = len(self.run.operations)
        for number, operation in enumerate(self.run.operations):
            disk.apply(operation)
            judge.follow(operation, disk)
            for choice in self.choices(number, count * (number + 1) // moments - count * number // moments, disk.time):
                found = self.judge(disk.state(choice), judge)
                failures += [self.describe(text, number, choice) for text in found]
        return failures

    def choices(self, number: int, wanted: int, time: int) -> list[Choice]:
        """Return the choices for one moment: the fixed ones first, in turns where there is no room for all."""
        random = case_random(f"power/{self.run.name}", self.seed, number)
        fixed = fixed_choices()
        if wanted < len(fixed):
            first = fixed[:2] if wanted >= 2 else [fixed[number % 2]]
            chosen = [*first, random_choice(random, time), *random.sample(fixed[2:], 3)]
        else:
            chosen = [*fixed, *(random_choice(random, time) for _ in range(wanted - len(fixed)))]
        return chosen[:wanted]

    def judge(self, state: State, judge: Judge) -> list[str]:
        """Recover from one state, if it is a new one, and say what is wrong with what was recovered."""
        self.figures["states"] += 1
        digest = digest_of(state)
        if digest not in self.known:
            self.known[digest] = self.recovery.recover(state)
            self.figures["distinct"] += 1
        recovered = self.known[digest]
        found = judge.judge(state, recovered)
        self.since_resumed += 1
        if self.since_resumed >= self.resumed and not found and judge.can_resume(recovered):
            self.since_resumed = 0
            self.figures["resumed"] += 1
            found += self.recovery.resume(state)
        for kind, _ in found:
            self.figures[kind] += 1
        return [f"{kind}: {text}" for kind, text in found]

    def describe(self, text: str, number: int, choice: Choice) -> str:
        """Return a failure with what reproduces it."""
        last = "; ".join(map(str, self.run.operations[max(0, number - 7) : number + 1]))
        return (
            f'{text} [seed {self.seed}, run "{self.run.name}", power cut after operation {number + 1} of '
            f"{len(self.run.operations)}, {choice.name}; the last operations: {last}]"
        )
