"""A model that is divided among processes: the losses of one process, checkpoints that any number of processes reads."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.training.distributed.ranks import Blocks, ends, large, start, together
from tests.training.distributed.test_together import check_agreement, unlike, wait_for_steps
from torch import nn

import rushlight
from rushlight.data import CPU, ResidentSplit
from rushlight.errors import UsageError
from rushlight.options import Options
from rushlight.runs.checkpoint_files import SUMS, damage_of, list_checkpoints
from rushlight.runs.sessions import read_sessions
from rushlight.training.distributed import World, own_rows, units
from rushlight.training.objective import choose_metrics, make_objective
from rushlight.training.recipe import Recipe
from rushlight.training.setup.shared import check_options_shared, check_parts_sharded, check_parts_shared

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork")


TWO = World(0, 2)


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_rows_are_divided_as_torch_divides_them(length: int, processes: int) -> None:
    chunks = list(torch.arange(length).chunk(processes)) if length else []
    found = [own_rows(length, rank, processes) for rank in range(processes)]
    expected = [tuple(chunk.tolist()) for chunk in chunks] + [()] * (processes - len(chunks))
    assert [tuple(range(*each)) for each in found] == expected


def test_units_are_children_and_members_of_lists_but_what_shares_weights_with_others() -> None:
    model = Blocks()
    names = {id(module): name for name, module in model.named_modules()}
    assert [names[id(unit)] for unit in units(model)] == ["frozen", "blocks.1", "blocks.0", "last", ""]


# ── refused before the first step ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("option", "value"),
    [("ema", 0.9), ("swa", 2), ("unfreeze_after", 1), ("on_nan", "skip"), ("precision", "bfloat16")],
)
def test_an_option_that_cannot_go_with_a_divided_model_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option}={value} cannot be used with --shard"):
        check_options_shared(Options(shard=True, **{option: value}), TWO)


def test_dividing_among_one_process_and_batchnorm_over_all_are_refused() -> None:
    with pytest.raises(UsageError, match="this is one"):
        check_options_shared(Options(shard=True), World())
    with pytest.raises(UsageError, match="SyncBatchNorm refuses tensors on processors"):
        check_options_shared(Options(sync_batchnorm=True), TWO)
    split = ResidentSplit(torch.zeros(8, 2), torch.zeros(8), lambda raw: raw)
    recipe: Any = SimpleNamespace(batch_size=4)
    with pytest.raises(UsageError, match="SyncBatchNorm"):
        check_parts_shared(nn.Sequential(nn.SyncBatchNorm(2)), split, recipe, CPU, TWO)


def check(
    model: nn.Module,
    optimizer: Any,
    samples: int = 8,
    loss: Any = None,
    metrics: Any = None,
    device: torch.device = CPU,
) -> None:
    """Check the parts of a training whose model is to be divided among two processes."""
    split = ResidentSplit(torch.zeros(samples, 2), torch.zeros(samples), lambda raw: raw)
    objective = replace(make_objective(loss or nn.MSELoss()), metrics=choose_metrics(metrics, None))
    recipe: Recipe = SimpleNamespace(batch_size=4)  # type: ignore[assignment]
    check_parts_sharded(model, split, objective, optimizer, recipe, device, TWO)


def test_parts_that_cannot_go_with_a_divided_model_are_refused_by_name() -> None:
    model = nn.Linear(2, 2)
    check(model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(UsageError, match="last one of an epoch has 1 for 2 processes"):
        check(model, torch.optim.SGD(model.parameters()), samples=9)
    with pytest.raises(UsageError, match="Adafactor does not update each number by itself"):
        check(model, torch.optim.Adafactor(model.parameters()))
    begun = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    begun.step()
    with pytest.raises(UsageError, match="has taken steps already"):
        check(model, begun)
    with pytest.raises(UsageError, match="would train on cuda"):
        check(model, torch.optim.SGD(model.parameters()), device=torch.device("cuda"))
    with pytest.raises(UsageError, match="loss=Linear cannot be used"):
        check(model, torch.optim.SGD(model.parameters()), loss=nn.Linear(2, 1))
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(UsageError, match='"scale" has shape'):
        check(model, torch.optim.SGD(model.parameters()))


# ── trained ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_divided_model_has_the_losses_weights_and_figures_of_one_process(processes: int, tmp_path: Path) -> None:
    together(1, "divided", tmp_path / "one")
    together(processes, "divided", tmp_path / "many", "train", "shard=True")
    check_agreement(tmp_path / "one", tmp_path / "many", 1e-12)
    one, many = (safetensors.torch.load_file(tmp_path / run / "model/weights.safetensors") for run in ("one", "many"))
    assert many.keys() == one.keys(), "the bundle is that of one process"
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=1e-12, atol=1e-12)
    folder = list_checkpoints(tmp_path / "many")[-1]
    assert {path.name for path in folder.iterdir()} == {
        "state.json", "state.safetensors", SUMS,
        *(f"shard-{rank + 1:05d}-of-{processes:05d}.safetensors" for rank in range(processes)),
    }  # fmt: skip
    (folder / f"shard-{processes:05d}-of-{processes:05d}.safetensors").unlink()
    assert "is missing" in str(damage_of(folder))


@pytest.mark.slow
def test_gradients_of_what_the_optimizer_does_not_have_are_not_clipped_with_the_others(tmp_path: Path) -> None:
    together(1, "partly", tmp_path / "one")
    together(2, "partly", tmp_path / "many", "train", "shard=True")
    check_agreement(tmp_path / "one", tmp_path / "many", 1e-12)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nobody stopped."""
    folder = tmp_path_factory.mktemp("divided") / "reference"
    together(2, "divided", folder, "train", "shard=True", "epochs=12")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "victim", "codes"), [(signal.SIGTERM, 1, (143, 143)), (signal.SIGKILL, 0, (-9, 1))])
