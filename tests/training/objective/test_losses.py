"""Loss, optimizer and their weights: from names or from live objects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rushlight
from rushlight.data.feed.batch import count_samples
from rushlight.data.spec import TargetSpec
from rushlight.errors import UsageError
from rushlight.training.objective.losses import make_objective, named_loss, own_objective
from rushlight.training.objective.optimizers import (
    check_live_optimizer,
    check_steps_alone,
    describe_optimizer,
    named_optimizer,
)
from rushlight.training.objective.tasks import task_of_loss

WEIGHTS = torch.tensor([1.0, 4.0, 0.5])


def outputs_and_labels(n: int, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return outputs, torch.randint(0, classes, (n,), generator=generator)


def losses() -> dict[str, nn.Module]:
    return {
        "plain": nn.CrossEntropyLoss(),
        "weighted": nn.CrossEntropyLoss(weight=WEIGHTS.double()),
        "smoothed and weighted": nn.CrossEntropyLoss(weight=WEIGHTS.double(), label_smoothing=0.1),
        "one class ignored": nn.CrossEntropyLoss(ignore_index=1),
        "weighted, one class ignored": nn.CrossEntropyLoss(weight=WEIGHTS.double(), ignore_index=1),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
    }


# ── averages ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", losses())
@given(n=st.integers(2, 40), size=st.integers(1, 17), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_weighted_mean_of_unequal_batches_is_the_loss_over_all_at_once(
    kind: str, n: int, size: int, seed: int
) -> None:
    loss, (outputs, labels) = losses()[kind], outputs_and_labels(n, seed)
    labels[0] = 0  # one that counts
    objective = make_objective(loss)
    total = weight = 0.0
    for first in range(0, n, size):
        batch = (outputs[first : first + size], labels[first : first + size])
        share = objective.weight(batch)
        value, _ = objective.compute(nn.Identity(), batch)
        total += objective.total(float(value), share) if share else 0.0
        weight += share
    whole = float(loss(outputs, labels))
    if kind == "smoothed and weighted":  # torch spreads the smoothing over all classes' weights: same divisor
        assert weight == pytest.approx(float(WEIGHTS[labels].sum()))
    assert total / weight == pytest.approx(whole / n if kind == "sum" else whole, rel=1e-9)


def test_class_probabilities_and_whole_pictures_of_labels_are_weighed_by_what_torch_divides_by() -> None:
    probabilities = torch.softmax(torch.randn(5, 3), 1)
    assert make_objective(nn.CrossEntropyLoss()).weight((None, probabilities)) == 5
    labels = torch.randint(0, 3, (4, 6, 6))
    labels[0] = -100
    assert make_objective(nn.CrossEntropyLoss()).weight((None, labels)) == 3 * 36
    assert make_objective(nn.NLLLoss(weight=WEIGHTS)).weight((None, torch.tensor([0, 1]))) == 5
    assert make_objective(nn.MSELoss()).weight((torch.zeros(7, 2), torch.zeros(7, 1))) == 7


def test_labels_that_are_ignored_count_nothing_unless_it_is_known_that_there_are_none() -> None:
    labels = torch.tensor([0, -100, 2, -100, 1])
    for loss in (nn.CrossEntropyLoss(), nn.NLLLoss()):
        assert make_objective(loss).weight((None, labels)) == 3
        assert make_objective(loss).weight((None, labels[labels < 0])) == 0
        assert make_objective(loss, are_labels_checked=True).weight((None, labels[labels >= 0])) == 3
    assert make_objective(nn.CrossEntropyLoss(weight=WEIGHTS)).weight((None, labels)) == 5.5
    assert (
        make_objective(nn.CrossEntropyLoss(ignore_index=1), are_labels_checked=True).weight((None, labels.abs() % 3))
        == 2
    )


def test_a_loss_that_is_changed_or_moved_weighs_as_it_is_then() -> None:
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    objective = make_objective(loss)
    labels = torch.tensor([0, 1, 1])
    assert objective.weight((None, labels)) == 9
    loss.weight = 2 * WEIGHTS
    loss.ignore_index = 0
    assert objective.weight((None, labels)) == 16
    loss.to("meta")
    with pytest.raises(RuntimeError, match="meta"):  # that is where its weights are now
        objective.weight((None, labels.to("meta")))


class Masked(torch.utils.data.Dataset[Any]):
    """Samples that are read as they are needed, since reading them draws; the labels of many of them are to be ignored."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(32, 4, generator=generator)
        self.labels = torch.randint(0, 3, (32,), generator=generator)
        self.labels[:8] = -100  # the whole of a batch of eight
        self.labels[17:20] = -100

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        torch.rand(())
        return self.inputs[index], int(self.labels[index])


