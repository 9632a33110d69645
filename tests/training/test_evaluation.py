"""Testing: the report against figures computed by hand or by another formula."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rushlight
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.spec import TargetSpec
from rushlight.models import eval_mode
from rushlight.report import wilson
from rushlight.report.report import ClassFigures, Report, class_figures
from rushlight.training.evaluation import MOST_WRONG, Outcome, evaluate, likeliest, make_report
from rushlight.training.objective.losses import make_objective, own_objective

THREE = TargetSpec("classification", ("ant", "bee", "cat"))


def as_it_is(inputs: Tensor) -> Tensor:
    return inputs


def report_on(
    outputs: Tensor, targets: Tensor, target: TargetSpec | None, loss: nn.Module, size: int = 4
) -> tuple[Report, Outcome | None]:
    """Test a model that gives its inputs back, so that the outputs are known."""
    return evaluate(nn.Identity(), ResidentSplit(outputs, targets, as_it_is), make_objective(loss), target, size)


def strict(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(report.to_json(), allow_nan=False))
    return content


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────

TRUTH = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
PREDICTED = torch.tensor([0, 0, 1, 1, 1, 0, 1, 1])


def one_hot(predicted: Tensor, sure: Tensor | None = None) -> Tensor:
    """Logits that predict these classes, the surer the higher."""
    scale = torch.ones(len(predicted)) if sure is None else sure
    return nn.functional.one_hot(predicted, 3).float() * scale.unsqueeze(1)


def test_a_report_on_classes_is_what_counting_by_hand_gives() -> None:
    report, outcome = report_on(one_hot(PREDICTED), TRUTH, THREE, nn.CrossEntropyLoss())
    assert report.confusion == ((2, 1, 0), (1, 3, 0), (0, 1, 0))
    assert report.accuracy == 5 / 8
    assert report.accuracy_interval == pytest.approx((0.3057, 0.8632), abs=1e-4)
    ant, bee, cat = report.classes
    assert (ant.name, ant.n, ant.precision, ant.recall, ant.f1) == ("ant", 3, 2 / 3, 2 / 3, pytest.approx(2 / 3))
    assert (bee.precision, bee.recall, bee.f1) == (3 / 5, 3 / 4, pytest.approx(2 / 3))
    assert (cat.n, cat.recall, cat.f1) == (1, 0.0, 0.0)
    assert math.isnan(cat.precision)  # never predicted
    assert strict(report)["classes"][2]["precision"] is None
    assert report.headline == ("accuracy", 5 / 8)
    assert outcome is not None
    assert torch.equal(outcome.truth, TRUTH)
    assert torch.equal(outcome.predicted, PREDICTED)


@given(sure=st.lists(st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.9, math.nan]), min_size=1, max_size=40))
def test_the_most_wrong_are_the_first_of_all_wrong_ones_sorted_by_confidence(sure: list[float]) -> None:
    wrong = torch.tensor(sure)
    truth, predicted = torch.zeros(len(sure), dtype=torch.int64), torch.ones(len(sure), dtype=torch.int64)
    report = make_report(Outcome(truth, predicted, wrong), THREE, 1.0)
    expected = torch.argsort(wrong, descending=True, stable=True)[:MOST_WRONG].tolist()
    assert [entry["index"] for entry in report.most_wrong] == expected


@given(
    labels=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60), size=st.integers(1, 64)
)
@settings(max_examples=50, deadline=None)
def test_the_confusion_matrix_adds_up_and_a_report_is_always_strict_json(
    labels: list[tuple[int, int]], size: int
) -> None:
    truth, predicted = (torch.tensor(column) for column in zip(*labels, strict=True))
    report, _ = report_on(one_hot(predicted), truth, THREE, nn.CrossEntropyLoss(), size)
    confusion = np.array(report.confusion)
    assert confusion.sum() == report.n == len(labels)
    assert confusion.sum(1).tolist() == [figures.n for figures in report.classes]
    assert confusion.sum(0).tolist() == np.bincount(predicted, minlength=3).tolist()
    assert report.accuracy == pytest.approx(float((truth == predicted).double().mean()))
    content = strict(report)
    for figures, again in zip(report.classes, content["classes"], strict=True):
        assert (again["recall"] is None) == (figures.n == 0)
        for name in ("precision", "recall", "f1"):
            low, high = getattr(figures, f"{name}_interval")
            value = getattr(figures, name)
            assert 0 <= low <= high <= 1
            assert math.isnan(value) or low - 1e-12 <= value <= high + 1e-12
    expected = float(nn.functional.cross_entropy(one_hot(predicted).double(), truth))
    assert report.loss == pytest.approx(expected, rel=1e-6)


def test_the_most_wrong_are_the_wrong_ones_the_surest_first() -> None:
    sure = torch.tensor([9.0, 1, 3, 9, 9, 5, 9, 1])
    report, _ = report_on(one_hot(PREDICTED, sure), TRUTH, THREE, nn.CrossEntropyLoss())
    assert [entry["index"] for entry in report.most_wrong] == [5, 2, 7]
    assert [(entry["true"], entry["predicted"]) for entry in report.most_wrong] == [
        ("bee", "ant"), ("ant", "bee"), ("cat", "bee")
    ]  # fmt: skip
    assert report.most_wrong[0]["probability"] == pytest.approx(math.exp(5) / (math.exp(5) + 2), abs=1e-6)
    many, _ = report_on(
        one_hot(torch.ones(30, dtype=torch.int64)), torch.zeros(30, dtype=torch.int64), THREE, nn.CrossEntropyLoss()
    )
    assert [entry["index"] for entry in many.most_wrong] == list(range(10))  # the first ten of equals


def test_samples_with_names_are_named_among_the_most_wrong() -> None:
    names = [f"bee/{number}.png" for number in range(8)]
    split = ResidentSplit(one_hot(PREDICTED), TRUTH, as_it_is, names=names)
    report, outcome = evaluate(nn.Identity(), split, make_objective(nn.CrossEntropyLoss()), THREE, 4)
    assert [(entry["index"], entry["name"]) for entry in report.most_wrong] == [
        (2, "bee/2.png"), (5, "bee/5.png"), (7, "bee/7.png")
    ]  # fmt: skip
    assert outcome is not None
    assert outcome.names == names
    numbers = TargetSpec("regression", (), name="price")
    off = ResidentSplit(torch.tensor([[1.0], [5.0]]), torch.tensor([[1.0], [2.0]]), as_it_is, names=["row 2", "row 3"])
    report, _ = evaluate(nn.Identity(), off, make_objective(nn.MSELoss()), numbers, 4)
    assert [(entry["name"], entry["error"]) for entry in report.most_wrong] == [("row 3", 3.0), ("row 2", 0.0)]


def test_classes_that_the_test_split_does_not_have_are_null_in_json() -> None:
    report, _ = report_on(one_hot(torch.tensor([0, 0])), torch.tensor([0, 0]), THREE, nn.CrossEntropyLoss())
    assert strict(report)["classes"][1] == {
        "name": "bee", "n": 0, "precision": None, "precision_interval": [0.0, 1.0], "recall": None,
        "recall_interval": [0.0, 1.0], "f1": None, "f1_interval": [0.0, 1.0], "iou": None,
    }  # fmt: skip


def test_a_model_that_gives_nan_has_a_report_all_the_same() -> None:
    report, _ = report_on(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]), THREE, nn.CrossEntropyLoss())
    content = strict(report)
    assert content["loss"] is None
    assert content["n"] == 4
    assert report.short()["loss"] is None


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857–872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_the_published_values(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
@settings(max_examples=60)
def test_wilsons_interval_solves_its_equation_and_mirrors(n: int, share: float) -> None:
    """Its ends are where |p̂ - p| is 1.96 standard errors of p itself."""
    right = round(share * n)
    low, high = wilson(right, n)
    for end in (low, high):
        if 0 < end < 1:
            spread = 1.959963984540054 * math.sqrt(end * (1 - end) / n)
            assert abs(right / n - end) == pytest.approx(spread, rel=1e-6, abs=1e-12)
    other_low, other_high = wilson(n - right, n)
    assert (1 - other_high, 1 - other_low) == pytest.approx((low, high), abs=1e-12)


def test_nothing_tried_means_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(right=st.integers(0, 50), missed=st.integers(0, 50), false=st.integers(0, 50))
@settings(max_examples=50)
def test_a_classs_figures_are_those_of_the_textbook(right: int, missed: int, false: int) -> None:
    figures = class_figures("a", right, right + false, right + missed)
    if right:
        precision, recall = right / (right + false), right / (right + missed)
        assert (figures.precision, figures.recall) == (precision, recall)
        assert figures.f1 == pytest.approx(2 * precision * recall / (precision + recall))
        low, high = figures.f1_interval
        assert low <= figures.f1 <= high


# ── binary and multilabel ────────────────────────────────────────────────────────────────────────────────────


def test_a_binary_report_counts_a_logit_above_zero_as_yes() -> None:
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    targets = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    target = TargetSpec("binary", ("no", "yes"))
    report, outcome = report_on(logits, targets, target, nn.BCEWithLogitsLoss(), size=3)
    assert report.confusion == ((1, 1), (1, 1))
    assert report.accuracy == 0.5
    assert report.loss == pytest.approx(
        float(nn.functional.binary_cross_entropy_with_logits(logits, targets)), rel=1e-6
    )
    assert [entry["index"] for entry in report.most_wrong] == [1, 2]
    assert report.most_wrong[0] == {
        "index": 1, "true": "yes", "predicted": "no", "probability": pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)
    }  # fmt: skip
    assert outcome is not None
    assert outcome.confidence.min() >= 0.5


def test_a_multilabel_report_judges_each_label_by_itself() -> None:
    logits = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    report, _ = report_on(logits, targets, TargetSpec("multilabel", ("red", "round")), nn.BCEWithLogitsLoss(), 2)
    assert report.accuracy == 4 / 6
    assert report.n == 3
    red, rounded = report.classes
    assert (red.n, red.precision, red.recall) == (2, 0.5, 0.5)
    assert (rounded.n, rounded.precision, rounded.recall) == (2, 1.0, 1.0)
    assert report.confusion == ()
    strict(report)


# ── regression ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_regression_report_is_in_the_datas_own_units() -> None:
    truth, predicted = torch.tensor([[10.0], [20.0], [60.0]]), torch.tensor([[12.0], [20.0], [50.0]])
    target = TargetSpec("regression", mean=(30.0,), std=(20.0,))
    report, _ = report_on((predicted - 30) / 20, (truth - 30) / 20, target, nn.MSELoss(), 2)
    assert report.mae == pytest.approx(4.0, rel=1e-6)
    assert report.rmse == pytest.approx(math.sqrt(104 / 3), rel=1e-6)
    assert report.r2 == pytest.approx(1 - 104 / 1400, rel=1e-6)  # 1 - SSE / SST by definition
    assert report.loss == pytest.approx(104 / 3 / 400, rel=1e-5)  # as it was trained: standardised
    assert report.headline == ("MAE", pytest.approx(4.0))
    assert [entry["index"] for entry in report.most_wrong] == [2, 0, 1]
    assert report.most_wrong[0]["true"] == [60.0]
    assert report.most_wrong[0]["error"] == pytest.approx(10.0, rel=1e-5)


@given(seed=st.integers(0, 999), n=st.integers(2, 40), width=st.integers(1, 3), size=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_r2_of_several_columns_is_the_mean_of_each(seed: int, n: int, width: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    truth, predicted = generator.normal(size=(n, width)) * 5, generator.normal(size=(n, width))
    target = TargetSpec("regression", width=width)
    report, _ = report_on(
        torch.from_numpy(predicted).float(), torch.from_numpy(truth).float(), target, nn.MSELoss(), size
    )
    each = [1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum() for t, p in zip(truth.T, predicted.T, strict=True)]
    assert report.r2 == pytest.approx(np.mean(each), rel=1e-4, abs=1e-4)
    assert report.mae == pytest.approx(np.abs(truth - predicted).mean(), rel=1e-5)
    assert report.loss == pytest.approx(((truth - predicted) ** 2).mean(), rel=1e-5)
    strict(report)


def test_r2_of_targets_that_are_all_the_same_is_null() -> None:
    report, _ = report_on(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [5.0]]), TargetSpec("regression"), nn.MSELoss()
    )
    assert strict(report)["r2"] is None
    assert strict(report)["mae"] == 3.5


# ── the loss of a test ───────────────────────────────────────────────────────────────────────────────────────

WEIGHTS = torch.tensor([1.0, 4.0, 0.5])


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=WEIGHTS), nn.CrossEntropyLoss(ignore_index=0)]
)
@given(seed=st.integers(0, 99), n=st.integers(2, 30), size=st.integers(1, 31))
@settings(max_examples=25, deadline=None)
def test_the_test_loss_is_that_of_all_samples_at_once(loss: nn.Module, seed: int, n: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, labels = torch.randn(n, 3, generator=generator), torch.randint(0, 3, (n,), generator=generator)
    labels[-1] = 1  # a batch may have nothing that counts, the whole has something
    report, _ = report_on(outputs, labels, THREE, loss, size)
    assert report.loss == pytest.approx(float(loss(outputs, labels)), rel=1e-5)


def test_an_objective_of_ones_own_has_a_loss_and_a_count_and_nothing_else() -> None:
    split = ResidentSplit(torch.arange(10.0).unsqueeze(1), torch.zeros(10), as_it_is)
    report, outcome = evaluate(
        nn.Identity(), split, own_objective(lambda model, batch: model(batch[0]).mean()), None, 4
    )
    assert (report.loss, report.n, outcome) == (4.5, 10, None)
    assert report.headline == ("loss", 4.5)
    assert report.short() == {"loss": 4.5, "n": 10}


# ── around a test ────────────────────────────────────────────────────────────────────────────────────────────


class Watched(nn.Module):
    """A module that notes in which mode it was used, and whether gradients were kept."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.frozen = nn.BatchNorm1d(3)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return self.frozen(self.layer(x))


