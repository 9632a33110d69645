"""Building a model again from the recipe that describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from rushlight.data import DATASETS, Data
from rushlight.errors import ModelError, RunError, UsageError
from rushlight.models import MODELS, build_custom, build_model, restored


def build_described(described: dict[str, Any], data: Data) -> nn.Module:
    """Build the model a recipe describes, by name or by import."""
    if "import" in described:
        return build_imported(described)
    arguments = {key: restored(value) for key, value in described["arguments"].items()}
    if described["name"].endswith(".py"):
        raise ModelError("file-without-class", path=described["name"])
    if described["name"] in DATASETS:
        raise UsageError("data-as-model", name=described["name"])
    if described["name"] not in MODELS:  # the message is about the name, whatever the data is
        return build_model(described["name"], (), 0, arguments, described["seed"])
    if data.features is None or data.target is None:
        raise UsageError("model-needs-spec", model=described["name"], data=data.name)
    return build_model(described["name"], data.features.shape, data.target.outputs, arguments, described["seed"])


def rebuild_model(folder: Path, described: dict[str, Any], data: Data) -> nn.Module:
    """Build a run's model anew for its saved weights."""
    check_rebuildable(folder, described)
    return build_described(described, data)


def check_rebuildable(folder: Path, described: dict[str, Any]) -> None:
    """Raise RunError for a model that was a live object, and for one whose code lies inside the run.

    A recipe is the user's own work and may name their own file; a run folder from elsewhere must not bring code along.
    """
    if described.get("live"):
        raise RunError("live-model", run=folder.name, model=described["class"], short=described["name"])
    source = described.get("import", "")
    if source and folder.resolve() in Path(source.rpartition(":")[0]).resolve().parents:
        raise RunError("code-in-run", run=folder.name, source=source)


def build_imported(described: dict[str, Any]) -> nn.Module:
    """Build the user's own class that a recipe describes."""
    arguments = {key: restored(value) for key, value in described["arguments"].items()}
    return build_custom(described["import"], arguments, described["seed"])
