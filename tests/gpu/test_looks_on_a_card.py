"""What looks at a training on an NVIDIA card without changing it: rates and batch sizes that are tried, a profile, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rushlight
from rushlight.search import find_batch_size, find_lr
from rushlight.training.record.machine import figures

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card")]
OPTIONS: dict[str, Any] = {"device": "cuda", "seed": 5}


def network() -> nn.Module:
    """Return a network that draws."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 10))


def test_a_range_test_on_a_card_puts_everything_back() -> None:
    model = network().cuda()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    streams = torch.get_rng_state(), torch.cuda.get_rng_state()
    found = find_lr(model, "digits", steps=40, optimizer="SGD", **OPTIONS)
    assert len(found.rates) == len(found.losses) > 20
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert torch.equal(torch.cuda.get_rng_state(), streams[1])


def test_batch_sizes_are_timed_on_a_card() -> None:
    found = find_batch_size(network(), "digits", **OPTIONS)
    assert found.fastest in found.sizes
    assert found.largest >= 256


def test_a_profile_on_a_card_changes_no_bit_and_counts_its_kernels(tmp_path: Path) -> None:
    options = {**OPTIONS, "numerics": "exact", "epochs": 3, "quiet": True}
    plain = rushlight.train(network(), "digits", runs=tmp_path / "plain", **options)
    found = rushlight.train(network(), "digits", runs=tmp_path / "profiled", profile=True, **options)
    np.testing.assert_array_equal(found.losses, plain.losses)
    content = json.loads((found.folder / "profile" / "profile.json").read_text(encoding="utf-8"))
    assert content["operators"]
    trace = json.loads((found.folder / "profile" / "trace.json").read_text(encoding="utf-8"))
    assert any(event.get("cat") == "kernel" for event in trace["traceEvents"]), (
        "the card's own kernels are in the trace"
    )


def test_a_mean_of_the_weights_and_an_early_end_on_a_card(tmp_path: Path) -> None:
    options = {**OPTIONS, "epochs": 4, "quiet": True, "val_fraction": 0.2, "early_stopping": 2}
    found = rushlight.train(network(), "digits", runs=tmp_path, ema=0.9, best="max:accuracy", **options)
    report = found.test()
    assert report.accuracy is not None
    assert report.accuracy > 0.3
    assert len(found.predict(np.zeros((3, 8, 8), np.uint8))) == 3
    assert figures()["machine/gpu-memory"] > 0
