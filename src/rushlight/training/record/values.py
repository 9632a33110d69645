"""What the user logs of an epoch: numbers, short text, and images as PNG files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rushlight import files
from rushlight.errors import UsageError
from rushlight.runs import MEDIA
from rushlight.texts import Note
from rushlight.training.state import Training

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_TEXT = 1000  # characters
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # others become RGB


def log_values(training: Training, epoch: int, step: int, values: Mapping[str, Any]) -> None:
    """Write the images, and emit what was logged. Nothing is written before all of it is known to be loggable."""
    entries: dict[str, Any] = {name: loggable(value) for name, value in values.items()}
    for name, value in entries.items():
        if not isinstance(value, (str, int, float)):
            entries[name] = write_image(training.folder, f"{step:08d}-{name}", value)
    training.events.emit("values", epoch=epoch, step=step, values=entries)


def loggable(value: Any) -> str | float | Image:
    """Return a value as a number, text or an image; UsageError for anything else.

    An array is (height, width), (height, width, channels) or (channels, height, width), of 1, 3 or 4 channels: uint8, or
    numbers from 0 to 1.
    """
    from PIL import Image

    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise UsageError("value-not-loggable", found=Note("training.logged-text", count=len(value)))
    if isinstance(value, (str, bool, int, float, Image.Image)):
        return value
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):
        array = np.array(None)
    if array.dtype.kind in "biuf" and array.ndim == 0:
        number: float = array.item()
        return number
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if (
        array.dtype.kind not in "biuf"
        or not array.size
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raise UsageError("value-not-loggable", found=f"{type(value).__name__} {np.shape(value) or ''}".rstrip())
    if array.dtype != np.uint8:
        if not (array.min() >= 0 and array.max() <= 1):
            found = Note("training.logged-numbers", low=float(array.min()), high=float(array.max()))
            raise UsageError("value-not-loggable", found=found)
        array = np.round(array.astype(np.float64) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))


def write_image(folder: Path, stem: str, image: Image) -> dict[str, Any]:
    """Write an image as a PNG into the run's `media/`, under a name that is free; return the entry that refers to it."""
    stem, number = re.sub(r"[^\w.-]+", "-", stem), 1
    path = folder / MEDIA / f"{stem}.png"
    while path.exists():
        number += 1
        path = folder / MEDIA / f"{stem}-{number}.png"
    content = io.BytesIO()
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(content, "png")
    files.write_bytes(path, content.getvalue())
    return {"media": f"{MEDIA}/{path.name}", "width": image.width, "height": image.height}
