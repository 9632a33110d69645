"""Runs of several processes, one of which is really killed: the others must end, and all resume to the same bytes.

Each case trains one configuration in 2 or 3 processes (forks of this one, with a launcher's environment), every other one
with its model divided among them where that goes, kills one of them, the first or another, or all at once, waits for the others to end by themselves, and resumes in as many processes;
until the run ends by itself. It must then have the bytes of a run in as many processes that nobody has killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from faults.compare import differences
from faults.configurations import Configuration
from faults.kills import is_over, losses_of, newest
from faults.moments import ALWAYS, INTERVALS, Interval
from faults.outcome import Outcome, Say, case_random
from faults.points import ANY, BACKWARD, CHECKPOINT, DISK, ENDING, PUBLISHED, START, STEP, TEST, Moment, Watch
from faults.processes import Ended, be_a_process, tail
from faults.references import NAME, References, again, begin
from rushlight.training.distributed import world

PATIENCE = 120.0  # seconds after a kill, or without a step, after which processes hang: those that are left notice a death at once
ALL = -1  # the rank of a victim: every process
REFUSED = ("DataLoader", "IterableDataset", "own GRU")  # in the names of configurations that several processes refuse
MOST_FAILURES = 10

AT_FIRST: dict[
    str, Callable[[Random], Moment]
] = {  # when the process that writes is killed; steps are drawn from the run's first half
    "during a checkpoint": lambda random: Moment(CHECKPOINT, random.randrange(30), random.randint(1, 12)),
    "right after a checkpoint's rename": lambda random: Moment(PUBLISHED, random.randrange(30)),
    "during the report and the bundle": lambda random: Moment(ENDING, count=random.randint(1, 12)),
    "during other files": lambda random: Moment(DISK, count=random.randint(1, 40)),
}
AT_ANY: dict[str, Callable[[Random], Moment]] = {
    "at random": lambda random: Moment(STEP, random.randrange(40), held=False, delay=random.uniform(0, 0.02)),
    "before others' gradients are there": lambda random: Moment(BACKWARD, random.randrange(40), random.randint(1, 4)),
    "by the clock": lambda random: Moment(START, held=False, delay=random.uniform(0, 1.5)),
    "during testing": lambda random: Moment(TEST, count=random.randint(1, 4), held=random.random() < 0.5),
    "at the first things it does": lambda random: Moment(ANY, count=random.randint(1, 8)),
}


@dataclass(frozen=True)
class Kill:
    """One kill: of which process, when."""

    rank: int
    name: str
    moment: Moment


@dataclass
class Found:
    """What came of one case."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    late: int = 0  # kills of a run that was over, or of processes that had ended
    resumes: int = 0
    hangs: int = 0
    seconds: list[float] = field(default_factory=list)  # from a kill until all others had ended
    problems: list[str] = field(default_factory=list)


