"""A user's own objective: the batch it gets, what it may return, and what becomes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.plain_loop import plain_objective
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

import rushlight
from rushlight.data import open_source
from rushlight.errors import RunError, UsageError
from rushlight.training.objective.losses import own_objective, read_answer
from rushlight.training.step import Parts, exact_step

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 8, generator=GENERATOR)
QUIET: dict[str, Any] = {"quiet": True, "epochs": 2, "batch_size": 16, "optimizer": "SGD", "lr": 1e-3}
TARGETS = {
    "quantities (n,)": 100 + 10 * X.sum(1),
    "quantities (n, 1)": X.sum(1, keepdim=True).double(),
    "class numbers": torch.randint(0, 3, (96,), generator=GENERATOR),
    "class numbers, int32": torch.randint(0, 3, (96,), generator=GENERATOR).int(),
    "soft labels": X[:, :3].softmax(1),
    "tokens (n, T)": torch.randint(0, 9, (96, 6), generator=GENERATOR),
    "masks (n, H, W)": torch.randint(0, 3, (96, 4, 4), generator=GENERATOR).to(torch.uint8),
    "images (n, C, H, W)": torch.rand(96, 1, 4, 4, generator=GENERATOR),
    "truths": X[:, 0] > 0,
    "not finite": torch.where(X[:, 0] > 1, torch.nan, X[:, 0]),
}


class Pairs(Dataset[Any]):
    """Samples that are read one by one; reading them draws where `is_random`, so that they are streamed."""

    def __init__(self, targets: Tensor, is_random: bool) -> None:
        self.targets_, self.is_random = targets, is_random

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + 0 * torch.rand(()) if self.is_random else X[index], self.targets_[index]


def as_source(way: str, y: Tensor) -> Any:
    if way == "arrays":
        return (X, y)
    if way == "dataset":
        return Pairs(y, is_random=False)
    if way == "streamed":
        return Pairs(y, is_random=True)
    pairs = TensorDataset(X, y)
    return DataLoader(pairs, 16, shuffle=True) if way == "loader" else DataLoader(pairs, 16, drop_last=True)


@pytest.mark.parametrize("way", ["arrays", "dataset", "streamed", "loader", "loader as it is"])
@pytest.mark.parametrize("kind", TARGETS)
def test_inputs_and_targets_reach_an_objective_as_they_are_given(way: str, kind: str) -> None:
    y, rows = TARGETS[kind], {tuple(row.tolist()): number for number, row in enumerate(X)}
    source = as_source(way, y)
    data = open_source(source, source, is_raw=True)
    assert data.test is not None
    assert data.target is None  # nothing was read of the targets
    for batches in (data.train.batches(16, seed=0, epoch=1), data.test.in_order(16)):
        seen: set[int] = set()
        for inputs, targets in batches:
            indices = [rows[tuple(row.tolist())] for row in inputs]  # the very bits
            assert targets.dtype == y.dtype
            assert targets.shape == (len(inputs), *y.shape[1:])
            torch.testing.assert_close(targets, y[indices], rtol=0, atol=0, equal_nan=True)
            seen.update(indices)
        assert len(seen) == 96


@pytest.mark.parametrize("way", ["arrays", "streamed"])
def test_no_task_and_no_classes_are_read_into_the_targets_of_an_objective(way: str, tmp_path: Path) -> None:
    y = TARGETS["masks (n, H, W)"]

    def objective(model: nn.Module, batch: Any) -> Tensor:
        assert batch[1].dtype == torch.uint8
        return model(batch[0]).mean()

    source = as_source(way, y)
    run = rushlight.train(nn.Linear(8, 1), source, test_data=source, objective=objective, runs=tmp_path, **QUIET)
    assert run.report is not None
    assert (run.report.task, run.report.classes) == (None, ())


def test_numpys_float64_alone_becomes_what_torch_has_by_default(tmp_path: Path) -> None:
    found: list[Any] = []

    def objective(model: nn.Module, batch: Any) -> Tensor:
        found.append((batch[0].dtype, batch[1].dtype, batch[1].shape[1:]))
        return functional.mse_loss(model(batch[0])[:, 0], batch[1])

    x = np.random.default_rng(0).normal(size=(32, 8))
    rushlight.train(nn.Linear(8, 1), (x, x[:, 0]), objective=objective, runs=tmp_path, **QUIET)
    assert set(found) == {(torch.float32, torch.float32, ())}


class Squeezed(nn.Module):
    """A linear model that gives one number for each sample, (n,)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.inside(x).squeeze(-1)
        return outputs


