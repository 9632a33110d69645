"""SIGTERM, whatever a command is doing: it ends with 143 within ten seconds, and what was saved stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.processes import Process, run_python

from rushlight.runs import list_runs
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.training.checkpoint.checkpoint import is_whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="signals are sent to processes in another way on Windows"),
]

HEAD = """
import os, time
from pathlib import Path
import torch
from torch import nn

def reached():
    Path(os.environ["MARK"]).touch()
"""
IMPORTING = HEAD + "reached(); time.sleep(60)\n"
NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        if self.passes == 30:  # in the second epoch
            reached()
            HANG
        return self.net(x)
"""
)
STEPPING = NET.replace("HANG", "time.sleep(60)")
FORKING = """
import multiprocessing, signal

def wait(told):
    told.send("begun")
    time.sleep(60)
""" + NET.replace(
    "HANG",
    """
            context = multiprocessing.get_context("fork")
            heard, told = context.Pipe()
            process = context.Process(target=wait, args=(told,))
            process.start()
            assert heard.recv() == "begun"
            process.terminate()
            process.join()
            assert process.exitcode == -signal.SIGTERM
            time.sleep(1.5)""",
)


def start(folder: Path, source: str) -> Process:
    (folder / "net.py").write_text(source)
    command = ["-m", "rushlight", "train", "net.py:Net", "digits", "--name", "it", "--epochs", "3"]
    return Process(command, cwd=folder, env={"MARK": folder / "mark"})


def terminated(process: Process, mark: Path) -> float:
    """Wait for the mark, send SIGTERM, check the exit code; return the seconds it took."""
    try:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 143, err
        assert "Traceback" not in err
        return time.monotonic() - began
    finally:
        process.kill()
        process.communicate()


def test_while_a_model_file_is_imported(tmp_path: Path) -> None:
    assert terminated(start(tmp_path, IMPORTING), tmp_path / "mark") < 10


def test_in_a_step_that_does_not_end_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    assert terminated(start(tmp_path, STEPPING), tmp_path / "mark") < 12
    saved = list_checkpoints(tmp_path / "runs" / "it")
    assert saved
    assert all(map(is_whole, saved))


def test_one_that_a_model_sends_to_its_own_forked_processes_ends_these_and_not_the_training(tmp_path: Path) -> None:
    command = "import sys, rushlight.signals as s; s.DEADLINE_SECONDS = 1.0; from rushlight.cli import main; main(sys.argv[1:])"
    (tmp_path / "net.py").write_text(FORKING)
    options = ("--name", "it", "--epochs", "2", "--quiet")
    done = run_python(
        ["-c", command, "train", "net.py:Net", "digits", *options], cwd=tmp_path, env={"MARK": tmp_path / "mark"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "mark").exists()
    assert list_runs(tmp_path / "runs")[0].status == "finished"


def test_while_data_is_downloaded_from_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                (tmp_path / "mark").touch()
                connection.recv(65536)  # what is asked for; then the connection's end
                connection.recv(65536)

        thread = threading.Thread(target=accept)
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        process = subprocess.Popen(
            [sys.executable, "-m", "rushlight", "train", "linear", "kmnist"], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "RUSHLIGHT_DATA": str(tmp_path / "data"), "no_proxy": "", **proxies},
        )  # fmt: skip
        assert terminated(process, tmp_path / "mark") < 10
        thread.join(timeout=10)
    assert not list_runs(tmp_path / "runs")


def test_one_that_an_import_swallowed_ends_the_command_before_it_begins_anything() -> None:
    code = """
import contextlib, os, signal
from rushlight.signals import Terminated, ending_in_time, leave_if_told

with ending_in_time():
    leave_if_told()
    with contextlib.suppress(Terminated):
        signal.raise_signal(signal.SIGTERM)
    try:
        leave_if_told()
    except Terminated as ended:
        os._exit(ended.code)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 143


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the processes of a process are read from /proc")
def test_while_the_processes_of_a_training_are_being_started_and_none_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rushlight", "train", "mlp", "digits", "--processes", "2", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        deadline = time.monotonic() + 60
        while len(started := children.read_text().split()) < 3:  # one of them is multiprocessing's own
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)  # they have been told what to do, and import torch
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (143, "")
        deadline = time.monotonic() + 5  # multiprocessing's own ends once it reads that nobody is left
        while any(Path(f"/proc/{each}").exists() for each in started):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
    assert not (tmp_path / "runs").exists()
