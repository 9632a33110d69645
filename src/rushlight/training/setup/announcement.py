"""What is said when a training starts."""

from __future__ import annotations

import torch

from rushlight.data import Data
from rushlight.device import device_name
from rushlight.formats import format_count
from rushlight.texts import Note
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
    recipe, data = training.recipe, training.data
    parameters = sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad)
    others = {"to validate": data.validation, "to test": data.test}
    counts = [
        f" + {split.samples:,} {what}"
        for what, split in others.items()
        if split is not None and split.samples is not None
    ]
    samples = "streamed" if data.train.samples is None else f"{data.train.samples:,} samples{''.join(counts)}"
    steps = steps_per_epoch(data.train.samples, recipe)
    each = "" if steps is None else f" of {plural(steps, 'step')}"
    rate = training.optimizer.param_groups[0]["lr"]
    threads = f", {torch.get_num_threads()} threads" if training.device.type == "cpu" else ""
    schedule = "" if training.schedule.name == "constant" else f", {training.schedule.name}"
    training.events.emit(
        "announcement",
        title=f"{recipe.model['name']} on {data.name}",
        epochs=recipe.epochs,
        lines=[
            f"{format_count(parameters)} parameters, {samples}, {plural(recipe.epochs, 'epoch')}{each}, batch {recipe.batch_size}"
            + (f" × {recipe.accumulate}" if recipe.accumulate > 1 else ""),
            f"{type(training.optimizer).__name__}, lr {rate:g}{schedule}, {recipe.loss['name']}, {recipe.precision}, seed {recipe.seed}",
            f"{training.device}: {device_name(training.device)}{threads}",
            f"{training.folder}",
            *data.notes,
        ],
    )


def plural(count: int, word: str) -> str:
    """Return '1 epoch', '5 epochs'."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
