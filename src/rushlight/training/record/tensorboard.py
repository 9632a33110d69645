"""TensorBoard event files beside a run's own history, for those who look at their runs there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError


@contextlib.contextmanager
def tensorboard_lines(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open event files in the run's `tensorboard/`; the block receives the function that writes a line of history there.

    Raises:
        UsageError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UsageError("tensorboard-missing") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(line: Mapping[str, Any]) -> None:
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, line["step"], line["time"])
        for name, value in line.get("values", {}).items():
            if isinstance(value, str):
                writer.add_text(name, value, line["step"], line["time"])
            elif isinstance(value, dict):
                import numpy as np
                from PIL import Image

                pixels = np.asarray(Image.open(folder / value["media"]).convert("RGB"))
                writer.add_image(name, pixels, line["step"], line["time"], dataformats="HWC")

    try:
        yield write
    finally:
        writer.close()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that a line of history, or what the user logged, has to draw, by TensorBoard's tags."""
    found: dict[str, float | None] = {}
    if line["kind"] == "steps":
        found = {"train/loss": line["loss"], "train/learning_rate": line["learning_rate"]}
    if line["kind"] == "epoch":
        found = {"train/epoch_loss": line["train_loss"]}
    for split in ("validation", "test"):  # the test stands in the last line where validation is evaluated by epoch
        figures = line.get(split) or {}
        found |= {
            f"{split}/{name}": value for name, value in figures.items() if name not in ("n", "numbers", "judged_by")
        }
    found |= {name: value for name, value in line.get("values", {}).items() if isinstance(value, (int, float))}
    return {name: value for name, value in found.items() if value is not None}