@pytest.mark.parametrize("way", ["arrays", "dataset", "loader"])
def test_an_objective_of_quantities_ends_with_the_plain_loops_bits(way: str, tmp_path: Path) -> None:
    y, mine = TARGETS["quantities (n,)"], Squeezed()
    reference = copy.deepcopy(mine)

    def objective(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    losses = plain_objective(
        reference, torch.optim.Adam(reference.parameters(), lr=0.5), objective, X, y, 3, 16, seed=0
    )
    run = rushlight.train(
        mine, as_source(way, y), test_data=(X, y), objective=objective, optimizer="Adam", lr=0.5, epochs=3, batch_size=16,
        runs=tmp_path, quiet=True,
    )  # fmt: skip
    np.testing.assert_array_equal(run.losses, np.array(losses, dtype=np.float32))
    assert torch.equal(mine.inside.weight, reference.inside.weight)
    with torch.no_grad():
        assert run.report is not None
        assert run.report.loss == pytest.approx(float(functional.mse_loss(reference(X), y)), rel=1e-5)


def test_soft_targets_in_training_and_class_numbers_in_testing_are_the_objectives_own_matter(tmp_path: Path) -> None:
    soft, hard = TARGETS["soft labels"], TARGETS["class numbers"]
    loaders = DataLoader(TensorDataset(X, soft), 16, drop_last=True), DataLoader(TensorDataset(X, hard), 16)
    model = nn.Linear(8, 3)
    run = rushlight.train(
        model, loaders[0], test_data=loaders[1], runs=tmp_path, quiet=True, epochs=1,
        objective=lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]),
    )  # fmt: skip
    with torch.no_grad():
        expected = float(functional.cross_entropy(model(X), hard))
    assert run.summary()["test"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_inputs_are_prepared_where_that_is_asked_for_and_targets_are_not(tmp_path: Path) -> None:
    means: list[float] = []

    def objective(model: nn.Module, batch: Any) -> Tensor:
        means.append(float(batch[0].mean()))
        assert float(batch[1].mean()) > 50
        return model(batch[0]).mean()

    data, options = (X + 7, TARGETS["quantities (n,)"]), {**QUIET, "batch_size": 96}
    run = rushlight.train(
        nn.Linear(8, 1), data, test_data=data, objective=objective, normalize="standard", runs=tmp_path, **options
    )
    assert max(map(abs, means)) < 1e-5
    run.test(data)
    assert abs(means[-1]) < 1e-5  # other data is prepared as the run's own


def test_a_model_by_name_is_built_for_targets_that_its_objective_gets_as_they_are(tmp_path: Path) -> None:
    y = TARGETS["class numbers"].int()

    def objective(model: nn.Module, batch: Any) -> Tensor:
        assert batch[1].dtype == torch.int32
        return functional.cross_entropy(model(batch[0]), batch[1].long())

    run = rushlight.train("linear", (X, y), objective=objective, runs=tmp_path, **QUIET)
    assert run.model(X).shape == (96, 3)


# ── what it returns ──────────────────────────────────────────────────────────────────────────────────────────


def test_every_form_of_answer_is_read() -> None:
    loss, outputs = torch.tensor(2.0), torch.zeros(3, 2)
    assert read_answer(loss)[:3] == (loss, None, None)
    assert read_answer((loss, outputs))[:3] == (loss, outputs, None)
    assert read_answer(SimpleNamespace(loss=loss, logits=outputs))[:2] == (loss, outputs)
    told = read_answer({"loss": loss, "outputs": outputs, "weight": torch.tensor(5), "kl": torch.tensor([0.5]), "n": 3})
    assert told.loss is loss
    assert told.outputs is outputs
    assert told.weight == 5
    assert {name: float(value) for name, value in told.numbers.items()} == {"kl": 0.5, "n": 3}


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (None, "objective-no-tensor"), (3.0, "objective-no-tensor"), ({"l": torch.tensor(1.0)}, "objective-no-tensor"),
        ((1.0, torch.zeros(2)), "objective-no-tensor"), ({"loss": torch.tensor(1.0), "iou": torch.zeros(5)}, "objective-no-number"),
        ({"loss": torch.tensor(1.0), "iou": "high"}, "objective-no-number"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_by_name(answer: Any, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_answer(answer)
    assert caught.value.key == key


def told(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Return a mean over tokens: the rows of a batch count as many as their first number says."""
    x, counts = batch
    loss = (counts * model(x)[:, 0].square()).sum() / counts.sum()
    return {"loss": loss, "weight": counts.sum(), "tokens": counts.sum(), "half": loss / 2}


COUNTS = torch.randint(1, 9, (96,), generator=GENERATOR).float()


def test_the_weights_that_an_objective_tells_make_its_means_right(tmp_path: Path) -> None:
    model = nn.Linear(8, 1)
    options = {**QUIET, "lr": 0.0, "batch_size": 20}  # the last batch has 16 samples
    run = rushlight.train(model, (X, COUNTS), test_data=(X, COUNTS), objective=told, runs=tmp_path, **options)
    with torch.no_grad():
        expected = float((COUNTS * model(X)[:, 0].square()).sum() / COUNTS.sum())
    summary = run.summary()
    assert summary["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert summary["test"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert summary["test"]["n"] == 96
    assert run.report is not None
    assert run.report.numbers["half"] == pytest.approx(expected / 2, rel=1e-5)
    lines = [json.loads(line) for line in (run.folder / "values.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]["values"]) == {"train/tokens", "train/half", "test/tokens", "test/half"}
    for name in ("train/half", "test/half"):
        assert lines[1]["values"][name] == pytest.approx(expected / 2, rel=1e-5)


def test_micro_batches_are_weighed_by_what_the_objective_tells() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(8, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    pieces = [(X[:10], COUNTS[:10]), (X[10:16], COUNTS[10:16])]
    losses = []
    for model, batches in zip(models, (pieces, [(X[:16], COUNTS[:16])]), strict=True):
        parts = Parts(model, own_objective(told), torch.optim.SGD(model.parameters(), lr=0.1))
        losses.append(float(exact_step(parts)(batches)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_weights_for_some_micro_batches_only_are_refused() -> None:
    def some(model: nn.Module, batch: Any) -> Any:
        loss = model(batch[0]).mean()
        return {"loss": loss, "weight": 3} if len(batch[0]) > 5 else loss

    model = nn.Linear(8, 1)
    step = exact_step(Parts(model, own_objective(some), torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(UsageError) as caught:
        step([(X[:10], COUNTS[:10]), (X[:4], COUNTS[:4])])
    assert caught.value.key == "objective-weighs-some"


def test_numbers_of_a_run_stopped_within_an_epoch_are_those_of_one_never_stopped(tmp_path: Path) -> None:
    def train(name: str, stops: bool) -> rushlight.Run:
        torch.manual_seed(0)
        count = 0

        def objective(model: nn.Module, batch: Any) -> dict[str, Any]:
            nonlocal count
            count += model.training
            if stops and count == 8:
                raise KeyboardInterrupt
            return told(model, batch)

        if stops:
            with pytest.raises(KeyboardInterrupt):
                rushlight.train(nn.Linear(8, 1), (X, COUNTS), objective=objective, name=name, runs=tmp_path, **QUIET)
            torch.manual_seed(0)
            return rushlight.resume(name, nn.Linear(8, 1), (X, COUNTS), objective=told, runs=tmp_path, quiet=True)
        return rushlight.train(nn.Linear(8, 1), (X, COUNTS), objective=objective, name=name, runs=tmp_path, **QUIET)

    def values(run: rushlight.Run) -> list[Any]:
        return [json.loads(line)["values"] for line in (run.folder / "values.jsonl").read_text().splitlines()]

    assert values(train("stopped", True)) == values(train("whole", False))


def test_outputs_beside_the_loss_are_judged_where_it_is_known_what_they_are(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = model(batch[0])
        return functional.cross_entropy(logits, batch[1]), logits

    y, model = TARGETS["class numbers"], nn.Linear(8, 3)
    run = rushlight.train(
        model, (X, y), test_data=(X, y), objective=objective, task="classification", runs=tmp_path, **QUIET
    )
    assert run.report is not None
    assert run.report.accuracy == pytest.approx(float((model(X).argmax(1) == y).float().mean()))
    assert set(run.predict(X).classes) == {"0", "1", "2"}
    plain = rushlight.train(model, (X, y), test_data=(X, y), objective=objective, runs=tmp_path, **QUIET)
    assert plain.report is not None
    assert plain.report.accuracy is None
    np.testing.assert_allclose(plain.predict(X).values, model(X).detach().numpy(), rtol=1e-6)  # raw: nobody knows


# ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_with_an_objective_is_tested_again_and_reopened_with_it(tmp_path: Path) -> None:
    y, model = TARGETS["quantities (n,)"], Squeezed()

    def objective(net: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(net(batch[0]), batch[1])

    run = rushlight.train(model, (X, y), test_data=(X, y), objective=objective, runs=tmp_path, **QUIET)
    assert run.test() == run.report
    assert run.test((X, y)) == run.report
    opened = rushlight.open_run(run.folder, Squeezed())
    with pytest.raises(RunError) as caught:
        opened.test((X, y))
    assert caught.value.key == "live-objective"
    with pytest.raises(RunError) as caught:
        rushlight.resume(run.folder, Squeezed(), (X, y))
    assert (caught.value.key, caught.value.values["parts"]) == ("live-parts", "objective")
    assert opened.test((X, y), objective=objective).loss == pytest.approx(run.test().loss, rel=1e-6)


# ── its errors ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_error_of_the_objective_is_shown_as_its_own_with_its_line(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(8, 3)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            outputs: Tensor = self.inside(x) * scale
            return outputs

    def objective(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0], 2.0), batch[1].float())  # class numbers as floats

    with pytest.raises(UsageError, match="cross_entropy") as caught:
        rushlight.train(Scaled(), (X, TARGETS["class numbers"]), objective=objective, runs=tmp_path, **QUIET)
    assert caught.value.key == "objective-failed"
    assert "test_own.py" in str(caught.value)
    assert "scale" not in str(caught.value).partition("cross_entropy(")[0]


def test_what_an_objective_raises_on_purpose_goes_on_as_it_is(tmp_path: Path) -> None:
    class Enough(ValueError):
        pass

    def objective(model: nn.Module, batch: Any) -> Tensor:
        raise Enough("of this")

    with pytest.raises(Enough, match="of this"):
        rushlight.train(nn.Linear(8, 3), (X, TARGETS["class numbers"]), objective=objective, runs=tmp_path, **QUIET)


@pytest.mark.parametrize("error", [KeyError, AttributeError, ZeroDivisionError])
def test_a_slip_in_an_objective_is_explained_whatever_python_calls_it(error: type[Exception], tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Any) -> Any:
        if error is KeyError:
            return {"y": 1}["x"]
        return batch.images if error is AttributeError else 1 / (len(batch) - 2)

    with pytest.raises(UsageError, match=error.__name__) as caught:
        rushlight.train(nn.Linear(8, 3), (X, TARGETS["class numbers"]), objective=objective, runs=tmp_path, **QUIET)
    assert caught.value.key == "objective-failed"


def test_an_error_of_a_loss_is_shown_with_its_line_and_what_it_was_given(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs @ targets.float()[: len(targets) // 2]

    with pytest.raises(UsageError, match="return outputs @ targets") as caught:
        rushlight.train(nn.Linear(8, 3), (X, TARGETS["class numbers"]), loss=loss, runs=tmp_path, **QUIET)
    assert caught.value.key == "loss-failed"
    assert "(16, 3) float32" in str(caught.value)
    assert "(16,) int64" in str(caught.value)


def test_a_layer_that_does_not_fit_is_still_named_where_the_objective_calls_the_model_plainly(tmp_path: Path) -> None:
    with pytest.raises(rushlight.RushlightError, match="expects 9 features") as caught:
        rushlight.train(
            nn.Linear(9, 3), (X, TARGETS["class numbers"]), runs=tmp_path, **QUIET,
            objective=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        )  # fmt: skip
    assert caught.value.key == "linear-features"
