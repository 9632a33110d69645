"""The guide's loop: a DataLoader that makes every sample by itself, and a test after every epoch."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train as the guide does."""
    loader, test_loader = work.loaders()
    model, loss_fn = work.workload.model().to(work.device), nn.CrossEntropyLoss()
    optimizer = work.workload.torch_optimizer(model)
    laps.begin()
    for _ in range(epochs):
        model.train()
        for batch, (x, y) in enumerate(loader):
            x, y = x.to(work.device), y.to(work.device)
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if batch % 100 == 0:
                loss.item()  # the guide prints it
        model.eval()
        test_loss, correct = 0.0, 0.0
        with torch.no_grad():
            for x, y in test_loader:
                x, y = x.to(work.device), y.to(work.device)
                outputs = model(x)
                test_loss += loss_fn(outputs, y).item()
                correct += (outputs.argmax(1) == y).type(torch.float).sum().item()
        laps.done(test_loss / len(test_loader), correct / len(work.test_targets))
