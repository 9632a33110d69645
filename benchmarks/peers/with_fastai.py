"""fastai: a Learner over the loaders, with torch's own optimizer, accuracy as its metric, without bar and printing."""

from __future__ import annotations

from functools import partial

import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  # brings no_bar and no_logging to the Learner
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Callback, Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work


class Clock(Callback):
    """Tells the laps of every epoch's end, after the Recorder (50) has written down what the test found."""

    order = 60

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def before_fit(self) -> None:
        """Start the clock."""
        self.laps.begin()

    def after_epoch(self) -> None:
        """Note the end of an epoch with its test."""
        _, loss, found = self.recorder.values[-1]
        self.laps.done(float(loss), float(found))


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with fastai."""
    workload = work.workload
    train_set, test_set = work.datasets()
    loaders = DataLoaders(
        DataLoader(train_set, bs=workload.batch_size, shuffle=True, num_workers=0),
        DataLoader(test_set, bs=workload.batch_size, num_workers=0),
    )
    optimizer = partial(OptimWrapper, opt=getattr(torch.optim, workload.optimizer), **workload.optimizer_arguments)
    learner = Learner(
        loaders,
        workload.model(),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=optimizer,
        metrics=accuracy,
        cbs=[Clock(laps)],
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, lr=workload.lr)
