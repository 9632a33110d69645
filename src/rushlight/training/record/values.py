"""What the user logs of an epoch: numbers, short text, and images as PNG files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rushlight import files
from rushlight.errors import UsageError
from rushlight.runs import MEDIA

LONGEST_TEXT = 1000  # characters


def loggable(value: Any) -> Any:
    """Return what the user logged as a number, as text, or as a picture to be written.

    An array is (height, width), (height, width, channels) or (channels, height, width), of 1, 3 or 4 channels: uint8, or
    numbers from 0 to 1. Raises UsageError for anything else.
    """
    if isinstance(value, (str, bool, int, float, Image.Image)):
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UsageError("value-not-loggable", found=f"text of {len(value):,} characters")
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    found = f"{type(value).__name__}"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("value-not-loggable", found=found) from error
    if array.dtype.kind in "biuf" and array.ndim == 0:
        return array.item()
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or not array.size:
        raise UsageError(
            "value-not-loggable", found=found if array.dtype.kind == "O" else f"{found} of shape {array.shape}"
        )
    if array.dtype != np.uint8:
        if not (array.min() >= 0 and array.max() <= 1):
            raise UsageError(
                "value-not-loggable", found=f"{found} with numbers from {array.min():g} to {array.max():g}"
            )
        array = np.round(array.astype(np.float64) * 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise UsageError("value-not-loggable", found=f"{found} of shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def write_media(folder: Path, stem: str, picture: Image.Image) -> dict[str, Any]:
    """Write a picture as a PNG into the run's `media/`, under a name that is not taken; return the entry that refers to it."""
    stem, number = re.sub(r"[^\w.-]+", "-", stem), 1
    path = folder / MEDIA / f"{stem}.png"
    while path.exists():
        number += 1
        path = folder / MEDIA / f"{stem}-{number}.png"
    content = io.BytesIO()
    (picture if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else picture.convert("RGB")).save(
        content, "png"
    )
    files.write_bytes(path, content.getvalue())
    return {"media": f"{MEDIA}/{path.name}", "width": picture.width, "height": picture.height}
