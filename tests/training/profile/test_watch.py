"""Profiling real trainings: they end with the same bits, and what is told of their steps is what was there."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import rushlight
from rushlight import files
from rushlight.data.sources.named.named import open_named
from rushlight.errors import TrainingError
from rushlight.options import check_options
from rushlight.training.loop import Epoch
from rushlight.training.profile.figures import PARTS, WARM_UP
from rushlight.training.profile.watch import profiled
from rushlight.training.setup.prepare import start_training
from rushlight.training.state import Training

SMALL: dict[str, Any] = {"model_arguments": {"hidden": (8,)}, "numerics": "exact"}


def digits() -> tuple[Tensor, Tensor]:
    arrays = open_named("digits")
    return torch.from_numpy(arrays.train_inputs).float() / 255, torch.from_numpy(arrays.train_targets)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 10))


class Noisy(Dataset[tuple[Tensor, int]]):
    """Digits with noise from all three libraries, so that they are streamed; reading one takes `seconds`."""

    def __init__(self, count: int = 200, seconds: float = 0.0) -> None:
        self.inputs, self.targets = digits()
        self.count, self.seconds = count, seconds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        noise = random.random() + float(np.random.rand()) + torch.rand(1, 8, 8)
        return self.inputs[index] + 0.1 * noise, int(self.targets[index])


class Moody(nn.Module):
    """A network that draws from Python's and NumPy's streams, and keeps a mean that no state_dict knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.mean = network(), 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * float(x.mean())
        return self.net(x) * (1 + 0.1 * random.random() + 0.1 * np.random.rand()) + self.mean


def own_objective() -> Callable[[nn.Module, Any], Tensor]:
    """An objective with a memory of its own, which nobody could put back."""
    seen = [0.0]

    def objective(model: nn.Module, batch: Any) -> Tensor:
        seen[0] += 1
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * (1 + 1 / seen[0])

    return objective


def loader(**options: Any) -> DataLoader[Any]:
    data = TensorDataset(*digits())
    return DataLoader(data, 50, sampler=RandomSampler(data, num_samples=300), **options)


def both(folder: Path, make: Callable[[], tuple[Any, Any, dict[str, Any]]]) -> tuple[rushlight.Run, rushlight.Run]:
    """Train twice from the start, the second time with a profile."""
    runs = []
    for profile in (False, True):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        model, data, options = make()
        place = folder / str(profile)
        runs.append(
            rushlight.train(model, data, runs=place, to_stderr=True, profile=profile, **{"epochs": 3, **options})
        )
    return runs[0], runs[1]


def profile_of(run: rushlight.Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / "profile" / "profile.json").read_text(encoding="utf-8"))
    return content


def events_of(run: rushlight.Run) -> list[dict[str, Any]]:
    trace = json.loads((run.folder / "profile" / "trace.json").read_text(encoding="utf-8"))
    return [event for event in trace["traceEvents"] if event.get("ph") == "X"]


# ── the same bits ────────────────────────────────────────────────────────────────────────────────────────────

TRAININGS: dict[str, Callable[[], tuple[Any, Any, dict[str, Any]]]] = {
    "by name": lambda: ("mlp", "digits", {**SMALL, "model_arguments": {"hidden": (8,), "dropout": 0.1}}),
    "fast": lambda: ("mlp", "digits", {"model_arguments": {"hidden": (8,)}}),
    "random model": lambda: (Moody(), "digits", {}),
    "objective with a memory": lambda: (network(), "digits", {"objective": own_objective()}),
    "accumulated and clipped": lambda: (
        "mlp",
        "digits",
        {**SMALL, "accumulate": 3, "clip_norm": 0.5, "batch_size": 16},
    ),
    "one partial window": lambda: ("mlp", "digits", {**SMALL, "accumulate": 40, "epochs": 6}),
    "skipping": lambda: ("mlp", "digits", {**SMALL, "on_nan": "skip"}),
    "streamed": lambda: (network(), Noisy(), {}),
    "two workers": lambda: (network(), Noisy(), {"workers": 2}),
    # of unknown length, so that a faster mode would be adopted by the clock, also in a run of 69 steps
    "a loader's own order": lambda: (network(), loader(), {"numerics": "exact"}),
    "live schedule": lambda: live_schedule(),
}