def test_testing_runs_in_eval_mode_without_gradients_and_puts_every_mode_back() -> None:
    model = Watched()
    model.frozen.eval()  # the user's own choice
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told: list[int] = []
    split = ResidentSplit(torch.randn(10, 3), torch.arange(10) % 3, as_it_is)
    evaluate(model, split, make_objective(nn.CrossEntropyLoss()), THREE, 4, watch=told.append)
    assert model.seen == [(False, False)] * 3
    assert model.training
    assert not model.frozen.training
    assert told == [4, 8, 10]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.is_inference() for value in model.state_dict().values())


def test_modes_are_put_back_also_after_an_error() -> None:
    model = Watched()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), eval_mode(model):
        model(torch.zeros(2, 4))
    assert model.seen == [(False, True)]
    assert model.training


@pytest.mark.parametrize(
    ("one", "other", "is_better"),
    [
        (Report(None, 0.5, 1, accuracy=0.9), Report(None, 0.4, 1, accuracy=0.8), True),
        (Report(None, 0.5, 1, accuracy=0.9), Report(None, 0.4, 1, accuracy=0.9), False),
        (Report(None, 0.3, 1, accuracy=0.9), Report(None, 0.4, 1, accuracy=0.9), True),
        (Report(None, 0.5, 1, mae=2.0), Report(None, 0.4, 1, mae=3.0), True),
        (Report(None, 0.5, 1), Report(None, 0.4, 1), False),
        (Report(None, 0.5, 1), Report(None, math.nan, 1), True),
        (Report(None, math.nan, 1), Report(None, 0.5, 1), False),
        (Report(None, 0.5, 1, mae=math.nan), Report(None, 0.5, 1, mae=math.nan), False),
    ],
)
def test_a_report_is_better_by_its_headline_then_by_its_loss(one: Report, other: Report, is_better: bool) -> None:
    assert one.is_better_than(other.headline[1], other.loss) == is_better


