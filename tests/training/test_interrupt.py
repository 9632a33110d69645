"""Ctrl-C and SIGTERM, sent to real processes: what is done is saved, and what resumes ends with the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.processes import Process

import rushlight
from rushlight.events import Events
from rushlight.runs.checkpoint_files import age, list_checkpoints
from rushlight.runs.history import read_losses
from rushlight.runs.summary import list_runs
from rushlight.training import loop
from rushlight.training.checkpoint import saver
from rushlight.training.checkpoint.checkpoint import latest_checkpoint, read_checkpoint, unpack
from rushlight.training.distributed import World
from rushlight.training.interrupt import Interrupt, interruptible

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent to processes in another way on Windows")

SLOW_NET = """
import os, time
from pathlib import Path
from torch import nn

class Net(nn.Module):
    '''Touches a file when it is used in the mode that WAIT_IN names, and takes its time there.'''

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 10))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        wait = os.environ.get("WAIT_IN") == ("training" if self.training else "testing")
        if wait and self.passes > 1:  # the first pass only tries the model on the data
            Path(os.environ["MARK"]).touch()
            time.sleep(float(os.environ["WAIT"]))
        return self.net(x)
"""


def command(*arguments: Any) -> list[str]:
    return ["-m", "rushlight", *map(str, arguments)]


STARTED: list[Process] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """End what a failed test has left behind, workers included."""
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    STARTED.clear()


def start(arguments: list[str], **environment: Any) -> Process:
    """Start a command in a process group of its own, as a terminal does."""
    process = Process(arguments, env=environment)
    STARTED.append(process)
    return process


def wait_until(is_true: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def finish(process: Process, code: int, seconds: float = 60) -> tuple[str, str]:
    """Wait for the process, and return what it printed on standard output and standard error."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def summary_of(*arguments: Any, **environment: Any) -> dict[str, Any]:
    """Run a command to its end, and return its JSON."""
    out, _ = finish(start(command(*arguments, "--json"), **environment), 0)
    content: dict[str, Any] = json.loads(out)
    return content


OPTIONS: dict[str, Any] = {"batch_size": 8, "epochs": 16, "numerics": "exact", "quiet": True}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes: networks this small only lose time to more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> rushlight.Run:
    """The run that nobody stopped."""
    arguments = {"hidden": (16,), "dropout": 0.2}
    return rushlight.train("mlp", "digits", model_arguments=arguments, runs=tmp_path_factory.mktemp("whole"), **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_run_that_resumes_to_the_bits_of_one_never_stopped(
    number: signal.Signals, code: int, whole: rushlight.Run, tmp_path: Path
) -> None:
    options = [
        "--hidden",
        "16",
        "--model-arg",
        "dropout=0.2",
        "--batch-size",
        "8",
        "--epochs",
        "16",
        "--numerics",
        "exact",
        "--name",
        "cut",
    ]
    process = start(command("train", "mlp", "digits", *options, "--runs", tmp_path))
    run = tmp_path / "cut"
    wait_until(lambda: len(list_checkpoints(run)) > 0, process)
    process.send_signal(number)
    out, _ = finish(process, code)
    assert f"rushlight resume {run}" in " ".join(out.split())
    (cut,) = list_runs(tmp_path)
    assert cut.status == "interrupted"
    saved = latest_checkpoint(run)
    assert f"after step {int(saved.name[:8]):,}" in out
    expected = whole.summary()
    assert 0 < int(saved.name[:8]) < expected["steps"]
    if number == signal.SIGINT:
        resumed = summary_of("resume", "cut", "--runs", tmp_path)
    else:
        resumed = rushlight.resume("cut", runs=tmp_path, quiet=True).summary()
    assert resumed["state_sha256"] == expected["state_sha256"]
    assert resumed["test"] == expected["test"]
    assert read_losses(run).tobytes() == read_losses(whole.folder).tobytes()


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW_NET)
    return f"{tmp_path / 'slow.py'}:Net"


def test_a_second_ctrl_c_leaves_at_once(net: str, tmp_path: Path) -> None:
    arguments = command("train", net, "digits", "--runs", tmp_path / "runs")
    process = start(arguments, WAIT_IN="training", MARK=tmp_path / "mark", WAIT=50)
    wait_until((tmp_path / "mark").exists, process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):  # the first one waits for the step to end
        process.wait(0.3)
    process.send_signal(signal.SIGINT)
    finish(process, 130, seconds=15)


