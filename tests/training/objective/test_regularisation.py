"""Averaged weights, arguments of losses, mixup: each beside its plain form, and resumed to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import rushlight
from rushlight.data import step_seed
from rushlight.errors import UsageError
from rushlight.runs import read_recipe
from rushlight.training.objective.losses import balanced

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0.8).long() + (X[:, 1] > 1.2).long()
OPTIONS: dict[str, Any] = {
    "batch_size": 16, "quiet": True, "normalize": "none", "lr": 0.1, "numerics": "exact", "test_data": (X, Y), "optimizer": "SGD",
}  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def steps(epochs: int) -> Any:
    """Give each step's samples in the run's own order, with torch seeded as the run does it."""
    for epoch in range(1, epochs + 1):
        order = torch.randperm(96, generator=torch.Generator().manual_seed(1_000_003 * epoch))
        for number, rows in enumerate(order.split(16)):
            torch.manual_seed(step_seed(0, epoch, number))
            yield X[rows], Y[rows]


def stop_at_2(event: rushlight.Event) -> None:
    if event.kind == "epoch" and event.data["epoch"] == 2:
        raise KeyError("stop")


# ── averaged weights ─────────────────────────────────────────────────────────────────────────────────────────


def averaged_by_torch(epochs: int, decay: float) -> AveragedModel:
    """Train the network by the plain loop, and average its weights after each step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for x, y in steps(epochs):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        average.update_parameters(model)
    return average


def test_averaged_weights_are_torchs_also_in_a_run_long_enough_for_faster_executions(tmp_path: Path) -> None:
    """A mode that is verified repeats steps, and one that joins steps calls no hook: each would make another average."""
    run = rushlight.train(network(), (X, Y), epochs=40, ema=0.999, runs=tmp_path, **{**OPTIONS, "numerics": "fast"})
    average = averaged_by_torch(40, 0.999)
    same(run.model.state_dict(), average.module.state_dict())


def test_averaged_weights_are_those_of_torch_and_are_what_is_tested_and_saved(tmp_path: Path) -> None:
    run = rushlight.train(network(), (X, Y), epochs=3, ema=0.9, runs=tmp_path, **OPTIONS)
    average = averaged_by_torch(3, 0.9)
    same(run.model.state_dict(), average.module.state_dict())
    average.eval()
    with torch.no_grad():
        loss = float(functional.cross_entropy(average(X), Y))
    assert run.report is not None
    assert run.report.loss == pytest.approx(loss, rel=1e-6)
    tests = [line["test"]["loss"] for line in run.history if line["kind"] == "epoch"]
    assert tests[-1] == pytest.approx(loss, rel=1e-6)
    reopened = rushlight.open_run(run.name, network(), runs=tmp_path)
    same(reopened.model.state_dict(), run.model.state_dict())


def test_the_average_is_resumed_to_the_same_bits_and_the_training_goes_on_from_its_own_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {**OPTIONS, "optimizer": "Adam", "ema": 0.9, "runs": tmp_path, "epochs": 4}
    whole = rushlight.train(network(), (X, Y), **options)
    with pytest.raises(KeyError, match="stop"):
        rushlight.train(network(), (X, Y), name="part", on_event=stop_at_2, **options)
    unfinished = rushlight.open_run("part", network(), runs=tmp_path)
    two = rushlight.train(network(), (X, Y), **{**options, "epochs": 2})
    same(unfinished.model.state_dict(), two.model.state_dict())  # the average, not the weights in training
    part = rushlight.resume("part", network(), (X, Y), runs=tmp_path, quiet=True, test_data=(X, Y))
    same(part.model.state_dict(), whole.model.state_dict())
    assert part.losses.tolist() == whole.losses.tolist()
    plain = rushlight.train(network(), (X, Y), **{**options, "ema": None})
    assert plain.losses.tolist() == whole.losses.tolist()  # the average changes nothing in training


