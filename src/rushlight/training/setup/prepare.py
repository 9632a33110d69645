"""From what was given to a `Training`: open, build, fit together and check, before anything is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from rushlight.data import open_source
from rushlight.device import bfloat16_refusal, choose_device, keep_freed_memory
from rushlight.errors import UsageError
from rushlight.training.events import Events
from rushlight.training.record import open_history
from rushlight.training.setup.announcement import batch_notes
from rushlight.training.setup.choose import (
    check_together,
    choose_model,
    choose_objective,
    choose_optimizer,
    data_options,
    eval_notes,
    fit,
    make_schedule,
    with_validation,
)
from rushlight.training.setup.conditions import conditions_of
from rushlight.training.setup.describe import describe_data, make_recipe, write_records
from rushlight.training.setup.options import Options, default_schedule
from rushlight.training.setup.origin import begun_or_new, check_way_back
from rushlight.training.state import Training, new_state


def start_training(
    model: str | nn.Module,
    data: Any,
    options: Options,
    stack: contextlib.ExitStack,
    events: Events | None = None,
    fetch: Callable[[str, int, int | None], None] | None = None,
) -> tuple[Training, str]:
    """Open, build and check everything that one run needs; its folder is made last, when nothing can be wrong any more.

    `events` has the followers of the run's events; `fetch` shows how far a download is.
    """
    check_together(model, options)
    events = events or Events()
    keep_freed_memory()
    device, device_notes = choose_device(options.get("device", "auto"))
    options = with_validation(data, options)
    opened = open_source(
        data,
        options.get("test_data"),
        data_options(options),
        fetch,
        validation=options.get("val_data"),
    )
    if options.get("schedule", "auto") == "auto":
        options = {**options, "schedule": default_schedule(options, opened.train.samples is not None)}
    objective, opened, loss_name = choose_objective(options, opened)
    module, described = choose_model(model, opened, options)
    training_data, notes = fit(module, opened, objective, device, described.get("seed"))
    optimizer = choose_optimizer(options, module)
    recipe = make_recipe(options, described, describe_data(data, options), loss_name, optimizer, opened)
    if not options.get("warmup", 0) >= 0:
        raise UsageError("negative", option="warmup", value=options["warmup"])
    own_size = getattr(getattr(opened.train, "loader", None), "batch_size", None)
    if own_size is not None and options.get("batch_size", own_size) != own_size:
        raise UsageError("batch-size-of-loader", given=options["batch_size"], own=own_size)
    if recipe.precision == "bfloat16" and (refusal := bfloat16_refusal(device)):
        raise UsageError("no-bfloat16", reason=refusal)
    schedule = make_schedule(options["schedule"], options.get("warmup", 0), optimizer, training_data, recipe)
    if (recipe.early_stopping is not None or schedule.is_plateau) and opened.validation is None:
        raise UsageError(
            "no-validation", chooser="early_stopping" if recipe.early_stopping else schedule.name, data=opened.name
        )
    notes = (*device_notes, *opened.notes, *batch_notes(opened, recipe), *eval_notes(described.get("eval", [])), *notes)
    training_data = replace(training_data, notes=notes)
    conditions = conditions_of(module, training_data, device)
    folder, origin = begun_or_new(recipe, conditions, opened.name, options, stack)
    if origin is None:
        write_records(folder, recipe, training_data, device, conditions)
    else:
        check_way_back(folder, recipe, origin.checkpoint)
    history = open_history(folder, recipe, events, stack)
    training = Training(
        recipe, module, training_data, objective, optimizer, schedule, device, folder, history, events, new_state(),
        conditions, origin,
    )  # fmt: skip
    return training, loss_name
