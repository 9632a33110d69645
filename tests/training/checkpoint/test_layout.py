"""State that was packed and comes back lies in memory as what it belongs to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rushlight.export import pack, unpack
from rushlight.training.checkpoint.kept import lay_out_like_parameters


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "Adagrad"])
def test_a_fused_update_of_channels_last_weights_goes_on_from_a_packed_state(kind: str) -> None:
    torch.manual_seed(0)
    one = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = copy.deepcopy(one)
    make = getattr(torch.optim, kind)
    optimizers = [make(model.parameters(), lr=0.1, fused=True) for model in (one, other)]
    images = torch.rand(2, 3, 6, 6)
    for turn in range(2):
        for model, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
        if turn == 0:
            tensors: dict[str, torch.Tensor] = {}
            optimizers[1].load_state_dict(unpack(pack(optimizers[1].state_dict(), "optimizer", tensors), tensors))
            lay_out_like_parameters(optimizers[1])
    assert torch.equal(one.weight, other.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
