"""A bundle, opened: the model with all it takes to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from rushlight.errors import UsageError, WeightsError
from rushlight.export.bundle import Bundle
from rushlight.export.predictions import Predictions, predict
from rushlight.models import build_model, restored


@dataclass(frozen=True)
class SavedModel:
    """A bundle, opened: the model with all it takes to use it, on any machine."""

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


def bundle_architecture(described: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's model as a bundle describes it: by name where it can be built from that, else by its class."""
    if described.get("live"):
        return {"class": described["class"]}
    kept = ("import", "arguments") if "import" in described else ("name", "arguments")
    return {key: described[key] for key in kept}


def build_bundled(bundle: Bundle) -> nn.Module:
    """Build a bundle's architecture, which is one of the models by name."""
    arguments, name = bundle.architecture.get("arguments"), bundle.architecture.get("name")
    if not isinstance(arguments, dict) or bundle.features is None or bundle.target is None:
        raise WeightsError("bundle-incomplete", model=name)
    restored_arguments = {key: restored(value) for key, value in arguments.items()}
    return build_model(str(name), bundle.features.shape, bundle.target.outputs, restored_arguments, seed=0)
