"""What of a recipe's learning goes into the script: loss, optimizer, schedule, and how the model is judged."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushlight.data import Data, ResidentSplit
from rushlight.models import restored
from rushlight.runs import inexact_resumes, read_history
from rushlight.texts import Note
from rushlight.training import Recipe

LEFT = {  # options that no script carries, with the value at which there is nothing to carry
    "ema": None, "augment": None, "groups": None, "freeze": None, "best": None, "precision": "float32", "on_nan": "stop",
}  # fmt: skip
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
LAST = {"classification": "classes", "binary": "yes-or-no", "multilabel": "yes-or-no", "regression": "quantity"}
EVALUATED = 512  # samples at a time


def carried_learning(recipe: Recipe, left: list[Note]) -> Callable[[Data, nn.Module], dict[str, Any]]:
    """Note what cannot be carried; return what gives the template's values once data and model are open."""
    left += [
        Note("eject.cannot.option", option=name, value=str(getattr(recipe, name)))
        for name, usual in LEFT.items()
        if getattr(recipe, name) != usual
    ]
    left += [
        Note("eject.cannot.live", part=part)
        for part in ("optimizer", "schedule", "loss", "data")
        if getattr(recipe, part).get("live")
    ]
    left += [Note("eject.cannot.live", part="keep")] if recipe.keep else []
    left += [Note("eject.cannot.live", part="step")] if recipe.loss.get("step") else []
    left += [Note("eject.cannot.live", part="model")] if recipe.model.get("live") else []
    left += (
        [Note("eject.cannot.option", option="weights", value=recipe.model["weights"])]
        if "weights" in recipe.model
        else []
    )
    left += (
        [Note("eject.cannot.option", option="metrics", value=", ".join(entry["name"] for entry in recipe.metrics))]
        if recipe.metrics
        else []
    )
    name, by = recipe.schedule["name"], recipe.schedule.get("by", "auto")
    if name == "plateau" or (by == "epoch" and name != "constant"):
        left.append(Note("eject.cannot.option", option="schedule", value=f"{name}, {by}"))
    arguments = recipe.loss.get("arguments", {})
    if arguments.get("reduction", "mean") != "mean" or (
        recipe.accumulate > 1 and ("weight" in arguments or recipe.mixup)
    ):
        left.append(Note("eject.cannot.option", option="loss_arguments", value=json.dumps(arguments)))
    return lambda data, model: learning_facts(recipe, data, model)


def learning_facts(recipe: Recipe, data: Data, model: nn.Module) -> dict[str, Any]:
    """Return the template's values."""
    assert isinstance(data.train, ResidentSplit)
    assert data.target is not None
    name, warmup, target = recipe.schedule["name"], recipe.schedule["warmup"], data.target
    moves = warmup > 0 or name != "constant"
    validates, tests = data.validation is not None, data.test is not None
    threshold = "0.5" if target.gives == "probabilities" else "0"
    counts_places = target.layout == "dense" or target.task in ("multilabel", "regression")
    judges = {
        "classes": "right += (outputs.argmax(1) == y[rows]).sum().item()",
        "yes-or-no": f"right += ((outputs > {threshold}) == (y[rows] > 0.5)).sum().item()",
        "quantity": f"error += ((outputs - y[rows]){' * unit_std' if target.mean else ''}).abs().sum().item()",
    }
    judge = LAST[target.task]
    return {
        "rate": repr(recipe.optimizer["arguments"]["lr"]), "warmup": warmup, "schedule": name, "moves": moves,
        "needs_steps": moves and name != "constant", "validates": validates, "tests": tests,
        "keeps_best": recipe.early_stopping is not None, "figure": "error" if judge == "quantity" else "accuracy",
        "judge": judges[judge], "counted": "error" if judge == "quantity" else "right", "counts": "y.numel()" if counts_places else "len(y)", "evaluated_at_once": max(EVALUATED, recipe.batch_size),
        "draws": draws(recipe, model), "loss": loss_code(recipe), "loss_says": f"loss-{judge}", "optimizer": optimizer_code(recipe),
    }  # fmt: skip


def draws(recipe: Recipe, model: nn.Module) -> bool:
    """Tell whether a step may draw random numbers."""
    known = all(type(each).__module__.startswith(("torch.nn", "rushlight.")) for each in model.modules())
    return recipe.mixup is not None or not known or any(isinstance(each, RANDOM) and each.p for each in model.modules())


def loss_code(recipe: Recipe) -> str:
    """Return how the loss is made."""
    arguments = recipe.loss.get("arguments", {})
    given = [
        f"{key}=torch.tensor({value})" if isinstance(value, list) else f"{key}={value!r}"
        for key, value in arguments.items()
    ]
    return f"nn.{recipe.loss['name']}({', '.join(given)})"


def optimizer_code(recipe: Recipe) -> str:
    """Return how the optimizer is made, with the settings that are not torch's own."""
    name, arguments = recipe.optimizer["name"], recipe.optimizer["arguments"]
    usual = inspect.signature(getattr(torch.optim, name)).parameters
    others = {
        key: restored(value)
        for key, value in arguments.items()
        if key != "lr" and restored(value) != usual[key].default
    }
    given = "".join(f", {key}={value!r}" for key, value in others.items())
    return f"torch.optim.{name}(model.parameters(), lr=LEARNING_RATE{given})"


def no_claim(folder: Path, recipe: Recipe, environment: dict[str, Any]) -> tuple[str | None, Note | None]:
    """Return (digest of the run's weights, None) where the script ends with it, else (None, why it need not)."""
    lines = read_history(folder)
    digest = next((line["state_sha256"] for line in reversed(lines) if line.get("event") == "finished"), None)
    last = next((line for line in reversed(lines) if line["kind"] == "epoch"), None)
    is_whole = last is not None and (last["epoch"] == recipe.epochs or recipe.early_stopping is not None)
    conditions = environment.get("conditions", {})
    for is_so, key in (
        (recipe.numerics != "exact", "fast"), (conditions.get("device", "cpu") != "cpu", "card"), (digest is None, "unfinished"),
        (not is_whole, "left-early"), (bool(inexact_resumes(folder)), "inexact"),
        (bool(conditions.get("deterministic")) or conditions.get("matmul_precision", "highest") != "highest", "settings"),
    ):  # fmt: skip
        if is_so:
            return None, Note(f"eject.unclaimed.{key}")
    return digest, None
