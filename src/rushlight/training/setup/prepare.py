"""From options to a training that is ready to run: open, build, fit and check; only then write anything."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from rushlight import files
from rushlight.data import FLOATS, TOKENIZER, Data, Held, keeping_workers, open_source, reading_floats, tokenizer_json
from rushlight.device import choose_device, keep_freed_memory, precision_refusal, products_in_tf32
from rushlight.errors import RunError, UsageError
from rushlight.events import Events
from rushlight.models import MODELS, floats_of
from rushlight.options import Options
from rushlight.runs import age, keep_values, list_checkpoints, lock_run, new_run, read_recipe, write_session
from rushlight.texts import Note
from rushlight.training.checkpoint import check_keep, note_inexact, restore
from rushlight.training.distributed import ALONE, World, remember_run, remembered_run
from rushlight.training.objective import Average, Objective, Schedule, averaging, check_metrics, choose_metrics
from rushlight.training.recipe import OWN_LOSS, recipe_from_json, recipe_to_json, steps_per_epoch
from rushlight.training.record import open_history
from rushlight.training.setup.announcement import announce, batch_notes
from rushlight.training.setup.build import choose_model, eval_notes, freeze, load_first_weights
from rushlight.training.setup.choose import (
    check_together,
    check_unfreezes,
    check_validation,
    choose_objective,
    choose_optimizer,
    data_options,
    default_schedule,
    fit,
    is_step_alone,
    with_augmentation,
    with_shuffle_window,
    with_text_column,
    with_validation,
    with_weights,
)
from rushlight.training.setup.conditions import conditions_of
from rushlight.training.setup.describe import describe_source, make_recipe, write_records
from rushlight.training.setup.explain import check_own_loss
from rushlight.training.setup.head import fit_head
from rushlight.training.setup.outside import outside_state
from rushlight.training.setup.resume import (
    Begun,
    as_recorded,
    begun_run,
    check_resumable,
    check_rollback,
    continued,
    find_origin,
    keep_recipe,
    options_of,
)
from rushlight.training.setup.shared import (
    check_options_shared,
    check_parts_sharded,
    check_parts_shared,
    notes_shared,
    own_card,
    set_up_together,
)
from rushlight.training.setup.trust import check_fetchable, check_importable, remember
from rushlight.training.state import Origin, Training, new_state

Fetch = Callable[[str, int, int | None], None]  # shows the progress of a download


def start_training(
    model: object,
    data: Any,
    options: Options,
    stack: contextlib.ExitStack,
    events: Events | None = None,
    fetch: Fetch | None = None,
    world: World = ALONE,
) -> Training:
    """Set up a new run, or, with `resume`, the unfinished run of the same recipe.

    `events` has the followers of the run's events; `fetch` shows the progress of a download. The processes of a `world` set
    up the same run; where its launcher has restarted them, the one that they were training.
    """
    check_options_shared(options, world)
    if world.is_shared and (run := remembered_run()) is not None:
        options = replace(options, name=run, resume=True)
    for option in ("checkpoint", "inexact"):
        if getattr(options, option) and not (option == "inexact" and options.resume):
            raise UsageError("only-for-resume", option=option)
    check_together(model, options)
    chosen = with_validation(data, options)
    return set_up_together(
        world, stack, events or Events(),
        lambda events, others: set_up(model, data, replace(chosen, **others), stack, events, fetch, world=world),
    )  # fmt: skip


def resume_training(
    find: Callable[[], Path],
    model: nn.Module | str | None,
    data: Any,
    given: dict[str, Any],
    stack: contextlib.ExitStack,
    events: Events | None = None,
    fetch: Fetch | None = None,
    world: World = ALONE,
) -> Training:
    """Set up the run that `find` finds to go on, with the options that are given now in place of those it was begun with."""
    begun: Begun | None = None

    def begin_again() -> dict[str, Any]:
        nonlocal begun
        folder = find()
        recipe = recipe_from_json(read_recipe(folder))
        stack.enter_context(lock_run(folder))
        begun = check_resumable(folder, recipe, model, data, given)
        if model is None:
            check_importable(folder, recipe)
        if data is None:
            check_fetchable(folder, recipe)
        return {**recipe_to_json(recipe), "folder": str(folder)}

    content = world.first_does(begin_again)
    recipe = recipe_from_json(content)
    options = options_of(
        Path(content["folder"]), recipe, given if data is None else {"val_data": None, "test_data": None, **given}
    )
    check_options_shared(options, world)
    source = recipe.data["source"] if data is None else data
    built = recipe.model.get("import", recipe.model["name"]) if model is None else model
    if world.is_shared and remembered_run() is not None:  # it went back before the processes were restarted
        options = replace(options, checkpoint=None)
    if begun is None:  # another process than the first: the weights come from that
        options = replace(options, weights=None, inexact=False, checkpoint=None)
    return set_up_together(
        world, stack, events or Events(),
        lambda events, others: set_up(built, source, replace(options, **others), stack, events, fetch, begun, world),
    )  # fmt: skip


def set_up(
    model: object,
    data: Any,
    options: Options,
    stack: contextlib.ExitStack,
    events: Events | None,
    fetch: Fetch | None,
    begun: Begun | None = None,
    world: World = ALONE,
) -> Training:
    """Open, build and check everything that a run needs; a new one's folder is made last, when nothing can be wrong.

    Numbers are read in the dtype of the model's weights.
    """
    is_by_name = isinstance(model, str) and ":" not in model  # then it is fitted to the data
    built = None if is_by_name else choose_model(model, None, options)
    with reading_floats(floats_of(None if built is None else built[0])):
        return set_up_around(built, model, data, options, stack, events or Events(), fetch, begun, world)


def set_up_around(
    built: tuple[nn.Module, dict[str, Any]] | None,
    model: object,
    data: Any,
    options: Options,
    stack: contextlib.ExitStack,
    events: Events,
    fetch: Fetch | None,
    begun: Begun | None,
    world: World,
) -> Training:
    """Open, build and check what a run needs, with a model that is built, or is built by its name once the data is known."""
    keep_freed_memory(not options.shard)
    device, device_notes = choose_device(options.device)
    if device.type == "mps" and options.device == "auto" and FLOATS.get() == "float64":  # of which it has none
        device, device_notes = choose_device("cpu")
    device = own_card(device, world)
    if device.type == "cuda" and device.index is not None:  # what asks for the current card gets this one
        stack.enter_context(torch.cuda.device(device))
    options = with_text_column(model, data, options)
    opened = open_source(
        data, options.test_data, data_options(options), fetch, validation=options.val_data,
        is_raw=options.objective is not None or is_step_alone(options), is_whole=is_step_alone(options),
    )  # fmt: skip
    if opened.target is None and isinstance(model, str) and model in MODELS:  # its last layer goes by the targets
        described_by = open_source(data, options.test_data, data_options(options), fetch, validation=options.val_data)
        opened = replace(opened, target=described_by.target)
    if begun is None:
        check_validation(options, opened)
    else:
        opened = as_recorded(opened, begun.folder)
    if options.schedule == "auto":
        options = replace(
            options,
            schedule=default_schedule(options, opened.train.count_batches(options.batch_size or 64) is not None),
        )
    options = with_weights(with_shuffle_window(options, data, opened), opened)
    opened = with_augmentation(opened, options)
    metrics = choose_metrics(options.metrics, options.best)
    objective, opened, loss_name = choose_objective(options, opened)
    objective = replace(objective, metrics=metrics)
    module, described = built or choose_model(model, opened, options)
    head = fit_head(module, described, opened, objective.loss, device)
    fitted, notes = fit(module, opened, objective, device, described.get("seed"))
    notes += head + load_first_weights(module, described, begun, options)
    if options.unfreeze_after is None:
        notes += freeze(module, described, options.freeze or ())
    check_metrics(metrics, fitted.target)
    if loss_name == OWN_LOSS:
        check_own_loss(module, fitted)
    optimizer, keep = choose_optimizer(options, module, objective.loss), check_keep(options.keep or ())
    if options.unfreeze_after is not None:  # the optimizer has these too
        notes += freeze(module, described, options.freeze or (), options.unfreeze_after)
        check_unfreezes(optimizer, module, described["frozen"]["parameters"])
    own_size = getattr(getattr(opened.train, "loader", None), "batch_size", None)
    if own_size is not None and options.batch_size not in (None, own_size):
        raise UsageError("batch-size-of-loader", given=options.batch_size, own=own_size)
    recipe = make_recipe(options, described, describe_source(data, options), loss_name, optimizer, opened, metrics)
    if begun is None and (refusal := precision_refusal(recipe.precision, device)):
        raise UsageError("no-precision", precision=recipe.precision, reason=refusal)
    if recipe.precision != "float32" and FLOATS.get() == "float64":
        raise UsageError("precision-of-float64", precision=recipe.precision)
    if recipe.precision == "tf32":
        stack.enter_context(products_in_tf32())
    steps = steps_per_epoch(fitted.train, recipe)
    if recipe.max_steps is not None:  # they are in place of epochs
        recipe = replace(recipe, epochs=math.ceil(recipe.max_steps / (steps or 1)))
    if recipe.unfreeze_after is not None and recipe.unfreeze_after >= recipe.epochs:
        raise UsageError("unfreeze-never", after=recipe.unfreeze_after, epochs=recipe.epochs)
    if recipe.swa is not None and recipe.swa > recipe.epochs:
        raise UsageError("swa-never", swa=recipe.swa, epochs=recipe.epochs)
    total = recipe.max_steps or (None if steps is None else steps * recipe.epochs)
    schedule = Schedule(
        optimizer, options.schedule, total, options.warmup,
        epochs=recipe.epochs, by=options.schedule_by, arguments=options.schedule_arguments,
    )  # fmt: skip
    if recipe.schedule.get("live"):
        recipe = replace(recipe, schedule={**recipe.schedule, "by": schedule.by})
    average = averaging(module, optimizer, recipe.ema, recipe.swa)
    if isinstance(average, Average) and average.hook is not None:
        stack.callback(average.hook.remove)
    outside = outside_state((options.objective, options.loss, options.step), module, (optimizer, schedule.live, *keep))
    conditions = conditions_of(module, fitted, device, world.size, options.shard)
    check_parts_shared(module, fitted.train, recipe, device, world)
    if options.shard:
        check_parts_sharded(module, fitted.train, objective, optimizer, recipe, device, world)
    if begun is None and options.resume:
        begun = begun_run(recipe, conditions, options, stack)
    origin = None
    if begun is not None:
        origin = find_origin(begun, conditions, options, optimizer, outside)
        recipe = continued(begun.recipe, recipe, optimizer, origin)
        check_rollback(begun.folder, recipe, origin.checkpoint)
    eval_modules = eval_notes(recipe.model.get("eval", []))
    said = (*device_notes, *fitted.notes, *batch_notes(opened, recipe), *eval_modules, *notes, *schedule.notes)
    said += (Note("training.state-outside", listed=outside),) if outside else ()
    fitted = replace(fitted, notes=(*said, *notes_shared(module, objective, world, options.shard)))
    world.set_up()
    if begun is None:
        folder = stack.enter_context(new_run(Path(options.runs), recipe.model["name"], opened.name, options.name))
        if (content := tokenizer_json(options.tokenizer)) is not None:
            files.write_bytes(folder / TOKENIZER, content.encode())
        if world.is_shared and world.is_first:
            remember_run(folder.name)
        write_records(folder, recipe, fitted, device, conditions)
        if world.is_first:
            remember(folder, recipe)
    else:
        folder = begun.folder
        if world.is_shared and world.is_first:
            remember_run(folder.name)
    history = open_history(folder, recipe, events, stack)
    return Training(
        recipe, module, fitted, objective, optimizer, schedule, device, folder, history, events, new_state(),
        conditions, origin, held_objects(module, objective, fitted), keep,
        GradScaler(device.type) if recipe.precision == "float16" else None, average, world,
    )  # fmt: skip


def held_objects(model: nn.Module, objective: Objective, data: Data) -> Held:
    """Return the state that model, loss or objective, and data hold, as it is before the first step."""
    roots: dict[str, Any] = {"model": model, "loss": objective.loss or objective.own}
    roots |= {} if objective.step is None else {"step": objective.step}
    for name, split in data.splits.items():
        source = getattr(split, "loader", getattr(split, "dataset", None))
        roots |= {} if source is None else {name: source}
    return Held(roots)


# ── the first lines of its history ───────────────────────────────────────────────────────────────────────────


def begin(training: Training, stack: contextlib.ExitStack) -> None:
    """Write the first line of a new run, or bring back the checkpoint that a run goes on from; announce it."""
    stack.enter_context(keeping_workers(training.data, training.recipe.epochs))
    if not training.world.is_first:
        return  # it gets the first one's state
    if training.origin is None:
        write_start(training)
    else:
        bring_back_origin(training, training.origin)
    announce(training)
    note_inexact(training)


def write_start(training: Training, **more: Any) -> None:
    """Write the first line of a run's history, and with `more` that of its sessions."""
    steps = steps_per_epoch(training.data.train, training.recipe)
    training.events.emit("start", run=training.folder.name, epochs=training.recipe.epochs, steps_per_epoch=steps)
    write_session(training.folder, "started", 0, **more)


