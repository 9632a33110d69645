"""What a loss takes its targets and outputs for: in training, in the report and in predictions, beside the plain loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.plain_loop import plain_objective
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import rushlight
from rushlight.data.spec import TargetSpec
from rushlight.errors import ModelError, UsageError
from rushlight.training.objective.tasks import is_own, task_of_loss

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 8, generator=GENERATOR)
YES = X[:, 0] > 0.3
MANY = torch.stack([X[:, 0] > 0, X[:, 1] > 0.5, X[:, 2] > -1], 1)
QUANTITIES = 100 + 10 * X[:, 0]
COUNTS = torch.poisson((0.3 * X[:, 0] + 1).exp(), generator=GENERATOR)
CLASSES = X[:, :3].argmax(1)


class Ending(nn.Module):
    """A linear layer and what follows it; the same weights each time."""

    def __init__(self, outputs: int, end: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.end = nn.Linear(8, outputs), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.inside(x))


def train(model: nn.Module, y: Any, loss: Any, runs: Path, way: str = "arrays", **options: Any) -> rushlight.Run:
    """Train with the plain loop's order; on other data for testing than it is trained on, of the same kind."""
    data: Any = (X, y)
    if way == "loader":
        data = DataLoader(TensorDataset(X, y), 16, shuffle=True)
    elif way == "loader as it is":
        data = DataLoader(TensorDataset(X, y), 16, drop_last=True)
    chosen: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 16,
        "optimizer": "Adam",
        "lr": 0.1,
        "normalize": "none",
    } | options
    if way != "arrays":
        del chosen["batch_size"]
    return rushlight.train(
        model, data, test_data=DataLoader(TensorDataset(X, y), 96) if way != "arrays" else (X, y), loss=loss, runs=runs,
        quiet=True, numerics="exact", **chosen,
    )  # fmt: skip


def by_hand(model: nn.Module, y: Tensor, loss: Any) -> list[float]:
    optimizer = torch.optim.Adam([*model.parameters(), *getattr(loss, "parameters", list)()], lr=0.1)
    return plain_objective(model, optimizer, lambda net, batch: loss(net(batch[0]), batch[1]), X, y, 2, 16, seed=0)


# ── targets stay in their units, but for losses of quantities ────────────────────────────────────────────────

UNITS: dict[str, tuple[Any, Tensor, int]] = {
    "BCEWithLogitsLoss, (n,)": (nn.BCEWithLogitsLoss(), YES.float(), 1),
    "BCEWithLogitsLoss, (n, 1)": (nn.BCEWithLogitsLoss(), YES.float()[:, None], 1),
    "BCEWithLogitsLoss, (n, k)": (nn.BCEWithLogitsLoss(), MANY.float(), 3),
    "BCEWithLogitsLoss, whole numbers": (nn.BCEWithLogitsLoss(), YES.long(), 1),
    "its function": (functional.binary_cross_entropy_with_logits, MANY.float(), 3),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss(), MANY.float(), 3),
    "shares under BCE": (nn.BCEWithLogitsLoss(), MANY.float() * 0.5 + 0.25, 3),
    "PoissonNLLLoss": (nn.PoissonNLLLoss(), COUNTS, 1),
    "PoissonNLLLoss, whole numbers": (nn.PoissonNLLLoss(), COUNTS.long(), 1),
    "KLDivLoss": (lambda o, y: nn.KLDivLoss(reduction="batchmean")(o.log_softmax(1), y), X[:, :3].softmax(1), 3),
    "SoftMarginLoss": (nn.SoftMarginLoss(), YES.float() * 2 - 1, 1),
    "an own loss of quantities": (lambda o, y: (o - y).abs().pow(1.5).mean(), QUANTITIES, 1),
    "cross-entropy of soft labels": (nn.CrossEntropyLoss(), X[:, :3].softmax(1), 3),
    "cross-entropy of one-hot floats": (nn.CrossEntropyLoss(), functional.one_hot(CLASSES).float(), 3),
    "cross-entropy of one-hot whole numbers": (nn.CrossEntropyLoss(), functional.one_hot(CLASSES), 3),
}


