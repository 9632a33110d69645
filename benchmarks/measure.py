"""Contenders in processes of their own, interleaved; what they took; medians and spread."""

from __future__ import annotations

import json
import math
import mmap
import os
import platform
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
RESULT = "RUSHLIGHT_BENCHMARK_RESULT"  # the environment variable that says where a process writes what it measured
CLOCK = "RUSHLIGHT_BENCHMARK_CLOCK"  # the environment variable that says where a process in turns finds for how long it was stopped
LONGEST = 4 * 3600.0  # seconds; a process that takes longer hangs

T = TypeVar("T")


class ProcessFailed(Exception):
    """A measured process ended with an error; the text is the last that it printed."""


# ── one process ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Finished:
    """A process that ended: what it measured, and what it took as a whole, from its start to its end."""

    result: dict[str, Any]
    seconds: float
    processor_seconds: float  # its own and those of the processes it waited for
    peak_bytes: int | None  # the most memory it held at a time, by itself; None where it does not tell


def run_apart(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    on_terminal: bool = False,
    is_module: bool = True,
    started: Callable[[int], object] = lambda process: None,
) -> Finished:
    """Run `python -m ARGUMENTS` (or `python ARGUMENTS`) and wait for its end; ProcessFailed when that is an error.

    With `on_terminal` the process writes to a pseudo-terminal of 100 columns, and so draws its progress bar.
    """
    command = [sys.executable, *(["-m"] if is_module else []), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, "PYTHONPATH": path, **(environment or {}), RESULT: str(result)}
        with (terminal if on_terminal else quiet_file)(Path(folder) / "output") as (output, read_output):
            began = time.perf_counter()
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, close_fds=True
            )
            started(process.pid)
            status, usage = wait_for(process)
            seconds = time.perf_counter() - began
        if status:
            raise ProcessFailed(last_line(read_output()) or f"exit code {status}")
        content = json.loads(result.read_text("utf-8")) if result.is_file() else {}
    processor_seconds, peak_bytes = usage.ru_utime + usage.ru_stime, content.pop("peak_bytes", None)
    return Finished(content, seconds, processor_seconds, peak_bytes)


