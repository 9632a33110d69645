"""Rushlight: the PyTorch training loop, finished.

    import rushlight

    run = rushlight.train("mlp", "fashion-mnist", epochs=5)
    print(run.test().accuracy)

Importing this package imports neither torch nor numpy; the first name used does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names
from rushlight.version import __version__ as __version__

if TYPE_CHECKING:
    from rushlight.api import Epochs, epochs, open_data, open_run, resume, train
    from rushlight.data import Data
    from rushlight.errors import RushlightError
    from rushlight.export import Predictions, SavedModel, load, open_bundle
    from rushlight.options import Options
    from rushlight.report import Report
    from rushlight.run import Run
    from rushlight.search import CrossValidation, StudyResult, cross_validate, tune
    from rushlight.training import Epoch

__all__ = [
    "CrossValidation", "Data", "Epoch", "Epochs", "Options", "Predictions", "Report", "Run", "RushlightError", "SavedModel",
    "StudyResult", "cross_validate", "epochs", "load", "open_bundle", "open_data", "open_run", "resume", "train", "tune",
]  # fmt: skip

__getattr__, _names = lazy_names(__name__)


def __dir__() -> list[str]:
    return sorted([*_names(), "__version__"])