def live_schedule() -> tuple[Any, Any, dict[str, Any]]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=69)
    return model, "digits", {"optimizer": optimizer, "schedule": schedule}


@pytest.mark.parametrize(
    "name", [name if name in ("fast", "streamed") else pytest.param(name, marks=pytest.mark.slow) for name in TRAININGS]
)
def test_a_profiled_training_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    plain, profiled = both(tmp_path, TRAININGS[name])
    assert profiled.summary()["state_sha256"] == plain.summary()["state_sha256"]
    assert profiled.losses.tobytes() == plain.losses.tobytes()
    assert profile_of(profiled)["steps"] > 0
    assert not (plain.folder / "profile").exists()


def test_a_run_profiled_when_it_is_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = {**SMALL, "schedule": "constant", "quiet": True}
    whole = rushlight.train("mlp", "digits", epochs=4, runs=tmp_path / "whole", **options)
    begun = rushlight.train("mlp", "digits", epochs=2, runs=tmp_path / "begun", **options)
    resumed = rushlight.resume(begun.folder, epochs=4, profile=True, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    content = profile_of(resumed)
    assert content["steps"] == 2 * 23 - WARM_UP - content["traced_steps"]


def test_an_interrupted_profile_costs_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    """The signal comes while a batch is read, which is where a profile is made too."""
    whole = rushlight.train(network(), Noisy(), epochs=2, runs=tmp_path / "whole", quiet=True)
    batches = [0]

    class Interrupting(Noisy):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if batches == [2]:
                batches.append(0)  # once is enough
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    def objective(model: nn.Module, batch: Any) -> Tensor:
        batches[0] += 1
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    options: dict[str, Any] = {"objective": objective, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(), Interrupting(), epochs=2, runs=tmp_path, name="cut", profile=True, **options)
    resumed = rushlight.resume(tmp_path / "cut", network(), Interrupting(), **options)
    assert batches[0] == 8
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────


def test_parts_and_shares_add_up_and_every_part_is_in_the_trace(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=5, runs=tmp_path, quiet=True, profile=True, **SMALL)
    content = profile_of(run)
    assert list(content["parts"]) == list(PARTS)
    assert sum(part["seconds"] for part in content["parts"].values()) == pytest.approx(
        content["step_seconds"], rel=1e-12
    )
    assert sum(content["causes"].values()) == pytest.approx(1.0)
    assert all(part["median_seconds"] > 0 for part in content["parts"].values())
    assert (content["steps"], content["traced_steps"]) == (100, 5)
    events = events_of(run)
    for part in PARTS:
        assert sum(event["name"] == f"rushlight: {part}" for event in events) >= 5, part
    assert sum(event["name"] == "rushlight: update" for event in events) == 5
    calls = [sum(event["name"] == name for event in events) for name in ("aten::addmm", "aten::mm")]
    assert calls == [5 * 2, 5 * 3]  # two layers; and the gradients of all but the inputs
    assert all(operator["calls"] > 0 and operator["seconds"] > 0 for operator in content["operators"])
    calls = {(each["name"], each["part"]): each["calls"] for each in content["operators"]}
    assert (calls["aten::addmm", "forward"], calls["aten::mm", "backward"]) == (2, 3)
    assert ("aten::addmm", "backward") not in calls
    assert sorted(path.name for path in (run.folder / "profile").iterdir()) == ["profile.json", "trace.json"]


def test_the_losses_time_is_not_parted_where_the_objective_is_the_users_own(tmp_path: Path) -> None:
    run = rushlight.train(
        network(), "digits", objective=own_objective(), epochs=1, runs=tmp_path, quiet=True, profile=True
    )
    content = profile_of(run)
    assert content["parts"]["loss"]["seconds"] == 0
    assert content["parts"]["forward"]["seconds"] > 0


@pytest.mark.parametrize(("options", "words"), [({}, "--workers"), ({"as_loader": True}, "num_workers=")])
def test_a_slow_dataset_is_told_to_be_the_limit(options: dict[str, bool], words: str, tmp_path: Path) -> None:
    data: Any = Noisy(80, seconds=0.004)
    if options:
        data = DataLoader(data, 20, sampler=RandomSampler(data, num_samples=60))
    run = rushlight.train(network(), data, batch_size=20, epochs=1, runs=tmp_path, quiet=True, profile=True)
    content = profile_of(run)
    assert content["limit"]["cause"] == "data"
    assert content["parts"]["data"]["seconds"] >= 20 * 0.004
    assert words in content["limit"]["sentence"]


def test_a_slow_model_is_not_told_to_wait_for_its_data(tmp_path: Path) -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.02)
            return self.net(x)

    run = rushlight.train(Slow(), "digits", epochs=1, runs=tmp_path, quiet=True, profile=True)
    content = profile_of(run)
    assert content["limit"]["cause"] == "overhead"
    assert content["parts"]["forward"]["seconds"] >= 0.02