def wait_for(process: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """Wait for the end of a process; return its exit code and its resource usage."""
    alarm = threading.Timer(LONGEST, process.kill)
    alarm.daemon = True
    alarm.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    finally:
        alarm.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped already
    return process.returncode, usage


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, with all that it has started: asked first, killed after 20 seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def quiet_file(path: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Give a file descriptor to print to, and how to read afterwards what was printed."""
    with path.open("wb") as file:
        yield file.fileno(), lambda: path.read_text("utf-8", "replace")


@contextmanager
def terminal(_path: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Give a pseudo-terminal to print to, read as fast as it is written, and how to read what was printed."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    printed: list[bytes] = []

    def drain() -> None:
        try:
            while block := os.read(ours, 65536):
                printed.append(block)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        yield theirs, lambda: b"".join(printed).decode("utf-8", "replace")
    finally:
        os.close(theirs)
        reader.join(timeout=5)
        os.close(ours)


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def hand_back(result: Mapping[str, Any]) -> None:
    """Give what was measured to the process that asked for it; printed, when somebody started this one by hand."""
    path = os.environ.get(RESULT)
    text = json.dumps({**result, "peak_bytes": peak_memory()})
    if path is None:
        print(text)
    else:
        Path(path).write_text(text, "utf-8")


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held, without the processes it started.

    Linux counts, in what `getrusage` tells, also what the process that started this one held, so it is not asked there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


# ── several, interleaved ─────────────────────────────────────────────────────────────────────────────────────


def interleave(names: Sequence[str], rounds: int, measure: Callable[[str], T]) -> dict[str, list[T]]:
    """Measure every contender once in each round, in an order that turns by one from round to round.

    One that fails is named on standard error and left out from there on.
    """
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds):
        present = [name for name in names if name in results]
        shift = turn % max(len(present), 1)
        for name in present[shift:] + present[:shift]:
            try:
                results[name].append(measure(name))
            except ProcessFailed as error:
                say(f"{name} is left out: {error}")
                del results[name]
    return results


class Turns:
    """Lets one of several processes run at a time, each for `seconds`; each has its own clock, which stands while it is stopped.

    A machine whose speed drifts within a second or more then slows all of them alike. POSIX only; none may start others.
    """

    def __init__(self, names: Sequence[str], seconds: float) -> None:
        self.absent, self.seconds = set(names), seconds
        self.processes: dict[str, int] = {}
        self.stopped: dict[str, float] = {}  # since when
        self.clocks: dict[str, mmap.mmap] = {}

    def measure(self, name: str, arguments: Sequence[str], on_terminal: bool) -> Finished:
        """Run one of them, as `run_apart` does."""
        with tempfile.TemporaryFile() as file:
            file.write(bytes(8))
            file.flush()
            self.clocks[name] = mmap.mmap(file.fileno(), 8)
            try:
                return run_apart(
                    arguments, environment={CLOCK: f"/proc/{os.getpid()}/fd/{file.fileno()}"}, on_terminal=on_terminal,
                    started=lambda process: self.start(name, process),
                )  # fmt: skip
            finally:
                self.absent.discard(name)
                self.processes.pop(name, None)

    def start(self, name: str, process: int) -> None:
        """Have a process wait for its turn."""
        self.stop(name, process)
        self.processes[name] = process
        self.absent.discard(name)

    def stop(self, name: str, process: int) -> None:
        """Stop a process, and its clock."""
        os.kill(process, signal.SIGSTOP)
        self.stopped[name] = time.perf_counter()

    def go_on(self, name: str, process: int) -> None:
        """Let a process run, and its clock."""
        paused = struct.unpack("d", self.clocks[name][:])[0] + time.perf_counter() - self.stopped[name]
        self.clocks[name][:] = struct.pack("d", paused)
        os.kill(process, signal.SIGCONT)

    def give(self) -> None:
        """Give turns until all have ended."""
        while self.absent or self.processes:
            for name, process in [] if self.absent else [*self.processes.items()]:
                with suppress(ProcessLookupError):
                    self.go_on(name, process)
                    until = time.perf_counter() + self.seconds
                    while name in self.processes and time.perf_counter() < until:
                        time.sleep(0.005)
                    self.stop(name, process)
            time.sleep(0 if self.processes else 0.005)


def take_turns() -> None:
    """Have this process's clocks, and what waits by them, leave out for how long its `Turns` have stopped it."""
    if (path := os.environ.get(CLOCK)) is None:
        return
    with Path(path).open("rb") as file:
        paused = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    plain, wait = time.perf_counter, threading.Event.wait  # both clocks are one on Linux

    def now() -> float:
        found: float = struct.unpack("d", paused[:])[0]
        return plain() - found

    def wait_by_it(event: threading.Event, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else now() + timeout
        while not event.is_set() and (left := until - now()) > 0:
            wait(event, min(left, 1.0))
        return event.is_set()

    time.perf_counter = time.monotonic = now
    threading.Event.wait = wait_by_it  # type: ignore[method-assign]


def in_turns(names: Sequence[str], seconds: float, measure: Callable[[Turns, str], T]) -> dict[str, T]:
    """Measure contenders at the same time, in turns of some seconds; ProcessFailed where one ends with an error."""
    turns = Turns(names, seconds)
    with ThreadPoolExecutor(len(names)) as pool:
        found = {name: pool.submit(measure, turns, name) for name in names}
        try:
            turns.give()
        except BaseException:
            turns.absent.clear()
            for process in turns.processes.values():
                os.kill(process, signal.SIGKILL)  # one that is stopped hears nothing else
            raise
        return {name: future.result() for name, future in found.items()}


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the least and the most."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the least and the most of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios round by round: the machine's speed drifts between rounds, less within one."""
    return statistics.median(one / other for one, other in zip(mine, theirs, strict=True))


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Machine:
    """What figures depend on."""

    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    system: str
    python: str
    torch: str
    rushlight_commit: str
    date: str
    card: str  # of an NVIDIA card: its name, memory and driver; "" where there is none
    load: float  # the average number of busy processes in the minute before: above 0 others were at work

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.threads} for torch, {self.memory_bytes / 2**30:.0f} GiB, {self.system}, "
            f"Python {self.python}, torch {self.torch}, commit {self.rushlight_commit}, {self.date}, load before {self.load:.1f}{self.card and f'; {self.card}'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


def this_machine() -> Machine:
    """Describe the machine, the versions and the moment. To be called first: what is measured is load, too."""
    load = os.getloadavg()[0]
    import torch

    from rushlight.device import cpu_name, usable_cores

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu_name(), usable_cores(), torch.get_num_threads(), memory, f"{platform.system()} {platform.release()}",
        platform.python_version(), torch.__version__, commit(), time.strftime("%Y-%m-%d"), describe_nvidia(), load,
    )  # fmt: skip


def describe_nvidia() -> str:
    """Return what the first NVIDIA card is; '' where there is none."""
    import torch

    from rushlight.device import describe_card, device_name

    if not torch.cuda.is_available():
        return ""
    card = describe_card(torch.device("cuda"))
    memory = card["card_memory_bytes"] / 2**30
    return f"{device_name(torch.device('cuda'))}, {memory:.0f} GiB, driver {card['driver']}, CUDA {card['cuda']}"


def commit() -> str:
    """Return the commit that is measured, with a plus sign when files differ from it."""
    try:
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
