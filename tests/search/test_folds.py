"""Cross-validation: every sample is tested once, finished folds stay, and the interval is its formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import rushlight
from rushlight.cli.app import app
from rushlight.data.shape.samples import split_indices
from rushlight.errors import RunError, UsageError
from rushlight.report import fold_interval
from rushlight.serve.model import tell_of_fold

X = torch.randn(83, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0.6).long() + (X[:, 1] > 1.3).long()
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "quiet": True, "lr": 0.01, "numerics": "exact"}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("folds", [2, 5, 83])
@pytest.mark.parametrize("stratified", [True, False])
def test_each_sample_is_in_one_fold_and_each_class_is_even(folds: int, stratified: bool) -> None:
    labels, found, counts = Y.numpy(), [], []
    for number in range(1, folds + 1):
        train, test = split_indices(labels, (number, folds), seed=3, stratified=stratified)
        assert sorted([*train, *test]) == list(range(83))
        found += test.tolist()
        counts.append(np.bincount(labels[test], minlength=3))
    assert sorted(found) == list(range(83))
    each = np.array(counts)
    assert np.ptp(each.sum(1)) <= 1
    assert not stratified or (np.ptp(each, axis=0) <= 1).all()


def test_the_interval_is_students_widened_for_folds_that_share_samples() -> None:
    for values, t in (
        ([0.8, 0.9], 12.706204736),
        ([1.0, 2.0, 4.0], 4.302652730),
        ([0.1, 0.3, 0.2, 0.5, 0.4], 2.776445105),
    ):
        count = len(values)
        reach = t * np.std(values, ddof=1) * math.sqrt(1 / count + 1 / (count - 1))
        assert fold_interval(values) == pytest.approx((np.mean(values) - reach, np.mean(values) + reach), rel=1e-7)


def test_folds_are_runs_that_an_interruption_leaves_whole(tmp_path: Path) -> None:
    whole = rushlight.cross_validate(network, (X, Y), 3, name="whole", runs=tmp_path, **OPTIONS)
    assert [run.name for run in whole.runs] == ["whole-fold-1", "whole-fold-2", "whole-fold-3"]
    assert sum(run.report.n for run in whole.runs if run.report) == 83
    assert whole.metric == "accuracy"
    assert whole.mean == pytest.approx(np.mean(whole.values))
    means = {run.bundle.features.normalization.mean for run in whole.runs}  # type: ignore[union-attr]
    assert len(means) == 3  # of each fold's own training samples
    rows = split_indices(Y.numpy(), (2, 3), seed=0, stratified=True)
    torch.manual_seed(0)
    by_hand = rushlight.train(
        network(),
        (X[rows[0]], Y[rows[0]]),
        test_data=(X[rows[1]], Y[rows[1]]),
        classes=list("012"),
        runs=tmp_path,
        **OPTIONS,
    )
    assert by_hand.losses.tolist() == whole.runs[1].losses.tolist()
    epochs: list[Any] = []

    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch":
            epochs.append(event.data["epoch"])
            if len(epochs) == 3:
                raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        rushlight.cross_validate(network, (X, Y), 3, name="part", on_event=stop, runs=tmp_path, **OPTIONS)
    part = rushlight.cross_validate(network, (X, Y), 3, name="part", on_event=stop, runs=tmp_path, **OPTIONS)
    assert epochs == [1, 2, 1, 2, 1, 2]
    assert part.values == whole.values
    for one, other in zip(part.runs, whole.runs, strict=True):
        assert one.summary()["state_sha256"] == other.summary()["state_sha256"]
    with pytest.raises(RunError, match=r'already a run called "part-fold-1"[^;]*\n  - epochs: 2 then, 3 now\nTo go on'):
        rushlight.cross_validate(network, (X, Y), 3, name="part", runs=tmp_path, **{**OPTIONS, "epochs": 3})
    assert rushlight.open_run("part-fold-1", network(), runs=tmp_path).test((X, Y)).n == 83


def test_folds_of_a_table_by_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["a,b,y", *(f"{a:.4f},{b:.4f},{'yes' if y else 'no'}" for (a, b, *_), y in zip(X, Y, strict=True))]
    Path("t.csv").write_text("\n".join(lines))
    command = ["train", "linear", "t.csv", "--target", "y", "--epochs", "1", "--folds", "2"]
    found = CliRunner().invoke(app, [*command, "--quiet", "--json"])
    figures = json.loads(found.stdout)
    assert figures["runs"] == ["linear-t-csv-2-folds-fold-1", "linear-t-csv-2-folds-fold-2"]
    assert figures["mean"] == pytest.approx(np.mean(figures["values"]))
    again = rushlight.open_run("linear-t-csv-2-folds-fold-2")
    assert again.test().accuracy == figures["values"][1]  # its own fold, opened again
    shown = CliRunner().invoke(app, [*command, "--quiet"]).stdout
    assert "2 folds: accuracy" in shown
    assert "next:" not in shown
    shown = CliRunner().invoke(app, command).stdout
    assert "next:\n  rushlight test linear-t-csv-2-folds-fold-1" in shown
    command += ["--runs", str(tmp_path / "runs")]  # as several processes are told it
    absolute = CliRunner().invoke(app, command).stdout
    assert "next:\n  rushlight test linear-t-csv-2-folds-fold-1" in absolute
    assert "best" not in shown  # nothing is chosen, least of all by the test split
    with pytest.raises(UsageError, match=r"This run is fold 2 of 2 \(--folds\)"):
        again.eject("fold.py")
    told: list[str] = []
    tell_of_fold(again.folder, told.append)
    assert told[0].startswith("linear-t-csv-2-folds-fold-2 is fold 2 of 2 of a cross-validation")


def test_what_folds_cannot_be_cut_from_or_go_with_is_refused(tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"folds": 1}, "2 or more"),
        ({"folds": 84}, "cannot be dealt"),
        ({"model": network()}, "a function that makes it"),
        ({"test_fraction": 0.5}, "test_fraction does not go with folds"),
        ({"optimizer": torch.optim.SGD(network().parameters(), lr=0.1)}, "optimizer does not go with folds"),
        ({"data": ((X, Y), (X, Y))}, "No folds were cut"),
        ({"data": torch.utils.data.DataLoader(TensorDataset(X, Y), drop_last=True)}, "test_fraction"),
    ]
    for given, words in refused:
        chosen = {"model": network, "data": (X, Y), "folds": 3, "runs": tmp_path, **OPTIONS, **given}
        if "optimizer" in given:
            chosen.pop("lr")
        with pytest.raises(UsageError, match=words):
            rushlight.cross_validate(**chosen)
    assert not list(tmp_path.iterdir())
