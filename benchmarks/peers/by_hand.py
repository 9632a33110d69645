"""A careful loop by hand: the data in memory, a batch taken by its indices and converted at once, no loader."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work

TEST_BATCH = 256


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train on data in memory."""
    work, size = work.on_device(), work.workload.batch_size
    model, loss_fn = work.workload.model().to(work.device), nn.CrossEntropyLoss()
    optimizer = work.workload.torch_optimizer(model)
    laps.begin()
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(work.inputs), device=work.device)
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            loss = loss_fn(model(work.prepared(work.inputs[chosen])), work.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        laps.done(*test(work, model, loss_fn))


def test(work: Work, model: nn.Module, loss_fn: nn.Module) -> tuple[float, float]:
    """Return the loss and the accuracy on the test data."""
    model.eval()
    loss = correct = 0.0
    with torch.no_grad():
        for first in range(0, len(work.test_inputs), TEST_BATCH):
            y = work.test_targets[first : first + TEST_BATCH]
            outputs = model(work.prepared(work.test_inputs[first : first + TEST_BATCH]))
            loss += loss_fn(outputs, y).item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
    return loss / len(work.test_inputs), correct / len(work.test_inputs)
