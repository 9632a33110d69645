"""The learning rate over the steps."""

from __future__ import annotations

import functools
import math
import signal
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, IterableDataset

import rushlight
from rushlight.errors import UsageError
from rushlight.options import check_options
from rushlight.report import Report
from rushlight.runs import read_recipe
from rushlight.training.loop import Epoch, epochs
from rushlight.training.objective.schedule import Schedule, schedule_factor
from rushlight.training.recipe import recipe_from_json, recipe_to_json
from rushlight.training.setup.prepare import start_training

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")


def optimizer_of(rate: float = 1.0, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate, **options)


def rates(name: str, total: int, warmup: int = 0) -> list[float]:
    return [schedule_factor(name, step, total, warmup) for step in range(total)]


def torchs(make: Any, total: int, rate: float = 1.0) -> list[float]:
    """The learning rates that a torch scheduler gives to the steps of a plain loop."""
    optimizer = optimizer_of(rate)
    scheduler = make(optimizer)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(total=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_onecycle_has_the_learning_rates_of_torchs_onecyclelr(total: int) -> None:
    expected = torchs(
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.3, total_steps=total, cycle_momentum=False), total, 0.3
    )
    assert [0.3 * factor for factor in rates("onecycle", total)] == pytest.approx(expected, rel=1e-12)


@given(total=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_cosine_has_the_learning_rates_of_torchs_cosineannealinglr(total: int) -> None:
    expected = torchs(lambda optimizer: CosineAnnealingLR(optimizer, T_max=total), total)
    assert rates("cosine", total) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_cosine_falls_from_one_to_nearly_zero_and_constant_stays() -> None:
    cosine = rates("cosine", 100)
    assert cosine[0] == 1
    assert cosine[50] == pytest.approx(0.5)
    assert 0 < cosine[-1] < 0.001
    assert cosine == sorted(cosine, reverse=True)
    assert set(rates("constant", 100)) == {1}


@given(total=st.integers(2, 200), warmup=st.integers(1, 200), name=st.sampled_from(["constant", "cosine", "onecycle"]))
@settings(max_examples=40, deadline=None)
def test_a_warm_up_rises_step_by_step_and_the_schedule_has_the_rest(total: int, warmup: int, name: str) -> None:
    found = rates(name, total, warmup)
    rising = min(total, warmup)
    assert found[:rising] == pytest.approx([(step + 1) / warmup for step in range(rising)])
    assert found[rising:] == rates(name, max(total - warmup, 0))[: total - rising]
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in found)


def test_every_group_of_an_optimizer_keeps_its_own_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 1.0}])
    schedule = Schedule(optimizer, "cosine", 10)
    schedule.before_step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize("given", ["cosin", 3, None])