def test_figures_that_are_not_finite_are_null_wherever_they_stand() -> None:
    figures = ClassFigures("a", 0, math.nan, (0.0, 1.0), math.inf, (0.0, math.nan), -math.inf, (0.0, 1.0))
    content = strict(Report("classification", math.inf, 1, classes=(figures,), most_wrong=({"probability": math.nan},)))
    assert content["loss"] is None
    assert content["classes"][0]["recall_interval"] == [0.0, None]
    assert content["most_wrong"] == [{"probability": None}]


def test_a_report_of_one_sample_is_a_report() -> None:
    outcome = Outcome(torch.tensor([2]), torch.tensor([2]), torch.tensor([0.9]))
    report = make_report(outcome, THREE, 0.1)
    assert report.accuracy == 1.0
    assert report.accuracy_interval is not None
    assert report.accuracy_interval[0] < 0.3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 70), st.integers(2, 40), st.sampled_from([0.1, 30.0, 1e4]))
def test_the_likeliest_class_and_its_probability_are_those_of_softmax(
    seed: int, rows: int, classes: int, scale: float
) -> None:
    outputs = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).mul(scale)
    outputs[0] = outputs[0, 0]  # all alike: the first is taken
    outputs[-1, -1] = math.nan  # takes its whole row along
    truth = torch.arange(rows) % (classes + 1) - 1  # -1: ignored
    predicted, confidence, of_truth = likeliest(outputs, truth, -1)
    probabilities = outputs.softmax(1)
    expected = probabilities.gather(1, truth.clamp(0).unsqueeze(1)).squeeze(1).where(truth >= 0, torch.tensor(math.nan))
    torch.testing.assert_close(of_truth, expected, equal_nan=True)
    torch.testing.assert_close(confidence, probabilities.amax(1), equal_nan=True)
    torch.testing.assert_close(probabilities.gather(1, predicted.unsqueeze(1)).squeeze(1), confidence, equal_nan=True)
    assert predicted[0] == 0


