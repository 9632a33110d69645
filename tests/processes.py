"""Commands in processes of their own that begin with torch imported, which takes a second and more otherwise.

Each is a fork of one process (multiprocessing's forkserver) that has imported Rushlight and done nothing else: its files,
signals and exit code are those of a process of its own. Tests of what is imported, of terminals and of closed streams
start Python itself.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from rushlight.runs.checkpoint_files import age, list_checkpoints

CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
PRELOADED = ["rushlight.api", "rushlight.cli.app", "rushlight.export.batches", "rushlight.training.engine.fast"]
if hasattr(os, "fork"):
    CONTEXT.set_forkserver_preload(PRELOADED)


class Process:
    """A process that executes the arguments of Python: `-m MODULE …`, `-c CODE …` or `FILE …`. As subprocess.Popen."""

    def __init__(
        self, arguments: Sequence[object], cwd: Path | None = None, env: Mapping[str, object] | None = None
    ) -> None:
        self.arguments = [str(each) for each in arguments]
        folder = tempfile.mkdtemp(prefix="process-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.streams = [Path(folder, name) for name in ("stdout", "stderr")]
        given = {**os.environ, **{name: str(value) for name, value in (env or {}).items()}}
        self.process = CONTEXT.Process(
            target=execute, args=(self.arguments, str(cwd or Path.cwd()), given, [str(path) for path in self.streams])
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it is at work; below 0, the signal that ended it."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it is at work."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raise subprocess.TimeoutExpired where it does not come."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what it wrote on standard output and on standard error."""
        self.wait(timeout)
        out, err = (path.read_text("utf-8") if path.exists() else "" for path in self.streams)
        return out, err

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)


def kill_in_mid_epoch(process: Process, run: Path, steps: int) -> None:
    """Kill a training once it has saved more than five steps into an epoch of so many."""
    try:
        deadline = time.monotonic() + 60
        while not any(age(path)[0] % steps > 5 for path in list_checkpoints(run)):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def run_python(
    arguments: Sequence[object],
    cwd: Path | None = None,
    env: Mapping[str, object] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Execute Python's arguments to the end."""
    process = Process(arguments, cwd, env)
    out, err = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.arguments, process.returncode, out, err)


def execute(arguments: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """Be the process: in a group of its own, with its own files, folder and environment."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, 1) for number, mode in enumerate(("r", "w", "w")))
    import rushlight.training.finish

    rushlight.training.finish.write_plots = lambda folder, report: None  # as in all tests: see conftest.py
    sys.path.insert(0, "")
    try:
        execute_python(arguments)
    except KeyboardInterrupt:  # Python then ends by the signal
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def execute_python(arguments: list[str]) -> None:
    """Do what `python ARGUMENTS` does."""
    kind, *rest = arguments
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")