def test_what_is_no_schedule_is_refused(given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Schedule(optimizer_of(), given, 10)
    assert caught.value.key == "bad-choice"
    if given == "cosin":
        assert 'Did you mean "cosine"' in caught.value.problem


def test_a_schedule_over_an_unknown_number_of_steps_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Schedule(optimizer_of(), "cosine", None)
    assert caught.value.key == "schedule-needs-length"
    Schedule(optimizer_of(), "constant", None, warmup=5).before_step(2)


def test_a_rate_that_was_set_between_epochs_is_still_there_when_the_run_goes_on(tmp_path: Path) -> None:
    def trained(name: str, interrupt_at: int) -> rushlight.Run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        steps = iter(range(1, 100))

        def hook(*_: Any) -> None:
            if torch.is_grad_enabled() and next(steps) == interrupt_at:
                signal.raise_signal(signal.SIGINT)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        options: dict[str, Any] = {"optimizer": optimizer, "epochs": 3, "batch_size": 500, "schedule": "constant"}
        training = rushlight.epochs(model, "digits", runs=tmp_path, name=name, quiet=True, **options)
        model.register_forward_pre_hook(hook)
        for _ in training:
            optimizer.param_groups[0]["lr"] = 0.01
        return training.run

    whole = trained("whole", 0)
    with pytest.raises(KeyboardInterrupt):
        trained("cut", 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    resumed = rushlight.resume("cut", model, optimizer=optimizer, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert [line["learning_rate"] for line in resumed.history if line["kind"] == "epoch"] == [0.5, 0.01, 0.01]


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────


def train(tmp_path: Path, make: Any, count: int = 4, **options: Any) -> tuple[list[Epoch], list[float], Any]:
    """Train on digits with a live scheduler; return the epochs, the rate of every step, and the scheduler."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = make(optimizer)
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    given = check_options(
        {
            "optimizer": optimizer, "schedule": scheduler, "epochs": count, "batch_size": 500, "runs": tmp_path,
            "quiet": True, **options,
        }
    )  # fmt: skip
    with ExitStack() as stack:
        training = start_training(model, "digits", given, stack)
        return list(epochs(training)), seen, scheduler


def test_a_live_scheduler_of_epochs_moves_after_every_epoch(tmp_path: Path) -> None:
    done, seen, _ = train(tmp_path, lambda optimizer: StepLR(optimizer, 1, gamma=0.5))
    assert seen == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125] * 3
    assert [epoch.learning_rate for epoch in done] == [1.0, 0.5, 0.25, 0.125]


def test_a_live_onecycle_moves_after_every_step_as_in_a_plain_loop(tmp_path: Path) -> None:
    def make(optimizer: Any) -> OneCycleLR:
        return OneCycleLR(optimizer, max_lr=0.5, total_steps=12)

    _, seen, _ = train(tmp_path, make)
    assert seen == torchs(lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=12, cycle_momentum=False), 12)


@pytest.mark.parametrize(("mode", "figure"), [("min", "loss"), ("max", "accuracy")])
def test_a_live_plateau_scheduler_gets_the_figure_that_its_mode_asks_for(
    mode: Any, figure: str, tmp_path: Path
) -> None:
    done, seen, scheduler = train(
        tmp_path, lambda optimizer: ReduceLROnPlateau(optimizer, mode, patience=0, factor=0.1)
    )
    found = [getattr(epoch.validation or epoch.test, figure) for epoch in done]
    assert scheduler.best == (min if mode == "min" else max)(found)
    assert seen[3] == 1.0  # the second epoch's: there was nothing yet to compare the first with


def test_a_scheduler_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path, lambda optimizer: StepLR(optimizer_of(), 1))
    assert caught.value.key == "foreign-scheduler"
    assert not list(tmp_path.iterdir())


def test_a_live_scheduler_that_ends_too_early_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OneCycleLR was made for fewer steps") as caught:
        train(tmp_path, lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=5))
    assert caught.value.key == "scheduler-ended"


def test_a_live_schedulers_state_goes_through_state_dict() -> None:
    first, second = optimizer_of(), optimizer_of()
    one = Schedule(first, LambdaLR(first, lambda epoch: 0.5**epoch), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.after_epoch(Report(None, 1.0, 0), 1, 1)
        one.after_epoch(Report(None, 1.0, 0), 1, 1)
        other = Schedule(second, LambdaLR(second, lambda epoch: 0.5**epoch), None)
        other.load_state_dict(one.state_dict())
        other.after_epoch(Report(None, 1.0, 0), 1, 1)
    assert second.param_groups[0]["lr"] == pytest.approx(0.125)


# ── by step or by epoch ──────────────────────────────────────────────────────────────────────────────────────

EPOCHS, STEPS = 4, 40  # of the runs below: 10 steps an epoch


def linear_with_warmup(current_step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    """The function of transformers' get_linear_schedule_with_warmup."""
    if current_step < num_warmup_steps:
        return current_step / max(1, num_warmup_steps)
    return max(0.0, (num_training_steps - current_step) / max(1, num_training_steps - num_warmup_steps))


def from_closure(total: int) -> Any:
    return lambda k: max(0.0, 1 - k / total)


def of_epochs(warmup_epochs: int) -> Any:
    return lambda k: min(1.0, k / warmup_epochs)


MADE: dict[str, tuple[str, Any]] = {
    "transformers' partial": (
        "step", lambda o: LambdaLR(o, functools.partial(linear_with_warmup, num_warmup_steps=4, num_training_steps=STEPS)),
    ),
    "a function of the step": ("step", lambda o: LambdaLR(o, lambda step: 0.9**step)),
    "a function of the iteration": ("step", lambda o: LambdaLR(o, [lambda iteration: 0.9**iteration])),
    "a function that begins at 0": ("step", lambda o: LambdaLR(o, lambda k: min(1, k / 5) * max(0, 1 - k / 48))),
    "a function of the number of steps": ("step", lambda o: LambdaLR(o, from_closure(STEPS))),
    "a function of the number of epochs": ("epoch", lambda o: LambdaLR(o, from_closure(EPOCHS))),
    "a function of the epoch": ("epoch", lambda o: LambdaLR(o, lambda epoch: 0.9**epoch)),
    "a warm-up of epochs": ("epoch", lambda o: LambdaLR(o, of_epochs(2))),
    "T_max of the steps": ("step", lambda o: CosineAnnealingLR(o, STEPS)),
    "T_max of the whole batches": ("step", lambda o: CosineAnnealingLR(o, STEPS - EPOCHS)),
    "T_max of the epochs": ("epoch", lambda o: CosineAnnealingLR(o, EPOCHS)),
    "T_max of a longer run's epochs": ("epoch", lambda o: CosineAnnealingLR(o, 200)),
    "total_iters of the steps": ("step", lambda o: PolynomialLR(o, STEPS)),
    "total_iters of the epochs": ("epoch", lambda o: PolynomialLR(o, EPOCHS)),
    "a warm-up longer than the epochs": ("step", lambda o: LinearLR(o, total_iters=10)),
    "a warm-up of some epochs": ("epoch", lambda o: LinearLR(o, total_iters=3)),
    "a constant beginning": ("step", lambda o: ConstantLR(o, total_iters=12)),
    "a restart each epoch": ("step", lambda o: CosineAnnealingWarmRestarts(o, 10)),
    "a warm-up, then a cosine": (
        "step", lambda o: SequentialLR(o, [LinearLR(o, total_iters=3), CosineAnnealingLR(o, STEPS - 3)], [3]),
    ),
    "a warm-up, then a cosine, of epochs": (
        "epoch", lambda o: SequentialLR(o, [LinearLR(o, total_iters=1), CosineAnnealingLR(o, EPOCHS - 1)], [1]),
    ),
    "a chain": ("step", lambda o: ChainedScheduler([ConstantLR(o, total_iters=2), CosineAnnealingLR(o, STEPS)])),
    "OneCycleLR": ("step", lambda o: OneCycleLR(o, 0.5, total_steps=STEPS)),
    "CyclicLR": ("step", lambda o: CyclicLR(o, 0.1, 1.0, cycle_momentum=False)),
    "StepLR": ("epoch", lambda o: StepLR(o, 30)),
    "MultiStepLR": ("epoch", lambda o: MultiStepLR(o, [30, 60])),
    "ExponentialLR": ("epoch", lambda o: ExponentialLR(o, 0.9)),
    "ReduceLROnPlateau": ("epoch", ReduceLROnPlateau),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_what_a_scheduler_counts_is_told_by_its_class_and_arguments_and_said(kind: str) -> None:
    expected, make = MADE[kind]
    optimizer = optimizer_of()
    schedule = Schedule(optimizer, make(optimizer), STEPS, epochs=EPOCHS)
    assert schedule.by == expected
    assert schedule.by_step is (expected == "step")
    if kind not in ("OneCycleLR", "CyclicLR", "ReduceLROnPlateau"):  # of these nobody may think otherwise
        (note,) = schedule.notes
        assert f"advances after every {expected}" in note
    chosen = Schedule(optimizer, schedule.live, STEPS, epochs=EPOCHS, by=expected)
    assert (chosen.by, chosen.notes) == (expected, ())


def test_a_length_in_steps_tells_nothing_where_the_number_of_steps_is_not_known() -> None:
    optimizer = optimizer_of()
    assert Schedule(optimizer, CosineAnnealingLR(optimizer, STEPS), None, epochs=EPOCHS).by == "epoch"


def test_what_goes_by_its_own_unit_cannot_be_told_otherwise() -> None:
    optimizer = optimizer_of()
    for scheduler, by in ((OneCycleLR(optimizer, 0.5, total_steps=9), "epoch"), (ReduceLROnPlateau(optimizer), "step")):
        with pytest.raises(UsageError) as caught:
            Schedule(optimizer, scheduler, 9, by=by)
        assert caught.value.key == "schedule-by-its-own"


def by_hand(make: Any, by: str, count: int = 4, per_epoch: int = 3) -> list[float]:
    """The learning rates of the steps of a plain loop that advances its scheduler after every step, or every epoch."""
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        for _ in range(per_epoch):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if by == "step":
                scheduler.step()
        if by == "epoch":
            scheduler.step()
    return found


def transformers_like(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, functools.partial(linear_with_warmup, num_warmup_steps=2, num_training_steps=12))


@pytest.mark.parametrize(
    "make",
    [transformers_like, lambda o: CosineAnnealingLR(o, 12), lambda o: LinearLR(o, total_iters=6)],
    ids=["transformers' linear", "CosineAnnealingLR", "LinearLR"],
)
@pytest.mark.parametrize("by", ["auto", "step", "epoch"])
def test_a_scheduler_made_for_steps_has_the_plain_loops_rates(make: Any, by: str, tmp_path: Path) -> None:
    _, seen, _ = train(tmp_path, make, schedule_by=by)
    assert seen == by_hand(make, "epoch" if by == "epoch" else "step")


def test_an_epoch_wholly_at_rate_0_is_a_warning(tmp_path: Path) -> None:
    said: list[str] = []

    def note(event: Any) -> None:
        said.extend([event.data["text"]] if event.kind == "warning" else [])

    def make(optimizer: Any) -> LambdaLR:
        return LambdaLR(optimizer, lambda epoch: min(1.0, epoch / 2))

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = rushlight.train(
        model, "digits", optimizer=optimizer, schedule=make(optimizer), epochs=3, batch_size=500, runs=tmp_path, quiet=True,
        on_event=note,
    )  # fmt: skip
    assert [line["learning_rate"] for line in run.history if line["kind"] == "epoch"] == [0.0, 0.5, 1.0]
    assert said == ["The learning rate was 0 in every step of epoch 1: nothing was learnt in it."]
    assert any('schedule_by="step"' in note for note in run.notes)


def test_how_a_scheduler_advances_is_in_the_recipe_and_goes_on_so(tmp_path: Path) -> None:
    def made() -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return {"model": model, "optimizer": optimizer, "schedule": CosineAnnealingLR(optimizer, 12)}

    options: dict[str, Any] = {"batch_size": 500, "runs": tmp_path, "quiet": True}
    whole = rushlight.train(data="digits", epochs=4, name="whole", **made(), **options)
    assert whole.recipe.schedule == {"name": "CosineAnnealingLR", "warmup": 0, "live": True, "by": "step"}
    begun = rushlight.epochs(data="digits", epochs=4, name="cut", **made(), **options)
    next(begun)
    begun.close()
    resumed = rushlight.resume("cut", **made(), epochs=4, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert read_recipe(resumed.folder)["schedule"]["by"] == "step"


def test_a_recipe_from_before_schedule_by_goes_on_as_it_began(tmp_path: Path) -> None:
    recipe = recipe_to_json(rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, quiet=True).recipe)
    for name, by in (("OneCycleLR", "step"), ("CyclicLR", "step"), ("CosineAnnealingLR", "epoch")):
        old = recipe | {"schedule": {"name": name, "warmup": 0, "live": True}}
        assert recipe_from_json(old).schedule["by"] == by
    assert "by" not in recipe_from_json(recipe).schedule


class Endless(IterableDataset[Any]):
    """Samples whose number nobody knows."""

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for index in range(96):
            yield torch.rand(4, generator=generator), index % 2


def test_a_named_schedule_by_epoch_has_the_rates_of_torchs_class_and_needs_no_length(tmp_path: Path) -> None:
    seen: list[float] = []
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    run = rushlight.train(
        model, DataLoader(Endless(), 32), optimizer=optimizer, schedule="cosine", schedule_by="epoch", epochs=4, runs=tmp_path,
        quiet=True,
    )  # fmt: skip
    assert seen == pytest.approx(by_hand(lambda o: CosineAnnealingLR(o, 4), "epoch"), rel=1e-12)
    assert run.recipe.schedule == {"name": "cosine", "warmup": 0, "by": "epoch"}


# ── plateau by name, warm-up before a scheduler ──────────────────────────────────────────────────────────────


def trained(name: str, tmp_path: Path, stop_after: int = 99, **options: Any) -> tuple[rushlight.Run, list[float]]:
    """Train a small model on digits by name; return the run, and the learning rate of every step."""
    seen: list[float] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    if callable(options.get("schedule")):
        options["schedule"] = options["schedule"](optimizer)
    given = {"optimizer": optimizer, "epochs": 4, "batch_size": 500, "runs": tmp_path, "name": name, "quiet": True}
    training = rushlight.epochs(model, "digits", **{**given, **options})
    for epoch in training:
        if epoch.number == stop_after:
            break
    training.close()
    return training.run, seen


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_by_name_is_torchs_class_on_validation(mode: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"patience": 0, "factor": 0.5, "threshold": 0.9, "mode": mode}
    named, rates_named = trained("named", tmp_path, schedule="plateau", schedule_arguments=arguments)
    _, rates_live = trained("live", tmp_path, schedule=lambda o: ReduceLROnPlateau(o, **arguments))
    assert rates_named == rates_live
    assert len(set(rates_named)) > 1
    assert all("validation" in line for line in named.history if line["kind"] == "epoch")
    assert named.recipe.schedule == {"name": "plateau", "warmup": 0, "arguments": arguments}
    cut, _ = trained("cut", tmp_path, stop_after=2, schedule="plateau", schedule_arguments=arguments)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    resumed = rushlight.resume(cut.folder, model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), quiet=True)
    assert resumed.summary()["state_sha256"] == named.summary()["state_sha256"]


def test_what_plateau_does_not_take_is_refused_by_name() -> None:
    for arguments, key in (({"patiense": 1}, "unknown-schedule-argument"), ({"factor": 2.0}, "schedule-arguments")):
        with pytest.raises(UsageError) as caught:
            Schedule(optimizer_of(), "plateau", None, arguments=arguments)
        assert caught.value.key == key
    with pytest.raises(UsageError) as caught:
        Schedule(optimizer_of(), "cosine", 10, arguments={"patience": 1})
    assert caught.value.key == "schedule-without-arguments"


@pytest.mark.parametrize(
    ("make", "by"),
    [
        (lambda o: CosineAnnealingLR(o, 8), "step"),
        (lambda o: StepLR(o, 1, gamma=0.5), "epoch"),
        (lambda o: ReduceLROnPlateau(o, patience=0, threshold=9.0, factor=0.5), "epoch"),  # no epoch is good enough
    ],
    ids=["by step", "by epoch", "plateau"],
)
def test_a_warm_up_stands_before_any_scheduler(make: Any, by: str, tmp_path: Path) -> None:
    _, seen = trained("warm", tmp_path, schedule=make, schedule_by=by, warmup=4)
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0]
    if by == "step":  # the scheduler begins after the warm-up
        assert seen[4:] == by_hand(make, "step", 1, 8)
    else:  # the first epoch ends in the warm-up, so it does not count
        assert seen[4:6] == [1.0, 1.0]
        assert seen[6:] == [0.5] * 3 + [0.25] * 3


# ── timm's ───────────────────────────────────────────────────────────────────────────────────────────────────


class TimmLike:
    """A scheduler with the methods of timm's: step(epoch, metric) after an epoch, step_update(updates) after a step."""

    def __init__(self, optimizer: Any, length: int, t_in_epochs: bool) -> None:
        self.optimizer, self.length, self.t_in_epochs = optimizer, length, t_in_epochs
        self.base_values = [group["lr"] for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def at(self, t: int) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.base_values, strict=True):
            group["lr"] = rate * max(0.0, 1 - t / self.length)

    def step(self, epoch: int, metric: float | None = None) -> None:
        if self.t_in_epochs:
            self.at(epoch)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        if not self.t_in_epochs:
            self.at(num_updates)


class TimmPlateau(TimmLike):
    """As timm's PlateauLRScheduler: torch's own inside, whose state timm leaves out."""

    def __init__(self, optimizer: Any, mode: Any) -> None:
        super().__init__(optimizer, 1, True)
        self.lr_scheduler = ReduceLROnPlateau(optimizer, mode, patience=0, threshold=9.0, factor=0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.lr_scheduler.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lr_scheduler.best = state["best"]

    def step(self, epoch: int, metric: float | None = None) -> None:
        self.lr_scheduler.step(metric)


@pytest.mark.parametrize("in_epochs", [False, True])
def test_a_scheduler_of_timms_kind_advances_as_in_timms_own_loop(in_epochs: bool, tmp_path: Path) -> None:
    _, seen = trained("timm", tmp_path, schedule=lambda o: TimmLike(o, 4 if in_epochs else 12, in_epochs))
    optimizer = optimizer_of()
    scheduler = TimmLike(optimizer, 4 if in_epochs else 12, in_epochs)
    expected, updates = [], 0
    for epoch in range(4):  # timm's train.py
        for _ in range(3):
            expected.append(optimizer.param_groups[0]["lr"])
            updates += 1
            scheduler.step_update(num_updates=updates)
        scheduler.step(epoch + 1)
    assert seen == expected


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_of_timms_kind_follows_validation_by_its_mode_and_is_resumed_whole(mode: str, tmp_path: Path) -> None:
    def make(optimizer: Any) -> TimmPlateau:
        return TimmPlateau(optimizer, mode)

    whole, rates = trained("whole", tmp_path, schedule=make)
    assert len(set(rates)) > 1
    assert all("validation" in line for line in whole.history if line["kind"] == "epoch")
    cut, _ = trained("cut", tmp_path, stop_after=2, schedule=make)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    resumed = rushlight.resume(cut.folder, model, optimizer=optimizer, schedule=make(optimizer), quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_class_or_an_optimizer_is_no_scheduler() -> None:
    for thing in (StepLR, optimizer_of(), object()):
        with pytest.raises(UsageError) as caught:
            Schedule(optimizer_of(), thing, 10)
        assert caught.value.key == "bad-choice"