class Drawing(nn.Module):
    """A model that draws in eval mode too, from torch, NumPy and Python."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x + torch.randn_like(x) * (1 + np.random.random() + random.random()))


@pytest.mark.parametrize("way", ["model", "loss", "objective"])
def test_whatever_draws_in_a_test_draws_the_same_in_each_and_changes_nothing_else(way: str, tmp_path: Path) -> None:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    noisy = nn.functional.cross_entropy
    options: dict[str, Any] = {}
    if way == "loss":
        options["loss"] = lambda outputs, targets: noisy(outputs + torch.randn_like(outputs), targets)
    elif way == "objective":
        options["objective"] = lambda model, batch: noisy(model(batch[0] + torch.randn_like(batch[0])), batch[1])
    model = Drawing() if way == "model" else nn.Linear(8, 3)
    run = rushlight.train(model, (x, y), test_data=(x, y), epochs=2, runs=tmp_path, quiet=True, **options)
    streams = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    found = {run.test().loss for _ in range(3)}
    assert found == {run.report.loss}  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert np.random.get_state()[1].tolist() == streams[1]  # type: ignore[index]
    assert random.getstate() == streams[2]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_where_memory_runs_out_a_test_takes_smaller_batches_and_finds_the_same(most: int) -> None:
    class Tight(nn.Module):
        """Has room for few samples at a time."""

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
            return x

    torch.manual_seed(0)
    outputs = torch.randn(29, 3)
    split, objective = ResidentSplit(outputs, torch.arange(29) % 3, as_it_is), make_objective(nn.CrossEntropyLoss())
    found, _ = evaluate(Tight(), split, objective, THREE, 16)
    expected, _ = evaluate(nn.Identity(), split, objective, THREE, 16)
    assert found.confusion == expected.confusion
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_where_no_sample_fits_the_error_is_raised() -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise MemoryError

    split = ResidentSplit(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), as_it_is)
    with pytest.raises(MemoryError):
        evaluate(Full(), split, make_objective(nn.CrossEntropyLoss()), THREE, 4)
