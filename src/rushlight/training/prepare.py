"""From what was given to a `Training`: open, build, fit together and check, before anything is written."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import rushlight
from rushlight import files
from rushlight.console import Progress, fetch_progress, format_count
from rushlight.data.batches import Data, ResidentSplit, Split, StreamedSplit
from rushlight.data.opening import DataOptions, open_source, options_from_json, options_to_json, retarget
from rushlight.device import bfloat16_refusal, choose_device, describe_environment, device_name, keep_freed_memory
from rushlight.errors import ModelError, RunError, UsageError
from rushlight.models import MODELS, build_model
from rushlight.models.custom import build_custom, source_digest
from rushlight.runs.checksums import MID_EPOCH
from rushlight.runs.folder import new_run, read_json, read_recipe, run_folders, started_at
from rushlight.runs.history import History
from rushlight.runs.lock import lock_run
from rushlight.runs.summary import summarize
from rushlight.training.checkpoint import (
    checkpoints,
    epoch_began,
    is_whole,
    latest_checkpoint,
    list_checkpoints,
    named_checkpoint,
    read_content,
)
from rushlight.training.conditions import conditions_of, differences, remedies
from rushlight.training.explain import check_model
from rushlight.training.ledger import steps_per_epoch
from rushlight.training.objective import (
    LOSS_BY_TASK,
    Objective,
    check_live_optimizer,
    check_loss_fits,
    check_steps_alone,
    describe_optimizer,
    make_objective,
    named_loss,
    named_optimizer,
    own_objective,
    task_of_loss,
)
from rushlight.training.options import Options, default_schedule
from rushlight.training.pack import unpack
from rushlight.training.recipe import Recipe, recipe_from_json, recipe_to_json
from rushlight.training.schedule import Schedule
from rushlight.training.state import Origin, Training, new_state
from rushlight.training.tensorboard import tensorboard_lines


def prepare(model: str | nn.Module, data: Any, options: Options, stack: contextlib.ExitStack) -> tuple[Training, str]:
    """Open, build and check everything that one run needs; its folder is made last, when nothing can be wrong any more."""
    check_together(model, options)
    progress = Progress(options.get("quiet", False), options.get("to_stderr", False))
    stack.callback(progress.close)
    keep_freed_memory()
    device, device_notes = choose_device(options.get("device", "auto"))
    opened = open_source(
        data,
        options.get("test_data"),
        data_options(options),
        None if options.get("quiet") else fetch_progress(),
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
    notes = (*device_notes, *opened.notes, *batch_notes(opened, recipe), *notes)
    training_data = replace(training_data, notes=notes)
    conditions = conditions_of(module, training_data, device)
    folder, origin = begun_or_new(recipe, conditions, opened.name, options, stack)
    if origin is None:
        write_records(folder, recipe, training_data, device, conditions)
    else:
        check_way_back(folder, recipe, origin.checkpoint)
    history = open_history(folder, recipe, progress, stack)
    training = Training(
        recipe, module, training_data, objective, optimizer, schedule, device, folder, history, progress, new_state(),
        conditions, origin,
    )  # fmt: skip
    return training, loss_name


def begun_or_new(
    recipe: Recipe, conditions: dict[str, Any], data: str, options: Options, stack: contextlib.ExitStack
) -> tuple[Path, Origin | None]:
    """Return the folder to train in, locked: a new one, or, where asked for, that of the recipe's unfinished run."""
    runs, name = Path(options.get("runs", "runs")), options.get("name")
    folder = begun_run(runs, recipe, conditions, name) if options.get("resume") else None
    if folder is None:
        return stack.enter_context(new_run(runs, label_of(recipe.model), data, name)), None
    stack.enter_context(lock_run(folder))
    return folder, origin_of(folder, conditions, options)