@pytest.mark.parametrize(("steps", "measured", "traced"), [(1, 1, 0), (2, 2, 0), (5, 5, 0), (8, 5, 3), (13, 3, 5)])
def test_a_short_run_gives_what_there_is(steps: int, measured: int, traced: int, tmp_path: Path) -> None:
    x, y = digits()
    run = rushlight.train(network(), (x[:100], y[:100]), batch_size=100, test_data=(x[100:], y[100:]), epochs=steps,
                          runs=tmp_path, quiet=True, profile=True)  # fmt: skip
    content = profile_of(run)
    assert (content["steps"], content["traced_steps"]) == (measured, traced)
    assert (content["trace"] is not None) == (run.folder / "profile" / "trace.json").exists() == bool(traced)


def test_the_evaluation_between_two_epochs_is_no_operator_of_a_step(tmp_path: Path) -> None:
    """Each epoch is one step, so that five evaluations lie between the traced steps."""
    x, y = digits()
    run = rushlight.train(network(), (x[:100], y[:100]), batch_size=100, test_data=(x[100:], y[100:]), epochs=12,
                          runs=tmp_path, quiet=True, profile=True)  # fmt: skip
    calls = {each["part"]: each["calls"] for each in profile_of(run)["operators"] if each["name"] == "aten::addmm"}
    assert calls == {"forward": 2}


def test_a_loop_left_early_tells_what_was_measured(tmp_path: Path) -> None:
    training = rushlight.epochs("mlp", "digits", epochs=20, runs=tmp_path, quiet=True, profile=True, **SMALL)
    next(training)
    training.close()
    assert profile_of(training.run)["steps"] == 23 - WARM_UP - 5


def test_a_resumed_run_without_steps_left_says_that_there_is_no_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, quiet=True, **SMALL)
    rushlight.resume(run.folder, profile=True)
    assert "No step was taken, so there is no profile." in capsys.readouterr().out
    assert not (run.folder / "profile").exists()


def test_the_screen_has_the_table_the_sentence_and_the_way_to_the_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rushlight.train("mlp", "digits", epochs=6, runs=tmp_path, profile=True, **SMALL)
    said, content = capsys.readouterr(), profile_of(run)
    assert said.err == ""
    heaviest = content["operators"][0]["name"].removeprefix("aten::")
    for words in (
        "profile: ",
        "backward",
        "the rest",
        f"Heaviest operators of a step: {heaviest} ",
        "https://ui.perfetto.dev",
    ):
        assert words in said.out
    assert content["limit"]["sentence"] in said.out
    assert str(run.folder / "profile" / "trace.json") in said.out
    assert said.out.index("profile: ") < said.out.index("6/6")


# ── steps that are not executed in parts ─────────────────────────────────────────────────────────────────────


