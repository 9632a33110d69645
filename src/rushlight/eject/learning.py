"""What of a recipe's learning goes into the script: loss, optimizer, schedule, and how the model is judged."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushlight.data import Data, ResidentSplit
from rushlight.models import restored
from rushlight.options import RecipeOptions
from rushlight.runs import inexact_resumes, read_history, summarize_run
from rushlight.texts import Note
from rushlight.training import Recipe

CARRIED = {  # the options that a script carries, or whose value changes nothing that it computes
    "epochs", "batch_size", "accumulate", "clip_norm", "early_stopping", "mixup", "max_steps", "seed", "device", "numerics",
    "compile", "study", "final_test", "keep_epochs", "tensorboard",
}  # fmt: skip
LAST = {"classification": "classes", "binary": "yes-or-no", "multilabel": "yes-or-no", "regression": "quantity"}
EVALUATED = 512  # samples at a time


def check_learning(recipe: Recipe, left: list[Note]) -> None:
    """Note in `left` what of a recipe's learning no script carries."""
    found: dict[str, Any] = {
        entry.name: value
        for entry in fields(RecipeOptions)
        if entry.name not in CARRIED and (value := getattr(recipe, entry.name)) != entry.default
    }
    found |= {"weights": recipe.model["weights"]} if "weights" in recipe.model else {}
    found |= {"metrics": ", ".join(entry["name"] for entry in recipe.metrics)} if recipe.metrics else {}
    schedule, arguments = recipe.schedule["name"], recipe.loss.get("arguments", {})
    if schedule == "plateau":
        found["schedule"] = schedule
    elif recipe.schedule.get("by") == "epoch" and schedule != "constant":
        found["schedule_by"] = "epoch"
    is_weighed = "weight" in arguments and (recipe.accumulate > 1 or recipe.early_stopping is not None)
    is_uneven = is_weighed or (recipe.accumulate > 1 and recipe.mixup is not None)
    if is_uneven or not {"reduction", "ignore_index"}.isdisjoint(arguments):
        found["loss_arguments"] = json.dumps(arguments)
    left += [Note("eject.cannot.option", option=name, value=str(value)) for name, value in found.items()]
    fold = recipe.data["options"].get("test_fraction")
    left += [Note("eject.cannot.fold", number=fold[0], count=fold[1])] if isinstance(fold, (list, tuple)) else []
    live = [part for part in ("model", "optimizer", "schedule", "loss", "data") if getattr(recipe, part).get("live")]
    live += ["step"] * bool(recipe.loss.get("step")) + ["keep"] * bool(recipe.keep)
    left += [Note("eject.cannot.live", part=part) for part in live]


def check_judged(recipe: Recipe, data: Data, left: list[Note]) -> None:
    """Note in `left` a loss whose targets the script could not judge."""
    assert isinstance(data.train, ResidentSplit)
    target, kept = data.target, data.train.targets
    is_soft = target is not None and target.task == "classification" and kept.is_floating_point()
    if (
        target is None
        or target.task not in LAST
        or target.gives == "logarithms"
        or is_soft
        or bool((kept < 0).any() and target.classes)
    ):
        left.append(Note("eject.cannot.option", option="loss", value=recipe.loss["name"]))


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
    return (
        recipe.mixup is not None
        or "import" in recipe.model
        or any(isinstance(each, nn.Dropout) for each in model.modules())
    )


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
    summary, patience = summarize_run(folder), recipe.early_stopping
    done, best = summary.epochs_done, summary.best_epoch
    has_stopped = patience is not None and best is not None and done - best >= patience
    is_whole = done == recipe.epochs or has_stopped
    conditions = environment.get("conditions", {})
    for is_so, key in (
        (recipe.numerics != "exact", "fast"), (conditions.get("device", "cpu") != "cpu", "card"), (digest is None, "unfinished"),
        (not is_whole, "left-early"), (bool(inexact_resumes(folder)), "inexact"),
        (bool(conditions.get("deterministic")) or conditions.get("matmul_precision", "highest") != "highest", "settings"),
    ):  # fmt: skip
        if is_so:
            return None, Note(f"eject.unclaimed.{key}")
    return digest, None
