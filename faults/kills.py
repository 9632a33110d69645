"""Real training processes, really killed: what resumes must end with the bytes of the run that was never killed.

Each case trains one configuration and kills it at moments drawn from (seed, case), resumes it, kills that too, until
it ends by itself. Nearly all of them are forks of this process, which train through `rushlight.train` and
`rushlight.resume`; every `COMMAND_EVERY`-th goes through the command line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults.compare import differences
from faults.moments import COMMAND, INTERVALS, KINDS, Interval, Kind, Reference
from faults.outcome import Outcome, Say, case_random
from faults.points import PUBLISHED, START, STEP, Moment
from faults.processes import Ended, run_command, run_fork, tail
from faults.references import NAME, References, again, begin
from rushlight.runs.checkpoint_files import age, list_checkpoints
from rushlight.runs.sessions import read_sessions
from rushlight.training.checkpoint.checkpoint import is_whole

COMMAND_EVERY = 20
MOST_FAILURES = 20  # after which the rest would say nothing new
SHOWN = 3  # differences of a case, in its failure


@dataclass(frozen=True)
class Case:
    """What one case does; it follows from the seed and the number."""

    seed: int
    number: int
    kind: Kind
    reference: Reference
    moments: tuple[Moment, ...]
    interval: Interval
    whole_group: bool  # workers are killed too; else they are left to notice

    def __str__(self) -> str:
        threads = f", {self.reference.threads} threads" if self.reference.threads > 1 else ""
        return (
            f"case {self.number} of seed {self.seed} ({self.reference.configuration.name}{threads}; {self.kind.name})"
        )


@dataclass
class Found:
    """What came of one case."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    late: int = 0  # kills of a run that was over
    resumes: int = 0
    begun_again: int = 0  # killed before there was a run to resume
    problems: list[str] = field(default_factory=list)


def campaign(count: int, seed: int, work: Path, say: Say, only: int | None = None) -> Outcome:
    """Kill `count` times, in as many cases as that takes; with `only`, do that case alone."""
    library = References(work, say)
    found: list[tuple[Case, Found]] = []
    kills, failures = 0, list[str]()
    numbers = range(10 * count + len(KINDS)) if only is None else [only]
    for number in numbers:
        if only is None and (kills >= count or len(failures) >= MOST_FAILURES):
            break
        case = draw_case(seed, number, library)
        result = run_case(case, library, folder := work / f"case-{number:05d}")
        found.append((case, result))
        note(work / "cases.jsonl", case, result)
        kills += len(result.kills)
        if result.problems:
            failures.append(f"{case}: {' '.join(result.problems[:SHOWN])} Kept in {folder}. Alone: {alone(case)}")
        else:
            shutil.rmtree(folder)
        say(f"{kills:,} of {count:,} kills, {sum(r.resumes for _, r in found):,} resumes, {len(failures)} failures")
    failures += library.problems
    failures += never_hit(found) if only is None else []
    return Outcome("kills", len(found), tuple(failures), figures(found, library))


def alone(case: Case) -> str:
    """Return the command that repeats a case."""
    return f"python -m faults --seed {case.seed} --case {case.number}"


def figures(found: list[tuple[Case, Found]], library: References) -> dict[str, int | float]:
    """Count what was done, by kind and by configuration."""
    kinds, configurations = Counter[str](), Counter[str]()
    for case, result in found:
        kinds[f"kills {case.kind.name}"] += len(result.kills)
        configurations[f"kills of {case.reference.configuration.name}"] += len(result.kills)
    return {
        "kills": sum(kinds.values()),
        "resumes": sum(result.resumes for _, result in found),
        "begun again": sum(result.begun_again for _, result in found),
        "differences": sum(len(result.problems) for _, result in found),
        "kills after the end, not counted": sum(result.late for _, result in found),
        "configurations": len({case.reference.configuration.name for case, _ in found}),
        **{f"left out: {name}, since {why}": 1 for name, why in library.skipped.items()},
        **{name: kinds[name] for name in sorted(kinds)},
        **{name: configurations[name] for name in sorted(configurations)},
    }


def never_hit(found: list[tuple[Case, Found]]) -> Iterator[str]:
    """Give a sentence for each kind of moment that was tried and never came: such a campaign proves nothing about it."""
    for kind in (*KINDS, COMMAND):
        tried = [result for case, result in found if case.kind is kind]
        if len(tried) >= 3 and not any(result.kills for result in tried):
            yield f'No process was ever killed "{kind.name}", in {len(tried)} cases: its moment never comes.'


def note(path: Path, case: Case, result: Found) -> None:
    """Add a line about a case to the record of the campaign."""
    line = {
        "case": case.number, "kind": case.kind.name, "configuration": case.reference.configuration.name,
        "threads": case.reference.threads, "moments": [asdict(moment) for moment in case.moments],
        **asdict(result),
    }  # fmt: skip
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


