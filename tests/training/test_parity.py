"""Promise 1: with numerics="exact", the results are bit for bit those of the plain loop written by hand."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.plain_loop import Result, plain_loop, plain_objective
from torch import Tensor, nn
from torch.utils.data import Dataset

import rushlight
from rushlight.data.sources.named.named import open_named
from rushlight.models import build_model
from rushlight.training.checkpoint import seed_step
from rushlight.training.checkpoint.checkpoint import state_digest

OPTIMIZERS = {
    "SGD": {"lr": 1e-3},
    "SGD with momentum": {"lr": 1e-2, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.05},
}


def network(kind: str) -> nn.Module:
    """A network for 8×8 pictures, with initial weights that are always the same."""
    arguments = {
        "mlp": {"hidden": (32, 16)},
        "dropout": {"hidden": (32,), "dropout": 0.3},
        "batchnorm": {"channels": (8, 8)},
    }
    name = "cnn" if kind == "batchnorm" else "mlp"
    return build_model(name, (1, 8, 8), 10, arguments[kind], seed=3)


def digits(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The digits as a by-hand script would prepare them: ToTensor's scaling."""
    arrays = open_named("digits")
    train, test = torch.from_numpy(arrays.train_inputs), torch.from_numpy(arrays.test_inputs)
    labels, test_labels = torch.from_numpy(arrays.train_targets), torch.from_numpy(arrays.test_targets)
    return train.to(dtype) / 255, labels, test.to(dtype) / 255, test_labels


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int = 2, batch_size: int = 64) -> Result:
    x, y, test_x, test_y = digits(next(model.parameters()).dtype)
    loss_fn = nn.CrossEntropyLoss()
    return plain_loop(model, optimizer, loss_fn, x, y, test_x, test_y, epochs=epochs, batch_size=batch_size, seed=7)


def made(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return getattr(torch.optim, name.split()[0])(model.parameters(), **OPTIMIZERS[name])


@pytest.mark.parametrize(
    ("kind", "optimizer", "dtype"),
    [
        *itertools.product(["mlp", "dropout", "batchnorm"], OPTIMIZERS, [torch.float32]),
        *itertools.product(["dropout", "batchnorm"], ["AdamW"], [torch.float64]),
    ],
)
def test_exact_training_equals_the_plain_loop_bit_for_bit(
    kind: str, optimizer: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    mine = network(kind).to(dtype)
    reference = copy.deepcopy(mine)
    result = by_hand(reference, made(optimizer, reference))
    arguments = dict(OPTIMIZERS[optimizer])
    run = rushlight.train(
        mine, "digits", optimizer=optimizer.split()[0], lr=arguments.pop("lr"), optimizer_arguments=arguments,
        epochs=2, normalize="unit", numerics="exact", seed=7, runs=tmp_path, quiet=True,
    )  # fmt: skip
    np.testing.assert_array_equal(run.losses, np.array(result.losses, dtype=np.float32))
    for (name, tensor), expected in zip(mine.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), name
    assert run.summary()["state_sha256"] == state_digest(reference)
    accuracies = [line["test"]["accuracy"] for line in run.history if line["kind"] == "epoch"]
    assert accuracies == pytest.approx(result.accuracies, abs=1e-12)


def test_a_live_optimizer_gives_the_same_bits_as_its_name(tmp_path: Path) -> None:
    mine, reference = network("mlp"), network("mlp")
    by_hand(reference, made("Adam", reference))
    rushlight.train(
        mine, "digits", optimizer=torch.optim.Adam(mine.parameters(), lr=1e-3), epochs=2, normalize="unit",
        numerics="exact", seed=7, runs=tmp_path, quiet=True,
    )  # fmt: skip
    assert state_digest(mine) == state_digest(reference)


def test_the_parity_test_would_notice_another_order(tmp_path: Path) -> None:
    mine, reference = network("mlp"), network("mlp")
    by_hand(reference, made("SGD", reference))
    rushlight.train(
        mine, "digits", optimizer="SGD", lr=1e-3, epochs=2, normalize="unit", numerics="exact", seed=8,
        runs=tmp_path, quiet=True,
    )  # fmt: skip
    assert state_digest(mine) != state_digest(reference)


def test_the_digest_depends_on_names_shapes_and_every_bit() -> None:
    model = network("mlp")
    before = state_digest(model)
    assert state_digest(copy.deepcopy(model)) == before
    with torch.no_grad():
        first = next(model.parameters())
        first[0, 0] = torch.nextafter(first[0, 0], torch.tensor(torch.inf))
    assert state_digest(model) != before


class Tagger(nn.Module):
    """Scores of each place's class, (n, classes, places), from token numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mixing = nn.Embedding(9, 12), nn.Conv1d(12, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.mixing(self.table(x).transpose(1, 2))
        return outputs


class Named(Dataset[Any]):
    """Samples with names; the batches are dicts."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


@pytest.mark.parametrize("task", ["segmentation", "tokens", "dicts"])
def test_places_and_dict_batches_equal_the_plain_loop_bit_for_bit(task: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, 6, 6, generator=generator)
    y = torch.where(x[:, 1] < -1, 255, (x[:, 0] > 0).long())
    make: Callable[[], nn.Module] = build_pixels
    loss = nn.CrossEntropyLoss(ignore_index=255)
    if task == "tokens":
        x, make = torch.randint(0, 9, (100, 7), generator=generator), Tagger
        y = x.roll(1, 1) % 5
    mine, reference = make(), make()
    losses = plain_objective(
        reference, torch.optim.AdamW(reference.parameters(), lr=1e-2), lambda net, batch: loss(net(batch[0]), batch[1]),
        x, y, 2, 16, seed=7,
    )  # fmt: skip
    data: Any = (x, y)
    options: dict[str, Any] = {"loss": loss, "kind": "tokens" if task == "tokens" else "array", "normalize": "none"}
    if task == "dicts":
        data, options = Named(x, y), {"objective": lambda net, batch: loss(net(batch["x"]), batch["y"])}
    run = rushlight.train(
        mine, data, test_data=data, optimizer="AdamW", lr=1e-2, epochs=2, batch_size=16, numerics="exact", seed=7,
        runs=tmp_path, quiet=True, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(run.losses, np.array(losses, dtype=np.float32))
    assert run.summary()["state_sha256"] == state_digest(reference)


def build_pixels() -> nn.Module:
    """A network with a class for each pixel, with initial weights that are always the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 2, 1)
    )


def test_beside_a_cards_generator_the_processors_is_seeded_for_a_step_as_the_plain_loop_does() -> None:
    """A model on a card may draw on the processor, too: which layers to leave out, say."""
    card = torch.Generator()  # stands for a card's
    seed_step(card, 7)
    drawn = torch.rand(3), torch.rand(3, generator=card)
    torch.manual_seed(7)
    expected = torch.rand(3)
    assert all(torch.equal(each, expected) for each in drawn)