def test_the_best_epoch_keeps_its_average(tmp_path: Path) -> None:
    figures = iter([0.1, 0.9, 0.3])
    options: dict[str, Any] = {**OPTIONS, "ema": 0.9, "runs": tmp_path, "schedule": "constant"}
    run = rushlight.train(
        network(),
        (X, Y),
        epochs=3,
        val_data=(X, Y),
        metrics={"own": lambda o, y: next(figures, 0.5)},
        best="max:own",
        **options,
    )
    two = rushlight.train(network(), (X, Y), epochs=2, **options)
    same(run.model.state_dict(), two.model.state_dict())


def test_averaging_says_why_every_step_is_executed_exactly(tmp_path: Path) -> None:
    said: list[str] = []

    def hear(event: rushlight.Event) -> None:
        said.extend(str(value) for value in event.data.values())

    fast = {**OPTIONS, "numerics": "fast", "compile": "first", "runs": tmp_path, "epochs": 2}
    run = rushlight.train(network(), (X, Y), ema=0.9, on_event=hear, **fast)
    exact = rushlight.train(network(), (X, Y), ema=0.9, **{**fast, "numerics": "exact", "compile": "auto"})
    same(run.model.state_dict(), exact.model.state_dict())
    assert any("an average of its weights is kept" in each for each in said)


