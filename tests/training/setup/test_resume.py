"""What resuming takes, and what it refuses."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.processes import run_python
from torch import nn

import rushlight
from rushlight.errors import RunError, StorageError, UsageError, WeightsError
from rushlight.options import check_options
from rushlight.runs import list_runs, read_environment, read_recipe
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.sessions import list_sessions
from rushlight.training.recipe import recipe_from_json
from rushlight.training.setup.resume import Begun, find_origin

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


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"schedule": "cosin"}, "bad-choice"),
        ({"schedule": "cosine", "epochs": 3}, "schedule-is-planned"),
        ({"epochs": 3}, "history-too-short"),
        ({"epochs": 3, "on_nan": "skip", "checkpoint": "23"}, "history-too-short"),
        ({"epochs": 0}, "not-a-count"),
        ({"epochs": 3, "on_nan": "go on"}, "bad-choice"),
    ],
)
def test_a_refused_resume_leaves_the_recipe_as_it_was(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    chosen = {"epochs": 1, "schedule": "constant", "name": "a", "keep_epochs": True}
    run = rushlight.train("mlp", "digits", runs=tmp_path, **chosen, **SMALL)
    before = (run.folder / "recipe.json").read_bytes()
    if key == "history-too-short":
        (run.folder / "losses.f32").unlink()
    with pytest.raises((UsageError, RunError)) as caught:
        rushlight.resume("a", runs=tmp_path, quiet=True, **options)
    assert caught.value.key == key
    assert (run.folder / "recipe.json").read_bytes() == before


def test_a_live_schedule_that_a_named_one_took_over_from_is_not_asked_for_again(tmp_path: Path) -> None:
    def live() -> dict[str, Any]:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "optimizer": optimizer}

    parts = live()
    schedule = torch.optim.lr_scheduler.StepLR(parts["optimizer"], 1)
    run = rushlight.train(data="digits", epochs=1, schedule=schedule, name="a", runs=tmp_path, quiet=True, **parts)
    assert run.recipe.schedule == {"name": "StepLR", "warmup": 0, "live": True, "by": "epoch"}
    rushlight.resume("a", epochs=2, schedule="constant", runs=tmp_path, quiet=True, **live())
    assert run.recipe.schedule == {"name": "constant", "warmup": 0}
    assert rushlight.resume("a", epochs=3, runs=tmp_path, quiet=True, **live()).summary()["epochs"] == 3


def unreadable(folder: Path) -> Callable[[], None]:
    """Let a folder be one that the system refuses to look into, whoever asks; return what puts that right."""
    aside = folder.rename(folder.with_name("aside"))
    folder.symlink_to(folder.name)  # a link to itself: too many levels of links

    def put_right() -> None:
        folder.unlink()
        aside.rename(folder)

    return put_right


def test_checkpoints_that_cannot_be_looked_at_are_not_taken_for_none(tmp_path: Path) -> None:
    whole = rushlight.train("mlp", "digits", epochs=2, name="whole", runs=tmp_path, **SMALL)
    folder = cut(tmp_path)
    put_right = unreadable(folder / "checkpoints")
    before = {name: (folder / name).read_bytes() for name in ("history.jsonl", "losses.f32", "recipe.json")}
    with pytest.raises(StorageError, match="checkpoints: the disk refused"):
        rushlight.resume("a", runs=tmp_path, quiet=True)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {summary.name: summary.status for summary in list_runs(tmp_path)} == {
        "whole": "finished",
        "a": "interrupted",
    }
    put_right()
    resumed = rushlight.resume("a", runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


# ── what the bits depend on ──────────────────────────────────────────────────────────────────────────────────


def cut(runs: Path, name: str = "a", **options: Any) -> Path:
    """Train one of two epochs, and leave the run as an interruption would."""
    chosen: dict[str, Any] = {"epochs": 2, "name": name, "runs": runs, **SMALL, **options}
    training = rushlight.epochs("mlp", "digits", **chosen)
    next(training)
    training.abandon(KeyboardInterrupt())
    return runs / name


def test_another_number_of_threads_is_refused_and_with_inexact_said_for_ever_after(tmp_path: Path) -> None:
    folder = cut(tmp_path)
    torch.set_num_threads(2)
    with pytest.raises(RunError) as caught:
        rushlight.resume(folder, quiet=True)
    assert caught.value.key == "not-exact"
    assert "the number of threads: 1 then, 2 now" in caught.value.problem
    assert "OMP_NUM_THREADS=1" in caught.value.advice
    run = rushlight.resume(folder, inexact=True, quiet=True)
    (said,) = run.summary()["inexact"]
    assert "number of threads: 1 then, 2 now" in said
    assert run.bundle.provenance["inexact"] == [said]
    (listed,) = list_runs(tmp_path)
    assert listed.inexact == (said,)
    longer = rushlight.resume(folder, epochs=3, schedule="constant", quiet=True)  # as it was when it went on
    assert longer.summary()["inexact"] == [said]


def test_a_run_that_begins_anew_with_other_conditions_says_so_for_ever_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut(tmp_path)
    shutil.rmtree(folder / "checkpoints")
    torch.set_num_threads(2)
    with pytest.raises(RunError, match="the number of threads: 1 then, 2 now"):
        rushlight.resume(folder, quiet=True)
    run = rushlight.resume(folder, inexact=True)
    assert "Not the same bits from here on: the number of threads" in " ".join(capsys.readouterr().out.split())
    (said,) = run.summary()["inexact"]
    assert "number of threads: 1 then, 2 now" in said
    assert run.bundle.provenance["inexact"] == [said]
    assert [bool(session["differences"]) for session in list_sessions(folder)] == [False, True]


def test_that_other_bits_are_allowed_is_known_where_nothing_differs_too(tmp_path: Path) -> None:
    folder = cut(tmp_path)
    conditions = read_environment(folder)["conditions"]
    for is_inexact in (False, True):
        begun = Begun(folder, recipe_from_json(read_recipe(folder)))
        origin = find_origin(begun, conditions, check_options({"inexact": is_inexact}), None)
        assert (origin.differences, origin.is_inexact) == ((), is_inexact)


def test_a_checkpoint_of_another_torch_names_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, here = cut(tmp_path), torch.__version__
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    with pytest.raises(RunError, match=rf"the version of torch: {re.escape(here)} then, 9\.9\.9 now"):
        rushlight.resume(folder, quiet=True)


def test_a_live_model_with_another_setting_is_not_the_model_of_the_run(tmp_path: Path) -> None:
    def network(share: float) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(share))

    with pytest.raises(KeyboardInterrupt):
        rushlight.train(interrupted(network(0.1)), "digits", epochs=2, name="a", runs=tmp_path, quiet=True)
    with pytest.raises(RunError, match="the model is not the one this run was trained with"):
        rushlight.resume("a", network(0.2), runs=tmp_path, quiet=True)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 11), nn.Dropout(0.1))
    with pytest.raises(RunError) as caught:
        rushlight.resume("a", wider, runs=tmp_path, quiet=True, inexact=True)
    assert caught.value.key == "state-does-not-fit"
    assert rushlight.resume("a", network(0.1), runs=tmp_path, quiet=True).summary()["inexact"] == []


def interrupted(model: nn.Module) -> nn.Module:
    local = threading.local()  # state that nobody follows: the model that resumes has no hook
    local.passes = 0

    def count(*_: Any) -> None:
        local.passes += 1
        if local.passes == 13:
            signal.raise_signal(signal.SIGINT)

    model.register_forward_pre_hook(count)
    return model


# ── which checkpoint ─────────────────────────────────────────────────────────────────────────────────────────


def test_going_back_to_a_checkpoint_by_its_step_ends_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "schedule": "constant", "keep_epochs": True, "name": "a", "runs": tmp_path}
    run = rushlight.train("mlp", "digits", **options, **SMALL)
    before, losses = run.summary()["state_sha256"], run.losses.tobytes()
    names = [folder.name for folder in list_checkpoints(run.folder)]
    assert names == ["00000023", "00000046", "00000069"]
    again = rushlight.resume("a", checkpoint="23", runs=tmp_path, quiet=True)
    assert again.summary()["state_sha256"] == before
    assert again.losses.tobytes() == losses
    assert [folder.name for folder in list_checkpoints(run.folder)] == names


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=2, keep_epochs=True, name="a", runs=tmp_path, **SMALL)
    first = list_checkpoints(run.folder)[0]
    (first / "state.json").write_bytes((first / "state.json").read_bytes()[:-1])
    for name in (first.name, str(first), "23"):
        with pytest.raises(WeightsError, match="damaged"):
            rushlight.resume("a", checkpoint=name, runs=tmp_path, quiet=True)
    with pytest.raises(RunError, match='has no checkpoint "24"'):
        rushlight.resume("a", checkpoint="24", runs=tmp_path, quiet=True)
    assert len(list_checkpoints(run.folder)) == 2


def kept(run: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(run)]


def test_going_back_deletes_nothing_newer_when_it_is_refused(tmp_path: Path) -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width))

    options: dict[str, Any] = {"keep_epochs": True, "runs": tmp_path, "quiet": True, "name": "a"}
    run = rushlight.train(network(10), "digits", epochs=2, **options)
    again: dict[str, Any] = {"checkpoint": "23", "runs": tmp_path, "quiet": True}
    with pytest.raises(RunError) as caught:
        rushlight.resume("a", network(11), inexact=True, **again)
    assert caught.value.key == "state-does-not-fit"
    losses = (run.folder / "losses.f32").read_bytes()
    (run.folder / "losses.f32").write_bytes(losses[: 4 * 20])
    with pytest.raises(RunError) as caught:
        rushlight.resume("a", network(10), **again)
    assert caught.value.key == "history-too-short"
    assert kept(run.folder) == ["00000023", "00000046"]
    (run.folder / "losses.f32").write_bytes(losses)
    before = run.summary()["state_sha256"]
    assert rushlight.resume("a", network(10), runs=tmp_path, quiet=True).summary()["state_sha256"] == before


def test_a_run_killed_while_it_goes_back_goes_on_from_there(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=3, keep_epochs=True, name="a", runs=tmp_path, **SMALL)
    code = (
        "import os, sys, rushlight, rushlight.files as files\n"
        "files.truncate_file = lambda path, length: os.kill(os.getpid(), 9)\n"
        "rushlight.resume('a', checkpoint='23', runs=sys.argv[1], quiet=True)"
    )
    killed = run_python(["-c", code, tmp_path])
    assert killed.returncode == -signal.SIGKILL
    assert kept(run.folder) == ["00000023"]
    before, losses = run.summary()["state_sha256"], run.losses.tobytes()
    resumed = rushlight.resume("a", runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == before
    assert resumed.losses.tobytes() == losses


def test_a_newer_checkpoint_that_cannot_be_deleted_keeps_a_run_from_going_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rushlight.train("mlp", "digits", epochs=2, keep_epochs=True, name="a", runs=tmp_path, **SMALL)
    before = (run.folder / "history.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("rushlight.files.delete_folder", lambda path: False)  # as Windows does with an open file
        with pytest.raises(StorageError, match="this checkpoint cannot be deleted"):
            rushlight.resume("a", checkpoint="23", runs=tmp_path, quiet=True)
    assert (run.folder / "history.jsonl").read_bytes() == before
    assert len(rushlight.resume("a", runs=tmp_path, quiet=True).losses) == 46


# ── train --resume ───────────────────────────────────────────────────────────────────────────────────────────


def test_train_with_resume_goes_on_with_the_unfinished_run_of_that_recipe_and_of_no_other(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "runs": tmp_path, **SMALL}
    whole = rushlight.train("mlp", "digits", **options)
    cut(tmp_path, "cut")
    cut(tmp_path, "other", seed=1)
    run = rushlight.train("mlp", "digits", resume=True, **options)
    assert run.name == "cut"
    assert run.summary()["state_sha256"] == whole.summary()["state_sha256"]
    fresh = rushlight.train("mlp", "digits", resume=True, **options)  # all of them are finished now
    assert fresh.name not in ("cut", "other", whole.name)
    named = rushlight.train("mlp", "digits", resume=True, name="cut", **options)  # as a job that is queued again
    assert named.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_what_only_resuming_takes_is_refused_at_the_start(tmp_path: Path) -> None:
    for option in ({"checkpoint": "23"}, {"inexact": True}):
        with pytest.raises(UsageError) as caught:
            rushlight.train("mlp", "digits", runs=tmp_path, **option, **SMALL)
        assert caught.value.key == "only-for-resume"
    assert not list(tmp_path.iterdir())


# ── the settings of a live optimizer ─────────────────────────────────────────────────────────────────────────


def live(**settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **settings})


def rates(run: rushlight.Run) -> list[float]:
    return [line["learning_rate"] for line in run.history if line["kind"] == "epoch"]


@pytest.mark.parametrize(
    ("setting", "now"), [("lr", 0.001), ("momentum", 0.5), ("weight_decay", 0.01), ("nesterov", True)]
)
def test_another_setting_of_a_live_optimizer_is_refused_and_with_inexact_in_force(
    setting: str, now: Any, tmp_path: Path
) -> None:
    model, optimizer = live()
    run = rushlight.train(model, "digits", optimizer=optimizer, epochs=1, runs=tmp_path, quiet=True)
    before = (run.folder / "recipe.json").read_bytes()
    model, optimizer = live(**{setting: now})
    with pytest.raises(RunError, match=f"the optimizer's {setting}: {live()[1].defaults[setting]} then, {now} now"):
        rushlight.resume(run.folder, model, optimizer=optimizer, epochs=2, quiet=True)
    assert (run.folder / "recipe.json").read_bytes() == before
    more = rushlight.resume(run.folder, model, optimizer=optimizer, epochs=2, inexact=True, quiet=True)
    assert optimizer.param_groups[0][setting] == now
    assert rates(more)[-1] == optimizer.param_groups[0]["lr"] == optimizer.defaults["lr"]
    assert f"the optimizer's {setting}" in more.summary()["inexact"][0]
    model, optimizer = live(**{setting: now})  # what it goes on with is now the run's own
    assert len(rates(rushlight.resume(run.folder, model, optimizer=optimizer, epochs=3, quiet=True))) == 3


@pytest.mark.parametrize("schedule", ["constant", "cosine", "StepLR"])
def test_a_live_optimizer_that_was_in_use_since_goes_on(schedule: str, tmp_path: Path) -> None:
    model, optimizer = live()
    given: Any = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule == "StepLR" else schedule
    chosen: dict[str, Any] = {"optimizer": optimizer, "schedule": given, "quiet": True}
    training = rushlight.epochs(model, "digits", epochs=3, name="a", runs=tmp_path, **chosen)
    next(training)
    training.abandon(KeyboardInterrupt())
    chosen |= {} if schedule == "StepLR" else {"schedule": None}
    assert len(rates(rushlight.resume("a", model, runs=tmp_path, **chosen))) == 3


def test_a_rate_that_was_set_on_a_live_optimizer_in_use_is_not_passed_over(tmp_path: Path) -> None:
    model, optimizer = live()
    run = rushlight.train(model, "digits", optimizer=optimizer, epochs=1, runs=tmp_path, quiet=True)
    optimizer.param_groups[0]["lr"] = 0.003
    with pytest.raises(RunError, match=r"lr: 0.1 then, 0.003 now"):
        rushlight.resume(run.folder, model, optimizer=optimizer, epochs=2, quiet=True)
    more = rushlight.resume(run.folder, model, optimizer=optimizer, epochs=2, inexact=True, quiet=True)
    assert rates(more) == [0.1, 0.003]


def groups(second: float, lr: float = 0.1) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    parts = [{"params": model[1].parameters()}, {"params": model[2].parameters(), "lr": second, "momentum": 0.5}]
    return {"model": model, "optimizer": torch.optim.SGD(parts, lr=lr), "quiet": True}


def test_a_run_of_several_groups_that_was_killed_before_its_first_checkpoint_goes_on(tmp_path: Path) -> None:
    run = rushlight.train(data="digits", epochs=1, runs=tmp_path, **groups(0.02))
    whole = run.summary()
    for path in run.folder.iterdir():
        if path.name not in ("recipe.json", "environment.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match=r"lr of parameter group 0: 0.1 then, 0.3 now"):
        rushlight.resume(run.folder, **groups(0.02, lr=0.3))
    again = rushlight.resume(run.folder, **groups(0.02)).summary()
    assert (again["train_loss"], again["test"]["loss"]) == (whole["train_loss"], whole["test"]["loss"])


def test_the_rates_of_several_groups_are_each_compared(tmp_path: Path) -> None:
    run = rushlight.train(data="digits", epochs=1, runs=tmp_path, **groups(0.02))
    assert len(rates(rushlight.resume(run.folder, epochs=2, **groups(0.02)))) == 2
    with pytest.raises(RunError, match=r"lr of parameter group 1: 0.02 then, 0.05 now"):
        rushlight.resume(run.folder, epochs=3, **groups(0.05))
    given = groups(0.05)
    rushlight.resume(run.folder, epochs=3, inexact=True, **given)
    assert [group["lr"] for group in given["optimizer"].param_groups] == [0.1, 0.05]
