"""The recipe: everything the user chose, frozen, as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from rushlight.errors import RunError
from rushlight.options import RecipeOptions

SCHEDULES = ("constant", "cosine", "onecycle")
OBJECTIVE = "objective"  # the name of the loss of a run with the user's own
DESCRIBED = ("model", "data", "loss", "optimizer", "schedule")


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeOptions):
    """The model, the data, the rule of learning, and the options. A live object is described, and marked `"live": true`."""

    model: dict[str, Any]
    data: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    batch_size: int = 64


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-ready values."""
    content = asdict(recipe)
    return {name: content.pop(name) for name in DESCRIBED} | content


def recipe_from_json(content: dict[str, Any]) -> Recipe:
    """Rebuild what `recipe_to_json` wrote; entries this version does not know are left out.

    Raises RunError for what is no recipe.
    """
    known = {entry.name for entry in fields(Recipe)}
    try:
        return Recipe(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        reason = str(error).removeprefix("Recipe.__init__() ")
        raise RunError("run-file-damaged", path="recipe.json", reason=reason) from error


def steps_per_epoch(samples: int | None, recipe: Recipe) -> int | None:
    """Return how many optimizer steps an epoch takes; None when the data does not tell its length."""
    return None if samples is None else math.ceil(samples / (recipe.batch_size * recipe.accumulate))
