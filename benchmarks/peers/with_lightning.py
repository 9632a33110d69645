"""Lightning: a LightningModule, and a Trainer without bar, logger and checkpoints.

Without the check of the validation before training too. What is logged is logged by epoch, which costs less than by step.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from benchmarks.peers import Laps
from benchmarks.workloads import Work


class Module(lightning.LightningModule):
    """The network with its loss, its optimizer and its test."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work, self.model, self.loss_fn = work, work.workload.model(), nn.CrossEntropyLoss()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        return self.loss_fn(self.model(x), y)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Note loss and accuracy of a batch."""
        x, y = batch
        outputs = self.model(x)
        accuracy = (outputs.argmax(1) == y).float().mean()
        self.log_dict({"loss": self.loss_fn(outputs, y), "accuracy": accuracy}, batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return self.work.workload.torch_optimizer(self.model)


class Clock(lightning.Callback):
    """Tells the laps of every epoch's end."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self.laps.begin()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Note the end of an epoch with its test."""
        found = trainer.callback_metrics
        self.laps.done(float(found["loss"]), float(found["accuracy"]))


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with Lightning."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # advice to use more workers, on two cores
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu" if work.device.type == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Clock(laps)],
    )
    trainer.fit(Module(work), *work.loaders())
