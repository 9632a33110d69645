"""Searches: real trainings on small arrays, whose trials are ordinary runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rushlight
from rushlight.cli import main
from rushlight.errors import ModelError, TrainingError, UsageError
from rushlight.runs import list_runs, read_history, read_note, summarize_run
from rushlight.search import between, find_batch_size, find_lr, log, tuning
from rushlight.search.study import Study
from rushlight.training.objective.schedule import schedule_factor

random = np.random.default_rng(0)
INPUTS = random.normal(size=(240, 6)).astype(np.float32)
TARGETS = (INPUTS[:, 0] + 0.5 * INPUTS[:, 1] > 0).astype(np.int64)
DATA = (INPUTS, TARGETS)
SPACE = {"lr": log(1e-3, 1e-1), "width": between(4, 16), "depth": [1, 2]}


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw what mattered in the tests that are marked `plots` alone."""
    if "plots" not in request.keywords:
        monkeypatch.setattr(tuning, "write_importance_plot", lambda *drawn: None)


def net(width: int = 8, activation: str = "relu") -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), {"relu": nn.ReLU, "tanh": nn.Tanh}[activation](), nn.Linear(width, 2))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs")
    return rushlight.tune("mlp", DATA, space=SPACE, trials=4, epochs=3, seeds=1, runs=folder, name="s", quiet=True)


def test_trials_are_runs_that_are_never_tested_and_the_winner_is(study: Any) -> None:
    runs = {run.name: run for run in list_runs(study.folder.parent)}
    assert [f"s-{number:03}" for number in range(4)] == sorted(name for name in runs if name[2:].isdigit())
    for trial in study.trials:
        run = runs[f"s-{trial.number:03}"]
        assert run.split == "validation"
        assert run.status == {"complete": "finished"}.get(trial.status, trial.status)
        assert run.epochs_done == max(trial.figures)
        assert not (run.folder / "report.json").exists()
        assert read_note(run.folder)["tags"] == ["s"]
        assert rushlight.open_run(run.folder).recipe.study == "s"
    assert runs[study.result.winner.runs[0]].status == "finished"
    report = rushlight.open_run(runs[study.result.winner.runs[0]].folder).report
    assert report is not None
    assert study.result.winner.values == [report.accuracy]
    assert study.result.winner.runs == [f"s-best-{study.best.number:03}-1"]
    assert study.result.verdict in ("few-seeds", "one-recipe")
    assert study.best.value == max(trial.value for trial in study.trials if trial.status == "complete")


def test_the_same_call_goes_on_and_another_recipe_is_refused(study: Any) -> None:
    options: dict[str, Any] = {"epochs": 3, "runs": study.folder.parent, "name": "s", "quiet": True, "seeds": 0}
    more = rushlight.tune("mlp", DATA, space=SPACE, trials=6, **options)
    assert more.trials[:4] == study.trials
    assert len(more.trials) == 6
    with pytest.raises(UsageError, match=r"(?s)The study s has begun with .*\n  - epochs was 3 and is now 4"):
        rushlight.tune("mlp", DATA, space=SPACE, trials=6, **{**options, "epochs": 4})
    with pytest.raises(UsageError, match=r"more than the .* cores that there are"):
        rushlight.tune("mlp", DATA, space=SPACE, trials=6, jobs=1000, **options)


def test_the_first_trial_is_the_training_that_chooses_nothing(tmp_path: Path) -> None:
    found = rushlight.tune(
        "mlp", "digits", trials=1, epochs=1, seeds=1, runs=tmp_path, name="s", quiet=True, batch_size=240
    )
    assert found.result is not None
    assert found.result.verdict == "one-recipe"
    trial = rushlight.open_run(tmp_path / "s-000")
    plain = rushlight.train(
        "mlp", "digits", epochs=1, batch_size=240, val_fraction=0.1, runs=tmp_path, name="p", quiet=True
    )
    assert np.array_equal(trial.losses, plain.losses)


