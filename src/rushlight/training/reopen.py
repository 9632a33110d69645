"""A run opened again from its folder: its data, its model, and another test."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from rushlight.data import (
    CPU,
    Data,
    DataOptions,
    FeatureSpec,
    Floats,
    TargetSpec,
    group_split,
    open_like,
    open_source,
    reading_floats,
    retarget,
    with_tokenizer,
)
from rushlight.device import choose_device
from rushlight.errors import RunError, StorageError, UsageError
from rushlight.export import load_state, open_bundle, read_bundle
from rushlight.report import Report
from rushlight.runs import list_checkpoints
from rushlight.training.checkpoint import best_checkpoint, latest_checkpoint, read_model_state
from rushlight.training.evaluation import beside_naive, evaluate
from rushlight.training.finish import save_report
from rushlight.training.loop import evaluation_size, test_batch_size
from rushlight.training.objective import (
    Objective,
    choose_metrics,
    make_objective,
    named_loss,
    own_objective,
    returned_loss,
)
from rushlight.training.recipe import OWN_LOSS, USERS, Recipe
from rushlight.training.setup import (
    Fetch,
    aimed,
    build_described,
    build_imported,
    check_fetchable,
    check_importable,
    check_model,
)
from rushlight.training.state import Training


def reopen_data(folder: Path, recipe: Recipe, fetch: Fetch | None = None, tokenizer: Any = None) -> Data:
    """Open a run's data again, as its recipe says; its targets are as they came, until `retarget` makes them the loss's."""
    described, loss = recipe.data, recipe.loss
    if "source" not in described:
        raise RunError("live-data", run=folder.name, data=described.get("name"))
    check_fetchable(folder, recipe)
    options = DataOptions.from_json(described["options"], folder, tokenizer)
    with reading_floats(floats_in(recipe)):
        data = open_source(
            described["source"], described.get("test"), options, fetch, validation=described.get("validation"),
            is_raw=loss["name"] in USERS,
        )  # fmt: skip
    if data.target is None or loss["name"] in USERS:
        return data
    return (
        data.unscaled()
        if loss.get("live")
        else aimed(data, named_loss(loss["name"], loss.get("arguments"), floats_in(recipe)))
    )


def floats_in(recipe: Recipe) -> Floats:
    """Return the dtype of the weights of a run's model, which its data was read in."""
    floats: Floats = recipe.data.get("floats", "float32")
    return floats


def reopen_specs(
    folder: Path, recipe: Recipe, model: nn.Module, fetch: Fetch | None = None
) -> tuple[FeatureSpec | None, TargetSpec | None]:
    """Return the specs of a run's inputs and targets: the bundle's, or those of its data and model where it has none."""
    if (folder / "model").is_dir():
        bundle = read_bundle(folder / "model")
        target = bundle.target
        if target is not None and recipe.loss["name"] == "BCELoss":
            target = replace(target, gives="probabilities")  # earlier releases did not record it
        return bundle.features, target
    data, loss = reopen_data(folder, recipe, fetch), recipe.loss
    known = None if loss.get("live") else named_loss(loss["name"], loss.get("arguments"), floats_in(recipe))
    device = next((parameter.device for parameter in model.parameters()), CPU)
    target, _ = check_model(model, data, device, known)
    return data.features, target if known is None or target is None else retarget(data, target).target


def reopen_model(
    folder: Path, recipe: Recipe, model: nn.Module | str | None = None, fetch: Fetch | None = None
) -> nn.Module:
    """Build a run's model again, or take `model`, and load the run's weights: the bundle's, else the newest checkpoint's.

    `model` may name the class, as "net.py:Net": it is built with the recipe's arguments.
    """
    bundle, described = folder / "model", recipe.model
    if isinstance(model, str):
        model = build_imported({**described, "import": model})
    elif model is None:
        check_importable(folder, recipe)
        model = build_imported(described) if "import" in described else None
    if bundle.is_dir():
        return open_bundle(bundle, model).model
    if model is None:
        model = build_described(described, reopen_data(folder, recipe, fetch))
    if floats_in(recipe) == "float64":
        model.double()
    load_state(model, read_model_state(latest_checkpoint(folder)), folder.name)
    return model.eval()


def test_run(
    folder: Path, recipe: Recipe, model: nn.Module, features: FeatureSpec | None, target: TargetSpec | None, data: Any,
    given: dict[str, Any], training: Training | None, fetch: Fetch | None,
) -> Report:  # fmt: skip
    """Test a run's model on its own test split, or on other data, prepared as its own was; keep the report, or warn.

    `given` are the options of the other data, and a live loss or objective. `training` is the run's, where it is still
    open; `fetch` shows the progress of a download.
    """
    objective = reopen_objective(folder, recipe, given) if training is None else training.objective
    if training is None or "metrics" in given:
        named = [entry["name"] for entry in recipe.metrics if not entry.get("live")]
        objective = replace(objective, metrics=choose_metrics(given.get("metrics", named), None))
    tokenizer = given.get("tokenizer")
    if tokenizer is not None and features is not None:
        features = with_tokenizer(features, tokenizer)
    if data is not None:
        options = DataOptions.from_json(recipe.data["options"], folder, tokenizer)
        options = replace(options, **{name: value for name, value in given.items() if hasattr(options, name)})
        split = open_like(data, features, target, options, fetch)
        if features is None and target is not None and recipe.loss["name"] not in (*USERS, OWN_LOSS):
            split = group_split(split, target)
    else:
        own = training.data if training is not None else reopen_data(folder, recipe, fetch, tokenizer)
        if own.test is None:
            raise UsageError("nothing-to-test", run=folder.name)
        is_ready = training is not None or target is None or recipe.loss["name"] in USERS
        split = own.test if is_ready or target is None else retarget(own, target).splits["test"]
    device, _ = choose_device(recipe.device)
    model, split = model.to(device), split.to(device)
    if isinstance(objective.loss, nn.Module):
        objective.loss.to(device)
    size = test_batch_size(recipe, split, model) if training is None else evaluation_size(training, split)
    report, outcome = evaluate(model, split, objective, target, size)
    report = beside_naive(report, split, features, target)
    try:
        save_report(folder, report, outcome)
    except StorageError as error:  # of a run that may only be read
        warnings.warn(error.record, stacklevel=3)
    return report


def reopen_objective(folder: Path, recipe: Recipe, given: dict[str, Any]) -> Objective:
    """Return the objective that a run was trained with; a live loss or objective has to be given again.

    What a loss module has learnt is that of the run's newest checkpoint.
    """
    if recipe.loss["name"] == OWN_LOSS:
        return own_objective(returned_loss)
    if recipe.loss["name"] in USERS:
        if not callable(function := given.get("objective")):
            raise RunError("live-objective", run=folder.name)
        return own_objective(function)
    if not recipe.loss.get("live"):
        return make_objective(named_loss(recipe.loss["name"], recipe.loss.get("arguments"), floats_in(recipe)))
    if not callable(loss := given.get("loss")):
        raise RunError("live-loss", run=folder.name)
    if isinstance(loss, nn.Module) and loss.state_dict() and list_checkpoints(folder):
        best = best_checkpoint(folder) if recipe.keeps_best else None
        load_state(loss, read_model_state(best or latest_checkpoint(folder), "loss"), folder.name)
    return make_objective(loss)