def test_an_optimizer_that_is_used_again_averages_no_more(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {**OPTIONS, "lr": None, "optimizer": optimizer, "runs": tmp_path, "epochs": 1}
    rushlight.train(model, (X, Y), ema=0.5, **options)
    assert not optimizer._optimizer_step_post_hooks


# ── the mean of the last epochs' weights ─────────────────────────────────────────────────────────────────────


def equal_by_torch(epochs: int, begin: int) -> AveragedModel:
    """Train by the plain loop, average the weights after each epoch from `begin` on, and renew BatchNorm's statistics."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model)
    for number, (x, y) in enumerate(steps(epochs), start=1):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if number % 6 == 0 and number >= 6 * begin:
            average.update_parameters(model)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1_000_003 * (epochs + 1)))
    update_bn([X[rows] for rows in order.split(16)], average)
    return average.eval()


def test_the_equal_average_is_torchs_with_renewed_statistics_and_is_what_is_tested_and_saved(tmp_path: Path) -> None:
    run = rushlight.train(network(), (X, Y), epochs=5, swa=3, runs=tmp_path, **OPTIONS)
    average = equal_by_torch(5, 3)
    same(run.model.state_dict(), average.module.state_dict())
    with torch.no_grad():
        loss = float(functional.cross_entropy(average(X), Y))
    assert run.report is not None
    assert run.report.loss == pytest.approx(loss, rel=1e-6)
    assert run.summary()["test"]["loss"] == pytest.approx(loss, rel=1e-6)
    reopened = rushlight.open_run(run.name, network(), runs=tmp_path)
    same(reopened.model.state_dict(), run.model.state_dict())
    plain = rushlight.train(network(), (X, Y), epochs=5, runs=tmp_path, **OPTIONS)
    assert plain.losses.tolist() == run.losses.tolist()  # the average changes nothing in training
    tests = [[line["test"] for line in each.history if line["kind"] == "epoch"] for each in (plain, run)]
    assert tests[0] == tests[1]  # epochs are tested with the weights in training


@pytest.mark.parametrize("stopped", [1, 3, 4])
def test_the_equal_average_is_resumed_to_the_same_bits(stopped: int, tmp_path: Path) -> None:
    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == stopped:
            raise KeyError("stop")

    options: dict[str, Any] = {**OPTIONS, "swa": 3, "runs": tmp_path, "epochs": 5}
    with pytest.raises(KeyError, match="stop"):
        rushlight.train(network(), (X, Y), name="part", on_event=stop, **options)
    part = rushlight.resume("part", network(), (X, Y), runs=tmp_path, quiet=True, test_data=(X, Y))
    same(part.model.state_dict(), equal_by_torch(5, 3).module.state_dict())


def test_an_interrupted_evaluation_adds_its_epoch_to_the_average_once(tmp_path: Path) -> None:
    left = iter([None, None, None])

    def metric(outputs: Tensor, targets: Tensor) -> float:
        if next(left, "end") == "end":
            raise KeyError("stop")
        return 0.0

    options: dict[str, Any] = {**OPTIONS, "swa": 3, "runs": tmp_path, "epochs": 5}
    with pytest.raises(UsageError, match="stop"):
        rushlight.train(network(), (X, Y), name="part", metrics={"own": metric}, **options)
    part = rushlight.resume(
        "part", network(), (X, Y), runs=tmp_path, quiet=True, test_data=(X, Y), metrics={"own": lambda o, y: 0.0}
    )
    same(part.model.state_dict(), equal_by_torch(5, 3).module.state_dict())


def test_statistics_that_are_kept_in_eval_mode_are_not_renewed(tmp_path: Path) -> None:
    model = network()
    run = rushlight.train(model, (X, Y), epochs=2, swa=1, freeze=["1"], runs=tmp_path, **OPTIONS)
    assert run.model[1].running_mean.tolist() == [0.0] * 8


# ── schedule-free optimizers ─────────────────────────────────────────────────────────────────────────────────


def free(model: nn.Module) -> torch.optim.Optimizer:
    schedulefree = pytest.importorskip("schedulefree")
    made: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.05, warmup_steps=5)
    return made


def free_by_hand(epochs: int) -> tuple[nn.Module, list[float]]:
    """Train by the plain loop, with the optimizer switched as its documentation says; return the model and the tests' losses."""
    model = network()
    optimizer: Any = free(model)
    tests = []
    for number, (x, y) in enumerate(steps(epochs), start=1):
        model.train()
        optimizer.train()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if number % 6 == 0:
            model.eval()
            optimizer.eval()
            with torch.no_grad():
                tests.append(float(functional.cross_entropy(model(X), Y)))
    return model, tests


def test_a_schedule_free_optimizer_is_switched_as_in_the_plain_loop(tmp_path: Path) -> None:
    model = network()
    options = {**OPTIONS, "lr": None, "runs": tmp_path}
    run = rushlight.train(model, (X, Y), epochs=4, **{**options, "optimizer": free(model)})
    theirs, tests = free_by_hand(4)
    same(run.model.state_dict(), theirs.state_dict())
    found = [line["test"]["loss"] for line in run.history if line["kind"] == "epoch"]
    assert found == pytest.approx(tests, rel=1e-6)
    assert run.report is not None
    assert run.report.loss == pytest.approx(tests[-1], rel=1e-6)
    with pytest.raises(UsageError, match="ema would average once more"):
        rushlight.train(model, (X, Y), ema=0.9, **{**options, "optimizer": free(model)})


@pytest.mark.parametrize("stopped", ["epoch", "evaluation", "step"])
def test_a_schedule_free_run_is_resumed_to_the_same_bits_from_anywhere(stopped: str, tmp_path: Path) -> None:
    left = iter(range(2 if stopped == "evaluation" else 99))

    def metric(outputs: Tensor, targets: Tensor) -> float:
        if next(left, "end") == "end":
            raise KeyError("stop")
        return 0.0

    model = network()
    options = {
        **OPTIONS,
        "lr": None,
        "runs": tmp_path,
        "optimizer": free(model),
        "name": "part",
        "metrics": {"own": metric},
    }
    stop = {"on_event": stop_at_2} if stopped == "epoch" else {"max_steps": 15} if stopped == "step" else {}
    if stopped == "step":
        rushlight.train(model, (X, Y), **options, **stop)  # of 24, in the midst of the third epoch
        by_hand = network()
        optimizer: Any = free(by_hand)
        optimizer.train()
        for number, (x, y) in zip(range(15), steps(3), strict=False):
            functional.cross_entropy(by_hand(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if number in (5, 11):
                optimizer.eval()
                optimizer.train()
        optimizer.eval()
        same(model.state_dict(), by_hand.state_dict())
        return
    with pytest.raises((KeyError, UsageError), match="stop"):
        rushlight.train(model, (X, Y), epochs=4, **options, **stop)
    unfinished = rushlight.open_run("part", network(), runs=tmp_path)
    if stopped == "epoch":
        same(unfinished.model.state_dict(), free_by_hand(2)[0].state_dict())  # the weights to use
    again = network()
    part = rushlight.resume(
        "part", again, (X, Y), runs=tmp_path, quiet=True, test_data=(X, Y), optimizer=free(again),
        metrics={"own": lambda o, y: 0.0},
    )  # fmt: skip
    same(part.model.state_dict(), free_by_hand(4)[0].state_dict())


# ── arguments of losses ──────────────────────────────────────────────────────────────────────────────────────


def test_arguments_of_a_loss_are_torchs_own(tmp_path: Path) -> None:
    ours, theirs = network(), network()
    arguments = {"label_smoothing": 0.1, "weight": [0.5, 1.0, 2.0]}
    run = rushlight.train(
        ours, (X, Y), epochs=2, loss="cross-entropy", loss_arguments=arguments, runs=tmp_path, **OPTIONS
    )
    loss = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([0.5, 1.0, 2.0]))
    live = rushlight.train(theirs, (X, Y), epochs=2, loss=loss, runs=tmp_path, **OPTIONS)
    same(ours.state_dict(), theirs.state_dict())
    assert run.report == live.report
    assert read_recipe(run.folder)["loss"] == {"name": "CrossEntropyLoss", "arguments": arguments}
    reopened = rushlight.open_run(run.name, network(), runs=tmp_path)
    assert reopened.test((X, Y)) == run.report  # nothing has to be given again


def test_balanced_weights_are_by_how_rare_a_class_is(tmp_path: Path) -> None:
    options = {**OPTIONS, "loss_arguments": {"weight": "balanced"}, "runs": tmp_path}
    run = rushlight.train(network(), (X, Y), epochs=2, name="part", **options)
    counts = torch.bincount(Y).double()
    expected = (96 / (3 * counts)).tolist()
    assert read_recipe(run.folder)["loss"]["arguments"]["weight"] == pytest.approx(expected)
    whole = rushlight.train(network(), (X, Y), epochs=3, schedule="constant", **options)
    part = rushlight.resume(
        "part", network(), (X, Y), epochs=3, schedule="constant", runs=tmp_path, quiet=True, test_data=(X, Y)
    )
    same(part.model.state_dict(), whole.model.state_dict())
    assert balanced("pos_weight", torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), 2) == [3.0, 1.0]


# ── mixup ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mixup_is_its_formula_by_the_seed_of_each_step_and_no_test_is_mixed(tmp_path: Path) -> None:
    ours, theirs = network(), network()
    run = rushlight.train(ours, (X, Y), epochs=2, mixup=0.4, runs=tmp_path, **OPTIONS)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    losses = []
    for x, y in steps(2):
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
        other = torch.randperm(len(x))
        outputs = theirs(share * x + (1 - share) * x[other])
        loss: Tensor = share * functional.cross_entropy(outputs, y) + (1 - share) * functional.cross_entropy(
            outputs, y[other]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    same(ours.state_dict(), theirs.state_dict())
    assert np.array_equal(run.losses, np.array(losses, np.float32))
    assert run.report is not None
    with torch.no_grad():
        assert run.report.loss == pytest.approx(float(functional.cross_entropy(run.model(X), Y)), rel=1e-6)


IMAGES = torch.randn(96, 3, 7, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alphas", [{"cutmix": 1.0}, {"cutmix": 0.7, "mixup": 0.4}])
def test_cutmix_is_its_formula_by_the_seed_of_each_step(alphas: dict[str, float], tmp_path: Path) -> None:
    def pictures() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(140, 3))

    ours, theirs = pictures(), pictures()
    options = {**OPTIONS, "test_data": (IMAGES, Y), "kind": "image", "runs": tmp_path}
    run = rushlight.train(ours, (IMAGES, Y), epochs=3, **alphas, **options)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    losses, cuts = [], 0
    for epoch in range(1, 4):
        order = torch.randperm(96, generator=torch.Generator().manual_seed(1_000_003 * epoch))
        for number, rows in enumerate(order.split(16)):
            torch.manual_seed(step_seed(0, epoch, number))
            x, y = IMAGES[rows].clone(), Y[rows]
            is_cut = "mixup" not in alphas or float(torch.rand(())) < 0.5
            alpha = alphas["cutmix" if is_cut else "mixup"]
            share = float(torch.distributions.Beta(alpha, alpha).sample())
            other = torch.randperm(16)
            if is_cut:
                inside = torch.ones(7, 9, dtype=torch.bool)
                for size, places in ((7, torch.arange(7)[:, None]), (9, torch.arange(9)[None])):
                    middle, half = int(torch.randint(size, ())), int(0.5 * (1 - share) ** 0.5 * size)
                    inside &= (places >= middle - half) & (places < middle + half)
                x = torch.where(inside, x[other], x)
                share = 1 - float(inside.double().mean())
                cuts += 0 < share < 1
            else:
                x = share * x + (1 - share) * x[other]
            outputs = theirs(x)
            loss = share * functional.cross_entropy(outputs, y)
            loss = loss + (1 - share) * functional.cross_entropy(outputs, y[other])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert cuts > 3
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    again = rushlight.train(pictures(), (IMAGES, Y), epochs=3, **alphas, **{**options, "numerics": "fast"})
    np.testing.assert_allclose(again.losses, run.losses, rtol=1e-3)


def test_a_mixed_step_is_verified_against_a_mixed_reference() -> None:
    """Else a mode is compared with what nobody trains, and any is near enough."""
    from rushlight.training.engine.verification import Stretch, reference, tensors_of
    from rushlight.training.objective import make_objective
    from rushlight.training.objective.losses import Mixing
    from rushlight.training.step import Parts, exact_step

    model = network()
    objective = make_objective(nn.CrossEntropyLoss(), mixing=Mixing(mixup=0.4))
    parts = Parts(model, objective, torch.optim.SGD(model.parameters(), lr=0.1))
    before = {name: each.clone() for name, each in tensors_of(parts).items()}
    expected = reference(parts, before, Stretch([[(X[:16], Y[:16])]], [[0.1]], [5]), torch.default_generator)
    torch.manual_seed(5)
    loss, _ = exact_step(parts)([(X[:16], Y[:16])])
    assert float(loss) == pytest.approx(float(expected.losses), rel=1e-5)


def test_mixup_is_the_same_in_fast_numerics_and_under_the_profiler(tmp_path: Path) -> None:
    exact = rushlight.train(network(), (X, Y), epochs=3, mixup=0.4, runs=tmp_path, **OPTIONS)
    fast = rushlight.train(
        network(), (X, Y), epochs=3, mixup=0.4, runs=tmp_path, profile=True, **{**OPTIONS, "numerics": "fast"}
    )
    np.testing.assert_allclose(fast.losses, exact.losses, rtol=1e-4)


def test_all_of_it_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **OPTIONS,
        "mixup": 0.2,
        "ema": 0.9,
        "loss_arguments": {"label_smoothing": 0.1},
        "runs": tmp_path,
    }
    whole = rushlight.train(network(), (X, Y), epochs=4, **options)
    with pytest.raises(KeyError, match="stop"):
        rushlight.train(network(), (X, Y), epochs=4, name="part", on_event=stop_at_2, **options)
    part = rushlight.resume("part", network(), (X, Y), runs=tmp_path, quiet=True, test_data=(X, Y))
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert part.losses.tolist() == whole.losses.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"loss_arguments": {"smoothing": 0.1}},
            'CrossEntropyLoss has no argument "smoothing". Did you mean "label_smoothing"',
        ),
        ({"loss_arguments": {"label_smoothing": 0.1}, "loss": nn.CrossEntropyLoss()}, "loss_arguments"),
        ({"loss_arguments": {"weight": ["a"]}}, "CrossEntropyLoss refuses these arguments"),
        ({"mixup": 0.2, "objective": lambda m, b: m(b[0]).mean()}, "mixup"),
        ({"mixup": 0.2, "kind": "tokens"}, "mixup mixes numbers"),
        ({"ema": 1.5}, "decay between 0 and 1"),
        ({"cutmix": 1.0}, "wants images"),
        ({"swa": 2}, "there are 1 epochs"),
        ({"swa": 1, "ema": 0.9}, "ema asks for others"),
        ({"swa": 1, "best": "loss"}, "best asks for others"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = (X.long(), Y) if "kind" in options else (X, Y)
    kept = {key: value for key, value in OPTIONS.items() if key not in ("test_data", "normalize")}
    with pytest.raises(UsageError, match=words):
        rushlight.train(network(), data, epochs=1, runs=tmp_path, **kept, **options)
