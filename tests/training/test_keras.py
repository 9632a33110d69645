"""A Keras model on PyTorch: told whether it trains, and brought back to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rushlight

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
OPTIONS: dict[str, Any] = {
    "optimizer": "SGD",
    "lr": 0.1,
    "batch_size": 128,
    "normalize": "unit",
    "numerics": "exact",
    "quiet": True,
}


def built() -> Any:
    """Return a network with what behaves differently in training: BatchNorm, and dropout with a generator of its own."""
    keras.config.set_image_data_format("channels_first")
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((1, 8, 8)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(axis=1),
            layers.Flatten(),
            layers.Dropout(0.2, seed=1),
            layers.Dense(10),
        ]
    )


def test_a_keras_model_ends_with_the_bits_of_the_loop_that_tells_it_to_train(tmp_path: Path) -> None:
    run = rushlight.train(built(), "digits", epochs=2, runs=tmp_path, **OPTIONS)
    data, model, losses = rushlight.open_data("digits"), built(), []
    inputs, targets = data.train.inputs.float() / 255, data.train.targets
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in (1, 2):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1_000_003 * epoch))
        for batch in order.split(128):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[batch], training=True), targets[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.array_equal(np.fromfile(run.folder / "losses.f32", "<f4"), np.asarray(losses, "<f4"))


def test_a_keras_model_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    whole = rushlight.train(built(), "digits", epochs=3, runs=tmp_path / "whole", **OPTIONS)
    for epoch in rushlight.epochs(built(), "digits", epochs=3, runs=tmp_path / "cut", **OPTIONS):
        if epoch.number == 2:
            break
    cut = rushlight.resume("latest", model=built(), runs=tmp_path / "cut", quiet=True)
    assert (cut.folder / "losses.f32").read_bytes() == (whole.folder / "losses.f32").read_bytes()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name
