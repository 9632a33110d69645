"""The plain loop, written by hand: the reference that Rushlight's results are compared with, bit for bit.

It is the guide's own loop with its slips mended: logits without a ReLU, the model on its device, and the average loss
divided right. The order of the samples and the seeding of dropout are the two documented formulas; the processor's
generator alone is seeded, as there is no card, for which `torch.manual_seed` would keep the whole stack of each call.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Result:
    """What the plain loop leaves: every step's loss, and the share of right test predictions after each epoch."""

    losses: list[float]
    accuracies: list[float]


def plain_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    test_inputs: Tensor,
    test_targets: Tensor,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    after_epoch: Callable[[], None] = lambda: None,
) -> Result:
    """Train by hand on prepared float32 inputs; test after every epoch."""
    losses, accuracies = [], []
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed + 1_000_003 * epoch))
        model.train()
        loader = DataLoader(TensorDataset(inputs, targets), batch_size, sampler=order.tolist())
        for step, (x, y) in enumerate(loader):
            torch.default_generator.manual_seed(zlib.crc32(b"step/%d/%d/%d" % (seed, epoch, step)))
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            right = (model(test_inputs).argmax(1) == test_targets).sum().item()
        accuracies.append(right / len(test_targets))
        after_epoch()
    return Result(losses, accuracies)


def plain_objective(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Callable[[nn.Module, list[Tensor]], Tensor],
    inputs: Tensor,
    targets: Tensor,
    epochs: int,
    batch_size: int,
    *,
    seed: int,
) -> list[float]:
    """Train by hand with an objective of model and batch; return every step's loss."""
    losses = []
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed + 1_000_003 * epoch))
        model.train()
        for step, batch in enumerate(DataLoader(TensorDataset(inputs, targets), batch_size, sampler=order.tolist())):
            torch.default_generator.manual_seed(zlib.crc32(b"step/%d/%d/%d" % (seed, epoch, step)))
            loss = objective(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
