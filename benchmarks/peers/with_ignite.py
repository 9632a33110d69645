"""Ignite: its supervised trainer and evaluator, the latter with its Accuracy and Loss."""

from __future__ import annotations

from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from torch import nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with Ignite."""
    loader, test_loader = work.loaders()
    model, loss_fn = work.workload.model(), nn.CrossEntropyLoss()
    optimizer = work.workload.torch_optimizer(model)
    trainer = create_supervised_trainer(model, optimizer, loss_fn)
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(loss_fn)})

    @trainer.on(Events.STARTED)
    def start(engine: Engine) -> None:
        laps.begin()

    @trainer.on(Events.EPOCH_COMPLETED)
    def test(engine: Engine) -> None:
        found = evaluator.run(test_loader).metrics
        laps.done(found["loss"], found["accuracy"])

    trainer.run(loader, max_epochs=epochs)