# ── one case ─────────────────────────────────────────────────────────────────────────────────────────────────


def draw_case(seed: int, number: int, library: References) -> Case:
    """Return the case of this number."""
    random = case_random("kills", seed, number)
    kind = COMMAND if number % COMMAND_EVERY == COMMAND_EVERY - 1 else KINDS[number % len(KINDS)]
    configurations = [one for one in library.configurations if one.command or kind is not COMMAND]
    first = (seed + number) % len(configurations)  # one after the other: each kind meets each of them in time
    for configuration in configurations[first:] + configurations[:first]:
        has_two = configuration.command and (os.cpu_count() or 1) > 1
        reference = library.get(configuration, 2 if has_two and random.random() < 0.25 else 1)
        if kind.suits(reference):
            break
    else:
        kind = KINDS[0]
    interval = kind.interval or random.choice(INTERVALS)
    moments = tuple(kind.moments(random, reference))
    return Case(seed, number, kind, reference, moments, interval, random.random() < 0.5)


def run_case(case: Case, library: References, folder: Path) -> Found:
    """Train, kill, resume and kill until the run ends by itself; then compare it with the one never killed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found, run = Found(), folder / NAME
    for moment in (*case.moments, None):
        before = newest(run)
        ended = go_on(case, library.data, folder, moment, found)
        if ended.hung:
            found.problems.append(f"hangs: {tail(folder / 'log')}.")
        elif ended.code and not ended.was_killed:
            found.problems.append(f"ended with exit code {ended.code}: {tail(folder / 'log')}.")
        elif ended.was_killed:
            note_kill(run, ended, found)
            found.problems += losses_of(run, before, ended)
        if found.problems or not ended.was_killed:
            break
    return compare(case, run, found, library)


def go_on(case: Case, data: Path, folder: Path, moment: Moment | None, found: Found) -> Ended:
    """Start or resume the run in a process of its own, and kill it at the moment."""
    run, threads = folder / NAME, case.reference.threads
    is_begun = (run / "recipe.json").exists()
    if run.exists() and not is_begun:
        found.begun_again += 1
        shutil.rmtree(run)
    found.resumes += is_begun
    configuration = case.reference.configuration
    if case.kind is COMMAND:
        given = ["resume", NAME] if is_begun else ["train", *(part.format(data=data) for part in configuration.command)]
        arguments = [*given, "--runs", str(folder), "--quiet", *([] if is_begun else ["--name", NAME])]
        is_time = None if moment is None else partial(has_come, run, moment)
        return run_command(arguments, folder / "log", threads, is_time, moment.delay if moment else 0.0)
    verb = again if is_begun else begin
    work = partial(verb, configuration, data, folder, case.interval)
    return run_fork(work, run, folder / "log", threads, moment, is_watched=True, whole_group=case.whole_group)


def has_come(run: Path, moment: Moment) -> bool:
    """Tell from a run's files whether the moment to kill it has come."""
    if moment.point == START:
        return run.exists()
    if moment.point == STEP:
        return (run / "losses.f32").exists()
    if moment.point == PUBLISHED:
        return len(list_checkpoints(run)) >= moment.count
    return any(run.glob("model*"))


# ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────


def newest(run: Path) -> tuple[Any, ...]:
    """Return how far the newest checkpoint is; () when there is none."""
    kept = list_checkpoints(run)
    return age(kept[-1]) if kept else ()


def note_kill(run: Path, ended: Ended, found: Found) -> None:
    """Count a kill, unless the run was over."""
    if is_over(run):
        found.late += 1
    else:
        found.kills.append({**(ended.hit or {}), "kept": newest(run)})


def is_over(run: Path) -> bool:
    """Tell whether a run has said that it is finished."""
    return any(line["event"] == "finished" for line in read_sessions(run))


def losses_of(run: Path, before: tuple[Any, ...], ended: Ended) -> Iterator[str]:
    """Give a sentence for each checkpoint that a kill has damaged or taken away."""
    for checkpoint in list_checkpoints(run):
        if not is_whole(checkpoint):
            yield f"after a kill at {ended.hit}, {checkpoint.name} is damaged."
    if newest(run) < before:
        yield f"after a kill at {ended.hit}, the newest checkpoint is {newest(run)}, and it was {before}."
    detail = (ended.hit or {}).get("detail", "")
    if (ended.hit or {}).get("point") == PUBLISHED and not is_whole(run / detail):
        yield f"{detail} was published, and is not there after a kill."


def compare(case: Case, run: Path, found: Found, library: References) -> Found:
    """Compare the run with the one never killed, if it got that far."""
    if not found.problems:
        try:
            found.problems += [f"{text}." for text in differences(library.like(case.reference, run), run)]
        except Exception as error:  # a run that cannot even be read is the worst difference of all
            found.problems.append(f"it cannot be compared: {type(error).__name__}: {error}.")
    return found