@pytest.mark.parametrize("way", ["arrays", "loader"])
@pytest.mark.parametrize("kind", UNITS)
def test_a_loss_is_given_the_datas_own_targets_and_ends_with_the_plain_loops_bits(
    kind: str, way: str, tmp_path: Path
) -> None:
    loss, y, width = UNITS[kind]
    mine, reference = Ending(width), Ending(width)
    plain = y.float()[:, None] if y.dim() == 1 else y.float()
    expected = by_hand(reference, plain, loss)
    run = train(mine, y, loss, tmp_path, way)
    np.testing.assert_array_equal(run.losses, np.array(expected, dtype=np.float32))
    assert torch.equal(mine.inside.weight, reference.inside.weight)
    assert not any("standardised" in note for note in run.notes)
    with torch.no_grad():
        assert run.test().loss == pytest.approx(float(loss(reference(X), plain)), rel=1e-5)


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), functional.mse_loss, None]
)
def test_losses_of_quantities_have_their_targets_standardised_and_it_is_said(loss: Any, tmp_path: Path) -> None:
    mine, reference = Ending(1), Ending(1)
    mean, std = QUANTITIES.double().mean(), QUANTITIES.double().std(correction=0)
    scaled = (QUANTITIES[:, None] - mean.float()) / std.float()
    expected = by_hand(reference, scaled, loss or nn.MSELoss())
    run = train(mine, QUANTITIES, loss, tmp_path, normalize="auto", kind="array")
    assert sum("Targets are standardised" in note for note in run.notes) == 1
    assert len(run.losses) == len(expected)
    report = run.test()
    with torch.no_grad():
        values = run.predict(X).values
        assert values is not None
        assert report.mae == pytest.approx(float(np.abs(values[:, 0] - QUANTITIES.numpy()).mean()), rel=1e-4)
    plain = Ending(1)
    unscaled = train(plain, QUANTITIES, loss, tmp_path)  # normalize="none"
    np.testing.assert_array_equal(
        unscaled.losses, np.array(by_hand(Ending(1), QUANTITIES[:, None], loss or nn.MSELoss()), np.float32)
    )


def test_zeros_and_ones_under_a_loss_of_labels_are_two_classes_or_labels(tmp_path: Path) -> None:
    for y, task in ((YES.float(), "binary"), (MANY.float(), "multilabel")):
        model = Ending(1 if y.dim() == 1 else 3)
        for way in ("arrays", "loader", "loader as it is"):
            run = train(model, y, nn.BCEWithLogitsLoss(), tmp_path, way, lr=0.0)
            report, truth = run.test(), y[:, None] if y.dim() == 1 else y
            assert report.task == task
            assert report.accuracy == pytest.approx(float(((model(X) > 0) == truth).float().mean()))
            probabilities = np.asarray(run.predict(X))[:, -truth.shape[1] :]
            np.testing.assert_allclose(probabilities, model(X).sigmoid().detach().numpy(), rtol=1e-5)


def test_counts_are_reported_and_predicted_as_counts(tmp_path: Path) -> None:
    for y in (COUNTS, COUNTS.long()):
        for loss, scale in ((nn.PoissonNLLLoss(), torch.exp), (nn.PoissonNLLLoss(log_input=False), torch.abs)):
            model = Ending(1, lambda x, scale=scale: x if scale is torch.exp else x.abs())
            run = train(model, y, loss, tmp_path, lr=0.01)
            predicted = scale(model(X)).detach()[:, 0]
            assert run.report is not None
            assert run.report.mae == pytest.approx(float((predicted - COUNTS).abs().mean()), rel=1e-5)
            values = run.predict(X).values
            assert values is not None
            np.testing.assert_allclose(values[:, 0], predicted.numpy(), rtol=1e-5)


def test_what_nobody_can_judge_is_reported_by_its_loss_alone(tmp_path: Path) -> None:
    for y, loss in ((MANY.float() * 0.5 + 0.25, nn.BCEWithLogitsLoss()), (YES.float() * 2 - 1, nn.SoftMarginLoss())):
        model = Ending(y.shape[1] if y.dim() == 2 else 1)
        run = train(model, y, loss, tmp_path)
        assert run.report is not None
        assert (run.report.accuracy, run.report.mae, run.report.classes) == (None, None, ())
        np.testing.assert_allclose(run.predict(X).values, model(X).detach().numpy(), rtol=1e-6)
        assert rushlight.open_run(run.folder, model).bundle.target == run._specs[1]


