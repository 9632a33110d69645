"""Where a training goes on from: a new folder, or the checkpoint of a run begun earlier."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushlight.errors import RunError
from rushlight.runs import (
    age,
    list_checkpoints,
    lock_run,
    new_run,
    read_json,
    read_recipe,
    run_folders,
    started_at,
    summarize,
)
from rushlight.training.checkpoint import (
    checkpoints,
    epoch_began,
    is_whole,
    latest_checkpoint,
    named_checkpoint,
    read_content,
    unpack,
)
from rushlight.training.recipe import Recipe, recipe_from_json, recipe_to_json
from rushlight.training.setup.conditions import differences, remedies, setting_differences
from rushlight.training.setup.describe import label_of
from rushlight.training.setup.options import Options
from rushlight.training.state import Origin


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


def origin_of(
    folder: Path,
    conditions: dict[str, Any],
    options: Options,
    changed: tuple[str, ...] = (),
    compare: Callable[[dict[str, Any] | None], tuple[dict[str, tuple[Any, Any]], ...]] = lambda content: (),
) -> Origin:
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
    content = None if checkpoint is None else read_content(checkpoint)
    if content is not None:
        then = unpack(content["conditions"], {})
    else:
        then = read_json(folder / "environment.json").get("conditions", conditions)
    settings = compare(content)
    found = (*changed, *differences(then, conditions), *setting_differences(settings))
    if found and not options.get("inexact"):
        listed = "".join(f"\n  - {difference}" for difference in found)
        raise RunError("not-exact", run=folder.name, differences=listed, remedies=remedies(then, conditions))
    return Origin(checkpoint, chosen is not None, found, bool(options.get("inexact")), settings)


def check_way_back(folder: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Raise RunError where a run goes on inside an epoch, to whose beginning it could not be rolled back."""
    if recipe.on_nan != "rollback" or checkpoint is None or age(checkpoint)[1]:
        return
    state = unpack(read_content(checkpoint)["state"], {})
    if not is_whole(checkpoints(folder) / epoch_began(state)):
        ends = (path for path in list_checkpoints(folder) if age(path)[1])
        known = ", ".join(path.name for path in ends if is_whole(path)) or "none"
        raise RunError("no-way-back", run=folder.name, step=state["step"] - state["window"], known=known)
