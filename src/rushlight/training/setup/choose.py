"""From options to objects: the objective, the model, the optimizer, the schedule."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rushlight.data import Data, DataOptions, ResidentSplit, Split, StreamedSplit, retarget
from rushlight.errors import ModelError, UsageError
from rushlight.models import as_json, source_digest
from rushlight.training.objective import (
    LOSS_BY_TASK,
    Objective,
    Schedule,
    check_live_optimizer,
    check_loss_fits,
    check_steps_alone,
    make_objective,
    named_loss,
    named_optimizer,
    own_objective,
    task_of_loss,
)
from rushlight.training.recipe import Recipe, steps_per_epoch
from rushlight.training.setup.explain import check_model
from rushlight.training.setup.options import Options
from rushlight.training.setup.rebuild import build_described

VAL_FRACTION = 0.1  # of the training samples, where something chooses


def data_options(options: Options) -> DataOptions:
    """Return those of the options that say how to open the data."""
    names = {entry.name for entry in fields(DataOptions)}
    given: dict[str, Any] = {key: value for key, value in options.items() if key in names}
    if given.get("classes") is not None:
        given["classes"] = tuple(given["classes"])
    return DataOptions(**given)


def with_validation(data: Any, options: Options) -> Options:
    """Return the options with a tenth of the training samples for validation, where something chooses and none is given.

    A triple and open data bring their own, and a source that brings its own is not cut.
    """
    chooses = "early_stopping" in options or isinstance(options.get("schedule"), ReduceLROnPlateau)
    brings = isinstance(data, Data) or (isinstance(data, (tuple, list)) and len(data) == 3) or "val_data" in options
    return {"val_fraction": VAL_FRACTION, **options} if chooses and not brings else options


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
    are_labels_checked = all(map(has_class_numbers, data.splits.values()))
    return make_objective(loss, are_labels_checked), data, getattr(loss, "__name__", type(loss).__name__)


def has_class_numbers(split: Split | None) -> bool:
    """Tell whether no label of a split is below 0, as those are that a loss ignores; False where that is not known."""
    if isinstance(split, StreamedSplit):
        return split.is_random is False  # a folder of images: its labels are the numbers of its folders
    return split is None or (isinstance(split, ResidentSplit) and bool((split.targets >= 0).all()))


def choose_model(model: object, data: Data, options: Options) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model, and how the recipe describes it."""
    if isinstance(model, nn.Module):
        return model, {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "name": type(model).__name__,
            "live": True,
            **({"eval": kept} if (kept := modules_in_eval(model)) else {}),
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


def modules_in_eval(model: nn.Module) -> list[str]:
    """Return the names of the modules given in eval mode inside a module in training mode: they stay in eval mode."""
    outermost = [
        f"{outer}.{name}".lstrip(".")
        for outer, parent in model.named_modules() if parent.training
        for name, child in parent.named_children() if not child.training
    ]  # fmt: skip
    return [
        f"{outer}.{name}".rstrip(".")
        for outer in outermost
        for name, module in model.get_submodule(outer).named_modules() if not module.training
    ]  # fmt: skip


def eval_notes(names: list[str]) -> tuple[str, ...]:
    """Say which modules stay in eval mode."""
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if not outermost:
        return ()
    listed = ", ".join(outermost[:5]) + (", …" if len(outermost) > 5 else "")
    return (f"{listed}: given in eval mode, stays in eval mode: no dropout there, and its running statistics stay.",)


def fit(
    module: nn.Module, data: Data, objective: Objective, device: torch.device, seed: int | None = None
) -> tuple[Data, tuple[str, ...]]:
    """Bring the model and the data to the device and try one on the other; return the data with what was learnt.

    Lazy layers get their shape and their weights here: from `seed`, or, for a live model, from torch's own stream.
    """
    module.to(device)
    if isinstance(objective.loss, nn.Module):
        objective.loss.to(device)
    on_device = data.to(device)
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
