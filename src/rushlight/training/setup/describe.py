"""How the recipe describes live objects and names; the records a run starts with."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rushlight import files
from rushlight.data import DATASETS, FLOATS, Data
from rushlight.device import describe_environment
from rushlight.errors import UsageError
from rushlight.options import Options, RecipeOptions
from rushlight.training.objective import Metrics, describe_optimizer
from rushlight.training.recipe import USERS, Recipe, recipe_to_json
from rushlight.training.setup.choose import data_options
from rushlight.version import __version__


def make_recipe(
    options: Options, model: dict[str, Any], data: dict[str, Any], loss_name: str, optimizer: Optimizer, opened: Data,
    metrics: Metrics,
) -> Recipe:  # fmt: skip
    """Return the recipe of everything that was chosen; UsageError names what JSON cannot hold."""
    chosen = {entry.name: getattr(options, entry.name) for entry in fields(RecipeOptions)}
    chosen["batch_size"] = options.batch_size or opened.batch_size or 64
    arguments = {
        "model_arguments": model.get("arguments", {}),
        "schedule_arguments": options.schedule_arguments,
        "loss_arguments": options.loss_arguments,
    }
    for option, value in {**arguments, **data["options"], **chosen}.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError("option-not-recordable", option=option, value=value, reason=error) from error
    is_live_loss = loss_name in USERS or not is_named_loss(options.loss)
    is_live_optimizer = isinstance(options.optimizer, Optimizer)
    return Recipe(
        model=model,
        data=data,
        loss={
            "name": loss_name,
            **({"arguments": options.loss_arguments} if options.loss_arguments else {}),
            **dict.fromkeys(["live"] * is_live_loss + ["step"] * (options.step is not None), True),
        },
        optimizer={**describe_optimizer(optimizer), **({"live": True} if is_live_optimizer else {})},
        schedule=describe_schedule(options),
        keep=[type(kept).__name__ for kept in options.keep or ()],
        metrics=[{"name": name, **({} if metric is None else {"live": True})} for name, metric in metrics.live.items()],
        **chosen,
    )


def describe_schedule(options: Options) -> dict[str, Any]:
    """Return how the recipe describes a schedule; of a live scheduler "by" is added once it is decided."""
    chosen: dict[str, Any] = {"by": options.schedule_by} if options.schedule_by != "auto" else {}
    chosen |= {"arguments": options.schedule_arguments} if options.schedule_arguments else {}
    is_named = isinstance(options.schedule, str)
    name = options.schedule if is_named else type(options.schedule).__name__
    return {"name": name, "warmup": options.warmup, **chosen, **({} if is_named else {"live": True})}


def is_named_loss(given: Any) -> bool:
    """Tell whether a loss can be made again from its name: none was given, a name, or a plain one of torch.nn."""
    if given is None or isinstance(given, str):
        return True
    if type(given) is not getattr(nn, type(given).__name__, None):
        return False
    settings = [{key: value for key, value in vars(loss).items() if key[0] != "_"} for loss in (given, type(given)())]
    return settings[0] == settings[1] and not any(buffer is not None for buffer in given._buffers.values())


def describe_source(data: Any, options: Options) -> dict[str, Any]:
    """Return how the recipe describes the data: where it is and how to open it, or that it was a live object."""
    opening = data_options(options).to_json()
    floats = {} if FLOATS.get() == "float32" else {"floats": FLOATS.get()}
    others = {"validation": options.val_data, "test": options.test_data}
    given = {split: source for split, source in others.items() if source is not None}
    if not all(isinstance(source, (str, Path)) for source in (data, *given.values())):
        name = data.name if isinstance(data, Data) else type(data).__name__
        return {"name": name, "live": True, "options": opening, **floats}
    is_path = Path(data).exists() and str(data) not in DATASETS
    source = str(Path(data).resolve()) if is_path else str(data)
    paths = {split: str(path) if str(path) in DATASETS else str(Path(path).resolve()) for split, path in given.items()}
    return {"name": Path(source).stem if is_path else source, "source": source, "options": opening, **paths, **floats}


def write_records(folder: Path, recipe: Recipe, data: Data, device: torch.device, conditions: dict[str, Any]) -> None:
    """Write environment.json and recipe.json. The recipe comes last: a folder that has it is a run, and has both."""
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=2).stdout.strip()
    environment = {
        "rushlight": __version__, **describe_environment(), "device": str(device), "command": sys.argv,
        "host": platform.node(), "git_commit": commit, "data_fingerprint": data.fingerprint,
        "data_notes": list(data.notes), "conditions": conditions,
    }  # fmt: skip
    files.write_json(folder / "environment.json", environment)
    files.write_json(folder / "recipe.json", recipe_to_json(recipe))
