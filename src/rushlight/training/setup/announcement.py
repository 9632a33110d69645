"""What is said when a training starts."""

from __future__ import annotations

import torch

from rushlight.data import Data
from rushlight.device import device_name
from rushlight.formats import format_count
from rushlight.texts import Joined, Note
from rushlight.training.objective import named_parameters
from rushlight.training.recipe import Recipe, steps_per_epoch
from rushlight.training.state import Training


def batch_notes(data: Data, recipe: Recipe) -> tuple[str, ...]:
    """Say when the batch is larger than the data."""
    samples, size = data.train.samples, recipe.batch_size * recipe.accumulate
    if samples is None or size <= samples:
        return ()
    return (Note("training.batch-exceeds-data", size=size, samples=samples),)


def announce(training: Training) -> None:
    """Say what is trained on what, and every decision that was made on the way."""
    recipe, data, optimizer = training.recipe, training.data, training.optimizer
    counts: list[str] = []
    for key, split in (("samples", data.train), ("to-validate", data.validation), ("to-test", data.test)):
        if split is not None and split.samples is not None:
            counts.append(Note(f"training.start.{key}", count=split.samples))
    steps = steps_per_epoch(data.train, recipe)
    parameters = named_parameters(training.model, training.objective.loss)
    size = Note(
        "training.start.size" if steps is None else "training.start.size-and-steps",
        parameters=format_count(sum(each.numel() for each in parameters.values() if each.requires_grad)),
        samples=Note("training.start.streamed") if data.train.samples is None else Joined("nothing", counts),
        epochs=Note("words.epochs", count=recipe.epochs),
        steps=None if steps is None else Note("words.steps", count=steps),
        batch=f"{recipe.batch_size} × {recipe.accumulate}" if recipe.accumulate > 1 else recipe.batch_size,
    )
    how = Note(
        "training.start.how" if training.schedule.name == "constant" else "training.start.how-with-schedule",
        optimizer=type(optimizer).__name__, rate=training.schedule.base_rates[0], schedule=training.schedule.name,
        loss=recipe.loss["name"], precision=recipe.precision, seed=recipe.seed,
    )  # fmt: skip
    device, name = training.device, device_name(training.device)
    where = Note("training.start.where", device=device, name=name)
    if device.type == "cpu":
        threads = Note("words.threads", count=torch.get_num_threads())
        where = Note("training.start.where-with-threads", device=device, name=name, threads=threads)
    title = Note("training.start.title", model=recipe.model["name"], data=data.name)
    lines = [size, how, where, str(training.folder), *data.notes]
    training.events.emit("announcement", title=title, epochs=recipe.epochs, lines=lines)
