"""Every command, through the real command line, on real digits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.processes import run_python

import rushlight
from rushlight.cli import main
from rushlight.data.sources.named.named import open_named

Do = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of mlp on the digits, made by a real process."""
    folder = tmp_path_factory.mktemp("a home")
    command = [sys.executable, "-m", "rushlight", "train", "mlp", "digits", "--hidden", "32", "--epochs", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    (folder / "train.json").write_text(done.stdout, encoding="utf-8")
    (folder / "train.err").write_text(done.stderr, encoding="utf-8")
    return folder


@pytest.fixture
def do(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Do:
    """Run a command in the home folder; return its standard output."""
    monkeypatch.chdir(home)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        said = capsys.readouterr()
        assert left.value.code in (0, None), said.err
        return said.out

    return run


def digit(home: Path, index: int = 0) -> Path:
    """A test digit as a PNG."""
    path = home / f"digit {index}.png"
    Image.fromarray(open_named("digits").test_inputs[index, 0]).save(path)
    return path


def test_json_puts_one_object_on_standard_output_and_the_rest_on_standard_error(home: Path) -> None:
    summary: dict[str, Any] = json.loads((home / "train.json").read_text(encoding="utf-8"))
    assert summary["epochs"] == 3
    assert summary["steps"] == 3 * 23  # 1,437 samples in batches of 64
    assert summary["test"]["n"] == 360
    assert summary["test"]["accuracy"] > 0.7
    assert 0 < summary["seconds"] <= summary["wall_seconds"]
    assert len(summary["state_sha256"]) == 64
    assert "mlp on digits" in (home / "train.err").read_text(encoding="utf-8")


def test_the_run_folder_holds_what_the_design_promises(home: Path) -> None:
    (folder,) = [path for path in (home / "runs").iterdir() if path.is_dir()]
    for name in (
        "recipe.json", "environment.json", "history.jsonl", "losses.f32", "report.json", "predictions.npz", "loss.png",
        "confusion.png", "model/model.json", "model/weights.safetensors", "checkpoints/00000069/state.safetensors",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert (folder / "losses.f32").stat().st_size == 69 * 4
    with np.load(folder / "predictions.npz", allow_pickle=False) as predictions:
        assert predictions["predicted"].shape == (360,)


def test_quiet_prints_nothing(home: Path, tmp_path: Path) -> None:
    done = run_python(["-m", "rushlight", "train", "linear", "digits", "--epochs", "1", "--quiet"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_training_prints_rows_a_report_and_what_comes_next(do: Do, tmp_path: Path) -> None:
    said = do("train", "linear", "digits", "--epochs", "2", "--runs", str(tmp_path))
    assert "1/2" in said
    assert "2/2" in said
    assert "test accuracy" in said
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]  # not in runs/: the commands name it whole
    for command in ("test", "predict", "save"):
        assert f"rushlight {command} {folder}" in said
    assert "test accuracy" in do("test", str(folder))


def test_testing_again_gives_the_figures_of_the_training(do: Do, home: Path) -> None:
    report = json.loads(do("test", "latest", "--json"))
    assert report["accuracy"] == json.loads((home / "train.json").read_text())["test"]["accuracy"]
    assert sum(map(sum, report["confusion"])) == 360
    assert "by class" in do("test", "latest")


def test_predicting_an_image_file_prints_class_names_and_probabilities(do: Do, home: Path) -> None:
    path = digit(home)
    (row,) = json.loads(do("predict", "latest", str(path), "--json"))["predictions"]
    assert row["input"] == str(path)
    assert row["label"] == next(iter(row["probabilities"]))
    assert len(row["probabilities"]) == 3
    assert row["label"] in do("predict", "latest", "digit*.png")


def test_predictions_from_the_command_line_equal_those_from_python(do: Do, home: Path) -> None:
    inputs = open_named("digits").test_inputs
    np.save(home / "digits.npy", inputs)
    rows = json.loads(do("predict", "latest", "digits.npy", "--json", "--top", "10"))["predictions"]
    predicted = rushlight.open_run("latest", runs=home / "runs").predict(inputs)
    assert [row["label"] for row in rows] == predicted.labels.tolist()
    recorded = np.load(rushlight.open_run("latest", runs=home / "runs").folder / "predictions.npz")["predicted"]
    assert [int(row["label"]) for row in rows] == recorded.tolist()


def test_a_saved_state_dict_loads_with_the_guides_own_two_lines(do: Do, home: Path) -> None:
    assert "model.pth" in do("save", "latest", "model.pth")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    model.load_state_dict(torch.load(home / "model.pth", weights_only=True))
    run = rushlight.open_run("latest", runs=home / "runs")
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_bundle_loads_without_naming_its_model(do: Do, home: Path) -> None:
    do("save", "latest", "bundle")
    model = rushlight.load(home / "bundle")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(x), rushlight.open_run("latest", runs=home / "runs").model(x))


def test_runs_are_listed_and_one_is_shown_with_its_curve(do: Do, home: Path) -> None:
    (name,) = [path.name for path in (home / "runs").iterdir() if path.is_dir()]
    assert "finished" in do("runs")
    assert json.loads(do("runs", "--json"))[0]["name"] == name
    shown = do("runs", "latest")
    assert name in shown
    assert "training loss" in shown
    assert json.loads(do("runs", name, "--json"))["recipe"]["epochs"] == 3


def test_runs_are_verified_all_or_one_with_what_it_means(do: Do, home: Path) -> None:
    (name,) = [path.name for path in (home / "runs").iterdir() if path.is_dir()]
    said = do("runs", "--verify")
    assert name in said
    assert "everything is whole." in said
    assert "Everything is whole." in do("runs", "--verify", "latest")
    found = json.loads(do("runs", name, "--verify", "--json"))
    assert found["whole"] is True
    assert {part["name"]: part["state"] for part in found["parts"]}["checkpoints/00000069"] == "whole"
    both = json.loads(do("runs", "--verify", "--json"))
    assert (both["whole"], both["damaged"], both["runs"][0]["run"]) == (1, 0, name)


def test_what_verifying_says_of_damage_is_what_resume_then_does(do: Do, home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(next(path for path in (home / "runs").iterdir() if path.is_dir()), tmp_path / "hurt"))
    runs = ("--runs", str(tmp_path))
    whole = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    for path in (folder / "model" / "weights.safetensors", max(folder.glob("checkpoints/*/state.safetensors"))):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    (folder / "history.jsonl").write_bytes((folder / "history.jsonl").read_bytes() + b"nonsense\n")
    with pytest.raises(SystemExit) as left:
        main(["runs", "--verify", "hurt", *runs])
    assert left.value.code == 1
    with pytest.raises(SystemExit) as left:
        main(["runs", "--verify", *runs])
    assert left.value.code == 1
    do("resume", "hurt", *runs)
    assert "Everything is whole." in do("runs", "--verify", "hurt", *runs)
    weights = folder / "model" / "weights.safetensors"
    assert weights.read_bytes() == whole[weights]


def test_a_run_is_deleted_and_the_freed_space_is_told(do: Do, home: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(next(path for path in (home / "runs").iterdir() if path.is_dir()), tmp_path / name)
    runs = ("--runs", str(tmp_path))
    said = do("runs", "--delete", "first", "--yes", *runs)
    assert said.startswith("Deleted first: ")
    assert said.endswith(" kB are free again.\n")
    assert json.loads(do("runs", "--delete", "second", "--yes", "--json", *runs))["bytes"] > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")
@pytest.mark.parametrize(("answer", "is_deleted"), [("y", True), ("", False), ("no", False), ("\x04", False)])
def test_deleting_shows_the_run_and_asks(home: Path, tmp_path: Path, answer: str, is_deleted: bool) -> None:
    import pty

    folder = tmp_path / "doomed"
    shutil.copytree(next(path for path in (home / "runs").iterdir() if path.is_dir()), folder)
    (folder / "notes.txt").write_text("mine")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rushlight", "runs", "--delete", "doomed", "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    said, shown = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    for words in ("doomed", "mlp on digits, 3/3 epochs", "finished", "kB", "notes.txt", "Delete it? [y/N]"):
        assert words in shown
    assert folder.exists() != is_deleted
    assert ("Deleted doomed" in said) == is_deleted
    assert ("Nothing was deleted" in shown) != is_deleted


def test_runs_without_any_say_which_command_makes_the_first(do: Do, tmp_path: Path) -> None:
    assert "rushlight train" in do("runs", "--runs", str(tmp_path / "none"))


def test_data_lists_names_with_licences_and_looks_into_one(do: Do, home: Path) -> None:
    rows = {row["name"]: row for row in json.loads(do("data", "--json"))}
    assert set(rows) == {"fashion-mnist", "mnist", "kmnist", "cifar10", "cifar100", "digits"}
    assert all(row["licence"] for row in rows.values())
    assert "CC BY 4.0" in do("data")
    described = json.loads(do("data", "digits", "--json", "--sheet", "digits sheet.png"))
    assert described["splits"]["train"]["samples"] == 1437
    with Image.open(home / "digits sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert "samples per class" in do("data", "digits", "--sheet", "digits sheet.png")


def test_a_table_is_looked_into_column_by_column(do: Do, home: Path) -> None:
    (home / "t.csv").write_text("size,colour,kind\n1.5,red,a\n,blue,b\n2.5,red,a\n3.5,blue,b\n4.5,red,b\n")
    said = do("data", "t.csv", "--target", "kind")
    assert "colour" in said
    assert "missing" in said


def test_env_prints_what_a_bug_report_needs(do: Do) -> None:
    said = do("env")
    for label in ("Rushlight", "PyTorch", "processor", "torch threads", "bfloat16 hardware", "free memory"):
        assert label in said
    assert json.loads(do("env", "--json"))["threads"] == torch.get_num_threads()


def test_a_table_is_trained_tested_and_predicted_from(do: Do, home: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 6))
    kinds = np.array(["low", "middle", "high", "top", "peak"])[np.clip(np.digitize(x[:, 0], [-1, -0.3, 0.3, 1]), 0, 4)]
    rows = [
        "a,b,c,d,e,f,kind",
        *(",".join([*(f"{v:.4f}" for v in row), kind]) for row, kind in zip(x, kinds, strict=True)),
    ]
    (home / "six.csv").write_text("\n".join(rows))
    runs = ("--runs", str(tmp_path))
    summary = json.loads(do("train", "mlp", "six.csv", "--target", "kind", "--hidden", "8", "--epochs", "20",
                            "--lr", "0.02", "--json", *runs))  # fmt: skip
    assert summary["test"]["accuracy"] > 0.5
    predictions = json.loads(do("predict", "latest", "six.csv", "--json", *runs))["predictions"]
    assert len(predictions) == 300
    assert np.mean([row["label"] == kind for row, kind in zip(predictions, kinds, strict=True)]) > 0.5
    assert json.loads(do("test", "latest", "--data", "six.csv", "--json", *runs))["n"] == 300


def test_a_regression_reports_errors_in_the_units_of_the_data(do: Do, home: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(400, 3))
    price = 250_000 + 40_000 * x[:, 0] - 15_000 * x[:, 1]
    rows = ["a,b,c,price", *(f"{r[0]:.4f},{r[1]:.4f},{r[2]:.4f},{p:.2f}" for r, p in zip(x, price, strict=True))]
    (home / "prices.csv").write_text("\n".join(rows))
    runs = ("--runs", str(tmp_path))
    test = json.loads(do("train", "linear", "prices.csv", "--target", "price", "--epochs", "60", "--lr", "0.05",
                         "--json", *runs))["test"]  # fmt: skip
    assert test["mae"] < 4_000  # the prices spread over some 43,000
    assert test["r2"] > 0.98
    first = json.loads(do("predict", "latest", "prices.csv", "--json", *runs))["predictions"][0]
    assert abs(first["value"] - price[0]) < 10_000


def test_ones_own_network_from_a_file_is_trained_tested_and_saved(do: Do, home: Path, tmp_path: Path) -> None:
    (home / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, width=16):\n        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n\n"
        "    def forward(self, x):\n        return self.layers(x)\n"
    )
    runs = ("--runs", str(tmp_path))
    summary = json.loads(
        do("train", "net.py:Net", "digits", "--model-arg", "width=24", "--epochs", "2", "--json", *runs)
    )
    assert json.loads(do("test", "latest", "--json", *runs))["accuracy"] == summary["test"]["accuracy"]
    do("save", "latest", "net.pth", *runs)
    assert torch.load(home / "net.pth", weights_only=True)["layers.1.weight"].shape == (24, 64)


def test_help_teaches_every_command(do: Do) -> None:
    for command in ("train", "resume", "test", "predict", "save", "runs", "data", "env"):
        assert "Usage: rushlight" in do(command, "--help"), command
