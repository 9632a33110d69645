from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rushlight.errors import RunError
from rushlight.runs import lock_run
from rushlight.runs.lock import is_locked

HOLD = """
import sys, time
from pathlib import Path
from rushlight.runs import lock_run
with lock_run(Path(sys.argv[1])):
    {after}
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, after: str = "") -> subprocess.Popen[str]:
    """Start a process that holds the run's lock, and wait until it does."""
    command = [sys.executable, "-c", HOLD.format(after=after or "pass"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_at_once_and_told_who_holds_the_run(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        begun = time.monotonic()
        with pytest.raises(RunError, match=f"in use by process {process.pid} on ") as caught, lock_run(tmp_path):
            pass
        assert time.monotonic() - begun < 2
        assert caught.value.key == "run-in-use"
        assert is_locked(tmp_path)
    finally:
        end(process)


def test_a_killed_holder_leaves_the_run_free(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "holder.json").exists()  # nobody was left to take it away
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forked workers exist on POSIX only")
def test_workers_that_outlive_a_killed_holder_do_not_keep_the_lock(tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    after = f"""
    import os
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
    Path({str(worker)!r}).write_text(str(worker))"""
    process = hold(tmp_path, after.strip())
    try:
        end(process_without_pipe(process))
        os.kill(int(worker.read_text()), 0)  # still there
        with lock_run(tmp_path):
            pass
    finally:
        os.kill(int(worker.read_text()), signal.SIGKILL)


def process_without_pipe(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The worker has the pipe too: waiting for its end would wait for the worker."""
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    return process


def test_the_same_process_cannot_hold_a_run_twice_but_can_hold_it_again(tmp_path: Path) -> None:
    with lock_run(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()} on "), lock_run(tmp_path):
        pass
    assert not (tmp_path / "holder.json").exists()
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        pass


def test_an_error_inside_releases_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), lock_run(tmp_path):
        raise ValueError("inside")
    with lock_run(tmp_path):
        pass


def test_asking_whether_a_run_is_locked_never_takes_it_from_one_that_starts(tmp_path: Path) -> None:
    (tmp_path / "holder.json").write_text("{}")
    code = (
        "import sys\nfrom pathlib import Path\nfrom rushlight.runs.lock import is_locked\nprint('asking', flush=True)\n"
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", code + "while True: is_locked(Path(sys.argv[1]))", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert asker.stdout is not None
        asker.stdout.readline()
        for _ in range(20):
            (tmp_path / "holder.json").write_text("{}")
            with lock_run(tmp_path):
                pass
    finally:
        end(asker)


def test_a_holder_that_wrote_nonsense_is_still_refused_in_words(tmp_path: Path) -> None:
    with lock_run(tmp_path):
        (tmp_path / "holder.json").write_text('{"pid": "x"')
        with pytest.raises(RunError, match="another process"), lock_run(tmp_path):
            pass