@pytest.mark.parametrize(
    "options", [{"batch_size": 16}, {"batch_size": 8, "accumulate": 2}], ids=["whole", "in halves"]
)
def test_ignored_labels_of_streamed_samples_weigh_nothing_in_a_step_or_an_epoch(
    options: dict[str, Any], tmp_path: Path
) -> None:
    data = Masked()
    loader = torch.utils.data.DataLoader(data, options["batch_size"])
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    with torch.no_grad():
        expected = [
            float(nn.functional.cross_entropy(model(data.inputs[first : first + 16]), data.labels[first : first + 16]))
            for first in (0, 16)
        ]
        whole = float(nn.functional.cross_entropy(model(data.inputs), data.labels))
    run = rushlight.train(model, loader, epochs=1, optimizer="SGD", lr=0.0, runs=tmp_path, quiet=True, **options)
    assert run.losses.tolist() == pytest.approx(expected, rel=1e-6)
    assert run.summary()["train_loss"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(5, 2), 5),
        ((torch.zeros(5, 2), torch.zeros(5)), 5),
        ({"name": ["a", "b", "c"], "x": torch.zeros(3, 2)}, 3),
        ([{"deep": (torch.zeros(4),)}], 4),
        ({"scale": torch.tensor(1.0), "x": torch.zeros(6, 1)}, 6),
        (["a", "b"], 2),
        (torch.tensor(1.0), 1),
    ],
)
def test_samples_are_counted_in_any_batch(batch: Any, count: int) -> None:
    assert count_samples(batch) == count
    assert own_objective(lambda model, given: torch.tensor(0.0)).weight(batch) == count


def test_a_users_objective_gets_the_model_and_the_batch_as_they_are() -> None:
    model, batch = nn.Linear(2, 1), {"x": torch.ones(3, 2)}
    value, outputs = own_objective(lambda net, given: net(given["x"]).sum()).compute(model, batch)
    assert outputs is None
    assert torch.equal(value, model(batch["x"]).sum())


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cross-entropy", nn.CrossEntropyLoss), ("MSE", nn.MSELoss), ("bce", nn.BCEWithLogitsLoss), ("mae", nn.L1Loss),
        ("SmoothL1Loss", nn.SmoothL1Loss), ("huber", nn.HuberLoss),
    ],
)  # fmt: skip
def test_losses_have_their_torch_names_and_short_ones(name: str, kind: type[nn.Module]) -> None:
    assert type(named_loss(name)) is kind


def test_an_unknown_loss_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match='Did you mean "CrossEntropyLoss"') as caught:
        named_loss("CrosEntropyLoss")
    assert caught.value.key == "unknown-loss"


