"""skorch: a NeuralNetClassifier fitted on arrays, with its own scoring of the test split after every epoch, and silent."""

from __future__ import annotations

from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work

TEST_BATCH = 256


class Clock(Callback):
    """Tells the laps of every epoch's end; the last of the callbacks, so that the scores are there."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def on_train_begin(self, net: Any, **given: Any) -> None:
        """Start the clock."""
        self.laps.begin()

    def on_epoch_end(self, net: Any, **given: Any) -> None:
        """Note the end of an epoch with its test."""
        row = net.history[-1]
        self.laps.done(float(row["valid_loss"]), float(row["valid_acc"]))


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with skorch."""
    workload = work.workload
    inputs, test_inputs = (work.prepared(part).numpy() for part in (work.inputs, work.test_inputs))
    net = NeuralNetClassifier(
        workload.model(),
        criterion=nn.CrossEntropyLoss,
        optimizer=getattr(torch.optim, workload.optimizer),
        lr=workload.lr,
        **{f"optimizer__{name}": value for name, value in workload.optimizer_arguments.items()},
        batch_size=workload.batch_size,
        device=str(work.device),
        iterator_train__shuffle=True,
        iterator_valid__batch_size=TEST_BATCH,
        max_epochs=epochs,
        train_split=predefined_split(Dataset(test_inputs, work.test_targets.numpy())),
        classes=list(range(work.classes)),
        callbacks=[("clock", Clock(laps))],
        verbose=0,
    )
    net.fit(inputs, work.targets.numpy())
