from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rushlight.console import print_run, print_runs
from rushlight.console.runs import thin_curve, whole_ticks

NAME = "20261123-0331-mlp-fashion-mnist-k7"
SUMMARY: dict[str, Any] = {
    "name": NAME, "folder": Path("runs") / NAME, "started": 1.79e9, "status": "finished", "model": "mlp",
    "data": "fashion-mnist", "epochs_done": 5, "epochs": 5, "steps": 4690, "train_loss": 0.31, "test_loss": 0.35,
    "accuracy": 0.8841, "best_accuracy": 0.885, "best_epoch": 4, "metric": "accuracy", "metric_value": 0.8841,
    "seconds": 16.2, "problem": "",
}  # fmt: skip
EPOCHS: list[dict[str, Any]] = [
    {"kind": "epoch", "epoch": i, "step": 938 * i, "train_loss": 0.5 / i, "test": {"loss": 0.6 / i, "accuracy": 0.8 + i / 50},
     "learning_rate": 0.001, "seconds": 3.1, "time": 1.79e9}
    for i in range(1, 6)
]  # fmt: skip
LOSSES = [1.9 * math.exp(-i / 300) + 0.35 for i in range(4690)]


def test_runs_are_listed_with_their_last_and_best_figures(capsys: pytest.CaptureFixture[str]) -> None:
    regression = {
        **SUMMARY,
        "name": "houses",
        "status": "running",
        "metric": "mae",
        "metric_value": 12.5,
        "best_epoch": 2,
    }
    damaged = {"name": "hurt", "status": "damaged", "started": 0.0, "problem": "hurt/recipe.json: damaged"}
    print_runs([SUMMARY, regression, damaged])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2][:7] == [NAME, "finished", "5/5", "88.41%", "88.50%", "0.3100", "16.2s"]
    assert lines[3][:7] == ["houses", "running", "5/5", "mae", "12.5000", "epoch", "2"]
    assert lines[4][:2] == ["hurt", "damaged"]
    assert lines[5] == ["damaged:", "hurt/recipe.json:", "damaged"]


def test_long_names_are_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "实验" * 30 + "-" + "x" * 100
    print_runs([{**SUMMARY, "name": long}])
    assert long in capsys.readouterr().out


def test_a_run_is_shown_with_recipe_epochs_events_and_curves(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "model": {"name": "mlp", "hidden": [512, 512]},
        "optimizer": {"name": "AdamW", "arguments": {"lr": 0.001, "amsgrad": False}},
        "epochs": 5,
        "x": None,
    }
    resumed = {"kind": "event", "event": "resumed", "step": 400, "message": "after a kill", "time": 1.79e9}
    print_run(SUMMARY, recipe, [{"kind": "start"}, *EPOCHS, resumed], LOSSES)
    text = capsys.readouterr().out
    assert "mlp (hidden 512, 512)" in text
    assert "AdamW (lr 0.001)" in text
    best = next(line for line in text.splitlines() if line.rstrip().endswith("best"))
    assert best.split() == ["4", "0.1250", "0.1500", "88.00%", "3.1s", "best"]
    assert "resumed at step 400  after a kill" in text
    assert "training loss, 4.69k steps" in text
    assert "test accuracy, %" in text
    assert "\x1b" not in text


SESSIONS: list[dict[str, Any]] = [
    {"began": 1.79e9, "ended": None, "from_step": 0, "step": None, "end": "killed", "pid": 7, "host": "ada",
     "differences": [], "message": None},
    {"began": 1.79e9, "ended": 1.79e9 + 60, "from_step": 1200, "step": 2400, "end": "failed", "pid": 8, "host": "ada",
     "differences": ["the number of threads: 2 then, 1 now"], "message": "there is no space left on this disk."},
    {"began": 1.79e9, "ended": 1.79e9 + 90000, "from_step": 2400, "step": 4690, "end": "finished", "pid": 9, "host": "ada",
     "differences": [], "message": None},
]  # fmt: skip
CHANGE = "resumed at step 1200: the number of threads: 2 then, 1 now"


def test_who_worked_on_a_run_is_shown_and_what_was_not_exact_stands_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_run({**SUMMARY, "inexact": (CHANGE,)}, {"epochs": 5}, EPOCHS, LOSSES, SESSIONS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"not exact: {CHANGE}"
    at = lines.index("sessions")
    killed, failed, finished = (line.split() for line in lines[at + 3 : at + 6])
    assert killed[2:] == ["?", "from", "0", "killed", "7", "on", "ada"]
    assert failed[3:] == ["1,200", "to", "2,400", "failed,", "not", "exact", "8", "on", "ada"]
    assert len(failed[2]) == len("12:00")  # on the day it began
    assert len(finished[2]) == len("2026-09-21")  # on another day
    assert lines[at + 6] == "failed: there is no space left on this disk."


def test_of_many_sessions_the_last_are_shown_and_every_change_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_run({**SUMMARY, "inexact": [CHANGE] * 50}, {}, [], [], SESSIONS[1:2] * 50)
    said = capsys.readouterr().out
    assert said.count("not exact: resumed") == 50
    assert "the last 20 of 50 sessions" in said


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_sessions_fit_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_run(SUMMARY, {}, [], [], SESSIONS)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[2:])) <= columns
    assert "…" not in said
    assert ("ended" in said) == (columns > 60)


def test_sessions_with_nonsense_in_them_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(SUMMARY, {}, [], [], [{**SESSIONS[0], "began": "noon", "ended": 1e300, "from_step": None, "pid": None}])
    assert "from ?" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 80])
def test_the_curves_fit_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_run(SUMMARY, {}, EPOCHS, LOSSES)
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.endswith(("│", "┐", "┘"))]
    assert len(drawn) > 10
    assert {len(line) for line in drawn} == {columns}


def test_a_run_that_never_took_a_step_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_run({**SUMMARY, "status": "unfinished"}, {"epochs": 5}, [], [])
    assert "unfinished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "losses", [[1.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 1.0, math.inf, 2.0], [1e30, 1e-30], [math.nan] * 5]
)
def test_odd_losses_draw_without_a_crash(capsys: pytest.CaptureFixture[str], losses: list[float]) -> None:
    print_run(SUMMARY, {}, [], losses)
    assert NAME in capsys.readouterr().out


def test_long_curves_are_thinned_to_means() -> None:
    steps, values = thin_curve([1.0, 3.0] * 1000)
    assert len(values) == 400
    assert values == pytest.approx([2.0] * 400, abs=0.21)
    assert steps[0] == 3.0


def test_ticks_are_round_numbers_and_few() -> None:
    assert whole_ticks(1, 5, 6) == [1, 2, 3, 4, 5]
    assert whole_ticks(1, 4690, 6) == [1000, 2000, 3000, 4000]
    assert len(whole_ticks(1, 10**9, 5)) <= 5
