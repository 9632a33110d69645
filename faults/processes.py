"""Training processes that are really killed: a copy of this process by fork, or the command line."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faults.points import START, Moment, Watch, install
from faults.small import write_small_pictures

PATIENCE = 180.0  # seconds after which a process that has neither ended nor been killed hangs


@dataclass(frozen=True)
class Ended:
    """How a process ended. `hit` says where it was when its moment came; None if that did not come."""

    code: int  # negative: the signal that killed it
    hit: dict[str, Any] | None
    told: tuple[dict[str, Any], ...]  # all that came through the pipe
    seconds: float
    hung: bool = False

    @property
    def was_killed(self) -> bool:
        """Whether it was killed, and not already over."""
        return self.code == -signal.SIGKILL and not self.hung


# ── a copy of this process ───────────────────────────────────────────────────────────────────────────────────


def run_fork(
    work: Callable[[Watch | None], None], run: Path, log: Path, threads: int, moment: Moment | None, *, is_watched: bool,
    whole_group: bool = False,
) -> Ended:  # fmt: skip
    """Do `work` in a copy of this process, and kill it at the moment. What it prints goes to `log`.

    torch and all else is imported already, which is most of what a process costs. With `whole_group` its data workers are
    killed with it; else they are left to notice.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        be_a_process(work, run, log, threads, Watch(moment, writing) if is_watched else None)
    os.close(writing)
    try:
        return watch_over(child, reading, moment, whole_group)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if moment is None:
                os.killpg(child, signal.SIGKILL)


def be_a_process(work: Callable[[Watch | None], None], run: Path, log: Path, threads: int, watch: Watch | None) -> None:
    """Do the work as a process of its own would, and never return."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        random.seed()  # a new process starts with random numbers of its own
        np.random.seed()
        torch.seed()
        torch.set_num_threads(threads)
        importlib.import_module("rushlight.training.finish").write_plots = write_small_pictures  # type: ignore[attr-defined]
        if watch is not None:
            install(watch, run)
            watch.reach(START)
        work(watch)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch_over(child: int, pipe: int, moment: Moment | None, whole_group: bool) -> Ended:
    """Wait for the child to end; kill it once it says that its moment has come."""
    began, told, hit = time.monotonic(), b"", None
    while time.monotonic() - began < PATIENCE:
        ready, _, _ = select.select([pipe], [], [], 0.01)
        if ready:
            told += os.read(pipe, 65536)
            if moment is not None and b"\n" in told:
                hit = json.loads(told.partition(b"\n")[0])
                time.sleep(moment.delay)
                kill(child, whole_group)
                return ended(os.waitpid(child, 0)[1], hit, told, began)
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            with contextlib.suppress(BlockingIOError):
                os.set_blocking(pipe, False)
                told += os.read(pipe, 65536)
            return ended(status, None, told, began)
    kill(child, True)
    os.waitpid(child, 0)
    return Ended(-signal.SIGKILL, hit, (), time.monotonic() - began, hung=True)


def kill(child: int, whole_group: bool) -> None:
    """Send SIGKILL to the process, or to it and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if whole_group else os.kill)(child, signal.SIGKILL)


def ended(status: int, hit: dict[str, Any] | None, told: bytes, began: float) -> Ended:
    """Return how a process ended from what `waitpid` says."""
    lines = tuple(json.loads(line) for line in told.splitlines() if line.endswith(b"}"))
    return Ended(os.waitstatus_to_exitcode(status), hit, lines, time.monotonic() - began)


def tail(log: Path, characters: int = 600) -> str:
    """Return the end of what a process printed."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    return text[-characters:] or "it said nothing"


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────


def run_command(
    arguments: Sequence[str], log: Path, threads: int, is_time: Callable[[], bool] | None, delay: float
) -> Ended:
    """Run `python -m rushlight …` as anybody does, and kill it `delay` seconds after `is_time` says so."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rushlight", *arguments],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        hit = None
        while process.poll() is None and time.monotonic() - began < PATIENCE:
            if is_time is not None and is_time():
                hit = {"point": "command line", "detail": " ".join(arguments[:1])}
                time.sleep(delay)
                process.kill()
                break
            time.sleep(0.002)
        hung = hit is None and process.poll() is None
        if hung:
            process.kill()
        return Ended(process.wait(), hit, (), time.monotonic() - began, hung)