def test_a_function_builds_a_model_for_each_trial_from_its_choices(tmp_path: Path) -> None:
    space = {"lr": log(1e-3, 1e-1), "width": between(4, 16), "activation": ["relu", "tanh"]}
    found = rushlight.tune(net, DATA, space=space, trials=2, epochs=1, seeds=0, runs=tmp_path, name="s", quiet=True)
    assert found.trials[0].choices == {"lr": 1e-3, "width": 8, "activation": "relu"}
    assert found.result is None
    again = rushlight.tune(net, DATA, space=space, trials=2, epochs=1, seeds=0, runs=tmp_path, name="t", quiet=True)
    first, second = (rushlight.open_run(tmp_path / f"{name}-000", net()).losses for name in "st")
    assert np.array_equal(first, second)  # the same first weights
    assert again.trials[0] == found.trials[0]


def test_another_winner_is_tested_by_runs_of_its_own(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "space": {"lr": [1e-3, 0.5]},
        "epochs": 1,
        "optimizer": "SGD",
        "batch_size": 16,
        "seeds": 1,
        "runs": tmp_path,
        "name": "s",
        "quiet": True,
    }
    first = rushlight.tune("mlp", DATA, trials=1, **options)
    later = rushlight.tune("mlp", DATA, trials=5, **options)
    assert (first.best.number, first.best.choices["lr"], later.best.choices["lr"]) == (0, 1e-3, 0.5)
    assert first.result is not None
    assert later.result is not None
    assert first.result.winner.runs == ["s-best-000-1"]
    assert later.result.winner.runs == [f"s-best-{later.best.number:03}-1"]
    report = rushlight.open_run(tmp_path / later.result.winner.runs[0]).report
    assert report is not None
    assert later.result.winner.values == [report.accuracy]


def test_runs_of_a_study_that_is_gone_are_nobodys(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trials": 1, "epochs": 1, "seeds": 0, "runs": tmp_path, "name": "s", "quiet": True}
    rushlight.tune("mlp", DATA, space={"lr": [1e-3, 1e-2]}, **options)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(UsageError, match="s-000 the first, but the study itself is gone"):
        rushlight.tune("mlp", DATA, space={"lr": [1e-4, 1e-1]}, **options)


def test_a_search_for_the_rate_alone_has_the_schedule_of_the_defaults(tmp_path: Path) -> None:
    for given, schedule in (({}, "cosine"), ({"optimizer": "SGD"}, "constant")):
        options: dict[str, Any] = {
            "trials": 1,
            "epochs": 1,
            "seeds": 1,
            "runs": tmp_path,
            "name": schedule,
            "quiet": True,
        }
        found = rushlight.tune("mlp", DATA, space={"lr": log(1e-5, 1e-1)}, **options, **given)
        assert found.result is not None
        assert found.result.verdict == "one-recipe"
        assert rushlight.open_run(tmp_path / f"{schedule}-000").recipe.schedule["name"] == schedule


def test_a_study_that_is_stopped_inside_a_trial_goes_on_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "space": {"lr": log(1e-3, 1e-1)},
        "trials": 2,
        "epochs": 3,
        "seeds": 0,
        "name": "s",
        "quiet": True,
    }
    whole = rushlight.tune(net, DATA, runs=tmp_path / "whole", **options)
    judge, asked = Study.judge, []

    def stopping(self: Study, number: int, epoch: int, figure: Any) -> bool:
        asked.append((number, epoch))
        if asked.count((number, epoch)) == 1:
            raise KeyboardInterrupt
        return judge(self, number, epoch, figure)

    monkeypatch.setattr(Study, "judge", stopping)
    for _ in range(7):
        try:
            found = rushlight.tune(net, DATA, runs=tmp_path / "stopped", **options)
        except KeyboardInterrupt:
            continue
        break
    assert found.trials == whole.trials
    assert {run.status for run in list_runs(tmp_path / "stopped")} <= {"finished", "pruned"}
    for number in range(2):
        one, other = (rushlight.open_run(tmp_path / name / f"s-{number:03}", net()) for name in ("whole", "stopped"))
        assert one.summary()["state_sha256"] == other.summary()["state_sha256"]


