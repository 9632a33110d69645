"""Saved models, opened: weights files, bundles and run folders; nothing here imports training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rushlight.errors import UsageError
from rushlight.export.bundle import Bundle, load_bundle, read_bundle
from rushlight.export.predictions import Predictions, predict
from rushlight.export.weights import load_weights


@dataclass(frozen=True)
class SavedModel:
    """A bundle, opened: the model with everything needed to use it, on any machine."""

    model: nn.Module
    bundle: Bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; none for a regression."""
        return self.bundle.target.classes if self.bundle.target is not None else ()

    def predict(self, inputs: Any, batch_size: int = 512) -> Predictions:
        """Predict as `Run.predict` does."""
        if self.bundle.features is None or self.bundle.target is None:
            raise UsageError("no-signature", run=self.bundle.provenance.get("run"))
        return predict(self.model, inputs, self.bundle.features, self.bundle.target, batch_size=batch_size)


def open_bundle(folder: str | Path, model: nn.Module | None = None) -> SavedModel:
    """Open a bundle to predict with it: the model, its preprocessing and its class names. Takes what `load` takes."""
    return SavedModel(load_bundle(Path(folder), model), read_bundle(Path(folder)))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a saved model, in eval mode: weights (.pth, .safetensors) into `model`, or a bundle or run folder.

    Nothing in a file is ever executed. A bundle of a model by name needs no `model`; any other does.

    Raises:
        WeightsError: the file is damaged, holds a pickled object, or does not fit the model.
    """
    path = Path(path)
    if path.is_dir():
        return load_bundle(path / "model" if (path / "recipe.json").is_file() else path, model)
    if model is None:
        raise UsageError("weights-need-model", path=str(path))
    for note in load_weights(model, path):
        warnings.warn(note, stacklevel=2)
    return model.eval()
