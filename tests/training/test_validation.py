"""Validation chooses, and the test split is asked once, at the end."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.plain_loop import plain_loop
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset, TensorDataset

import rushlight
from rushlight.console import print_run
from rushlight.data import Data, DataOptions, ResidentSplit, open_source
from rushlight.data.sources.named.named import open_named
from rushlight.errors import TrainingError, UsageError
from rushlight.options import check_options
from rushlight.runs import list_runs, read_history
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.finish import finish_run
from rushlight.training.loop import Epoch, epochs
from rushlight.training.setup.prepare import start_training
from rushlight.training.state import Training

PREVIOUS = Path(__file__).parent / "previous_release"


class Spied(Dataset[Any]):
    """Samples that note when they are read."""

    def __init__(self, inputs: Tensor, labels: Tensor, name: str, read: list[str]) -> None:
        self.samples, self.name, self.read = TensorDataset(inputs, labels), name, read

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if not self.read or self.read[-1] != self.name:
            self.read.append(self.name)
        return self.samples[index]


def digits(kind: str) -> tuple[Tensor, Tensor]:
    arrays = open_named("digits")
    return torch.from_numpy(getattr(arrays, f"{kind}_inputs")).float() / 255, torch.from_numpy(
        getattr(arrays, f"{kind}_targets")
    )


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def with_validation(read: list[str] | None = None, count: int = 200) -> Data:
    """The digits, whose first training samples validate; with `read`, as datasets that note there when they are read."""
    (x, y), (test_x, test_y) = digits("train"), digits("test")
    train, validation, test = (x[count:], y[count:]), (x[:count], y[:count]), (test_x, test_y)
    if read is None:
        pairs = [(inputs.numpy(), labels.numpy()) for inputs, labels in (train, validation, test)]
    else:
        named = zip((train, validation, test), ("train", "validation", "test"), strict=True)
        pairs = [Spied(*pair, name, read) for pair, name in named]  # type: ignore[misc]
    as_it_is = DataOptions(normalize="none")
    opened = open_source(pairs[0], pairs[2], as_it_is)
    return replace(opened, validation=open_source(pairs[1], pairs[1], as_it_is).test)


def train(
    data: Data, tmp_path: Path, model: nn.Module | None = None, **options: Any
) -> tuple[list[Epoch], Training, list[dict[str, Any]]]:
    """Train to the end, and finish the run; return also its lines of history."""
    chosen = {"epochs": 4, "runs": tmp_path, "quiet": True, "normalize": "auto", **options}
    with ExitStack() as stack:
        training = start_training(model or network(), data, check_options(chosen), stack)
        done = list(epochs(training))
        finish_run(training, done[-1])
    return done, training, read_history(training.folder)


def of_kind(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def test_a_run_that_stops_early_never_reads_the_test_split_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 0)  # else all is read when it is opened
    read: list[str] = []
    data = with_validation(read)
    read.clear()
    done, _, _ = train(data, tmp_path, early_stopping=1, epochs=30, optimizer="SGD", lr=2.0)
    assert len(done) < 30
    looks = [name for name in read if name != "train"]
    assert looks == ["validation"] * len(done) + ["test"]
    assert all(epoch.validation is not None and epoch.test is None for epoch in done)


def test_the_epoch_that_is_kept_is_the_one_that_a_plain_loop_chooses_by_validation(tmp_path: Path) -> None:
    data, (x, y), (test_x, test_y) = with_validation(), digits("train"), digits("test")
    mine, reference = network(), network()
    options = {"early_stopping": 3, "epochs": 40, "optimizer": "SGD", "lr": 2.0, "seed": 7, "numerics": "exact"}
    done, training, lines = train(data, tmp_path, mine, **options)

    losses, weights = [], []  # by hand, after each epoch

    def keep() -> None:
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(reference(x[:200]), y[:200])))
        weights.append(copy.deepcopy(reference))

    accuracies = plain_loop(
        reference, torch.optim.SGD(reference.parameters(), lr=2.0), nn.CrossEntropyLoss(), x[200:], y[200:], x[:200], y[:200],
        epochs=len(done), batch_size=64, seed=7, after_epoch=keep,
    ).accuracies  # fmt: skip
    best = max(range(len(done)), key=lambda number: (accuracies[number], -losses[number]))
    assert len(done) - best - 1 == 3  # so many epochs without a better one
    assert state_digest(training.model) == state_digest(weights[best])
    assert training.state["best"] == {
        "epoch": best + 1, "step": done[best].step, "split": "validation", "name": "accuracy",
        "value": pytest.approx(accuracies[best]), "loss": pytest.approx(losses[best], rel=1e-5),
    }  # fmt: skip
    with torch.no_grad():
        right = float((weights[best](test_x).argmax(1) == test_y).double().mean())
    report = json.loads((training.folder / "report.json").read_text())
    assert report["n"] == 360
    assert report["accuracy"] == right == lines[-1]["test"]["accuracy"]


def test_with_validation_and_nothing_chosen_the_last_weights_are_tested_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, training, lines = train(with_validation(), tmp_path, optimizer="SGD", lr=0.1)
    by_epoch = of_kind(lines, "epoch")
    assert [line["test"] for line in by_epoch] == [None] * 4
    assert [line["validation"] for line in by_epoch] == [
        epoch.validation and epoch.validation.short() for epoch in done
    ]
    assert [line["validation"]["n"] for line in by_epoch] == [200] * 4
    assert lines[-1]["event"] == "finished"
    assert (lines[-1]["test"]["n"], lines[-1]["step"]) == (360, done[-1].step)
    predictions = np.load(training.folder / "predictions.npz")
    assert len(predictions["truth"]) == 360
    (summary,) = list_runs(tmp_path)
    assert (summary.split, summary.accuracy) == ("validation", by_epoch[-1]["validation"]["accuracy"])
    print_run(vars(summary), {}, lines, [1.0, 0.5])
    said = capsys.readouterr().out
    assert "val loss" in said
    assert "val accuracy" in said
    assert "test" not in said.replace(str(tmp_path), "")


def test_the_samples_names_stand_in_the_predictions_and_in_what_is_said_of_a_loss_that_is_not_finite(
    tmp_path: Path,
) -> None:
    data = open_source("digits")
    train_split, test_split = data.train, data.test
    assert isinstance(train_split, ResidentSplit)
    assert isinstance(test_split, ResidentSplit)
    named = replace(
        data,
        train=replace(train_split, names=[f"行 {number}" for number in range(len(train_split.inputs))]),
        test=replace(test_split, names=[f"test/{number}.png" for number in range(len(test_split.inputs))]),
    )
    _, training, _ = train(named, tmp_path, epochs=1)
    predictions = np.load(training.folder / "predictions.npz", allow_pickle=False)
    assert predictions["names"].tolist() == [f"test/{number}.png" for number in range(360)]
    with pytest.raises(TrainingError, match=r"samples 行 \d+, 行 \d+"):
        train(named, tmp_path, nn.Sequential(network(), nn.Linear(10, 10)), optimizer="SGD", lr=1e30)


def test_without_validation_a_line_of_history_is_what_it_was_before_there_was_any(tmp_path: Path) -> None:
    run = rushlight.train("linear", "digits", epochs=1, runs=tmp_path, quiet=True)
    (line,) = of_kind(run.history, "epoch")
    assert list(line) == ["kind", "epoch", "step", "train_loss", "test", "learning_rate", "seconds", "time"]
    assert line["test"]["n"] == 360
    assert list(run.history[-1]) == ["kind", "event", "step", "state_sha256", "time"]


@pytest.mark.parametrize(("mode", "figure"), [("min", "loss"), ("max", "accuracy")])
def test_a_plateau_scheduler_follows_validation_by_its_mode(mode: Any, figure: str, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = ReduceLROnPlateau(optimizer, mode, patience=0)
    done, _, _ = train(with_validation(), tmp_path, model, optimizer=optimizer, schedule=schedule)
    seen = [getattr(epoch.validation, figure) for epoch in done]
    assert schedule.best == (min if mode == "min" else max)(seen)


def test_a_plateau_scheduler_that_has_no_figure_to_follow_is_refused(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(UsageError, match='has mode "max"') as caught:
        train(
            with_validation(), tmp_path, model, optimizer=optimizer, schedule=ReduceLROnPlateau(optimizer, "max"),
            objective=lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
        )  # fmt: skip
    assert caught.value.key == "plateau-without-figure"


# ── runs that the previous release began ─────────────────────────────────────────────────────────────────────


@pytest.mark.plots
def test_a_run_of_the_previous_release_goes_on_choosing_by_its_test_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PREVIOUS / "early-stopped-by-test", tmp_path / "old")
    (before,) = list_runs(tmp_path)
    assert (before.status, before.epochs_done, before.split) == ("interrupted", 4, "test")
    run = rushlight.resume("old", runs=tmp_path, inexact=True)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("it chooses by its test") == 1
    tests = [line["test"] for line in of_kind(run.history, "epoch")]
    best = max(range(len(tests)), key=lambda number: (tests[number]["accuracy"], -tests[number]["loss"]))
    assert len(tests) == best + 1 + 3
    assert run.report is not None
    assert run.report.accuracy == tests[best]["accuracy"]
    assert run.history[-1]["step"] == of_kind(run.history, "epoch")[best]["step"]
    assert "test" not in run.history[-1]
    assert (run.folder / "loss.png").is_file()


# ── where nobody has given a validation split ────────────────────────────────────────────────────────────────


def test_where_something_chooses_a_tenth_of_train_is_set_aside_said_and_cut_again_at_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "early_stopping": 2, "epochs": 30, "optimizer": "SGD", "lr": 2.0, "runs": tmp_path, "numerics": "exact",
    }  # fmt: skip
    whole = rushlight.train("linear", "digits", name="whole", **options)
    assert "1,294 samples + 143 to validate + 360 to test" in capsys.readouterr().out
    assert any(note.startswith("143 of 1,437 training samples were set aside for validation") for note in whole.notes)
    recipe = json.loads((whole.folder / "recipe.json").read_text())
    assert recipe["data"]["options"] == {"val_fraction": 0.1}

    halves = rushlight.epochs("linear", "digits", name="halves", **options)
    for _ in range(3):
        next(halves)
    halves.abandon(KeyboardInterrupt())
    resumed = rushlight.resume("halves", runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    without_time = [
        [{key: value for key, value in line.items() if key not in ("time", "seconds", "run")} for line in run.history]
        for run in (whole, resumed)
    ]
    assert without_time[0] == without_time[1]
    assert whole.report == resumed.report == rushlight.open_run("halves", runs=tmp_path).test()


@pytest.mark.parametrize("way", ["early stopping", "plateau"])
def test_open_data_without_validation_that_should_choose_is_refused(way: str, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    chooser = {"early_stopping": 2} if way == "early stopping" else {"schedule": ReduceLROnPlateau(optimizer)}
    with pytest.raises(UsageError, match="nothing is chosen by the test data") as caught:
        train(open_source("digits"), tmp_path, model, optimizer=optimizer, **chooser)
    assert caught.value.key == "no-validation"
    assert not list(tmp_path.iterdir())


def test_a_source_that_brings_its_own_validation_split_is_not_cut(tmp_path: Path) -> None:
    (x, y), (test_x, test_y) = (tuple(part.numpy() for part in digits(kind)) for kind in ("train", "test"))
    np.savez(
        tmp_path / "own.npz",
        x_train=x[300:],
        y_train=y[300:],
        x_val=x[:300],
        y_val=y[:300],
        x_test=test_x,
        y_test=test_y,
    )
    parts = ((x[300:], y[300:]), (x[:300], y[:300]), (test_x, test_y))
    for number, source in enumerate((str(tmp_path / "own.npz"), parts)):
        run = rushlight.train("linear", source, early_stopping=1, epochs=2, runs=tmp_path / f"{number}", quiet=True)
        assert of_kind(run.history, "epoch")[0]["validation"]["n"] == 300
        assert run.report is not None
        assert run.report.n == 360


def test_validation_data_given_by_path_is_opened_again_at_resume(tmp_path: Path) -> None:
    x, y = (part.numpy() for part in digits("train"))
    for name, rows in (("train", slice(300, None)), ("val", slice(300))):
        np.savez(tmp_path / f"{name}.npz", x=x[rows], y=y[rows])
    options: dict[str, Any] = {
        "early_stopping": 9,
        "epochs": 3,
        "val_data": tmp_path / "val.npz",
        "runs": tmp_path,
        "quiet": True,
    }
    stopped = rushlight.epochs("linear", tmp_path / "train.npz", name="it", schedule="constant", **options)
    next(stopped)
    stopped.abandon(KeyboardInterrupt())
    run = rushlight.resume("it", runs=tmp_path, quiet=True)
    assert [line["validation"]["n"] for line in of_kind(run.history, "epoch")] == [300] * 3
