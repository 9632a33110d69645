"""What all tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: for this process, and for those that tests start
os.environ["RUSHLIGHT_LANGUAGE"] = "en"  # whatever the language of this machine
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="rushlight-state-")  # the record of trained runs, of these tests
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as the tests' only lose time to more threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_configure() -> None:
    """Print tables as wide as into a file: readline, which pytest imports, sets both for every process begun here.

    Under xdist the workers would find them in their own environment too.
    """
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)  # readline sets them behind the back of `os.environ`
