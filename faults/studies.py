"""Kills of searches: a study that is killed again and again must end with the trials of one that never was.

With one job, choices, decisions, figures and the bytes of every run are those of the study that was left alone. With two, what
is pruned depends on which trial was first; no trial may be lost or told twice, and whole trials have the same bytes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import rushlight
from faults.outcome import Outcome, case_random
from faults.points import Watch
from faults.processes import be_a_process
from rushlight.runs import list_runs, read_history
from rushlight.search import log
from rushlight.search.study import JOURNAL

TRIALS, EPOCHS, KILLS = 13, 3, 6  # of a study; the most kills of one before it is left to end
PATIENCE = 600.0  # seconds for a process to end by itself
SPACE: dict[str, Any] = {"lr": log(1e-4, 1e-1), "width": log(4, 32), "schedule": ["constant", "cosine"]}


def campaign(count: int, seed: int, work: Path, say: Callable[[str], None]) -> Outcome:
    """Kill `count` processes that search, at random moments."""
    figures: Counter[str] = Counter(studies=0, kills=0, trials=0)
    failures: list[str] = []
    began = time.monotonic()
    search(work / "reference", 1, work / "reference.log", None)
    length = time.monotonic() - began
    wanted, case = found_in(work / "reference"), 0
    while figures["kills"] < count:
        random, jobs, runs = case_random("studies", seed, case), 2 if case % 4 == 3 else 1, work / f"{case:04}"
        for _ in range(min(KILLS, count - figures["kills"])):
            figures["kills"] += (
                search(runs, jobs, work / f"{case:04}.log", random.uniform(0, length / 2)) == -signal.SIGKILL
            )
        code = search(runs, jobs, work / f"{case:04}.log", None)
        if code:
            failures.append(f"case {case} with {jobs} jobs ended with {code}: see {work / f'{case:04}.log'}")
        else:
            failures += [
                f"case {case} with {jobs} jobs: {words}" for words in differences(wanted, found_in(runs), jobs)
            ]
        figures["studies"] += 1
        figures["trials"] += TRIALS
        case += 1
        say(f"studies: {figures['kills']} of {count} kills, {figures['studies']} studies, {len(failures)} failures")
    return Outcome("studies", figures["kills"], tuple(failures), dict(figures))


def search(runs: Path, jobs: int, log_file: Path, delay: float | None) -> int:
    """Search in a copy of this process, killed after `delay` seconds; return its exit code, or minus its signal."""
    child = os.fork()
    if child == 0:

        def work(watch: Watch | None) -> None:
            rushlight.tune(
                "mlp", "digits", space=SPACE, trials=TRIALS, epochs=EPOCHS, batch_size=240, numerics="exact", seeds=1,
                jobs=jobs, name="study", runs=runs, quiet=True,
            )  # fmt: skip

        be_a_process(work, runs, log_file, torch.get_num_threads(), None)
    end = time.monotonic() + (PATIENCE if delay is None else delay)
    while time.monotonic() < end:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def found_in(runs: Path) -> dict[str, Any]:
    """Return what a study has found: its trials, how often each was told, and the bytes of its runs."""
    result = json.loads((runs / "study" / "result.json").read_bytes())
    told: Counter[str] = Counter()
    for line in (runs / "study" / JOURNAL).read_bytes().splitlines():
        entries = json.loads(line)["entries"]
        told.update(
            str(entry["trial_id"]) for entry in entries if entry["op_code"] == 6 and entry["state"] in (1, 2, 3)
        )
    digests, statuses = {}, {}
    for run in list_runs(runs):
        ends = [line for line in read_history(run.folder) if line.get("event") == "finished"]
        digests[run.name] = (
            [(end["step"], end["state_sha256"]) for end in ends],
            (run.folder / "losses.f32").read_bytes(),
        )
        statuses[run.name] = run.status
    del result["folder"]
    return {"result": result, "told": dict(told), "digests": digests, "statuses": statuses}


def differences(wanted: dict[str, Any], found: dict[str, Any], jobs: int) -> list[str]:
    """Return what of a study is not as it should be, a sentence each."""
    told = {str(number): 1 for number in range(TRIALS)}
    words = [f"trials were told {found['told']}"] if found["told"] != told else []
    if jobs == 1:
        return words + [f"{name} differs" for name in ("result", "digests", "statuses") if found[name] != wanted[name]]
    for one, other in zip(wanted["result"]["trials"], found["result"]["trials"], strict=True):
        name = f"study-{one['number']:03}"
        if one["choices"] == other["choices"] and one["status"] == other["status"] == "complete":
            words += [f"{name} has other bytes"] if wanted["digests"][name] != found["digests"][name] else []
        if found["statuses"][name] != {"complete": "finished"}.get(other["status"], other["status"]):
            words.append(f"{name} is {found['statuses'][name]}, and was told {other['status']}")
    return words
