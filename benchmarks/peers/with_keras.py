"""Keras on torch: `compile` and `fit` on arrays in memory, which is its own way and its fastest.

The network is the torch module, in Keras' own TorchModuleWrapper, so that weights and layout of the images are everybody's.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from torch import Tensor

from benchmarks.peers import Laps
from benchmarks.workloads import Work, Workload

TEST_BATCH = 256


class Clock(keras.callbacks.Callback):
    """Tells the laps of every epoch's end."""

    def __init__(self, laps: Laps) -> None:
        super().__init__()
        self.laps = laps

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self.laps.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the end of an epoch with its test."""
        logs = logs or {}
        self.laps.done(float(logs["val_loss"]), float(logs["val_accuracy"]))


def keras_optimizer(workload: Workload) -> keras.optimizers.Optimizer:
    """Return Keras' optimizer of the same rule, with torch's defaults where Keras has others."""
    arguments = dict(workload.optimizer_arguments)
    if workload.optimizer != "SGD":
        arguments["epsilon"] = 1e-8
    if workload.optimizer == "AdamW":
        arguments.setdefault("weight_decay", 1e-2)
    return getattr(keras.optimizers, workload.optimizer)(workload.lr, **arguments)


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Train with Keras."""
    inputs, test_inputs = (as_stored(work, part) for part in (work.inputs, work.test_inputs))
    given = keras.Input(inputs.shape[1:], dtype=str(inputs.dtype))
    module = keras.layers.TorchModuleWrapper(work.workload.model(), output_shape=(None, work.classes))
    model = keras.Model(given, module(given))
    model.compile(
        optimizer=keras_optimizer(work.workload),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        inputs,
        work.targets.numpy(),
        batch_size=work.workload.batch_size,
        epochs=epochs,
        verbose=0,
        validation_data=(test_inputs, work.test_targets.numpy()),
        validation_batch_size=TEST_BATCH,
        callbacks=[Clock(laps)],
    )


def as_stored(work: Work, inputs: Tensor) -> np.ndarray:
    """Return inputs as `fit` takes them: floats for images, converted once for all epochs."""
    return work.prepared(inputs).numpy()