def test_targets_beyond_yes_and_no_are_refused_by_losses_of_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes targets from 0") as caught:
        train(Ending(1), QUANTITIES, nn.BCEWithLogitsLoss(), tmp_path)
    assert caught.value.key == "labels-not-between"


def test_a_pair_that_a_loss_cannot_compare_is_refused(tmp_path: Path) -> None:
    soft = (X, X[:, :3].softmax(1))
    with pytest.raises(rushlight.RushlightError) as caught:
        rushlight.train(Ending(3), soft, test_data=(X, CLASSES), loss=nn.MSELoss(), runs=tmp_path, quiet=True)
    assert caught.value.key == "targets-differ"


@pytest.mark.parametrize("way", ["arrays", "loader as it is"])
def test_soft_labels_in_training_go_with_class_numbers_in_testing(way: str, tmp_path: Path) -> None:
    soft, model = X[:, :3].softmax(1), Ending(3)
    train_data: Any = (X, soft) if way == "arrays" else DataLoader(TensorDataset(X, soft), 16, drop_last=True)
    test_data: Any = (X, CLASSES) if way == "arrays" else DataLoader(TensorDataset(X, CLASSES), 16)
    run = rushlight.train(
        model,
        train_data,
        test_data=test_data,
        loss=nn.CrossEntropyLoss(),
        normalize="none",
        epochs=2,
        runs=tmp_path,
        quiet=True,
    )
    with torch.no_grad():
        expected = float(functional.cross_entropy(model(X), CLASSES))
        right = float((model(X).argmax(1) == CLASSES).float().mean())
    assert run.report is not None
    assert run.report.loss == pytest.approx(expected, rel=1e-5)
    assert run.report.accuracy == pytest.approx(right)
    assert run.test((X, CLASSES)).accuracy == pytest.approx(right)


# ── one number for each sample ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["arrays", "loader", "loader as it is"])
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.MSELoss(), QUANTITIES), (nn.BCEWithLogitsLoss(), YES.float()), (nn.PoissonNLLLoss(), COUNTS),
        (lambda o, y: ((o - y) ** 2).mean(), QUANTITIES),
    ],
)  # fmt: skip
def test_outputs_of_one_dimension_meet_targets_of_one_dimension(loss: Any, y: Tensor, way: str, tmp_path: Path) -> None:
    mine, reference = (Ending(1, lambda x: x.squeeze(-1)) for _ in range(2))
    expected = by_hand(reference, y, loss)
    run = train(mine, y, loss, tmp_path, way)
    if way != "loader as it is":  # whose order is its own
        np.testing.assert_array_equal(run.losses, np.array(expected, dtype=np.float32))
    with torch.no_grad():
        assert run.test().loss == pytest.approx(float(loss(mine(X), y)), rel=1e-5)
        assert rushlight.open_run(run.folder, mine).test((X, y), loss=loss).loss == pytest.approx(run.test().loss)
    assert len(run.predict(X)) == 96


# ── probabilities ────────────────────────────────────────────────────────────────────────────────────────────