@pytest.mark.parametrize(
    ("loss", "target", "key"),
    [
        (nn.CrossEntropyLoss(), TargetSpec("regression"), "float-labels"),
        (nn.MSELoss(), TargetSpec("classification", ("a", "b")), "regression-loss-on-classes"),
        (nn.BCEWithLogitsLoss(), TargetSpec("classification", ("a", "b", "c")), "binary-loss-on-many-classes"),
    ],
)
def test_a_loss_that_does_not_fit_its_targets_is_refused(loss: nn.Module, target: TargetSpec, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        task_of_loss(loss, target, None)
    assert caught.value.key == key


def test_two_classes_under_a_binary_loss_are_a_binary_task() -> None:
    two, labels = TargetSpec("classification", ("a", "b")), TargetSpec("multilabel", ("a", "b"))
    assert task_of_loss(nn.BCEWithLogitsLoss(), two, None).task == "binary"
    assert task_of_loss(nn.BCEWithLogitsLoss(), labels, None).task == "multilabel"
    assert task_of_loss(nn.CrossEntropyLoss(), two, None).task == "classification"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"loss": nn.CrossEntropyLoss}, "no-loss"),
        ({"loss": 3}, "no-loss"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "loss-not-scalar"),
        ({"loss": "mse", "objective": lambda model, batch: None}, "loss-beside-objective"),
        ({"objective": lambda model, batch: None}, "objective-no-tensor"),
        ({"objective": lambda model, batch: torch.tensor(1.0)}, "loss-without-gradient"),
        ({"optimizer": torch.optim.SGD}, "no-optimizer"),
        ({"optimizer": "LBFGS"}, "needs-closure"),
        ({"optimizer": "SparseAdam"}, "optimizer-gradients"),
        ({"optimizer": "Muon"}, "optimizer-arguments"),
        ({"optimizer": "SDG"}, "unknown-optimizer"),
        ({"lr": math.nan}, "option-not-a-number"),
        ({"lr": "fast"}, "option-not-a-number"),
        ({"optimizer": "SGD", "optimizer_arguments": {"momentum": math.nan}}, "not-a-finite-number"),
        ({"lr": math.inf, "optimizer": "SGD"}, "not-a-finite-number"),
        ({"lr": -1.0}, "option-not-a-number"),
        ({"optimizer": "SGD", "optimizer_arguments": {"momentum": -1.0}}, "optimizer-arguments"),
        ({"clip_norm": math.inf}, "not-positive"),
        ({"clip_norm": 0}, "not-positive"),
        ({"epochs": 0}, "not-a-count"),
        ({"batch_size": True}, "not-a-count"),
        ({"seed": 1.5}, "bad-seed"),
        ({"precision": "float8"}, "bad-choice"),
        ({"precision": "float16", "device": "cpu"}, "no-precision"),
        ({"optimiser": "SGD"}, "unknown-option"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_before_a_run_is_made(
    options: dict[str, Any], key: str, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UsageError) as caught:
        rushlight.train(model, "digits", runs=tmp_path, quiet=True, **options)
    assert caught.value.key == key
    if key not in (
        "loss-not-scalar",
        "optimizer-gradients",
        "objective-no-tensor",
        "loss-without-gradient",
    ):  # these show in the first step
        assert not list(tmp_path.iterdir())


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_optimizer_by_name_holds_the_parameters_that_train() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = named_optimizer("rmsprop", model, {"momentum": 0.5})
    assert type(optimizer) is torch.optim.RMSprop
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[1].parameters()]
    assert optimizer.defaults["momentum"] == 0.5


def test_unknown_names_and_arguments_get_the_nearest_one() -> None:
    with pytest.raises(UsageError, match='Did you mean "AdamW"'):
        named_optimizer("AdmW", nn.Linear(1, 1), {})
    with pytest.raises(UsageError, match='Did you mean "momentum"'):
        named_optimizer("SGD", nn.Linear(1, 1), {"momentun": 0.9})


def test_a_live_optimizer_must_hold_the_models_own_parameters() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="2 of the 2 parameters in this SGD are not") as caught:
        check_live_optimizer(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0), model)
    assert caught.value.key == "foreign-optimizer"
    check_live_optimizer(torch.optim.SGD([model.weight], lr=1.0), model)  # a part of them is a choice


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for model in (frozen, nn.Flatten()):
        with pytest.raises(UsageError) as caught:
            named_optimizer("SGD", model, {})
        assert caught.value.key == "nothing-trains"
    with pytest.raises(UsageError) as caught:
        check_live_optimizer(torch.optim.SGD(frozen.parameters(), lr=1.0), frozen)
    assert caught.value.key == "nothing-trains"


def test_only_lbfgs_needs_a_closure() -> None:
    model = nn.Linear(2, 2, bias=False)
    needing = []
    for name in sorted(torch.optim.__all__):
        kind = getattr(torch.optim, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            try:
                check_steps_alone(named_optimizer(name, model, {}))
            except UsageError as error:
                needing.append((name, error.key))
    assert needing == [("LBFGS", "needs-closure")]


def test_a_live_optimizer_beside_a_learning_rate_is_refused_rather_than_one_of_them_ignored(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    live = torch.optim.SGD(model.parameters(), lr=0.1)
    for options in ({"lr": 0.5}, {"optimizer_arguments": {"momentum": 0.9}}, {"model_arguments": {"hidden": (3,)}}):
        with pytest.raises(UsageError) as caught:
            rushlight.train(model, "digits", optimizer=live, runs=tmp_path, quiet=True, **options)
        assert caught.value.key == "not-beside-live"


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adam",
        "AdamW",
        "RMSprop",
        "Adagrad",
        "Adadelta",
        "Adamax",
        "NAdam",
        "RAdam",
        "ASGD",
        "Rprop",
        "Adafactor",
    ],
)
def test_what_a_recipe_says_of_an_optimizer_makes_the_same_one(name: str) -> None:
    model = nn.Linear(2, 2)
    made = named_optimizer(name, model, {"lr": 0.125})
    described = describe_optimizer(made)
    again = named_optimizer(described["name"], model, described["arguments"])
    assert again.defaults == made.defaults
