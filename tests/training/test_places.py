"""Targets for each place of a sample, pixels and tokens: trained as the plain loop trains them, and counted right."""

from __future__ import annotations

import math
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
from rushlight.errors import ModelError
from rushlight.report import Report

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(40, 2, 5, 6, generator=GENERATOR)
MASKS = (IMAGES[:, 0] > 0).long() + (IMAGES[:, 1] > 0.5)  # (40, 5, 6) of 0, 1, 2
IGNORED = torch.where(IMAGES[:, 1] < -1, 255, MASKS)
TOKENS = torch.randint(0, 7, (40, 6), generator=GENERATOR)
NEXT = torch.where(torch.arange(6) > 4, -100, (TOKENS + 1) % 7)
BOTH = torch.randint(0, 2, (40, 6), generator=GENERATOR)


class Tagger(nn.Module):
    """Scores of each token's successor, (n, classes, places)."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.table(x).transpose(1, 2)
        return outputs


def pixels(outputs: int, end: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, outputs, 1)
    return layer if end is None else nn.Sequential(layer, end)


KINDS: dict[str, tuple[Any, Tensor, Tensor, Any]] = {
    "a class for each pixel": (lambda: pixels(3), IMAGES, MASKS, nn.CrossEntropyLoss()),
    "some pixels ignored": (lambda: pixels(3), IMAGES, IGNORED, nn.CrossEntropyLoss(ignore_index=255)),
    "weighed and ignored": (
        lambda: pixels(3), IMAGES, IGNORED, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=255)
    ),
    "bytes": (lambda: pixels(3), IMAGES, MASKS.to(torch.uint8), nn.CrossEntropyLoss()),
    "negative log-likelihood": (lambda: pixels(3, nn.LogSoftmax(1)), IMAGES, MASKS, nn.NLLLoss()),
    "soft labels for each pixel": (lambda: pixels(3), IMAGES, functional.one_hot(MASKS).movedim(3, 1).float(), nn.CrossEntropyLoss()),
    "tokens": (Tagger, TOKENS, NEXT, nn.CrossEntropyLoss()),
    "tokens of two classes": (lambda: Tagger(2), TOKENS, BOTH, nn.CrossEntropyLoss()),
    "a binary mask of numbers": (lambda: pixels(1, nn.Flatten(1, 2)), IMAGES, (MASKS > 0).long(), nn.BCEWithLogitsLoss()),
    "a binary mask of floats": (lambda: pixels(1), IMAGES, (MASKS > 0).float()[:, None], nn.BCEWithLogitsLoss()),
    "a binary mask of probabilities": (lambda: pixels(1, nn.Sigmoid()), IMAGES, (MASKS > 0).float()[:, None], nn.BCELoss()),
    "image to image": (lambda: pixels(2), IMAGES, IMAGES.flip(1), nn.MSELoss()),
    "image to image, shares": (lambda: pixels(2), IMAGES, IMAGES.sigmoid(), nn.BCEWithLogitsLoss()),
    "image to image, an own loss": (lambda: pixels(2), IMAGES, IMAGES.flip(1), lambda o, y: (o - y).abs().mean()),
    "image to a smaller one, an own loss": (lambda: pixels(1), IMAGES, IMAGES, lambda o, y: (o - y[:, :1]).abs().mean()),
    "an own loss of masks": (lambda: pixels(3), IMAGES, MASKS, lambda o, y: functional.cross_entropy(o, y)),
}  # fmt: skip
OPTIONS: dict[str, Any] = {"epochs": 2, "optimizer": "Adam", "lr": 0.1, "quiet": True, "numerics": "exact"}


def train(kind: str, way: str, runs: Path) -> tuple[rushlight.Run, nn.Module]:
    make, x, y, loss = KINDS[kind]
    model, options = make(), dict(OPTIONS)
    if way == "arrays":
        options |= {"normalize": "none", "batch_size": 16, "kind": "tokens" if x is TOKENS else "array"}
        data: Any = (x, y)
        return rushlight.train(model, data, test_data=data, loss=loss, runs=runs, **options), model
    loaders = [DataLoader(TensorDataset(x, y), 16, shuffle=way == "loader") for _ in range(2)]
    if way == "loader as it is":
        loaders[0] = DataLoader(TensorDataset(x, y), 16, drop_last=True)
    return rushlight.train(model, loaders[0], test_data=loaders[1], loss=loss, runs=runs, **options), model


@pytest.mark.parametrize("way", ["arrays", "loader", "loader as it is"])
@pytest.mark.parametrize("kind", KINDS)
def test_places_are_trained_and_tested_as_the_plain_loop_does(kind: str, way: str, tmp_path: Path) -> None:
    make, x, y, loss = KINDS[kind]
    run, model = train(kind, way, tmp_path)
    is_number = not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and kind != "an own loss of masks"
    plain = y.float() if is_number else y.long() if not y.is_floating_point() else y
    if way != "loader as it is":  # whose order is its own
        reference = make()
        expected = plain_objective(
            reference, torch.optim.Adam(reference.parameters(), lr=0.1), lambda net, batch: loss(net(batch[0]), batch[1]),
            x, plain, 2, 16, seed=0,
        )  # fmt: skip
        np.testing.assert_array_equal(run.losses, np.array(expected, dtype=np.float32))
    with torch.no_grad():
        outputs, whole = model(x), float(loss(model(x), plain))
    for report in (run.report, run.test(), run.test((x, y), **({"kind": "tokens"} if x is TOKENS else {}))):
        assert report is not None
        assert report.loss == pytest.approx(whole, rel=1e-5)
        assert report.n == 40
        assert Report.from_json(report.to_json()) == report
    predictions = run.predict(x)
    found = np.asarray(predictions)
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        np.testing.assert_allclose(found, outputs.softmax(1).numpy(), rtol=1e-5)
        assert predictions.labels is not None
        assert predictions.labels.shape == outputs.argmax(1).shape
    elif "mask of" in kind:
        share = outputs if isinstance(loss, nn.BCELoss) else outputs.sigmoid()
        np.testing.assert_allclose(found[:, 1], share.numpy(), rtol=1e-5)
    else:
        np.testing.assert_allclose(found, outputs.numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "image to" not in kind and "own loss" not in kind])
def test_every_place_that_counts_is_in_the_report(kind: str, tmp_path: Path) -> None:
    _, x, y, loss = KINDS[kind]
    run, model = train(kind, "arrays", tmp_path)
    with torch.no_grad():
        outputs = model(x)
    truth = y.argmax(1) if kind.startswith("soft") else y.long()
    predicted = (
        outputs.argmax(1)
        if "binary" not in kind
        else ((outputs if isinstance(loss, nn.BCELoss) else outputs.sigmoid()) > 0.5).long()
    )
    kept = (truth != getattr(loss, "ignore_index", -100)) & (truth >= 0)
    truth, predicted = truth[kept].numpy(), predicted[kept].numpy()
    report = run.report
    assert report is not None
    assert report.places == len(truth)
    assert report.accuracy == pytest.approx(float((truth == predicted).mean()))
    assert report.accuracy_interval is None  # neighbouring places are alike
    classes = 2 if "binary" in kind or "two" in kind else 7 if "tokens" in kind else 3
    assert len(report.classes) == classes
    unions = [((truth == c) | (predicted == c)).sum() for c in range(classes)]
    shares = [((truth == c) & (predicted == c)).sum() / union if union else None for c, union in enumerate(unions)]
    assert [figures.iou for figures in report.classes] == pytest.approx(shares)
    assert report.iou == pytest.approx(np.mean([share for share in shares if share is not None]))
    assert [figures.n for figures in report.classes] == [int((truth == c).sum()) for c in range(classes)]
    assert report.classes[0].recall == pytest.approx(float((predicted[truth == 0] == 0).mean()))
    assert report.classes[0].recall_interval is None
    assert report.perplexity == (pytest.approx(math.exp(report.loss)) if "tokens" in kind else None)
    last = [line for line in run.history if line["kind"] == "epoch"][-1]["test"]
    assert {"loss", "accuracy", "iou"} <= set(last)
    assert ("perplexity" in last) is ("tokens" in kind)


def test_quantities_at_places_are_reported_over_all_of_them(tmp_path: Path) -> None:
    run, model = train("image to image", "arrays", tmp_path)
    with torch.no_grad():
        error = (model(IMAGES) - IMAGES.flip(1)).double()
    assert run.report is not None
    assert run.report.mae == pytest.approx(float(error.abs().mean()))
    assert run.report.rmse == pytest.approx(float(error.square().mean().sqrt()))
    spread = IMAGES.double().var(correction=0)
    assert run.report.r2 == pytest.approx(float(1 - error.square().mean() / spread))
    assert not any("standardised" in note for note in run.notes)


def test_a_vocabulary_has_no_table_of_its_words(tmp_path: Path) -> None:
    x = torch.randint(0, 7, (16, 5), generator=GENERATOR)
    y = torch.randint(0, 1200, (16, 5), generator=GENERATOR)
    run = rushlight.train(
        Tagger(1200), (x, y), test_data=(x, y), kind="tokens", loss=nn.CrossEntropyLoss(), runs=tmp_path, **OPTIONS
    )
    assert run.report is not None
    assert (run.report.classes, run.report.confusion, run.report.iou) == ((), (), None)
    assert run.report.accuracy == pytest.approx(float((run.model(x).argmax(1) == y).float().mean()))
    assert run.report.perplexity == pytest.approx(math.exp(run.report.loss))


def test_a_perplexity_is_of_plain_cross_entropy_only(tmp_path: Path) -> None:
    for loss in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(weight=torch.ones(7))):
        run = rushlight.train(
            Tagger(), (TOKENS, NEXT), test_data=(TOKENS, NEXT), kind="tokens", loss=loss, runs=tmp_path, **OPTIONS
        )
        assert run.report is not None
        assert run.report.perplexity is None


@pytest.mark.parametrize(
    ("model", "y", "loss", "key"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten()), MASKS, nn.CrossEntropyLoss(), "outputs-not-by-place"),
        (lambda: nn.Conv2d(2, 3, 2), MASKS, nn.CrossEntropyLoss(), "outputs-not-by-place"),
        (lambda: nn.Conv2d(2, 2, 1), MASKS, nn.CrossEntropyLoss(), "too-few-outputs"),
        (lambda: nn.Conv2d(2, 1, 1), IMAGES, nn.MSELoss(), "outputs-unlike-targets"),
        (lambda: nn.Conv2d(2, 1, 1), (MASKS > 0).float(), nn.BCEWithLogitsLoss(), "outputs-unlike-targets"),
    ],
)
def test_outputs_of_another_shape_are_refused_before_torch_broadcasts_them(
    model: Any, y: Tensor, loss: nn.Module, key: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        rushlight.train(model(), (IMAGES, y), loss=loss, runs=tmp_path, kind="array", **OPTIONS)
    assert caught.value.key == key
    assert not list(tmp_path.iterdir())


def test_labels_that_are_left_out_of_the_loss_are_left_out_of_every_figure(tmp_path: Path) -> None:
    x = torch.randn(40, 8, generator=GENERATOR)
    y = torch.where(x[:, 0] > 0.8, 3, (x[:, 1] > 0).long() + (x[:, 2] > 0))
    model, loss = nn.Linear(8, 3), nn.CrossEntropyLoss(ignore_index=3)
    run = rushlight.train(model, (x, y), test_data=(x, y), loss=loss, runs=tmp_path, **OPTIONS, normalize="none")
    kept = y != 3
    right = (model(x).argmax(1) == y)[kept]
    assert run.report is not None
    assert run.report.n == int(kept.sum())
    assert run.report.accuracy == pytest.approx(float(right.float().mean()))
    assert len(run.report.classes) == 3
    assert {entry["index"] for entry in run.report.most_wrong} <= set(kept.nonzero().flatten().tolist())


def test_a_run_of_places_is_tested_again_from_its_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=IMAGES.numpy(), y=MASKS.numpy())
    run = rushlight.train(pixels(3), tmp_path / "data.npz", runs=tmp_path / "runs", kind="array", **OPTIONS)
    opened = rushlight.open_run(run.folder, pixels(3))
    assert opened.report == run.report
    assert opened.test() == run.report
