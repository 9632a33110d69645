"""The learning rate over the steps."""

from __future__ import annotations

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
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

import rushlight
from rushlight.errors import UsageError
from rushlight.options import check_options
from rushlight.report import Report
from rushlight.training.loop import Epoch, epochs
from rushlight.training.objective.schedule import Schedule, schedule_factor
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


def test_a_warm_up_beside_a_live_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path, lambda optimizer: StepLR(optimizer, 1), warmup=10)
    assert caught.value.key == "not-beside-live"


def test_a_live_schedulers_state_goes_through_state_dict() -> None:
    first, second = optimizer_of(), optimizer_of()
    one = Schedule(first, LambdaLR(first, lambda epoch: 0.5**epoch), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.after_epoch(Report(None, 1.0, 0))
        one.after_epoch(Report(None, 1.0, 0))
        other = Schedule(second, LambdaLR(second, lambda epoch: 0.5**epoch), None)
        other.load_state_dict(one.state_dict())
        other.after_epoch(Report(None, 1.0, 0))
    assert second.param_groups[0]["lr"] == pytest.approx(0.125)