def own_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of probabilities, as many write it themselves."""
    return functional.nll_loss(torch.log(outputs), targets)


PROBABILITIES: dict[str, tuple[Any, Any, Tensor, int, dict[str, Any]]] = {
    "BCELoss, classes": (nn.BCELoss(), nn.Sigmoid(), YES.long(), 1, {}),
    "BCELoss, task": (nn.BCELoss(), nn.Sigmoid(), YES.long(), 1, {"task": "binary"}),
    "BCELoss, floats": (nn.BCELoss(), torch.sigmoid, YES.float(), 1, {}),
    "BCELoss, flat": (nn.BCELoss(), lambda x: x.sigmoid().squeeze(1), YES.float(), 1, {}),
    "BCELoss, labels": (nn.BCELoss(), nn.Sigmoid(), MANY.float(), 3, {}),
    "its function": (functional.binary_cross_entropy, nn.Sigmoid(), MANY.float(), 3, {}),
    "an own one": (
        lambda o, y: functional.binary_cross_entropy(o, y),
        torch.sigmoid,
        YES.long(),
        1,
        {"task": "binary"},
    ),
    "NLLLoss after log_softmax": (nn.NLLLoss(), nn.LogSoftmax(1), CLASSES, 3, {}),
    "NLLLoss after softmax": (nn.NLLLoss(), nn.Softmax(1), CLASSES, 3, {}),
    "an own NLL after softmax": (own_entropy, lambda x: x.softmax(1), CLASSES, 3, {}),
    "an own NLL after clamped softmax": (own_entropy, lambda x: x.softmax(1).clamp(1e-6, 1), CLASSES, 3, {}),
    "an own NLL after exp": (own_entropy, lambda x: x.log_softmax(1).exp(), CLASSES, 3, {}),
    "squares of labels": (nn.MSELoss(), nn.Identity(), MANY.long(), 3, {}),
}


@pytest.mark.parametrize("way", ["arrays", "loader as it is"])
@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_go_through_no_second_sigmoid_or_softmax(kind: str, way: str, tmp_path: Path) -> None:
    loss, end, y, width, options = PROBABILITIES[kind]
    model = Ending(width, end)
    run = train(model, y, loss, tmp_path, way, **options)
    with torch.no_grad():
        outputs = model(X).reshape(96, width)
        targets = y if y.dtype == torch.int64 and width == 3 and y.dim() == 1 else y.float().reshape(96, width)
        probabilities = outputs.exp() if "log_softmax" in kind else outputs
        chosen = probabilities.argmax(1) if targets.dim() == 1 else (probabilities > 0.5).float()
        expected = float(loss(model(X), targets.flatten() if kind == "BCELoss, flat" else targets))
    right = float((chosen == targets).float().mean())
    opened = rushlight.open_run(run.folder, model)
    bundle = rushlight.open_bundle(run.folder / "model", model)
    tested = opened.test((X, y), loss=loss) if not options else run.test()
    for report in (run.report, run.test(), tested):
        assert report is not None
        assert report.loss == pytest.approx(expected, rel=1e-5)
        assert report.accuracy == pytest.approx(right)
    for predictions in (run.predict(X), opened.predict(X), bundle.predict(X)):
        found = np.asarray(predictions)
        np.testing.assert_allclose(
            found[:, 1:] if found.shape[1] == 2 else found, probabilities.numpy(), rtol=1e-5, atol=1e-6
        )


def test_a_run_of_an_earlier_release_after_a_sigmoid_is_predicted_through_no_second_one(tmp_path: Path) -> None:
    model = Ending(1, nn.Sigmoid())
    run = train(model, YES.long(), nn.BCELoss(), tmp_path)
    path = run.folder / "model" / "model.json"
    content = json.loads(path.read_text())
    for name in ("gives", "layout", "ignored"):
        del content["target"][name]
    path.write_text(json.dumps(content))
    opened = rushlight.open_run(run.folder, model)
    np.testing.assert_allclose(np.asarray(opened.predict(X))[:, 1:], model(X).detach().numpy(), rtol=1e-5)
    assert opened.test((X, YES.long()), loss=nn.BCELoss()).accuracy == run.report.accuracy  # type: ignore[union-attr]


def test_logits_between_zero_and_one_stay_logits(tmp_path: Path) -> None:
    model = Ending(1, lambda x: 0 * x + 0.4)
    run = train(
        model, YES.long(), lambda o, y: functional.binary_cross_entropy_with_logits(o, y), tmp_path, task="binary"
    )
    np.testing.assert_allclose(np.asarray(run.predict(X))[:, 1], 1 / (1 + np.exp(-0.4)), rtol=1e-5)


# ── a loss of one's own ──────────────────────────────────────────────────────────────────────────────────────


class Arc(nn.Module):
    """A loss with weights of its own, which turn embeddings into scores."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(classes, width, generator=generator))

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(embeddings @ self.weight.t(), targets)


