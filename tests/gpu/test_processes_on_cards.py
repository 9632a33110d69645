"""Several processes that train one run on NVIDIA cards: on one card they add up by gloo, each on its own by NCCL."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.processes import Process
from tests.training.distributed.ranks import ends, start, together
from tests.training.distributed.test_together import check_agreement
from torch import nn

import rushlight
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.training.distributed import WholeDropout, World, world

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card")]
CARD = torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "processes", "tolerance"),
    [
        ("dropout", 3, 1e-11), ("weighed", 2, 1e-11), ("accumulate", 2, 1e-11), ("adamw", 2, 3e-5),
        ("streamed", 2, 3e-5), ("images", 2, 1e-3),
    ],
)  # fmt: skip
def test_losses_weights_and_figures_of_processes_on_a_card_are_those_of_one(
    name: str, processes: int, tolerance: float, tmp_path: Path
) -> None:
    together(1, name, tmp_path / "one", "train", "device='cuda'", "numerics='exact'")
    together(processes, name, tmp_path / "many", "train", "device='cuda'")
    check_agreement(tmp_path / "one", tmp_path / "many", tolerance)


@pytest.mark.parametrize("name", ["norm", "remembers"])
def test_processes_on_a_card_that_are_killed_resume_to_the_same_bits(name: str, tmp_path: Path) -> None:
    given = ("device='cuda'", "epochs=200")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    together(2, name, whole, "train", *given)
    processes = start(2, name, cut, "train", *given)
    wait_for_checkpoint(cut, processes)
    processes[1].kill()
    assert sorted(code for code, _, _ in ends(processes))[0] == -signal.SIGKILL
    together(2, name, cut, "resume", "device='cuda'")
    one, other = (rushlight.open_run(folder) for folder in (whole, cut))
    np.testing.assert_array_equal(other.losses, one.losses)
    assert other.summary()["state_sha256"] == one.summary()["state_sha256"]


def wait_for_checkpoint(run: Path, processes: list[Process]) -> None:
    """Wait until a run has a checkpoint, while it trains."""
    until = time.monotonic() + 60
    while not (run.is_dir() and list_checkpoints(run)):
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("drop", "shape"),
    [
        (nn.functional.dropout, (6, 5)), (nn.functional.dropout, (12, 3, 4)), (nn.functional.dropout1d, (6, 4, 3)),
        (nn.functional.dropout2d, (6, 4, 3, 3)), (nn.functional.dropout3d, (6, 2, 3, 3, 3)),
    ],
)  # fmt: skip
def test_dropout_of_the_shares_is_that_of_the_whole_batch_on_a_card(drop: Any, shape: tuple[int, ...]) -> None:
    inputs, rows = torch.rand(shape, device=CARD) + 1, shape[0] // 6
    kernels = torch.cuda.default_generators[torch.cuda.current_device()]
    torch.cuda.manual_seed(7)
    whole = [drop(inputs, 0.4), drop(inputs, 0.1)]
    for own in (range(0, 2), range(2, 6), range(5, 6)):
        torch.cuda.manual_seed(99)
        before = torch.cuda.get_rng_state()
        with WholeDropout(torch.Generator(CARD).manual_seed(7), own, 6, kernels):
            part = inputs[own.start * rows : own.stop * rows]
            found = [drop(part, 0.4), drop(part, 0.1)]
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other[own.start * rows : own.stop * rows], rtol=1e-6, atol=0.0)
        assert torch.equal(torch.cuda.get_rng_state(), before), (
            "what the process draws itself goes on from where it was"
        )


def test_one_process_adds_up_by_nccl_as_several_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[World] = []
    leave = World.leave

    def left(self: World, error: BaseException | None = None) -> None:
        found.append(self)
        assert self.cards is not None or self.store is None
        leave(self, error)

    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.3), nn.ReLU(), nn.Linear(32, 10))

    options: dict[str, Any] = {"epochs": 2, "device": "cuda", "seed": 5, "quiet": True}
    alone = rushlight.train(network(), "digits", runs=tmp_path / "alone", numerics="exact", **options)
    monkeypatch.setattr(World, "is_shared", property(lambda self: self.store is not None))
    monkeypatch.setattr(World, "leave", left)
    monkeypatch.setattr(world, "launched_by", lambda: (0, 1))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29731")):
        monkeypatch.setenv(name, value)
    run = rushlight.train(network(), "digits", runs=tmp_path / "nccl", **options)
    assert any(each.store is not None for each in found)
    np.testing.assert_allclose(run.losses, alone.losses, rtol=1e-4)
    assert alone.report is not None
    assert run.report is not None
    assert run.report.accuracy == pytest.approx(alone.report.accuracy, abs=0.01)