def bring_back_origin(training: Training, origin: Origin) -> None:
    """Bring back a checkpoint; a run that never wrote one begins anew."""
    folder, tell = training.folder, training.events.message
    for difference in origin.differences:
        training.events.warning(Note("training.not-the-same-bits", difference=difference))
    if origin.checkpoint is None:
        more = {"differences": list(origin.differences)} if origin.differences else {}
        if (folder / "model").is_dir():
            raise RunError("no-checkpoint", run=folder.name)
        tell(Note("training.begins-anew"))
        keep_recipe(training)
        training.history.restore(0, 0, b"", b"")
        keep_values(folder, 0)
        write_start(training, **more)
        return
    for newer in list_checkpoints(folder):
        if age(newer) > age(origin.checkpoint) and not origin.goes_back:
            damaged = Note("training.newer-damaged", newer=newer, checkpoint=origin.checkpoint.name)
            training.events.warning(damaged)
    restore(training, origin.checkpoint, drops_newer=origin.goes_back)
    for index, settings in enumerate(origin.settings):  # of a live optimizer, in place of those in the checkpoint
        training.optimizer.param_groups[index].update({key: now for key, (_, now) in settings.items()})
        if "lr" in settings:
            training.schedule.base_rates[index] = settings["lr"][1]
    keep_recipe(training)
    epochs = training.recipe.epochs
    if training.state["epoch"] > epochs:
        had = "schedule" if training.schedule.name in ("cosine", "onecycle") else "epochs"
        tell(Note(f"training.has-had-its-{had}", epochs=epochs, more=2 * epochs))
    note_inexact(training)
    inexact = [*origin.differences, *training.state["inexact"]]
    more = {"differences": inexact} if inexact else {}
    write_session(folder, "resumed", training.state["step"], checkpoint=origin.checkpoint.name, **more)
