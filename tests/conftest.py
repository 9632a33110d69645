"""What all tests share."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: for this process, and for those that tests start
os.environ["RUSHLIGHT_LANGUAGE"] = "en"  # whatever the language of this machine
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="rushlight-state-")  # the record of trained runs, of these tests
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to what it begins in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


DEFAULT = "not slow and not gpu"  # the tier of pyproject.toml


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as the tests' only lose time to more threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def draw() -> Iterator[Any]:
    """Leave the plots at the end of a run out: they take ten times as long as most trainings here. Gives what draws them."""
    from rushlight.training import finish

    drawn, finish.write_plots = finish.write_plots, lambda folder, report: None
    yield drawn
    finish.write_plots = drawn


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Write without waiting until it is on the disk, thirty times a run: only a power cut tells the difference.

    Those are simulated, with disks of their own that count what was synced (`tests/faults/test_power.py`).
    """
    from rushlight.files import Disk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "sync", lambda self, file: file.flush())
        patch.setattr(Disk, "sync_folder", lambda self, path: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_graphs() -> Iterator[None]:
    """Save bundles without their graphs, which take seconds: `test_graph.py` makes some."""
    from rushlight.export import saved

    made, saved.add_graph = saved.add_graph, lambda folder, model: None
    yield
    saved.add_graph = made


@pytest.fixture(scope="session", autouse=True)
def one_command_line() -> Iterator[None]:
    """Build the command line once in each language: that takes 25 ms, and many tests call it."""
    import typer.main

    from rushlight.texts import language

    built = functools.cache(lambda language, app, make=typer.main.get_command: make(app))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", lambda app: built(language(), app))
        yield


@pytest.fixture(autouse=True)
def plots(request: pytest.FixtureRequest, draw: Any) -> Iterator[None]:
    """Draw them in the tests that are marked `plots`."""
    from rushlight.training import finish

    left_out = finish.write_plots
    if "plots" in request.keywords:
        finish.write_plots = draw
    yield
    finish.write_plots = left_out


def pytest_xdist_auto_num_workers() -> int:
    """Have three workers for two cores: many tests wait for processes, servers and a browser."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


ALL_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out of either tier, unread by each worker, the files that have no test of it."""
    tier = config.getoption("markexpr")
    if not collection_path.match("test_*.py") or tier not in ("slow", DEFAULT):
        return None
    content = collection_path.read_text("utf-8")
    return ("mark.slow" not in content if tier == "slow" else ALL_SLOW.search(content) is not None) or None


def pytest_collection(session: pytest.Session) -> None:
    """Keep Python's collector from going through what is collected, which stays: a second of eight, for each worker."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the collector back to work, on what is made from here on."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Print tables as wide as into a file: readline, which pytest imports, sets both for every process begun here.

    Under xdist the workers would find them in their own environment too.
    """
    if config.getoption("markexpr") == "slow":
        from tests.processes import PRELOADED

        PRELOADED.extend(
            ["torch.distributed.fsdp", "torch._dynamo"]
        )  # two seconds, in each of thirty processes that divide a model
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)  # readline sets them behind the back of `os.environ`