def test_divided_processes_that_are_stopped_or_killed_resume_to_the_same_bits(
    number: signal.Signals, victim: int, codes: tuple[int, int], reference: Path, tmp_path: Path
) -> None:
    processes = start(2, "divided", tmp_path / "run", "train", "shard=True", "epochs=12")
    wait_for_steps(tmp_path / "run", 12)
    processes[victim].send_signal(number)
    assert tuple(code for code, _, _ in ends(processes)) == codes
    together(2, "divided", tmp_path / "run", "resume", "shard=True")
    assert unlike(reference, tmp_path / "run") == []


@pytest.mark.slow
def test_a_checkpoint_of_some_processes_is_read_by_others_to_rounding(tmp_path: Path) -> None:
    together(1, "divided", tmp_path / "reference", "train", "epochs=9")
    run, worlds = tmp_path / "run", [(2, True), (1, False), (3, True), (2, False)]
    for step, (size, is_divided) in enumerate(worlds):
        given = ["shard=True"] if is_divided else []
        if step == 1:
            refused = ends(start(size, "divided", run, "resume", *given))
            assert all(code == 1 for code, _, _ in refused)
        given += ["inexact=True"] if step else []
        if step == len(worlds) - 1:
            together(size, "divided", run, "resume", *given)
            break
        processes = start(
            size, "divided", run, *(["resume"] if step else ["train", "epochs=9"]), *given, "stop_after=11"
        )
        assert all(code == 143 for code, _, _ in ends(processes))
    check_agreement(tmp_path / "reference", run, 1e-12)
    told = [line["differences"] for line in read_sessions(run) if line["event"] == "resumed"]
    changed = [[each for each in found if " then, " in each] for found in told]
    assert list(map(len, changed)) == [2, 2, 2], "the number of processes, and whether the model is divided"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's data")
def test_a_model_that_one_process_has_no_memory_for_is_trained_by_two_and_opens_in_one(tmp_path: Path) -> None:
    # parameters, gradients and what AdamW keeps are four times the model, and what is imported besides more than a tenth
    # of it; each of two processes has half of that, and three times the model where the first one writes the bundle
    ((code, _, errors),) = ends(start(1, "large", tmp_path / "one", "train", "room=4.1"))
    assert code == 1
    assert "emory" in errors
    together(2, "large", tmp_path / "two", "train", "shard=True", "room=4.1")
    run = rushlight.open_run(tmp_path / "two", large())
    assert len(run.predict(np.zeros((4, 6), np.float32))) == 4


@pytest.mark.slow
def test_what_fails_in_one_process_of_a_divided_model_ends_all_with_its_error(tmp_path: Path) -> None:
    first, second = ends(start(2, "fails-in-one", tmp_path / "run", "train", "shard=True", "batch_size=9"))
    assert "ValueError: this sample is too much" in first[2] + second[2]
    assert "of 2 failed, and all have stopped" in first[2] + second[2]
    assert (first[0], second[0]) == (1, 1)
