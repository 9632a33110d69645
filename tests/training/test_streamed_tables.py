"""Training on tables larger than memory: the window is kept, and a run that goes on has the bits of one never stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.data.sources.test_parquet import flats, write_folder
from tests.processes import Process, kill_in_mid_epoch, run_python

import rushlight
from rushlight.cli import main
from rushlight.runs import read_recipe

COLUMNS = ("area", "floor", "city", "built", "kind")
SETTINGS: dict[str, Any] = {
    "epochs": 2, "batch_size": 16, "seed": 5, "model_arguments": {"hidden": (16,)}, "shuffle_window": 160, "quiet": True,
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of three files, and one to test on."""
    write_folder(tmp_path / "flats" / "train", flats().select(COLUMNS), row_group_size=70)
    write_folder(tmp_path / "flats" / "test", flats(200, seed=1).select(COLUMNS), 1)
    return tmp_path / "flats"


def train(table: Path, name: str, **options: Any) -> rushlight.Run:
    return rushlight.train("mlp", str(table), name=name, runs=table.parent, **{"target": "kind", **SETTINGS, **options})


def test_a_folder_that_fits_trains_as_one_file_of_all_its_rows(tmp_path: Path) -> None:
    frame = flats().select(COLUMNS)
    frame.write_parquet(tmp_path / "all.parquet")
    one = train(tmp_path / "all.parquet", "one", shuffle_window=None)
    other = train(write_folder(tmp_path / "parts", frame), "other", shuffle_window=None)
    assert other.summary()["state_sha256"] == one.summary()["state_sha256"]
    assert other.losses.tobytes() == one.losses.tobytes()
    assert other.predict(tmp_path / "parts").labels.tolist() == one.predict(tmp_path / "all.parquet").labels.tolist()


def test_a_streamed_table_is_trained_tested_and_predicted(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 0)
    run = train(table, "run", shuffle_window=None, epochs=6, lr=0.01, quiet=False)
    assert "read from disk as they are needed" in " ".join(capsys.readouterr().out.split())
    assert read_recipe(run.folder)["data"]["options"]["shuffle_window"] == 16384
    assert run.report is not None
    assert run.report.accuracy > 0.8
    again = rushlight.open_run(run.folder)
    assert again.test().accuracy == run.report.accuracy
    assert again.test(table / "test" / "part-0.parquet").accuracy == run.report.accuracy
    labels = run.predict(table / "test" / "part-0.parquet").labels
    assert labels is not None
    known = pl.read_parquet(table / "test" / "part-0.parquet")["kind"].to_numpy()
    assert np.mean(labels[: len(known)] == known) > 0.7
    with np.load(run.folder / "predictions.npz") as found:
        assert found["names"][0] == "part-0.parquet row 1"
    with pytest.raises(SystemExit, match="0"):
        main(["data", str(table), "--target", "kind"])
    assert "usual" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(run.folder), str(table)])
    assert len(capsys.readouterr().out.splitlines()) == 200


def test_weights_balanced_by_class_and_targets_in_units_are_those_of_a_table_in_memory(table: Path) -> None:
    arguments = {"loss_arguments": {"weight": "balanced"}, "max_steps": 1, "epochs": 1}
    found = [train(table, f"weights-{size}", shuffle_window=size, **arguments) for size in (None, 64)]
    weights = [read_recipe(run.folder)["loss"]["arguments"]["weight"] for run in found]
    assert weights[0] == pytest.approx(weights[1])
    reports = [
        train(table, f"area-{size}", target="area", epochs=8, lr=0.01, shuffle_window=size).report
        for size in (None, 64)
    ]
    assert all(report is not None and report.mae < 12 for report in reports)


def test_a_streamed_run_goes_on_with_the_window_it_was_begun_with(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 0)
    whole = train(table, "whole", epochs=3, schedule="constant")
    train(table, "longer", epochs=2, schedule="constant")
    monkeypatch.undo()
    resumed = rushlight.resume(table.parent / "longer", epochs=3, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


TRAIN = """
import sys, time
import torch
import rushlight.training.step.runner as runner
import rushlight.training.checkpoint.saver as saver
from pathlib import Path
from tests.training.test_streamed_tables import train

torch.set_num_threads(1)
saver.CHECKPOINT_SECONDS, saver.CHECKPOINT_SHARE = 0.02, 1.0
step_seed = runner.step_seed
runner.step_seed = lambda *arguments: time.sleep(float(sys.argv[3])) or step_seed(*arguments)
train(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
def test_a_streamed_run_killed_in_mid_epoch_and_read_on_by_workers_has_the_bits_of_one_never_killed(
    table: Path,
) -> None:
    whole = train(table, "whole")
    folder = table.parent / "killed"
    kill_in_mid_epoch(Process(["-c", TRAIN, table, "killed", "0.02"]), folder, 37)
    recipe = folder / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"shuffle_window"', '"workers": 2, "shuffle_window"'))
    resumed = rushlight.resume("killed", runs=table.parent, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()


@pytest.mark.slow
def test_two_processes_train_on_a_streamed_table_as_one_does(table: Path) -> None:
    one = train(table, "one")
    options = (
        "--target kind --epochs 2 --batch-size 16 --seed 5 --model-arg hidden=16, --shuffle-window 160 --processes 2"
    )
    command = ["-m", "rushlight", "train", "mlp", table, *options.split(), "--runs", table.parent, "--name", "two"]
    done = run_python(command, cwd=table.parent, timeout=240)
    assert done.returncode == 0, done.stderr
    two = rushlight.open_run("two", runs=table.parent)
    assert np.allclose(np.array(two.losses), np.array(one.losses), rtol=1e-4)
