"""Several processes train one run: the losses, reports and weights of one process, whatever happens to any of them."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.compare import differences
from tests.processes import Process
from tests.training.distributed.ranks import PATIENCE, ends, start, together
from torch import Tensor

from rushlight.runs import read_history, read_losses, read_recipe
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.sessions import read_sessions
from rushlight.training.checkpoint.checkpoint import latest_checkpoint, read_checkpoint
from rushlight.training.setup.shared import mapped_samples

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork")


def weights(run: Path) -> dict[str, Tensor]:
    """Return a run's last weights."""
    _, tensors = read_checkpoint(latest_checkpoint(run))
    return {name: tensor.double() for name, tensor in tensors.items() if name.startswith("model/")}


def check_agreement(one: Path, other: Path, tolerance: float) -> None:
    """Check that two runs agree: every step's loss, every weight, every epoch's figures."""
    losses = [np.array(read_losses(run)) for run in (one, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=max(tolerance, 4e-6))  # they are written as float32
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(other)[name], tensor, rtol=tolerance, atol=tolerance)
    epochs = [[line for line in read_history(run) if line["kind"] == "epoch"] for run in (one, other)]
    assert len(epochs[0]) == len(epochs[1])
    for line, other_line in zip(*epochs, strict=True):
        assert other_line["train_loss"] == pytest.approx(line["train_loss"], rel=max(tolerance, 1e-6))
        for split in ("test", "validation"):
            figures, found = line.get(split) or {}, other_line.get(split) or {}
            assert found.keys() == figures.keys()
            assert found.get("loss", 0.0) == pytest.approx(figures.get("loss", 0.0), rel=max(tolerance, 1e-5))


def unlike(reference: Path, run: Path) -> list[str]:
    """Return what differs between two runs but for their names."""
    return [each for each in differences(reference, run) if '"run"' not in each]


def test_three_processes_train_as_one_does(tmp_path: Path) -> None:
    together(1, "dropout", tmp_path / "one")
    together(3, "dropout", tmp_path / "three")  # the last batch has 5 samples for 3 processes
    check_agreement(tmp_path / "one", tmp_path / "three", 1e-12)
    assert read_recipe(tmp_path / "three") == read_recipe(tmp_path / "one")
    assert {line["event"] for line in read_sessions(tmp_path / "three")} == {"started", "finished"}, (
        "one process writes"
    )
    numbers = [json.loads(line)["values"] for line in (tmp_path / "three" / "values.jsonl").read_text().splitlines()]
    assert "train/right" in numbers[0]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory without a name")
def test_samples_in_memory_are_held_once_for_all_processes_which_do_not_see_each_others_changes(tmp_path: Path) -> None:
    together(2, "all", tmp_path, "hold")
    assert json.loads((tmp_path / "0").read_text()) == [True, True, [-1, -1, -1, -1]]
    assert json.loads((tmp_path / "1").read_text()) == [True, True, [4, 5, 6, 7]]


def test_samples_are_not_taken_from_a_file_that_has_others(tmp_path: Path) -> None:
    own, path = torch.arange(6.0).view(3, 2), tmp_path / "samples"
    path.write_bytes((own + 1).numpy().tobytes())
    assert mapped_samples(str(path), own) is own
    assert mapped_samples(str(tmp_path / "none"), own) is own
    path.write_bytes(own.numpy().tobytes())
    mapped = mapped_samples(str(path), own)
    assert mapped is not own
    assert torch.equal(mapped, own)


