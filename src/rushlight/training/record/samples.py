"""How sure the model was of each evaluated sample's true class, epoch by epoch, for the board.

`samples.f16` has a row for each epoch: the probability of every sample's true class, little-endian float16, NaN where it is
not known. `samples.json` tells which samples these are: {"split", "samples", "classes", "truth": [class numbers]}.
Epochs that are trained again after a resume overwrite their rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rushlight import files
from rushlight.errors import StorageError

PROBABILITIES, SAMPLES = "samples.f16", "samples.json"
MOST_BYTES = 256 << 20  # of all epochs; larger tests leave nothing
NUMBER = 2  # bytes


def keep_samples(
    folder: Path, split: str, epoch: int, epochs: int, classes: Sequence[str], truth: Tensor, probability: Tensor
) -> None:
    """Write the row of epoch `epoch` (from 1). A disk that refuses leaves a row of NaN: training goes on."""
    row = len(truth) * NUMBER
    if not row or row * epochs > MOST_BYTES:
        return
    path, wanted = folder / PROBABILITIES, row * (epoch - 1)
    with contextlib.suppress(StorageError):
        if not (folder / SAMPLES).exists():
            described = {"split": split, "samples": len(truth), "classes": list(classes), "truth": truth.tolist()}
            files.write_json(folder / SAMPLES, described)
        size = path.stat().st_size if path.exists() else 0
        kept = min(size, wanted) // row * row
        if kept < size:
            files.truncate_file(path, kept)
        unknown = np.full((wanted - kept) // NUMBER, np.nan, "<f2")
        files.append_bytes(path, unknown.tobytes() + probability.numpy().astype("<f2").tobytes())
