"""Models of several inputs, and models that return their loss: trained as they are, to the plain loop's bits."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Dataset, default_collate

import rushlight
from rushlight.errors import ModelError, UsageError
from rushlight.training.checkpoint.checkpoint import state_digest

N, SIZE, SEED = 50, 16, 3
G = torch.Generator().manual_seed(0)
A, B = torch.randn(N, 4, generator=G), torch.randn(N, 3, generator=G)
Y = ((A.sum(1) + B.sum(1)) > 0).long()
Q: dict[str, Any] = {"quiet": True, "epochs": 2, "seed": SEED, "optimizer": "SGD", "lr": 0.1, "batch_size": SIZE}


class Two(nn.Module):
    """Two inputs, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)
        self.drop = nn.Dropout(0.2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.drop(self.a(a) + self.b(b)).relu())
        return outputs


class Answer(OrderedDict[str, Any]):
    """A dict whose entries are attributes too, as transformers' models return."""

    __getattr__ = OrderedDict.__getitem__


class WithLoss(Two):
    """The same, which returns its loss where labels are given."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(a, b)
        return Answer(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class Samples(Dataset[Any]):
    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.form(index)


def plain_loop(
    model: nn.Module, form: Callable[[int], Any], loss_of: Callable[[nn.Module, Any], Tensor]
) -> list[float]:
    """The loop by hand: the documented order, dropout seeded by step."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for epoch in (1, 2):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(SEED + 1_000_003 * epoch)).tolist()
        model.train()
        for step, first in enumerate(range(0, N, SIZE)):
            batch = default_collate([form(index) for index in order[first : first + SIZE]])
            torch.manual_seed(zlib.crc32(b"step/%d/%d/%d" % (SEED, epoch, step)))
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