@pytest.mark.parametrize(
    ("loss", "width"),
    [
        (lambda e, y: e.pow(2).mean(), 4), (lambda e, y: e.pow(2).mean(), 2), (Arc(3, 5), 5), (Arc(3, 3), 3),
    ],
    ids=["wider", "narrower", "weights", "weights, as wide"],
)  # fmt: skip
def test_embeddings_have_no_invented_classes_and_no_accuracy(loss: Any, width: int, tmp_path: Path) -> None:
    model = Ending(width)
    run = train(model, CLASSES, loss, tmp_path, epochs=3)
    assert run.report is not None
    assert run.report.headline[0] == "loss"
    assert (run.report.classes, run.report.accuracy, run.report.most_wrong) == ((), None, ())
    assert all("accuracy" not in line["test"] for line in run.history if line["kind"] == "epoch")
    np.testing.assert_allclose(run.predict(X).values, model(X).detach().numpy(), rtol=1e-6)
    best = min(line["test"]["loss"] for line in run.history if line["kind"] == "epoch")
    assert run._training is not None
    assert run._training.state["best"]["value"] == pytest.approx(best)


@pytest.mark.parametrize("way", ["arrays", "loader"])
@pytest.mark.parametrize(("y", "task"), [(YES.float(), "binary"), (MANY.float(), "multilabel")])
def test_zeros_and_ones_under_an_own_loss_are_judged_only_where_the_user_says_what_they_are(
    y: Tensor, task: str, way: str, tmp_path: Path
) -> None:
    model, truth = Ending(y[0].numel()), y.reshape(96, -1)
    unsaid = train(model, y, lambda o, t: functional.binary_cross_entropy_with_logits(o, t), tmp_path, way)
    assert unsaid.report is not None
    assert (unsaid.report.headline[0], unsaid.report.mae, unsaid.report.classes) == ("loss", None, ())
    assert any('task="binary"' in note for note in unsaid.notes)
    said = train(model, y, lambda o, t: functional.binary_cross_entropy_with_logits(o, t), tmp_path, way, task=task)
    assert said.report is not None
    assert said.report.task == task
    assert said.report.accuracy == pytest.approx(float(((model(X) > 0) == truth).float().mean()))


def test_an_own_loss_of_as_many_outputs_as_classes_has_its_accuracy(tmp_path: Path) -> None:
    model = Ending(3)
    run = train(model, CLASSES, lambda o, y: functional.cross_entropy(o, y, label_smoothing=0.1), tmp_path)
    assert run.report is not None
    assert run.report.accuracy == pytest.approx(float((model(X).argmax(1) == CLASSES).float().mean()))


def test_outputs_that_are_several_are_for_a_loss_that_takes_them(tmp_path: Path) -> None:
    class Aided(nn.Module):
        def __init__(self, always: bool) -> None:
            super().__init__()
            self.first, self.second, self.always = nn.Linear(8, 3), nn.Linear(8, 3), always

        def forward(self, x: Tensor) -> Any:
            outputs = self.first(x)
            return (outputs, self.second(x)) if self.training or self.always else outputs

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum((functional.cross_entropy(each, targets) for each in several), torch.zeros(()))

    for always in (False, True):
        run = train(Aided(always), CLASSES, loss, tmp_path, batch_size=1, epochs=3)
        assert run.report is not None
        assert (run.report.accuracy is None) is always
    with pytest.raises(ModelError) as caught:
        train(Aided(False), CLASSES, nn.CrossEntropyLoss(), tmp_path)
    assert caught.value.key == "outputs-no-tensor"


def test_torchs_losses_and_those_made_from_them_are_known_and_all_else_is_the_users() -> None:
    class Mine(nn.CrossEntropyLoss):
        pass

    assert not any(map(is_own, (nn.CrossEntropyLoss(), Mine(), nn.KLDivLoss(), nn.CTCLoss())))
    assert all(map(is_own, (lambda o, y: o, Arc(2, 2), functional.kl_div)))
    assert task_of_loss(nn.KLDivLoss(), TargetSpec("regression", width=3), None) == TargetSpec("other", width=3)


