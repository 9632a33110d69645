"""Rushlight: the PyTorch training loop, finished.

    import rushlight

    run = rushlight.train("mlp", "fashion-mnist", epochs=5)
    print(run.test().accuracy)

Importing this package imports neither torch nor numpy; the first name used does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rushlight.api import Epochs, epochs, load, open_bundle, open_data, open_run, resume, train
    from rushlight.data.batches import Data
    from rushlight.errors import RushlightError
    from rushlight.export.predict import Predictions
    from rushlight.run import Run, SavedModel
    from rushlight.training.evaluate import Report
    from rushlight.training.loop import Epoch

__version__ = "0.1.0"

_HOMES = {  # the front door: each public name and the module it lives in
    "Data": "rushlight.data.batches",
    "Epoch": "rushlight.training.loop",
    "Epochs": "rushlight.api",
    "Predictions": "rushlight.export.predict",
    "Report": "rushlight.training.evaluate",
    "Run": "rushlight.run",
    "RushlightError": "rushlight.errors",
    "SavedModel": "rushlight.run",
    "epochs": "rushlight.api",
    "load": "rushlight.api",
    "open_bundle": "rushlight.api",
    "open_data": "rushlight.api",
    "open_run": "rushlight.api",
    "resume": "rushlight.api",
    "train": "rushlight.api",
}

__all__ = [
    "Data", "Epoch", "Epochs", "Predictions", "Report", "Run", "RushlightError", "SavedModel", "epochs", "load", "open_bundle", "open_data", "open_run",
    "resume", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rushlight' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
