"""Going on with a run: which checkpoint, and whether it will end with the same bits."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from rushlight import files
from rushlight.data import DataOptions, open_source
from rushlight.device import choose_device, keep_freed_memory
from rushlight.errors import RunError, UsageError
from rushlight.models import restored, source_digest
from rushlight.runs import (
    read_json,
    read_recipe,
)
from rushlight.training.events import Events
from rushlight.training.objective import describe_optimizer
from rushlight.training.recipe import Recipe, recipe_from_json, recipe_to_json
from rushlight.training.record import open_history
from rushlight.training.setup.choose import choose_objective, choose_optimizer, fit, make_schedule
from rushlight.training.setup.conditions import changed_settings, conditions_of
from rushlight.training.setup.describe import describe_schedule
from rushlight.training.setup.options import Options
from rushlight.training.setup.origin import as_written, check_way_back, origin_of
from rushlight.training.setup.rebuild import rebuild_model
from rushlight.training.state import Training, new_state

RESUME_TAKES = frozenset(
    [
        "epochs",
        "schedule",
        "device",
        "loss",
        "objective",
        "optimizer",
        "test_data",
        "val_data",
        "runs",
        "quiet",
        "to_stderr",
        "on_nan",
        "inexact",
        "checkpoint",
        "profile",
        "on_event",
    ]
)  # of the options; all others are the recipe's


def resume_training(
    folder: Path,
    recipe: Recipe,
    model: nn.Module | None,
    data: Any,
    options: Options,
    stack: contextlib.ExitStack,
    events: Events | None = None,
) -> tuple[Training, str]:
    """Open, build and check everything that an existing run needs to go on."""
    described = recipe.data
    check_resumable(folder, recipe, data, options)
    merged: Options = {
        "loss": recipe.loss["name"] if recipe.loss["name"] != "objective" else None,
        "optimizer": recipe.optimizer["name"],
        "optimizer_arguments": {key: restored(value) for key, value in recipe.optimizer["arguments"].items()},
        "epochs": recipe.epochs,
        "schedule": recipe.schedule["name"],
        **options,
    }
    events = events or Events()
    changed = source_differences(recipe.model)
    if changed and not options.get("inexact"):  # before any of it is executed
        raise RunError("not-exact", run=folder.name, differences=f"\n  - {changed[0]}", remedies="")
    keep_freed_memory()
    device, _ = choose_device(options.get("device", recipe.device))
    opened = open_source(
        described["source"] if data is None else data, described.get("test") if data is None else merged.get("test_data"),
        DataOptions.from_json(described["options"]), None,
        validation=described.get("validation") if data is None else merged.get("val_data"),
    )  # fmt: skip
    environment = folder / "environment.json"
    recorded = read_json(environment).get("data_fingerprint") if environment.is_file() else None
    if recorded != opened.fingerprint and recorded == opened.fingerprint.partition("-")[0]:
        opened = replace(opened, validation=None)  # it was begun when a folder's own validation split was left out
    objective, opened, loss_name = choose_objective(merged, opened)
    module = rebuild_model(folder, recipe.model, opened) if model is None else model
    training_data, _ = fit(module, opened, objective, device)
    optimizer = choose_optimizer(merged, module)
    conditions = conditions_of(module, training_data, device)
    compare = partial(changed_settings, optimizer, merged["schedule"], recipe.optimizer)
    origin = origin_of(
        folder, conditions, options, changed, compare if recipe.optimizer.get("live") else lambda content: ()
    )  # fmt: skip
    recipe = extended(recipe, merged)
    if origin.settings:
        recipe = replace(recipe, optimizer={**describe_optimizer(optimizer), "live": True})
    check_way_back(folder, recipe, origin.checkpoint)
    schedule = make_schedule(merged["schedule"], recipe.schedule["warmup"], optimizer, training_data, recipe)
    history = open_history(folder, recipe, events, stack)
    training = Training(
        recipe, module, training_data, objective, optimizer, schedule, device, folder, history, events, new_state(),
        conditions, origin,
    )  # fmt: skip
    return training, loss_name


def check_resumable(folder: Path, recipe: Recipe, data: Any, options: Options) -> None:
    """Raise RunError for live parts that are missing, UsageError for options that a run cannot change any more."""
    if data is None and "source" not in recipe.data:
        raise RunError("live-data", run=folder.name, data=recipe.data.get("name"))
    missing = [
        part for part in ("optimizer", "schedule", "loss") if getattr(recipe, part).get("live") and part not in options
    ]
    if "objective" in options and "loss" in missing:
        missing.remove("loss")
    if missing:
        raise RunError("live-parts", run=folder.name, parts=", ".join(missing))
    fixed = {part for part in ("loss", "optimizer") if not getattr(recipe, part).get("live")}
    fixed |= {"test_data", "val_data"} if data is None else set()
    for option in options:
        if option not in RESUME_TAKES or option in fixed:
            raise UsageError("resume-option", run=folder.name, option=option)
    epochs, schedule = options.get("epochs", recipe.epochs), options.get("schedule", recipe.schedule["name"])
    if epochs != recipe.epochs and schedule in ("cosine", "onecycle"):
        raise UsageError(
            "schedule-is-planned", run=folder.name, schedule=schedule, planned=recipe.epochs, epochs=epochs
        )


def source_differences(described: dict[str, Any]) -> tuple[str, ...]:
    """Return a sentence when the model's source is not what the run was begun with."""
    recorded = described.get("source_sha256")
    if recorded is None or source_digest(described["import"]) == recorded:
        return ()
    return (f"the source of its model ({described['import']}) is not what it was when the run began",)


def extended(recipe: Recipe, merged: Options) -> Recipe:
    """Return the recipe with the epochs and the schedule that were asked for."""
    schedule = describe_schedule(merged["schedule"], recipe.schedule["warmup"])
    more: dict[str, Any] = {key: merged[key] for key in ("epochs", "on_nan") if key in merged}
    return replace(recipe, schedule=schedule, **more)


def keep_recipe(training: Training) -> None:
    """Write the recipe of a run that goes on, where it is another now; once nothing can be refused any more."""
    folder, wanted = training.folder, recipe_to_json(training.recipe)
    if as_written(wanted) != as_written(recipe_to_json(recipe_from_json(read_recipe(folder)))):
        files.write_json(folder / "recipe.json", wanted)