def campaign(count: int, seed: int, work: Path, say: Say) -> Outcome:
    """Kill `count` times, in as many cases as that takes."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    world.JOIN_SECONDS = 30.0  # for one that was killed before it came; nobody restarts it here
    library = References(work, say)
    configurations = [one for one in library.configurations[:15] if not any(name in one.name for name in REFUSED)]
    references: dict[tuple[str, int, bool], Path | None] = {}  # None: its model cannot be divided
    found, kinds, failures, number = list[Found](), Counter[str](), list[str](), 0
    while sum(len(each.kills) for each in found) < count and len(failures) < MOST_FAILURES and number < 10 * count:
        random = case_random("processes", seed, number)
        configuration, size = configurations[number % len(configurations)], random.choice((2, 3))
        folder = work / f"case-{number:05d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        reference, is_divided = None, random.random() < 0.5
        for divides in (True, False) if is_divided else (False,):
            key = (configuration.name, size, divides)
            if key not in references:
                how = "divided among" if divides else "in"
                say(f"training without a kill, {how} {size} processes: {configuration.name}")
                ending = "-divided" if divides else ""
                references[key] = train(configuration, size, library, work / f"reference-{number}{ending}", divides)
            reference, is_divided = references[key], divides
            if reference is not None:
                break
        assert reference is not None
        interval = random.choice(INTERVALS[:-1])
        kills = [draw_kill(random, size, is_divided) for _ in range(random.randint(1, 2))]
        result = run_case(configuration, size, kills, interval, library, folder, reference, is_divided)
        found.append(result)
        kinds.update(f"kills {each['name']}" for each in result.kills)
        kinds.update("kills of a divided model" for _ in result.kills if is_divided)
        kinds.update(f"kills of {each['of']}, of {size} processes" for each in result.kills)
        if result.problems:
            drawn = ", ".join(map(str, kills))
            failures.append(
                f"case {number} of seed {seed} ({configuration.name}; {size} processes{', divided' if is_divided else ''}; {drawn}): {' '.join(result.problems[:3])} Kept in {folder}."
            )
        else:
            shutil.rmtree(folder)
        say(f"{sum(len(each.kills) for each in found)} of {count} kills, {len(failures)} failures")
        number += 1
    seconds = [each for result in found for each in result.seconds]
    figures: dict[str, int | float] = {
        "kills": sum(len(each.kills) for each in found),
        "resumes": sum(each.resumes for each in found),
        "hangs": sum(each.hangs for each in found),
        "kills after the end, not counted": sum(each.late for each in found),
        "longest until the others had ended, s": round(max(seconds, default=0.0), 1),
        "configurations": len({name for name, _, _ in references}),
        **dict(sorted(kinds.items())),
    }
    return Outcome("processes", len(found), tuple(failures), figures)


def draw_kill(random: Random, size: int, is_divided: bool) -> Kill:
    """Draw which process to kill, and when. Every process of a divided model writes a part of its checkpoints."""
    rank = random.choice((0, 0, *range(1, size), ALL))
    kinds = AT_ANY if rank > 0 or random.random() < 0.3 else AT_FIRST
    if is_divided and rank > 0:
        kinds = kinds | {"during a checkpoint": AT_FIRST["during a checkpoint"]}
    name = random.choice(list(kinds))
    return Kill(rank, name, kinds[name](random))


def train(configuration: Configuration, size: int, library: References, folder: Path, divides: bool) -> Path | None:
    """Train in `size` processes that nobody kills; None where its model cannot be divided among them."""
    folder.mkdir(parents=True)
    work = partial(begin, configuration, library.data, folder, None, **({"shard": True} if divides else {}))
    ended = run_together(work, size, folder / NAME, folder / "log", None)
    if divides and "--shard" in tail(folder / "log", 4000) and any(each.code for each in ended):
        return None
    if any(each.code for each in ended):
        raise RuntimeError(f"{configuration.name} cannot be trained in {size} processes: {tail(folder / 'log', 2000)}")
    return folder / NAME


def run_case(
    configuration: Configuration, size: int, kills: list[Kill], interval: Interval, library: References, folder: Path,
    reference: Path, is_divided: bool,
) -> Found:  # fmt: skip
    """Train, kill, resume and kill until the run ends by itself; then compare it with the one never killed."""
    found, run = Found(), folder / NAME
    for kill in (*kills, None):
        before = newest(run)
        is_begun = (run / "recipe.json").exists()
        if run.exists() and not is_begun:
            shutil.rmtree(run)
        found.resumes += is_begun
        is_saving = kill is not None and kill.name in ("during a checkpoint", "right after a checkpoint's rename")
        how_often, more = ALWAYS if is_saving else interval, {"shard": True} if is_divided else {}
        work = partial(again if is_begun else begin, configuration, library.data, folder, how_often, **more)
        ended = run_together(work, size, run, folder / "log", kill)
        hung = [rank for rank, each in enumerate(ended) if each.hung]
        killed = [rank for rank, each in enumerate(ended) if each.was_killed]
        found.hangs += bool(hung)
        if hung:
            found.problems.append(f"processes {hung} hang: {tail(folder / 'log')}.")
        elif killed:
            hit = next((each.hit for each in ended if each.hit), None)
            if is_over(run):
                found.late += 1
            else:
                assert kill is not None
                found.kills.append(
                    {
                        **(hit or {}),
                        "name": kill.name,
                        "of": "all" if kill.rank == ALL else "the first" if kill.rank == 0 else "another",
                    }
                )
                found.seconds.append(max(each.seconds for each in ended))
                found.problems += losses_of(run, before, Ended(-9, hit, (), 0.0))
        elif codes := [each.code for each in ended if each.code]:
            found.problems.append(f"ended with exit codes {codes}: {tail(folder / 'log')}.")
        if found.problems or is_over(run):
            break
    if not found.problems:
        try:
            found.problems += [f"{text}." for text in differences(reference, run)]
        except Exception as error:
            found.problems.append(f"it cannot be compared: {type(error).__name__}: {error}.")
    return found


# ── the processes ────────────────────────────────────────────────────────────────────────────────────────────


def run_together(
    work: Callable[[Watch | None], None], size: int, run: Path, log: Path, kill: Kill | None
) -> list[Ended]:
    """Do `work` in `size` copies of this process, as a launcher would start them; kill one, or all, at its moment.

    What is left must end by itself. An `Ended` has the seconds since the kill.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    reading, writing = os.pipe()
    children = []
    for rank in range(size):
        is_watched = kill is not None and rank == max(kill.rank, 0)
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.environ.update(common, RANK=str(rank))
            watch = Watch(kill.moment, writing) if kill is not None and is_watched else None
            be_a_process(work, run, log, 1, watch)
        children.append(child)
    os.close(writing)
    try:
        return watch_over(children, reading, run, kill)
    finally:
        os.close(reading)
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def watch_over(children: list[int], pipe: int, run: Path, kill: Kill | None) -> list[Ended]:
    """Wait for all to end; kill the victim once it says that its moment has come."""
    began = since = time.monotonic()  # `since`: when one was killed; before that, when the last losses were written
    told, hit, written, losses = b"", None, 0, run / "losses.f32"
    ended: dict[int, Ended] = {}
    while len(ended) < len(children) and time.monotonic() - since < PATIENCE:
        if hit is None and losses.exists() and (size := losses.stat().st_size) != written:
            since, written = time.monotonic(), size
        ready, _, _ = (
            select.select([pipe], [], [], 0.01) if kill is not None and hit is None else ([], [], time.sleep(0.01))
        )
        if ready and kill is not None:
            more = os.read(pipe, 65536)
            told += more
            if b"\n" in told:
                hit = json.loads(told.partition(b"\n")[0])
                time.sleep(kill.moment.delay)
                victims = children if kill.rank == ALL else [children[kill.rank]]
                for child in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                since = time.monotonic()
            elif not more:
                kill = None  # the victim has ended
        for rank, child in enumerate(children):
            if rank not in ended:
                gone, status = os.waitpid(child, os.WNOHANG)
                if gone:
                    ended[rank] = Ended(
                        os.waitstatus_to_exitcode(status), hit, (), time.monotonic() - (since if hit else began)
                    )
    return [ended.get(rank, Ended(-signal.SIGKILL, hit, (), PATIENCE, hung=True)) for rank in range(len(children))]
