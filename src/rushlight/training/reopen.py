"""A run opened again from its folder: its data, its model, and another test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from rushlight.data import Data, DataOptions, FeatureSpec, TargetSpec, open_like, open_source, retarget
from rushlight.device import choose_device
from rushlight.errors import RunError, UsageError
from rushlight.export import load_state, open_bundle
from rushlight.report import Report
from rushlight.training.checkpoint import latest_checkpoint, read_model_state
from rushlight.training.evaluation import evaluate
from rushlight.training.finish import save_report
from rushlight.training.loop import evaluation_size, test_batch_size
from rushlight.training.objective import (
    Objective,
    make_objective,
    named_loss,
    own_objective,
    returned_loss,
    task_of_loss,
)
from rushlight.training.recipe import OWN_LOSS, Recipe
from rushlight.training.setup import Fetch, build_described, build_imported, check_rebuildable
from rushlight.training.state import Training


def reopen_data(folder: Path, recipe: Recipe, fetch: Fetch | None = None) -> Data:
    """Open a run's data again, as its recipe says, with targets as its loss wants them."""
    described, loss = recipe.data, recipe.loss
    if "source" not in described:
        raise RunError("live-data", run=folder.name, data=described.get("name"))
    options = DataOptions.from_json(described["options"])
    data = open_source(
        described["source"], described.get("test"), options, fetch, validation=described.get("validation")
    )
    if loss.get("live") or data.target is None:
        return data
    return retarget(data, task_of_loss(named_loss(loss["name"]), data.target.task))


def reopen_model(folder: Path, recipe: Recipe, model: nn.Module | None = None, fetch: Fetch | None = None) -> nn.Module:
    """Build a run's model again, or take `model`, and load the run's weights: the bundle's, else the newest checkpoint's."""
    bundle, described = folder / "model", recipe.model
    if bundle.is_dir():
        if model is None:
            check_rebuildable(folder, described)
            model = build_imported(described) if "import" in described else None
        return open_bundle(bundle, model).model
    if model is None:
        check_rebuildable(folder, described)
        model = build_described(described, reopen_data(folder, recipe, fetch))
    load_state(model, read_model_state(latest_checkpoint(folder)), folder.name)
    return model.eval()


def test_run(
    folder: Path, recipe: Recipe, model: nn.Module, features: FeatureSpec, target: TargetSpec, data: Any,
    given: dict[str, Any], training: Training | None, fetch: Fetch | None,
) -> Report:  # fmt: skip
    """Test a run's model on its own test split, or on other data, prepared as its own was; keep the report.

    `given` are the options of the other data, and a live loss. `training` is the run's, where it is still open; `fetch` shows
    the progress of a download.
    """
    if data is not None:
        options = DataOptions.from_json(recipe.data["options"])
        options = replace(options, **{name: value for name, value in given.items() if hasattr(options, name)})
        split = open_like(data, features, target, options, fetch)
    else:
        own = reopen_data(folder, recipe, fetch) if training is None else training.data
        if own.test is None:
            raise UsageError("nothing-to-test", run=folder.name)
        split = own.test
    device, _ = choose_device(recipe.device)
    model, split = model.to(device), split.to(device)
    size = test_batch_size(recipe, split, model) if training is None else evaluation_size(training, split)
    objective = reopen_objective(folder, recipe, given.get("loss")) if training is None else training.objective
    report, outcome = evaluate(model, split, objective, target, size)
    save_report(folder, report, outcome)
    return report


def reopen_objective(folder: Path, recipe: Recipe, given: Any) -> Objective:
    """Return the objective that a run was trained with; a live loss has to be given again."""
    if recipe.loss["name"] == OWN_LOSS:
        return own_objective(returned_loss)
    if not recipe.loss.get("live"):
        return make_objective(named_loss(recipe.loss["name"]))
    if not callable(given):
        raise RunError("live-loss", run=folder.name)
    return make_objective(given)