def test_an_interrupted_test_is_done_again_and_nothing_is_trained_twice(net: str, tmp_path: Path) -> None:
    options = ["--epochs", "2", "--batch-size", "20", "--numerics", "exact", "--name", "cut", "--runs"]
    process = start(
        command("train", net, "digits", *options, tmp_path), WAIT_IN="testing", MARK=tmp_path / "mark", WAIT=0.3
    )
    wait_until((tmp_path / "mark").exists, process)
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    content, tensors = read_checkpoint(latest_checkpoint(tmp_path / "cut"))
    state = unpack(content["state"], tensors)
    assert (state["epoch"], state["window"], state["step"]) == (1, 72, 72)
    resumed = rushlight.resume("cut", runs=tmp_path, quiet=True)
    whole = rushlight.train(net, "digits", epochs=2, batch_size=20, numerics="exact", runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.summary()["test"] == whole.summary()["test"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()
    assert len(resumed.losses) == 144


def test_ctrl_c_on_a_terminal_reaches_the_workers_too_and_the_run_is_still_saved(tmp_path: Path) -> None:
    """A terminal sends the signal to every process of the group."""
    script = tmp_path / "stream.py"
    script.write_text(
        "import sys, torch, rushlight\n"
        "from torch import nn\n"
        "class Noise(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 100_000\n"
        "    def __getitem__(self, i): return torch.rand(4), i % 2\n"
        "if __name__ == '__main__':\n"
        "    model = nn.Linear(4, 2)\n"
        "    for _ in rushlight.epochs(model, Noise(), workers=2, epochs=9, runs=sys.argv[1], name='it', batch_size=10): pass\n"
    )
    process = start([str(script), str(tmp_path / "runs")])
    losses = tmp_path / "runs" / "it" / "losses.f32"
    wait_until(lambda: losses.exists() and losses.stat().st_size > 0, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), err
    assert f"rushlight resume {tmp_path / 'runs' / 'it'}" in " ".join(out.split())
    assert "exited unexpectedly" not in err
    assert len(read_losses(tmp_path / "runs" / "it")) == age(latest_checkpoint(tmp_path / "runs" / "it"))[0]


# ── inside one process ───────────────────────────────────────────────────────────────────────────────────────


def test_signals_are_a_programs_own_again_between_two_epochs(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in rushlight.epochs("linear", "digits", epochs=2, runs=tmp_path, quiet=True):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_inside_a_block_a_signal_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
        assert isinstance(interrupt.error(), SystemExit)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    done: list[rushlight.Run] = []
    thread = threading.Thread(
        target=lambda: done.append(rushlight.train("linear", "digits", epochs=1, runs=tmp_path, quiet=True))
    )
    thread.start()
    thread.join(60)
    assert done[0].summary()["epochs"] == 1


def test_a_signal_right_before_the_handlers_are_put_back_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def signalled_at_its_end(
        events: Events, world: World
    ) -> Iterator[Interrupt]:  # a moment that nothing of the user's own is called in
        with interruptible(events, world) as interrupt:
            yield interrupt
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "interruptible", signalled_at_its_end)
    with pytest.raises(SystemExit) as left:
        rushlight.train("linear", "digits", epochs=3, name="it", runs=tmp_path, quiet=True)
    assert left.value.code == 143
    assert [folder.name for folder in list_checkpoints(tmp_path / "it")] == ["00000023"]
    assert list_runs(tmp_path)[0].status == "interrupted"


@pytest.mark.parametrize(
    ("on_nan", "saved"), [("rollback", "00000000"), ("stop", "00000046")], ids=["before an epoch", "at the end"]
)
def test_the_first_ctrl_c_while_the_state_is_saved_waits_until_it_is(
    on_nan: str, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "CHECKPOINT_SHARE", 1e-9)  # what may wait to be written does
    save_now = saver.Saver.save_now

    def signalled(self: saver.Saver) -> None:
        signal.raise_signal(signal.SIGINT)
        save_now(self)
        monkeypatch.setattr(saver.Saver, "save_now", save_now)

    monkeypatch.setattr(saver.Saver, "save_now", signalled)
    with pytest.raises(KeyboardInterrupt):
        rushlight.train("linear", "digits", epochs=2, on_nan=on_nan, name="it", runs=tmp_path, quiet=True)
    assert [folder.name for folder in list_checkpoints(tmp_path / "it")][-1:] == [saved]
    whole = rushlight.train("linear", "digits", epochs=2, on_nan=on_nan, runs=tmp_path, quiet=True)
    resumed = rushlight.resume("it", runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()