@pytest.mark.slow
def test_an_evaluation_that_is_divided_has_the_bits_of_one_process(tmp_path: Path) -> None:
    for size in (1, 3):
        (tmp_path / str(size)).mkdir()
        together(size, "all", tmp_path / str(size), "evaluate")
    alone = {path.name: path.read_text() for path in (tmp_path / "1").iterdir()}
    assert len(alone) == 8
    assert {path.name: path.read_text() for path in (tmp_path / "3").iterdir()} == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes", "tolerance"),
    [
        ("weighed", 5, 1e-12), ("accumulate", 5, 1e-12), ("adamw", 2, 3e-6), ("classes", 5, 3e-6),
        ("sometimes", 3, 3e-6), ("tied", 2, 3e-6), ("streamed", 5, 3e-6), ("stopping", 2, 1e-4), ("images", 3, 3e-5),
    ],
)  # fmt: skip
def test_losses_weights_and_figures_are_those_of_one_process(
    name: str, processes: int, tolerance: float, tmp_path: Path
) -> None:
    together(1, name, tmp_path / "one")
    together(processes, name, tmp_path / "many")
    check_agreement(tmp_path / "one", tmp_path / "many", tolerance)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the run of a case in two processes that nobody stopped."""

    @functools.cache
    def trained(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "reference"
        together(2, name, folder, "train", "epochs=30")
        return folder

    return trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "victim", "codes"),
    [
        (signal.SIGTERM, 1, (143, 143)),
        (signal.SIGINT, 0, (-2, -2)),
        (signal.SIGKILL, 1, (1, -9)),
    ],
)
def test_a_process_that_is_told_to_stop_or_killed_ends_all_and_they_resume_to_the_same_bits(
    number: signal.Signals, victim: int, codes: tuple[int, int], undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    name = "remembers" if victim else "norm"
    reference = undisturbed(name)
    processes = start(2, name, tmp_path / "run", "train", "epochs=30")
    wait_for_steps(tmp_path / "run", 40)
    processes[victim].send_signal(number)
    found = ends(processes)
    assert tuple(code for code, _, _ in found) == codes, found
    if number != signal.SIGKILL:
        assert len(read_losses(tmp_path / "run")) >= 40
        assert (
            list_checkpoints(tmp_path / "run")[-1].name.endswith("-mid-epoch")
            or len(list_checkpoints(tmp_path / "run")) > 1
        )
    together(2, name, tmp_path / "run", "resume")
    assert unlike(reference, tmp_path / "run") == []


def wait_for_steps(run: Path, steps: int) -> None:
    """Wait until the losses of as many steps are on the disk, and a checkpoint."""
    until = time.monotonic() + PATIENCE
    while not (run / "losses.f32").exists() or len(read_losses(run)) < steps or not list_checkpoints(run):
        assert time.monotonic() < until, "it does not train"
        time.sleep(0.01)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_only_where_that_is_allowed_and_agrees_to_rounding(tmp_path: Path) -> None:
    together(1, "float64", tmp_path / "one", "train", "epochs=30")
    processes = start(2, "float64", tmp_path / "run", "train", "epochs=30")
    wait_for_steps(tmp_path / "run", 20)
    processes[0].send_signal(signal.SIGTERM)
    ends(processes)
    refused = ends(start(3, "float64", tmp_path / "run", "resume"))
    assert [code for code, _, _ in refused] == [1, 1, 1]
    assert "the number of processes: 2 then, 3 now" in refused[0][2]
    assert "--processes 2" in refused[0][2]
    together(3, "float64", tmp_path / "run", "resume", "inexact=True")
    check_agreement(tmp_path / "one", tmp_path / "run", 1e-12)
    resumed = [line for line in read_sessions(tmp_path / "run") if line["event"] == "resumed"]
    assert [line["differences"] for line in resumed] == [["the number of processes: 2 then, 3 now"]]


@pytest.mark.slow
def test_what_fails_in_one_process_ends_all_with_its_error(tmp_path: Path) -> None:
    first, second = ends(start(2, "fails-in-one", tmp_path / "run"))
    assert "ValueError: this sample is too much" in first[2] + second[2]
    assert "of 2 failed, and all have stopped" in first[2] + second[2]
    assert (first[0], second[0]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nan", "The loss became nan at step 2"), ("python-draws", "Python's or NumPy's global random generator"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_all_is_told_by_all(name: str, told: str, tmp_path: Path) -> None:
    found = ends(start(2, name, tmp_path / "run"))
    assert all(code == 1 and told in errors for code, _, errors in found), found


@pytest.mark.slow
def test_a_process_that_stands_still_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    found = ends(start(2, "stands-still", tmp_path / "run"))
    assert sorted(code for code, _, _ in found) == [1, 1]
    assert any("nothing came from it for 3 seconds" in errors for _, _, errors in found), found


@pytest.mark.slow
def test_a_step_that_blows_up_in_one_process_is_left_out_in_all(tmp_path: Path) -> None:
    together(1, "skip", tmp_path / "one")
    together(3, "skip", tmp_path / "three")
    bad = [np.isfinite(np.array(read_losses(tmp_path / run))) for run in ("one", "three")]
    assert not bad[0].all()
    assert (bad[0] == bad[1]).all()
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "three")[name], tensor, rtol=3e-6, atol=3e-6)


@pytest.mark.slow
def test_the_command_starts_its_processes_anew_where_one_is_killed(tmp_path: Path) -> None:
    options = ["--epochs", 12, "--batch-size", 50, "--processes", 2, "--runs", tmp_path, "--name", "run"]
    command = Process(["-m", "rushlight", "train", "mlp", "digits", *options])
    try:
        wait_for_steps(tmp_path / "run", 40)
        os.kill(int(read_sessions(tmp_path / "run")[0]["pid"]), signal.SIGKILL)
        assert command.wait(PATIENCE) == 0, command.communicate()
    finally:
        command.kill()
    assert [line["event"] for line in read_sessions(tmp_path / "run")] == ["started", "resumed", "finished"]
    assert len(read_losses(tmp_path / "run")) == 12 * 29
