"""The recipe: everything the user chose, frozen, as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rushlight.errors import RunError, UsageError, check_choice

Precision = Literal["float32", "bfloat16"]
Numerics = Literal["exact", "fast"]
OnNan = Literal["stop", "skip", "rollback"]
Compile = Literal["auto", "first", "never"]
SCHEDULES = ("constant", "cosine", "onecycle")
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("float32", "bfloat16"),
    "numerics": ("exact", "fast"),
    "on_nan": ("stop", "skip", "rollback"),
    "compile": ("auto", "first", "never"),
}
POSITIVE = ("epochs", "batch_size", "accumulate")


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how. What was given as a live object is described, and marked `"live": true`."""

    model: dict[str, Any]
    data: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    epochs: int = 5
    batch_size: int = 64
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Precision = "float32"
    numerics: Numerics = "fast"
    seed: int = 0
    device: str = "auto"
    early_stopping: int | None = None
    tensorboard: bool = False
    on_nan: OnNan = "stop"
    keep_epochs: bool = False
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in POSITIVE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError("not-positive", option=name, value=value)
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UsageError("not-positive", option="clip_norm", value=self.clip_norm)
        if self.early_stopping is not None and self.early_stopping < 1:
            raise UsageError("not-positive", option="early_stopping", value=self.early_stopping)
        if not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**63:
            raise UsageError("bad-seed", value=self.seed)


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-ready values."""
    return asdict(recipe)


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
