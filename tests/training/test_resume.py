"""What resuming takes, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import rushlight
from rushlight.errors import RunError, UsageError
from rushlight.runs import read_recipe

SMALL: dict[str, Any] = {"model_arguments": {"hidden": (8,)}, "quiet": True}


def test_an_option_that_a_recipe_has_fixed_is_refused_by_name(tmp_path: Path) -> None:
    rushlight.train("mlp", "digits", epochs=1, name="a", runs=tmp_path, **SMALL)
    with pytest.raises(UsageError, match="lr cannot be changed while a run goes on"):
        rushlight.resume("a", lr=0.1, runs=tmp_path, quiet=True)


def test_a_planned_schedule_is_not_stretched_and_constant_goes_on_at_the_first_rate(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, name="a", runs=tmp_path, **SMALL)
    with pytest.raises(UsageError, match="cosine schedule was planned for 1 epochs, so 2 would not be the same"):
        rushlight.resume("a", epochs=2, runs=tmp_path, quiet=True)
    longer = rushlight.resume("a", epochs=2, schedule="constant", runs=tmp_path, quiet=True)
    rates = [line["learning_rate"] for line in longer.history if line["kind"] == "epoch"]
    assert rates[0] < 1e-5
    assert rates[1] == run.recipe.optimizer["arguments"]["lr"]


def test_more_epochs_are_written_into_the_recipe(tmp_path: Path) -> None:
    rushlight.train("mlp", "digits", epochs=1, schedule="constant", name="a", runs=tmp_path, **SMALL)
    run = rushlight.resume("a", epochs=2, runs=tmp_path, quiet=True)
    assert read_recipe(run.folder)["epochs"] == 2
    assert rushlight.resume("a", runs=tmp_path, quiet=True).summary()["epochs"] == 2


def test_a_finished_run_without_checkpoints_is_not_trained_anew(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, schedule="constant", name="a", runs=tmp_path, **SMALL)
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(RunError, match="nothing to go on from"):
        rushlight.resume("a", epochs=2, runs=tmp_path, quiet=True)
    assert rushlight.open_run(run.folder).test() == run.report


def test_a_refused_resume_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, schedule="constant", name="a", runs=tmp_path, **SMALL)
    (run.folder / "losses.f32").unlink()
    before = (run.folder / "history.jsonl").read_bytes()
    with pytest.raises(RunError, match="losses"):
        rushlight.resume("a", epochs=2, runs=tmp_path, quiet=True)
    assert (run.folder / "history.jsonl").read_bytes() == before