def begun_run(runs: Path, recipe: Recipe, conditions: dict[str, Any], name: str | None) -> Path | None:
    """Return the newest run of this very recipe that is not finished, or the one of this name; None if there is none."""
    wanted = recipe_to_json(recipe)
    for folder in sorted(run_folders(runs), key=started_at, reverse=True):
        with contextlib.suppress(RunError):
            recorded = read_json(folder / "environment.json").get("conditions", {})
            is_same = as_written(recipe_to_json(recipe_from_json(read_recipe(folder)))) == as_written(wanted)
            is_same = is_same and all(recorded.get(key) == conditions[key] for key in ("data", "model"))
            is_open = folder.name == name if name is not None else summarize(folder).status != "finished"
            if is_same and is_open:
                return folder
    return None


def as_written(content: dict[str, Any]) -> Any:
    """Return JSON-ready values as they are once written and read: tuples become lists."""
    return json.loads(json.dumps(content))


def origin_of(folder: Path, conditions: dict[str, Any], options: Options, changed: tuple[str, ...] = ()) -> Origin:
    """Return the checkpoint that a run goes on from, once it is checked that it ends with the same bits.

    Raises:
        RunError: something that the bits depend on is not what it was, and `inexact` does not allow that.
        WeightsError: the checkpoint that was asked for is damaged.
    """
    chosen = options.get("checkpoint")
    if chosen is not None:
        checkpoint: Path | None = named_checkpoint(folder, str(chosen))
    else:
        checkpoint = latest_checkpoint(folder) if list_checkpoints(folder) else None
    if checkpoint is not None:
        then = unpack(read_content(checkpoint)["conditions"], {})
    else:
        then = read_json(folder / "environment.json").get("conditions", conditions)
    found = (*changed, *differences(then, conditions))
    if found and not options.get("inexact"):
        listed = "".join(f"\n  - {difference}" for difference in found)
        raise RunError("not-exact", run=folder.name, differences=listed, remedies=remedies(then, conditions))
    return Origin(checkpoint, chosen is not None, found, bool(options.get("inexact")))