# ── a loss that learns ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_live", [False, True])
def test_a_loss_that_learns_is_trained_as_the_plain_loop_trains_it(is_live: bool, tmp_path: Path) -> None:
    mine, reference, loss, theirs = Ending(4), Ending(4), Arc(3, 4), Arc(3, 4)
    expected = by_hand(reference, CLASSES, theirs)
    given: dict[str, Any] = {}
    if is_live:
        given = {"optimizer": torch.optim.Adam([*mine.parameters(), *loss.parameters()], lr=0.1), "lr": None}
    run = train(mine, CLASSES, loss, tmp_path, clip_norm=1e6, **given)
    assert torch.equal(loss.weight, theirs.weight)
    assert torch.equal(mine.inside.weight, reference.inside.weight)
    np.testing.assert_array_equal(run.losses, np.array(expected, dtype=np.float32))


def test_what_a_loss_learns_is_in_checkpoints_and_in_reopened_tests(tmp_path: Path) -> None:
    whole, loss = Ending(4), Arc(3, 4)
    run = train(whole, CLASSES, loss, tmp_path, epochs=4)
    model, begun = Ending(4), Arc(3, 4)
    training = rushlight.epochs(
        model, (X, CLASSES), test_data=(X, CLASSES), loss=begun, epochs=4, batch_size=16, optimizer="Adam", lr=0.1,
        normalize="none", numerics="exact", name="begun", runs=tmp_path, quiet=True,
    )  # fmt: skip
    for _ in zip(range(2), training, strict=False):
        pass
    training.close()
    again = Arc(3, 4)
    resumed = rushlight.resume(
        "begun", Ending(4), (X, CLASSES), test_data=(X, CLASSES), loss=again, runs=tmp_path, quiet=True
    )
    assert torch.equal(again.weight, loss.weight)
    np.testing.assert_array_equal(resumed.losses, run.losses)
    fresh = rushlight.open_run(run.folder, Ending(4)).test((X, CLASSES), loss=Arc(3, 4))
    assert run.report is not None
    assert fresh.loss == pytest.approx(run.report.loss, rel=1e-6)


def test_the_best_weights_bring_back_the_losss_own_of_that_epoch(tmp_path: Path) -> None:
    model, loss = Ending(4), Arc(3, 4)
    run = train(model, CLASSES, loss, tmp_path, epochs=8, lr=3.0, early_stopping=2, val_data=(X, CLASSES))
    with torch.no_grad():
        assert run.report is not None
        assert run.report.loss == pytest.approx(float(loss(model(X), CLASSES)), rel=1e-5)
    best = min(line["validation"]["loss"] for line in run.history if line["kind"] == "epoch")
    assert run.report.loss == pytest.approx(best, rel=1e-5)


class ByName(nn.Module):
    """Gives its scores in a dict, as torchvision's models for segmentation do, or as transformers' do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer, self.name = nn.Linear(8, 3), name

    def forward(self, x: Tensor) -> Any:
        scores = self.layer(x)
        return {"aux": scores.sum(), self.name: scores} if self.name != "alone" else {"alone": scores}


@pytest.mark.parametrize("name", ["out", "logits", "alone"])
def test_outputs_in_a_dict_are_the_scores_by_their_usual_names(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, plain = ByName(name), nn.Linear(8, 3)
    plain.load_state_dict(model.layer.state_dict())
    runs = [
        train(each, CLASSES, nn.CrossEntropyLoss(), tmp_path / f"{number}")
        for number, each in enumerate((model, plain))
    ]
    torch.testing.assert_close(model.layer.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert runs[0].report == runs[1].report
    answers = [run.predict(X[:5].numpy()) for run in runs]
    assert list(answers[0].labels) == list(answers[1].labels)


def test_a_loss_of_ones_own_gets_the_whole_dict(tmp_path: Path) -> None:
    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs["out"], targets) + 0.1 * outputs["aux"] ** 2

    run = train(ByName("out"), CLASSES, loss, tmp_path)
    assert run.report is not None
    assert run.report.accuracy is None


def test_weights_in_float16_are_named_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has weights in float16, and its batch is .* float32"):
        train(nn.Linear(8, 3).half(), CLASSES, nn.CrossEntropyLoss(), tmp_path)
