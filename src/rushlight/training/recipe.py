"""The recipe: everything the user chose, frozen, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from rushlight.errors import RunError, UsageError
from rushlight.kinds import (
    Kind,
    either,
    is_count,
    is_flag,
    is_object,
    is_one_of,
    is_positive,
    is_share,
    is_text,
    is_whole_number,
    maybe,
    named,
    pair_of,
    wrong_entry,
)
from rushlight.options import TAKES, RecipeOptions
from rushlight.texts import Note

if TYPE_CHECKING:
    from rushlight.data import Split

SCHEDULES = ("constant", "cosine", "onecycle", "plateau", "range")
OBJECTIVE = "objective"  # the name of the loss of a run with the user's own
STEP = "step"  # the name of the loss of a run whose steps are a function of the user's, without a loss to evaluate by
USERS = (OBJECTIVE, STEP)  # runs whose batches are handed over as they are
OWN_LOSS = "model"  # the name of a loss that the model returns by itself
DESCRIBED = ("model", "data", "loss", "optimizer", "schedule")
BUILT: dict[str, Kind] = {
    "name": is_text,
    "arguments": is_object,
    "seed": is_whole_number,
}  # a model by its name or its import
PREPARED: dict[str, Kind] = {
    "eval?": [is_text], "weights?": is_text, "weights_sha256?": is_text, "frozen?": {"parameters": [is_text], "eval": [is_text]},
    "head?": {"name": is_text, "found": is_count, "outputs": is_count},
}  # fmt: skip
OPENING: Kind = {
    **dict.fromkeys(("target?", "task?", "kind?", "normalize?", "text_column?", "time_column?"), is_text), "tokenizer?": is_object,
    **dict.fromkeys(("text_length?", "window?", "horizon?", "shuffle_window?"), is_count), "classes?": [is_text], "image_size?": pair_of(is_count),
    "test_fraction?": either(is_share, pair_of(is_count)), "val_fraction?": is_share, "seed?": is_whole_number, "skip_bad?": is_flag, "workers?": is_count,
}  # fmt: skip
KIND: Kind = {
    "model": either(
        {**BUILT, "import?": is_text, "source_sha256?": maybe(is_text), **PREPARED},
        {"name": is_text, "class": is_text, "live": is_flag, **PREPARED},
    ),
    "data": {
        **dict.fromkeys(("name?", "source?", "validation?", "test?"), is_text), "options": OPENING, "live?": is_flag,
        "floats?": is_one_of("float32", "float64"),
    },
    "loss": {"name": is_text, "live?": is_flag, "step?": is_flag, "arguments?": is_object},
    "optimizer": {"name": is_text, "arguments": is_object, "live?": is_flag},
    "schedule": {"name": is_text, "warmup": is_count, "live?": is_flag},
    "metrics?": [{"name": is_text, "live?": is_flag}], "best?": maybe(is_text),
    "device?": is_text, **dict.fromkeys(("epochs?", "batch_size?", "accumulate?", "early_stopping?", "max_steps?", "unfreeze_after?", "swa?"), maybe(is_count)),
    "augment?": maybe(is_text), "ema?": maybe(is_share), "mixup?": maybe(is_positive), "cutmix?": maybe(is_positive), "groups?": maybe(named(is_object)), "freeze?": maybe([is_text]), "study?": maybe(is_text), "final_test?": is_flag,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeOptions):
    """The model, the data, the rule of learning, and the options. A live object is described, and marked `"live": true`."""

    model: dict[str, Any]
    data: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    batch_size: int = 64
    keep: Sequence[str] = ()  # the classes of the objects whose state is kept besides
    metrics: Sequence[dict[str, Any]] = ()

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are those that remain."""
        return self.early_stopping is not None or self.best is not None


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-ready values."""
    content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}
    return {name: content.pop(name) for name in DESCRIBED} | content


def recipe_from_json(content: dict[str, Any]) -> Recipe:
    """Rebuild what `recipe_to_json` wrote; entries this version does not know are left out.

    Raises RunError for what is no recipe.
    """
    name = wrong_entry(content, KIND)
    if name is None:
        name = next((option for option in content["data"]["options"] if option not in TAKES["open_data"]), None)
    if name is not None:
        raise RunError("run-file-damaged", path="recipe.json", reason=Note("runs.lacks", name=name))
    known = {entry.name for entry in fields(Recipe)}
    schedule = content.get("schedule", {})
    if schedule.get("live") and "by" not in schedule:  # earlier releases knew these two by step
        by = "step" if schedule["name"] in ("OneCycleLR", "CyclicLR") else "epoch"
        content = content | {"schedule": schedule | {"by": by}}
    try:
        return Recipe(**{key: value for key, value in content.items() if key in known})
    except UsageError as error:
        raise RunError("run-file-damaged", path="recipe.json", reason=error.record) from error


def steps_per_epoch(split: Split, recipe: Recipe) -> int | None:
    """Return how many optimizer steps an epoch takes; None when the data does not tell its length."""
    batches = split.count_batches(recipe.batch_size)
    return None if batches is None else math.ceil(batches / recipe.accumulate)