def check_way_back(folder: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Raise RunError where a run goes on inside an epoch, to whose beginning it could not be rolled back."""
    if recipe.on_nan != "rollback" or checkpoint is None or not checkpoint.name.endswith(MID_EPOCH):
        return
    state = unpack(read_content(checkpoint)["state"], {})
    if not is_whole(checkpoints(folder) / epoch_began(state)):
        ends = (path for path in list_checkpoints(folder) if not path.name.endswith(MID_EPOCH))
        known = ", ".join(path.name for path in ends if is_whole(path)) or "none"
        raise RunError("no-way-back", run=folder.name, step=state["step"] - state["window"], known=known)


RESUME_TAKES = frozenset(
    [
        "epochs",
        "schedule",
        "device",
        "loss",
        "objective",
        "optimizer",
        "test_data",
        "runs",
        "quiet",
        "to_stderr",
        "on_nan",
        "inexact",
        "checkpoint",
        "profile",
    ]
)  # of the options; all others are the recipe's


def prepare_again(
    folder: Path, recipe: Recipe, model: nn.Module | None, data: Any, options: Options, stack: contextlib.ExitStack
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
    progress = Progress(merged.get("quiet", False), merged.get("to_stderr", False))
    stack.callback(progress.close)
    changed = source_differences(recipe.model)
    if changed and not options.get("inexact"):  # before any of it is executed
        raise RunError("not-exact", run=folder.name, differences=f"\n  - {changed[0]}", remedies="")
    keep_freed_memory()
    device, _ = choose_device(options.get("device", recipe.device))
    opened = open_source(
        described["source"] if data is None else data, described.get("test") if data is None else merged.get("test_data"),
        options_from_json(described["options"]), None,
    )  # fmt: skip
    objective, opened, loss_name = choose_objective(merged, opened)
    module = rebuild_model(folder, recipe.model, opened) if model is None else model
    training_data, _ = fit(module, opened, objective, device)
    optimizer = choose_optimizer(merged, module)
    conditions = conditions_of(module, training_data, device)
    origin = origin_of(folder, conditions, options, changed)
    recipe = extended(recipe, merged)
    check_way_back(folder, recipe, origin.checkpoint)
    schedule = make_schedule(merged["schedule"], recipe.schedule["warmup"], optimizer, training_data, recipe)
    history = open_history(folder, recipe, progress, stack)
    training = Training(
        recipe, module, training_data, objective, optimizer, schedule, device, folder, history, progress, new_state(),
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
    fixed |= {"test_data"} if data is None else set()
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


def open_history(folder: Path, recipe: Recipe, progress: Progress, stack: contextlib.ExitStack) -> History:
    """Open the run's history, and TensorBoard's beside it where that was asked for; the stack closes both."""
    history = History(folder, progress.warning)
    stack.callback(history.close)
    if recipe.tensorboard:
        history.watchers.append(stack.enter_context(tensorboard_lines(folder / "tensorboard")))
    return history


def data_options(options: Options) -> DataOptions:
    """Return those of the options that say how to open the data."""
    names = {entry.name for entry in fields(DataOptions)}
    given: dict[str, Any] = {key: value for key, value in options.items() if key in names}
    if given.get("classes") is not None:
        given["classes"] = tuple(given["classes"])
    return DataOptions(**given)


def data_choices(options: Options) -> dict[str, Any]:
    """Return those of the options that say how to open data, by name."""
    chosen = vars(data_options(options))
    return {name: chosen[name] for name in options if name in chosen}


def check_together(model: object, options: Options) -> None:
    """Raise UsageError for an option that would be ignored, because a live object brings its own."""
    for part, live, ignored in (
        ("optimizer", isinstance(options.get("optimizer"), Optimizer), ("lr", "optimizer_arguments")),
        ("schedule", isinstance(options.get("schedule"), LRScheduler), ("warmup",)),
        ("model", isinstance(model, nn.Module), ("model_arguments",)),
        ("objective", "objective" in options, ("loss",)),
    ):
        for option in ignored:
            if live and options.get(option):
                raise UsageError("not-beside-live", option=option, part=part)


def choose_objective(options: Options, data: Data) -> tuple[Objective, Data, str]:
    """Return the objective, the data with targets as its loss wants them, and the loss's name."""
    own = options.get("objective")
    if own is not None:
        return own_objective(own), data, "objective"
    if data.target is None:
        raise UsageError("needs-objective", data=data.name)
    given = options.get("loss")
    loss = named_loss(given or LOSS_BY_TASK[data.target.task]) if given is None or isinstance(given, str) else given
    if isinstance(loss, type) or not callable(loss):
        name = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        raise UsageError("no-loss", found=f"the class {name}" if isinstance(loss, type) else name)
    check_loss_fits(loss, data.target, getattr(getattr(data.train, "targets", None), "dtype", None))
    data = retarget(data, task_of_loss(loss, data.target.task))
    are_labels_checked = all(map(has_class_numbers, (data.train, data.test)))
    return make_objective(loss, are_labels_checked), data, getattr(loss, "__name__", type(loss).__name__)


def has_class_numbers(split: Split | None) -> bool:
    """Tell whether no label of a split is below 0, as those are that a loss ignores; False where that is not known."""
    if isinstance(split, StreamedSplit):
        return split.draws is False  # a folder of images: its labels are the numbers of its folders
    return split is None or (isinstance(split, ResidentSplit) and bool((split.targets >= 0).all()))


def choose_model(model: object, data: Data, options: Options) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model, and how the recipe describes it."""
    if isinstance(model, nn.Module):
        return model, {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "name": type(model).__name__,
            "live": True,
        }
    if isinstance(model, type):
        raise ModelError("class-not-instance", name=model.__name__)
    if not isinstance(model, str):
        raise ModelError("no-model", found=type(model).__name__)
    arguments = options.get("model_arguments", {})
    described: dict[str, Any] = {
        "name": model,
        "arguments": {key: as_json(value) for key, value in arguments.items()},
    }
    if ":" in model:
        described = {
            "import": model,
            **described,
            "name": model.rpartition(":")[2],
            "source_sha256": source_digest(model),
        }
    described["seed"] = options.get("seed", 0)
    return build_described(described, data), described


def build_described(described: dict[str, Any], data: Data) -> nn.Module:
    """Build the model a recipe describes, by name or by import."""
    if "import" in described:
        return build_imported(described)
    arguments = {key: restored(value) for key, value in described["arguments"].items()}
    if described["name"].endswith(".py"):
        raise ModelError("file-without-class", path=described["name"])
    if is_name(described["name"]):
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


def fit(
    module: nn.Module, data: Data, objective: Objective, device: torch.device, seed: int | None = None
) -> tuple[Data, tuple[str, ...]]:
    """Bring the model and the data to the device and try one on the other; return the data with what was learnt.

    Lazy layers get their shape and their weights here: from `seed`, or, for a live model, from torch's own stream.
    """
    module.to(device)
    if isinstance(objective.loss, nn.Module):
        objective.loss.to(device)
    test = None if data.test is None else data.test.to(device)
    on_device = replace(data, train=data.train.to(device), test=test)
    is_lazy = any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters())
    if (
        objective.loss is None and not is_lazy
    ):  # how the model is called, and what it gives, is its objective's business
        return on_device, ()
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        target, notes = check_model(module, on_device, device, objective.loss)
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ModelError("lazy-layer", name=name)
    return replace(on_device, target=target), notes


def choose_optimizer(options: Options, module: nn.Module) -> Optimizer:
    """Return the live optimizer, checked, or a new one by name."""
    given = options.get("optimizer", "AdamW")
    if isinstance(given, Optimizer):
        check_live_optimizer(given, module)
        check_steps_alone(given)
        return given
    if not isinstance(given, str):
        raise UsageError("no-optimizer", found=type(given).__name__)
    arguments = dict(options.get("optimizer_arguments", {}))
    if "lr" in options:
        if not isinstance(options["lr"], (int, float)) or not options["lr"] >= 0:
            raise UsageError("option-not-a-number", option="lr", value=options["lr"])
        arguments["lr"] = options["lr"]
    made = named_optimizer(given, module, arguments)
    check_steps_alone(made)
    return made


def make_schedule(given: str | LRScheduler, warmup: int, optimizer: Optimizer, data: Data, recipe: Recipe) -> Schedule:
    """Return the schedule over all steps of the recipe."""
    steps = steps_per_epoch(data.train.samples, recipe)
    return Schedule(optimizer, given, None if steps is None else steps * recipe.epochs, warmup)


def batch_notes(data: Data, recipe: Recipe) -> tuple[str, ...]:
    """Say when the batch is larger than the data."""
    samples, size = data.train.samples, recipe.batch_size * recipe.accumulate
    if samples is None or size <= samples:
        return ()
    return (
        f"The batch size ({size}) is larger than the training split ({samples} samples): every epoch is one step. "
        "A smaller batch takes more steps, and learns faster.",
    )


def make_recipe(
    options: Options,
    model: dict[str, Any],
    data: dict[str, Any],
    loss_name: str,
    optimizer: Optimizer,
    opened: Data,
) -> Recipe:
    """Return the recipe of everything that was chosen."""
    schedule = options["schedule"]
    names = {entry.name for entry in fields(Recipe)} - {"model", "data", "loss", "optimizer", "schedule"}
    chosen: dict[str, Any] = {key: value for key, value in options.items() if key in names}
    chosen.setdefault("batch_size", opened.batch_size or 64)
    is_live_loss = "objective" in options or not is_named_loss(options.get("loss"))
    is_live_optimizer = isinstance(options.get("optimizer"), Optimizer)
    return Recipe(
        model=model,
        data=data,
        loss={"name": loss_name, **({"live": True} if is_live_loss else {})},
        optimizer={**describe_optimizer(optimizer), **({"live": True} if is_live_optimizer else {})},
        schedule=describe_schedule(schedule, options.get("warmup", 0)),
        **chosen,
    )  # fmt: skip


def describe_schedule(schedule: str | LRScheduler, warmup: int) -> dict[str, Any]:
    """Return how the recipe describes a schedule."""
    if isinstance(schedule, str):
        return {"name": schedule, "warmup": warmup}
    return {"name": type(schedule).__name__, "warmup": warmup, "live": True}


def is_named_loss(given: Any) -> bool:
    """Tell whether a loss can be made again from its name: none was given, a name, or a plain one of torch.nn."""
    if given is None or isinstance(given, str):
        return True
    if type(given) is not getattr(nn, type(given).__name__, None):
        return False
    settings = [{key: value for key, value in vars(loss).items() if key[0] != "_"} for loss in (given, type(given)())]
    return settings[0] == settings[1] and not any(buffer is not None for buffer in given._buffers.values())


def describe_data(data: Any, options: Options) -> dict[str, Any]:
    """Return how the recipe describes the data: where it is and how to open it, or that it was a live object."""
    opening = options_to_json(data_options(options))
    test = options.get("test_data")
    if isinstance(data, (str, Path)) and (test is None or isinstance(test, (str, Path))):
        source = str(Path(data).resolve()) if Path(data).exists() and not is_name(str(data)) else str(data)
        described = {
            "name": Path(source).stem if source != str(data) else str(data),
            "source": source,
            "options": opening,
        }
        return (
            {**described, "test": str(test) if is_name(str(test)) else str(Path(test).resolve())} if test else described
        )
    name = data.name if isinstance(data, Data) else type(data).__name__
    return {"name": name, "live": True, "options": opening}


def is_name(source: str) -> bool:
    """Tell whether data was given by name."""
    from rushlight.data.named import DATASETS

    return source in DATASETS


def label_of(described: dict[str, Any]) -> str:
    """Return the short name of a described model."""
    return str(described["name"])


def as_json(value: Any) -> Any:
    """Return a constructor argument JSON-ready."""
    return list(value) if isinstance(value, (tuple, set)) else value


def restored(value: Any) -> Any:
    """Return an argument as it was before JSON made its tuples lists."""
    return tuple(value) if isinstance(value, list) else value


def write_records(folder: Path, recipe: Recipe, data: Data, device: torch.device, conditions: dict[str, Any]) -> None:
    """Write environment.json and recipe.json. The recipe comes last: a folder that has it is a run, and has both."""
    environment = {
        "rushlight": rushlight.__version__, **describe_environment(), "device": str(device), "command": sys.argv,
        "host": platform.node(), "git_commit": git_commit(), "data_fingerprint": data.fingerprint,
        "data_notes": list(data.notes), "conditions": conditions,
    }  # fmt: skip
    files.write_json(folder / "environment.json", environment)
    files.write_json(folder / "recipe.json", recipe_to_json(recipe))


def git_commit() -> str | None:
    """Return the commit of the git checkout we are in, or None."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=2).stdout.strip()
    return None


def announce(training: Training, loss_name: str) -> None:
    """Say what is trained on what, and every decision that was made on the way."""
    recipe, data = training.recipe, training.data
    parameters = sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad)
    test = "" if data.test is None or data.test.samples is None else f" + {data.test.samples:,} to test"
    samples = "streamed" if data.train.samples is None else f"{data.train.samples:,} samples{test}"
    steps = steps_per_epoch(data.train.samples, recipe)
    each = "" if steps is None else f" of {plural(steps, 'step')}"
    rate = training.optimizer.param_groups[0]["lr"]
    threads = f", {torch.get_num_threads()} threads" if training.device.type == "cpu" else ""
    schedule = "" if training.schedule.name == "constant" else f", {training.schedule.name}"
    training.progress.start(
        f"{label_of(recipe.model)} on {data.name}",
        [
            f"{format_count(parameters)} parameters, {samples}, {plural(recipe.epochs, 'epoch')}{each}, batch {recipe.batch_size}"
            + (f" × {recipe.accumulate}" if recipe.accumulate > 1 else ""),
            f"{type(training.optimizer).__name__}, lr {rate:g}{schedule}, {loss_name}, {recipe.precision}, seed {recipe.seed}",
            f"{training.device}: {device_name(training.device)}{threads}",
            f"{training.folder}",
            *data.notes,
        ],
    )


def plural(count: int, word: str) -> str:
    """Return '1 epoch', '5 epochs'."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
