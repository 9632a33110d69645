"""Surroundings that are out of order: a clock that jumps, two runs at once, folders one may not write to, long paths."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import rushlight
from faults.small import OPTIONS, clock_moved, result_of, resume, train
from rushlight.runs import list_runs
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.folder import create_run
from rushlight.training.checkpoint.checkpoint import is_whole

HOUR, YEAR = 3600.0, 365 * 86400.0
NOBODY = 65534  # an account that may not write where root may
COMMANDS = """
import contextlib, io, json, sys
from rushlight.cli import main

ended = []
for arguments in json.loads(sys.argv[1]):
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code or 0
    ended.append((code, said.getvalue()))
print(json.dumps(ended))
"""


def clock_set_in_mid_run(work: Path) -> list[str]:
    """Set the clock back an hour, and forward a year, while a run trains: it ends the same, and is listed."""
    expected, failures = result_of(train(work / "whole")), []
    for name, jump in (("back", -HOUR), ("forward", YEAR)):
        asked: list[None] = []

        def move(jump: float = jump, asked: list[None] = asked) -> float:
            asked.append(None)
            return jump if len(asked) > 8 else 0.0  # after the first lines of history

        with clock_moved(move):
            run = train(work / "runs", name)
            listed = [summary.status for summary in list_runs(work / "runs") if summary.name == name]
        if result_of(run) != expected:
            failures.append(f"clock set {name}: the run ended differently")
        if listed != ["finished"] or len(asked) <= 8:
            failures.append(f"clock set {name}: listed as {listed} after {len(asked)} looks at the clock")
        if result_of(resume(work / "runs", name)) != expected:
            failures.append(f"clock set {name}: resumed, it ended differently")
    return failures


def two_runs_in_one_second(work: Path) -> list[str]:
    """Train two runs at once, step by step side by side: two folders, both whole."""
    expected = result_of(train(work / "whole"))
    both = [rushlight.epochs("mlp", "digits", runs=work / "runs", **OPTIONS) for _ in range(2)]
    for _ in zip(*both, strict=True):
        pass
    failures = [f"{each.run.name} ended differently" for each in both if result_of(each.run) != expected]
    if len({each.run.folder for each in both}) != 2 or len(list_runs(work / "runs")) != 2:
        failures.append("two runs in one second share a folder")
    failures += [
        f"{path} is damaged" for each in both for path in list_checkpoints(each.run.folder) if not is_whole(path)
    ]
    now = datetime(2026, 11, 23, 3, 31)
    if len({create_run(work / "many", "mlp", "digits", now=now) for _ in range(100)}) != 100:
        failures.append("runs made in one second share a folder")
    return failures


def path_with_spaces_chinese_and_200_characters(work: Path) -> list[str]:
    """Train, resume, list and save in a path that many programs trip over."""
    expected = result_of(train(work / "whole"))
    runs = work / "with spaces  and 中文 目录" / ("很长的路径" * 12) / ("x" * 200)
    name = "名字 " + "n" * 193  # 200 bytes: the longest that a run may have
    run = train(runs, name)
    failures = [] if result_of(run) == expected else ["the run ended differently"]
    if result_of(resume(runs, name)) != expected or [summary.status for summary in list_runs(runs)] != ["finished"]:
        failures.append("it was not resumed and listed")
    for target in ("模型 1.pth", "模型 1.safetensors", "模型 1"):
        saved = run.save(runs / target)
        rushlight.load(saved, None if saved.is_dir() else run.model)
    return failures


def folders_that_may_only_be_read(work: Path) -> list[str]:
    """Train, resume and save, as an account that may not write there: an explanation and exit code 1; listing works."""
    if not has_account_without_rights():
        return []
    run = train(work / "runs")
    with_access(work, 0o755, 0o644)
    with_access(work / "runs", 0o555, 0o444)
    runs = ["--runs", str(work / "runs")]
    attempts = [
        (["train", "mlp", "digits", "--epochs", "1", *runs], 1),
        (["resume", "run", *runs], 1),
        (["save", "run", str(work / "runs" / "model.pth"), *runs], 1),
        (["runs", *runs], 0),
    ]
    failures = refused(attempts, work)
    with_access(work / "runs", 0o755, 0o644)
    return failures if result_of(resume(work / "runs")) == result_of(run) else [*failures, "the run is not what it was"]


def with_access(folder: Path, of_folders: int, of_files: int) -> None:
    """Set who may do what with a folder and all in it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(of_folders if path.is_dir() else of_files)


def is_root() -> bool:
    """Tell whether this process may write anywhere."""
    return os.geteuid() == 0


def without_rights(command: list[str]) -> list[str]:
    """Return a command as an account executes it that may not write where this one may."""
    account = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if is_root() else []
    return [*account, *command]


def has_account_without_rights() -> bool:
    """Tell whether there is an account that may not write everywhere, and may read this Python and its packages."""
    if os.name == "nt" or (is_root() and shutil.which("setpriv") is None):
        return False
    command = without_rights([sys.executable, "-c", "import rushlight.cli, torch"])
    return subprocess.run(command, capture_output=True, env=environment_of_all(), cwd="/", check=False).returncode == 0


def environment_of_all() -> dict[str, str]:
    """Return the environment of a command that any account can execute."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def refused(attempts: list[tuple[list[str], int]], work: Path) -> list[str]:
    """Run commands, each with its exit code, as an account without rights, and say what is wrong with how they end."""
    arguments_of_each = json.dumps([arguments for arguments, _ in attempts])
    command = without_rights([sys.executable, "-c", COMMANDS, arguments_of_each])
    environment = {**environment_of_all(), "HOME": str(work)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work, check=False)
    if done.returncode:
        return [f"the commands could not be run: {done.stderr[-600:]}"]
    return [
        f"{' '.join(arguments)}: exit code {found}, expected {code}: {said[-600:]}"
        for (arguments, code), (found, said) in zip(attempts, json.loads(done.stdout), strict=True)
        if found != code or "Traceback" in said or (code and str(work) not in "".join(said.split()))
    ]


SURROUNDINGS: tuple[Callable[[Path], list[str]], ...] = (
    clock_set_in_mid_run,
    two_runs_in_one_second,
    path_with_spaces_chinese_and_200_characters,
    folders_that_may_only_be_read,
)