def watched(folder: Path, take: Callable[[Training, int, Any], None]) -> dict[str, Any]:
    """The profile of a loop over the digits whose steps are taken by `take(training, number, batch)`, some times over."""

    def loop(training: Training) -> Generator[Epoch]:
        for epoch in range(1, 13):  # two more than were planned
            for batch in training.data.train.batches(64, seed=0, epoch=epoch):
                take(training, training.state["step"], batch)
                training.state["step"] += 1
        yield from ()

    with contextlib.ExitStack() as stack:
        options: Any = {"epochs": 10, "optimizer": "SGD", "runs": folder, "name": "watched", "quiet": True, **SMALL}
        training = start_training("mlp", "digits", check_options(options), stack)
        assert list(profiled(training, loop)) == []
    content: dict[str, Any] = json.loads((folder / "watched" / "profile" / "profile.json").read_text(encoding="utf-8"))
    return content


def in_parts(training: Training, updates: int, batch: Any) -> None:
    """Take a step, or several times the same one, as the check of a faster execution mode does."""
    for _ in range(updates):
        training.optimizer.zero_grad()
        training.objective.compute(training.model, batch)[0].backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()


def test_a_compiled_step_has_its_data_and_one_part(tmp_path: Path) -> None:
    content = watched(tmp_path, lambda training, number, batch: time.sleep(0.001))
    assert content["limit"]["cause"] == "compiled"
    assert content["parts"]["rest"]["seconds"] >= 0.001
    assert all(content["parts"][part]["seconds"] == 0 for part in ("forward", "loss", "backward", "update"))


def test_a_step_in_which_execution_modes_are_compared_is_not_counted(tmp_path: Path) -> None:
    def take(training: Training, number: int, batch: Any) -> None:
        if number % 5 == 0:
            time.sleep(0.1)
        in_parts(training, 3 if number % 5 == 0 else 1, batch)

    content = watched(tmp_path, take)
    assert content["steps"] == 100
    assert content["step_seconds"] < 0.1 / 5  # as it would be, if these were among them


def test_operators_are_told_of_traced_steps_of_one_kind_only(tmp_path: Path) -> None:
    def take(training: Training, number: int, batch: Any) -> None:
        in_parts(training, 3 if number == 7 else 1, batch)

    content = watched(tmp_path, take)
    assert (content["operators"], content["limit"]["cause"]) == ([], "passes")
    assert content["traced_steps"] == 5


# ── what may go wrong ────────────────────────────────────────────────────────────────────────────────────────


def test_beside_a_profiler_of_the_users_own_there_is_a_profile_without_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        run = rushlight.train("mlp", "digits", epochs=2, runs=tmp_path, profile=True, **SMALL)
    assert "No trace can be taken" in capsys.readouterr().out
    content = profile_of(run)
    assert content["trace"] is None
    assert content["limit"]["cause"] in content["causes"]
    assert any(event.key == "aten::addmm" for event in own.key_averages())


class Full(files.Disk):
    """A disk without space for profiles."""

    def make_folder(self, path: Path) -> None:
        if path.name.startswith("profile"):
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        super().make_folder(path)


def test_a_full_disk_costs_the_profile_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "disk", Full())
    run = rushlight.train("mlp", "digits", epochs=2, runs=tmp_path, profile=True, **SMALL)
    said = capsys.readouterr().out
    assert "The profile is not on the disk." in said
    assert "Heaviest operators" in said
    assert run.summary()["epochs"] == 2


def test_a_training_that_fails_leaves_no_profiler_at_work_and_no_hook(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with pytest.raises(TrainingError):
        rushlight.train(model, "digits", optimizer=optimizer, epochs=2, runs=tmp_path, quiet=True, profile=True)
    assert not optimizer._optimizer_step_pre_hooks  # type: ignore[attr-defined]
    assert not optimizer._optimizer_step_post_hooks  # type: ignore[attr-defined]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        torch.ones(2) + 1
    assert any(event.key == "aten::add" for event in own.key_averages())


def test_once_it_is_told_nothing_is_watched_any_more(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    training = rushlight.epochs(
        model, "digits", optimizer=optimizer, epochs=30, runs=tmp_path, quiet=True, profile=True
    )
    with contextlib.closing(training):
        for _ in training:
            if (training.run.folder / "profile").exists():
                break
        assert not optimizer._optimizer_step_pre_hooks  # type: ignore[attr-defined]