def test_a_study_that_could_not_begin_may_begin_with_something_else(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "space": {"lr": log(1e-3, 1e-1)},
        "trials": 1,
        "epochs": 1,
        "seeds": 0,
        "runs": tmp_path,
        "quiet": True,
    }
    with pytest.raises(UsageError, match="croos"):
        rushlight.tune(net, DATA, loss="croos-entropy", **options)
    assert [trial.status for trial in rushlight.tune(net, DATA, **options).trials] == ["complete"]


def test_a_model_that_needs_its_choices_has_no_defaults_and_a_choice_without_an_argument_is_named(
    tmp_path: Path,
) -> None:
    def needy(width: int) -> nn.Module:
        return net(width)

    options: dict[str, Any] = {"trials": 1, "epochs": 1, "seeds": 1, "runs": tmp_path, "quiet": True}
    found = rushlight.tune(needy, DATA, space={"width": [4, 8]}, **options)
    assert found.name == "tune-needy-tuple"
    assert found.result is not None
    assert (found.result.defaults, found.result.verdict) == (None, "no-defaults")
    with pytest.raises(ModelError, match="unexpected keyword argument 'wide'"):
        rushlight.tune(net, DATA, space={"wide": [4, 8]}, **options)


def test_choices_that_cannot_be_trained_are_a_trials_failure_but_not_the_first_ones(tmp_path: Path) -> None:
    space = {"activation": ["relu", "tanh", "none"], "lr": [1e-3, 1e30]}

    def failing(activation: str = "relu") -> nn.Module:
        if activation == "none":
            raise ModelError("class-not-instance", name="none")
        return net(8, activation)

    options: dict[str, Any] = {"epochs": 1, "seeds": 0, "runs": tmp_path, "quiet": True}
    found = rushlight.tune(failing, DATA, space=space, trials=8, name="s", **options)
    failed = [trial for trial in found.trials if trial.status == "failed"]
    assert failed
    assert all(
        trial.message and (trial.choices["activation"] == "none" or trial.choices["lr"] == 1e30) for trial in failed
    )
    assert found.best.choices["activation"] != "none"
    with pytest.raises(UsageError, match="wide"):
        rushlight.tune("mlp", DATA, space={"wide": [1, 2]}, trials=2, name="t", **options)


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        (net(), {}, ModelError, "a function that returns a new model"),
        (net, {}, UsageError, "What to search for"),
        ("mlp", {"optimizer": lambda: torch.optim.SGD(net().parameters(), 0.1)}, UsageError, "one of its own"),
        ("mlp", {"space": {"lr": [0.1, 1.0]}, "lr": 0.1}, UsageError, "lr is in the space"),
        ("mlp", {"max_steps": 3}, UsageError, "tune takes no max_steps"),
        ("mlp", {"trials": 0}, UsageError, "trials"),
    ],
)
def test_what_cannot_be_searched_is_said(
    tmp_path: Path, model: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(error, match=said):
        rushlight.tune(model, DATA, runs=tmp_path, quiet=True, **given)
    assert list_runs(tmp_path) == []


def test_a_pruned_run_says_so_and_a_resume_trains_it_to_its_end(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "optimizer": "SGD", "lr": 0.1, "runs": tmp_path, "quiet": True}
    training = rushlight.epochs(net(), DATA, name="pruned", study="s", **options)
    next(training)
    training.prune("Enough.")
    folder = training.run.folder
    assert summarize_run(folder).status == "pruned"
    assert [line["message"] for line in read_history(folder) if line.get("event") == "pruned"] == ["Enough."]
    assert rushlight.resume(folder, net(), DATA, quiet=True).summary()["epochs"] == 3
    assert summarize_run(folder).status == "finished"


def test_seeds_are_compared_on_one_test_split(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "runs": tmp_path, "quiet": True}
    one, other, whole = (
        rushlight.train("linear", DATA, seed=seed, split_seed=split, **options)
        for seed, split in ((1, 0), (2, 0), (0, None))
    )
    truths = [np.load(run.folder / "predictions.npz")["truth"] for run in (one, other, whole)]
    assert np.array_equal(truths[0], truths[1])
    assert np.array_equal(truths[0], truths[2])
    assert not np.array_equal(one.losses, other.losses)


def test_a_resumed_run_keeps_both_of_its_seeds(tmp_path: Path) -> None:
    whole = rushlight.train("linear", "digits", epochs=2, seed=4, split_seed=7, runs=tmp_path, quiet=True)
    training = rushlight.epochs("linear", "digits", epochs=2, seed=4, split_seed=7, runs=tmp_path, quiet=True)
    next(training)
    training.abandon(KeyboardInterrupt())
    assert np.array_equal(rushlight.resume(training.run.folder, quiet=True).losses, whole.losses)


# ── small searches ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_range_test_names_a_rate_and_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = net()
    generator = torch.Generator().manual_seed(5)
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(TARGETS))
    loader = torch.utils.data.DataLoader(pairs, 32, shuffle=True, generator=generator)
    states = [
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.get_rng_state(),
        generator.get_state(),
    ]
    numbers = np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    found = find_lr(model, loader, steps=40, optimizer="SGD")
    assert found.lr == pytest.approx(found.lowest / 10)
    assert found.rates[0] == pytest.approx(1e-5)
    assert len(found.rates) == len(found.losses) > 20
    assert all(torch.equal(value, states[0][name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[1])
    assert torch.equal(generator.get_state(), states[2])
    assert np.random.get_state()[1].tolist() == numbers  # type: ignore[union-attr,index]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"warmup": 20}, {"schedule_by": "epoch"}])
def test_a_range_tests_rates_are_those_of_the_schedule(options: dict[str, Any]) -> None:
    found = find_lr("linear", DATA, steps=40, **options)
    assert found.to_json() == find_lr("linear", DATA, steps=40).to_json()
    trained = [10.0 * schedule_factor("range", step, 40, 0) for step in range(40)]
    assert found.rates == pytest.approx(trained[: len(found.rates)])
    assert trained[-1] == 10.0


def test_a_range_test_without_a_usable_rate_says_so() -> None:
    huge = (INPUTS * np.float32(3e37), TARGETS)
    with pytest.raises(TrainingError, match="blew up at rates from 1e"):
        find_lr("linear", huge, normalize="none", highest=1e30, steps=10, optimizer="SGD")


@pytest.mark.slow
def test_batch_sizes_are_timed_up_to_all_samples() -> None:
    found = find_batch_size("linear", DATA)
    assert list(found.sizes) == [16, 32, 64, 128]  # of 192 samples
    assert found.largest == 128
    assert found.fastest in found.sizes


def test_a_batch_size_that_is_given_is_not_looked_for() -> None:
    with pytest.raises(UsageError, match="Leave batch_size out"):
        find_batch_size("linear", DATA, batch_size=32)


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────

TUNE = [
    "tune",
    "linear",
    "digits",
    "--trials",
    "2",
    "--epochs",
    "1",
    "--seeds",
    "1",
    "--batch-size",
    "240",
    "--name",
    "s",
]


def run_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert not left.value.code


@pytest.mark.plots
def test_the_command_prints_a_row_for_each_trial_and_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(TUNE)
    shown = capsys.readouterr().out
    assert "lr  0.0001 to 0.03, logarithmic" in shown
    assert "   0  complete  epochs   1  accuracy " in shown
    assert "The best of all: trial 0" in shown
    assert "2 whole trials are too few" in shown or "One whole trial is too few" in shown
    assert "next: rushlight test s-best-000-1" in shown
    assert (tmp_path / "runs" / "s" / "importance.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setenv("RUSHLIGHT_LANGUAGE", "zh")
    run_command([*TUNE, "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert found["result"]["winner"]["runs"] == ["s-best-000-1"]
    assert "其中 2 次已经开始" in captured.err


def test_the_small_searches_print_and_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(["tune", "linear", "digits", "--find-lr", "--batch-size", "240"])
    assert "Try --lr " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["find-lr-linear-digits.png"]
