"""Models in float64: every source gives inputs and targets in that, whole, and what comes out is as exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import rushlight
from rushlight.errors import ModelError, UsageError

G = np.random.default_rng(0)
X = G.normal(size=(90, 3)) / 3  # no such number is a float32
Y = X @ np.array([1.0, 0.5, -2.0]) / 7
LABELS = (Y > 0).astype(np.int64)
OPTIONS: dict[str, Any] = {
    "optimizer": "SGD", "lr": 0.1, "epochs": 2, "batch_size": 16, "normalize": "none", "test_fraction": 0.0, "quiet": True,
}  # fmt: skip
NET = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, outputs=1):
        super().__init__(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs))
        self.double()
"""


def network(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs))


class Pairs(torch.utils.data.Dataset[Any]):
    """A dataset of two inputs and a quantity."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index], X[index] * 2, Y[index : index + 1]


class OfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        outputs: Tensor = self.net(a + b)
        return outputs


def plain(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    """Train by the plain loop, in the run's order."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in (1, 2):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000_003 * epoch))
        for rows in order.split(16):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model


def same(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def table(folder: Path) -> Path:
    """Write the same numbers as a table."""
    rows = "".join(f"{a!r},{b!r},{c!r},{y!r}\n" for (a, b, c), y in zip(X.tolist(), Y.tolist(), strict=True))
    (folder / "table.csv").write_text(f"a,b,c,y\n{rows}")
    return folder / "table.csv"


@pytest.mark.parametrize("source", ["arrays", "table", "dataset", "opened"])
def test_numbers_reach_a_float64_model_whole_from_every_source(source: str, tmp_path: Path) -> None:
    data: Any = (X, Y)
    if source == "table":
        data = table(tmp_path)
    elif source == "dataset":
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)[:, None])
    elif source == "opened":  # as float32, before there was a model
        data = rushlight.open_data((X, Y), normalize="none", test_fraction=0.0, quiet=True)
    more: dict[str, Any] = {"target": "y"} if source == "table" else {}
    opening = ("normalize", "test_fraction") if source == "opened" else ()
    mine, theirs = network().double(), network().double()
    options = {name: value for name, value in OPTIONS.items() if name not in opening}
    run = rushlight.train(mine, data, runs=tmp_path, numerics="exact", **more, **options)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)[:, None]
    if source == "opened":
        x, y = x.float().double(), y.float().double()
        assert any("float32" in note for note in run.notes)
    same(mine, plain(theirs, x, y, functional.mse_loss))


def test_several_inputs_streamed_batches_and_objectives_are_float64_too(tmp_path: Path) -> None:
    theirs = OfTwo().double()
    plain(theirs.net, torch.from_numpy(X) + torch.from_numpy(X * 2), torch.from_numpy(Y)[:, None], functional.mse_loss)
    mine = OfTwo().double()
    options = {**OPTIONS, "runs": tmp_path, "test_fraction": 0.2}
    options.pop("normalize")
    run = rushlight.train(mine, Pairs(), **options)
    same(mine, theirs)
    assert run.predict((X[:2], X[:2])).values.dtype == np.float64  # type: ignore[union-attr]
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)[:, None]), 16, drop_last=True)
    streamed, owned = network().double(), network().double()
    rushlight.train(streamed, loader, **{**options, "batch_size": None, "loss": "mse"})
    rushlight.train(
        owned, loader, **{**options, "batch_size": None},
        objective=lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]),
    )  # fmt: skip
    same(streamed, owned)
    mine = network().double()
    rushlight.train(
        mine, (X, Y[:, None]), objective=lambda m, b: functional.mse_loss(m(b[0]), b[1]), **OPTIONS, runs=tmp_path
    )
    theirs_alone = plain(network().double(), torch.from_numpy(X), torch.from_numpy(Y)[:, None], functional.mse_loss)
    same(mine, theirs_alone)


def test_images_losses_by_name_and_everything_on_work_in_float64(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).double()
    run = rushlight.train(
        model, "digits", loss="cross-entropy", loss_arguments={"weight": "balanced", "label_smoothing": 0.1}, ema=0.9,
        mixup=0.2, augment="light", clip_norm=1.0, accumulate=2, epochs=1, runs=tmp_path, quiet=True,
    )  # fmt: skip
    assert run.test().accuracy == run.report.accuracy  # type: ignore[union-attr]
    assert run.predict(np.zeros((2, 8, 8), np.uint8)).probabilities.dtype == np.float64  # type: ignore[union-attr]


def test_a_run_that_stopped_is_resumed_to_the_same_bits_and_its_bundle_is_float64(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    options = {
        **OPTIONS,
        "runs": tmp_path,
        "epochs": 4,
        "optimizer": "AdamW",
        "normalize": "auto",
        "test_fraction": 0.2,
    }
    model, data = f"{tmp_path / 'net.py'}:Net", table(tmp_path)
    whole = rushlight.train(model, data, target="y", **options)

    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == 2:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        rushlight.train(model, data, target="y", name="part", on_event=stop, **options)
    part = rushlight.resume("part", runs=tmp_path, quiet=True)
    same(part.model, whole.model)
    assert part.losses.tolist() == whole.losses.tolist()
    reopened = rushlight.open_run("part", runs=tmp_path)
    rows = {"a": [0.1, 1 / 3], "b": [0.2, 0.7], "c": [1e-9, 3.0]}
    values = whole.predict(rows).values
    assert values is not None
    assert values.dtype == np.float64
    np.testing.assert_array_equal(reopened.predict(rows).values, values)  # type: ignore[arg-type]
    assert reopened.test().to_json() == whole.test().to_json()
    bundled = rushlight.open_bundle(whole.folder / "model", network())  # made in float32: it takes the weights' dtype
    np.testing.assert_array_equal(bundled.predict(rows).values, values)  # type: ignore[arg-type]
    column = whole.bundle.features
    assert column is not None
    scaled = (np.array([0.1, 0.2, 1e-9]) - column.normalization.mean) / column.normalization.std
    outputs = whole.model(torch.from_numpy(scaled)[None]).detach()
    spec = whole.bundle.target
    assert spec is not None
    by_hand = float(outputs) * spec.std[0] + spec.mean[0]
    assert abs(by_hand - float(values[0, 0])) < 1e-13


def test_a_run_says_that_its_steps_are_exact_because_of_float64(tmp_path: Path) -> None:
    said: list[str] = []
    rushlight.train(
        network().double(), (X, Y), **OPTIONS, numerics="fast", compile="first", runs=tmp_path,
        on_event=lambda event: said.extend(map(str, event.data.values())),
    )  # fmt: skip
    assert any("its weights are float64" in each for each in said)


def test_a_precision_of_products_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    for precision in ("bfloat16", "tf32", "float16"):
        with pytest.raises(UsageError) as caught:
            rushlight.train(network().double(), (X, Y), precision=precision, runs=tmp_path, **OPTIONS)
        assert caught.value.key in ("precision-of-float64", "no-precision")
    with pytest.raises(ModelError, match="has weights in float16"):
        rushlight.train(network().half(), (X, Y), runs=tmp_path, **OPTIONS)
