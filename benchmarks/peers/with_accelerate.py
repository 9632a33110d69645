"""Accelerate: the plain loop, with what it prepares: model, optimizer and loaders."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with Accelerate."""
    accelerator = Accelerator(cpu=work.device.type == "cpu")
    model, loss_fn = work.workload.model(), nn.CrossEntropyLoss()
    optimizer = work.workload.torch_optimizer(model)
    model, optimizer, loader, test_loader = accelerator.prepare(model, optimizer, *work.loaders())
    laps.begin()
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
        model.eval()
        test_loss, correct = 0.0, 0
        with torch.no_grad():
            for x, y in test_loader:
                outputs, y = accelerator.gather_for_metrics((model(x), y))
                test_loss += loss_fn(outputs, y).item()
                correct += int((outputs.argmax(1) == y).sum())
        laps.done(test_loss / len(test_loader), correct / len(work.test_targets))