FORMS: dict[str, tuple[type[nn.Module], Callable[[int], Any], Callable[[nn.Module, Any], Tensor]]] = {
    "(x, y, target)": (
        Two, lambda i: (A[i], B[i], Y[i]), lambda model, batch: F.cross_entropy(model(batch[0], batch[1]), batch[2]),
    ),
    "((x, y), target)": (
        Two, lambda i: ((A[i], B[i]), Y[i]), lambda model, batch: F.cross_entropy(model(*batch[0]), batch[1]),
    ),
    "(dict, target)": (
        Two, lambda i: ({"b": B[i], "a": A[i]}, Y[i]), lambda model, batch: F.cross_entropy(model(**batch[0]), batch[1]),
    ),
    "dict, own loss": (
        WithLoss, lambda i: {"a": A[i], "b": B[i], "labels": Y[i]}, lambda model, batch: model(**batch).loss,
    ),
    "float64 arrays": (
        Two, lambda i: (A[i].double().numpy(), B[i].double().numpy(), int(Y[i])),
        lambda model, batch: F.cross_entropy(model(batch[0].float(), batch[1].float()), batch[2]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_several_inputs_train_to_the_plain_loops_bits_and_are_tested_over_samples(form: str, tmp_path: Path) -> None:
    make, sample, loss_of = FORMS[form]
    model, reference = make(), make()
    losses = plain_loop(reference, sample, loss_of)
    dataset = Samples(sample)
    run = rushlight.train(model, dataset, test_data=dataset, runs=tmp_path, **Q)
    assert run.losses.tolist() == losses
    assert state_digest(model) == state_digest(reference)
    reference.eval()
    with torch.no_grad():
        whole = default_collate([sample(index) for index in range(N)])
        expected = loss_of(reference, whole).item()
    assert run.report is not None
    assert run.report.loss == pytest.approx(expected, rel=1e-5)
    assert run.report.n == N
    if make is Two:
        right = (reference(A, B).argmax(1) == Y).float().mean().item()
        assert run.report.accuracy == pytest.approx(right)


@pytest.mark.parametrize("form", ["(dict, target)", "dict, own loss"])
def test_a_run_of_several_inputs_is_resumed_to_the_same_bits(form: str, tmp_path: Path) -> None:
    make, sample, _ = FORMS[form]
    dataset, options = Samples(sample), {**Q, "epochs": 3, "runs": tmp_path}
    whole = rushlight.train(make(), dataset, **options)
    begun = rushlight.epochs(make(), dataset, name="cut", **options)
    next(begun)
    begun.close()
    resumed = rushlight.resume("cut", make(), dataset, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.summary()["inexact"] == []


class Packed(nn.Module):
    """A recurrent network on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rnn, self.head = nn.GRU(2, 5), nn.Linear(5, 2)

    def forward(self, x: PackedSequence) -> Tensor:
        _, hidden = self.rnn(x)
        outputs: Tensor = self.head(hidden[0])
        return outputs


def test_packed_sequences_train_and_are_counted(tmp_path: Path) -> None:
    def collate(samples: list[Any]) -> tuple[PackedSequence, Tensor]:
        return pack_sequence([x for x, _ in samples], enforce_sorted=False), torch.tensor([y for _, y in samples])

    data = [(torch.full((1 + index % 4, 2), float(index % 2)), index % 2) for index in range(50)]
    loader = DataLoader(data, SIZE, collate_fn=collate)  # type: ignore[arg-type]
    model = Packed()
    run = rushlight.train(
        model, loader, test_data=loader, objective=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), epochs=1,
        lr=0.0, runs=tmp_path, quiet=True,
    )  # fmt: skip
    with torch.no_grad():
        x, y = collate(data)
        expected = F.cross_entropy(model(x), y).item()
    assert run.report is not None
    assert (run.report.n, run.report.loss) == (50, pytest.approx(expected, rel=1e-5))


def test_a_model_that_returns_no_loss_or_cannot_take_the_batch_is_told_of_objective(tmp_path: Path) -> None:
    dataset = Samples(lambda index: {"a": A[index], "b": B[index]})
    for model, key in ((Two(), "model-without-loss"), (nn.Linear(4, 2), "model-takes-no-batch")):
        with pytest.raises(UsageError) as caught:
            rushlight.train(model, dataset, runs=tmp_path, **Q)
        assert caught.value.key == key
        assert "objective=" in caught.value.advice
    with pytest.raises(UsageError) as caught:
        rushlight.train(Two(), dataset, loss=nn.CrossEntropyLoss(), runs=tmp_path, **Q)
    assert caught.value.key == "needs-objective"
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_take_several_inputs_is_explained_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument"):
        rushlight.train(nn.Linear(4, 2), Samples(FORMS["(dict, target)"][1]), runs=tmp_path, **Q)
    with pytest.raises(ModelError) as caught:
        rushlight.train(Two(), Samples(lambda index: (A[index], B[index], index % 5)), runs=tmp_path, **Q)
    assert caught.value.key == "too-few-outputs"
    with pytest.raises(UsageError) as other:
        rushlight.train(nn.Linear(4, 2), Samples(lambda index: (A[index], {"label": Y[index]})), runs=tmp_path, **Q)
    assert other.value.key == "model-takes-no-batch"
    assert not list(tmp_path.iterdir())


def test_lazy_layers_take_their_shape_from_several_inputs(tmp_path: Path) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.LazyLinear(2)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.head(torch.cat([a, b], 1))

    run = rushlight.train(Lazy(), Samples(FORMS["(x, y, target)"][1]), runs=tmp_path, **Q)
    assert run.model.get_submodule("head").in_features == 7


# ── tested and predicted again ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", FORMS)
def test_any_run_is_tested_on_other_data_and_predicts_reopened_too(form: str, tmp_path: Path) -> None:
    make, sample, loss_of = FORMS[form]
    dataset = Samples(sample)
    run = rushlight.train(make(), dataset, test_data=dataset, runs=tmp_path, **Q)
    model = run.model
    whole = default_collate([sample(index) for index in range(N)])
    with torch.no_grad():
        logits = Two.forward(model, A, B)  # type: ignore[arg-type]
        expected = loss_of(model, whole).item()
    inputs: list[Any] = [DataLoader(dataset, 7), {"a": A, "b": B.numpy()}]
    inputs += [(A, B)] if make is Two else []
    for opened in (run, rushlight.open_run(run.name, make(), runs=tmp_path)):
        assert opened.test(dataset).loss == pytest.approx(expected, rel=1e-5)
        assert opened.test(DataLoader(dataset, 7)).n == N
        for given in inputs:
            found = opened.predict(given)
            assert len(found) == N
            if make is Two:
                assert found.probabilities == pytest.approx(logits.softmax(1).numpy(), rel=1e-5)
                assert found.labels.tolist() == [str(int(label)) for label in logits.argmax(1)]  # type: ignore[union-attr]
            else:  # of its outputs nothing is known
                assert found.labels is None
                assert found.values == pytest.approx(logits.numpy(), rel=1e-5)


def test_a_run_with_an_objective_predicts_from_a_loader_and_from_a_dict(tmp_path: Path) -> None:
    dataset = Samples(lambda index: {"a": A[index], "b": B[index]})
    run = rushlight.train(
        Two(), dataset, objective=lambda model, batch: model(batch["a"], batch["b"]).square().mean(), runs=tmp_path, **Q
    )
    with torch.no_grad():
        expected = run.model(A, B).numpy()
    for given in (DataLoader(dataset, 7), {"a": A, "b": B}):
        assert run.predict(given).values == pytest.approx(expected, rel=1e-5)


def test_pairs_are_predicted_from_their_loader_as_from_their_array(tmp_path: Path) -> None:
    run = rushlight.train(nn.Linear(4, 2), (A.numpy(), Y.numpy()), runs=tmp_path, **Q)
    loader = DataLoader([(A[index], Y[index]) for index in range(N)], 7)  # type: ignore[arg-type]
    assert run.predict(loader).probabilities == pytest.approx(run.predict(A.numpy()).probabilities, rel=1e-6)


def test_metrics_get_the_logits_of_a_model_that_returns_its_loss_and_the_labels(tmp_path: Path) -> None:
    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    rows = Samples(lambda index: {"a": A[index], "b": B[index], "labels": Y[index]})
    run = rushlight.train(
        WithLoss(), rows, test_data=rows, metrics=[accuracy], best="max:accuracy", val_data=rows, runs=tmp_path, **Q
    )
    model = run.model.eval()
    with torch.no_grad():
        expected = accuracy(model(A, B)["logits"], Y)
    assert run.report is not None
    assert run.report.numbers == {"accuracy": pytest.approx(expected)}
