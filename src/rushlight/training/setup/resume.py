"""Going on with a run: its options, the checkpoint it goes on from, and whether it will end with the same bits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from rushlight import files
from rushlight.data import Data, DataOptions
from rushlight.errors import RunError, UsageError
from rushlight.models import restored, source_digest
from rushlight.options import TAKES, Options, RecipeOptions
from rushlight.runs import (
    ENDED,
    age,
    list_checkpoints,
    lock_run,
    read_environment,
    read_recipe,
    run_folders,
    started_at,
    summarize_run,
)
from rushlight.texts import Joined, Note
from rushlight.training.checkpoint import (
    checkpoints,
    epoch_began,
    is_whole,
    latest_checkpoint,
    named_checkpoint,
    read_content,
    unpack,
)
from rushlight.training.objective import choose_metrics, describe_optimizer
from rushlight.training.recipe import OWN_LOSS, USERS, Recipe, recipe_from_json, recipe_to_json
from rushlight.training.setup.conditions import changed_settings, differences, remedies, setting_differences
from rushlight.training.setup.trust import remember
from rushlight.training.state import Origin, Training


@dataclass(frozen=True)
class Begun:
    """A run that goes on, its folder locked."""

    folder: Path
    recipe: Recipe
    changed: tuple[str, ...] = ()  # what is not as it was, known before anything is opened


def begun_run(
    recipe: Recipe, conditions: dict[str, Any], options: Options, stack: contextlib.ExitStack
) -> Begun | None:
    """Return the newest run of this very recipe that is not finished, or the one of this name; None if there is none.

    Raises RunError where the one of this name has another recipe.
    """
    wanted, otherwise = as_written(recipe), None
    for folder in sorted(run_folders(Path(options.runs)), key=started_at, reverse=True):
        with contextlib.suppress(RunError):
            recorded = read_environment(folder).get("conditions", {})
            begun = recipe_from_json(read_recipe(folder))
            then = as_written(begun)
            is_same = then == wanted and all(recorded.get(key) == conditions[key] for key in ("data", "model"))
            is_open = (
                folder.name == options.name if options.name is not None else summarize_run(folder).status not in ENDED
            )
            if folder.name == options.name and not is_same:
                pairs = [Note("training.changed.option", option=name, **pair) for name, pair in unlike(then, wanted)]
                pairs += [
                    Note(f"training.changed.{key}")
                    for key in ("data", "model")
                    if not pairs and recorded.get(key) != conditions[key]
                ]
                otherwise = RunError("run-otherwise", run=folder.name, differences=Joined("items", ["", *pairs]))
            if is_same and is_open:
                stack.enter_context(lock_run(folder))
                return Begun(folder, recipe)
    if otherwise is not None:
        raise otherwise
    return None


def unlike(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Give the innermost entries of a recipe's JSON that differ, by the options that decide them."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from unlike(then.get(key), now.get(key), name if key == "name" and name else key)
    elif then != now:
        yield name, {"then": "–" if then is None else str(then), "now": "–" if now is None else str(now)}


def as_written(recipe: Recipe) -> Any:
    """Return a recipe's JSON values as they are once written and read: tuples become lists."""
    return json.loads(json.dumps(recipe_to_json(recipe)))


def check_resumable(folder: Path, recipe: Recipe, model: object, data: Any, given: dict[str, Any]) -> Begun:
    """Return the run to go on with. RunError: a live part is missing; UsageError: an option that a run cannot change."""
    if data is None and "source" not in recipe.data:
        raise RunError("live-data", run=folder.name, data=recipe.data.get("name"))
    live = {part for part in ("optimizer", "schedule", "loss") if getattr(recipe, part).get("live")}
    missing: list[str] = [part for part in ("optimizer", "schedule", "loss") if part in live and part not in given]
    users = recipe.loss["name"] if recipe.loss["name"] in USERS else "objective"
    if users in given and "loss" in missing:
        missing.remove("loss")
    missing += ["step"] if recipe.loss.get("step") and users != "step" and "step" not in given else []
    missing += ["keep"] if recipe.keep and "keep" not in given else []
    missing += ["metrics"] if any(entry.get("live") for entry in recipe.metrics) and "metrics" not in given else []
    if missing:
        own = {"loss": users} if recipe.loss["name"] in USERS else {}
        raise RunError("live-parts", run=folder.name, parts=", ".join(own.get(part, part) for part in missing))
    kept = [type(each).__name__ for each in given.get("keep", ())]
    if kept != list(recipe.keep):
        raise RunError("kept-differ", run=folder.name, then=", ".join(recipe.keep) or "–", now=", ".join(kept))
    if "metrics" in given:
        then, now = (
            [entry["name"] for entry in recipe.metrics],
            list(choose_metrics(given["metrics"], recipe.best).live),
        )
        if now != then:
            raise RunError("metrics-differ", run=folder.name, then=", ".join(then) or "–", now=", ".join(now))
    fixed = {"loss", "optimizer"} - live
    fixed |= {"test_data", "val_data"} if data is None else set()
    fixed |= set() if recipe.max_steps is None else {"epochs"}
    for option in given:
        if option not in TAKES["resume"] or option in fixed:
            raise UsageError("resume-option", run=folder.name, option=option)
    epochs, schedule = given.get("epochs", recipe.epochs), given.get("schedule", recipe.schedule["name"])
    if epochs != recipe.epochs and schedule in ("cosine", "onecycle"):
        raise UsageError(
            "schedule-is-planned", run=folder.name, schedule=schedule, planned=recipe.epochs, epochs=epochs
        )
    source = model if isinstance(model, str) else recipe.model.get("import")
    return Begun(folder, recipe, check_source(folder, source, recipe.model, bool(given.get("inexact"))))


def check_source(folder: Path, source: str | None, described: dict[str, Any], is_inexact: bool) -> tuple[str, ...]:
    """Return what is not as it was in the model's own source; RunError before any of it is executed."""
    recorded = described.get("source_sha256")
    if recorded is None or source is None or source_digest(source) == recorded:
        return ()
    changed = Note("training.changed.source", source=source)
    if not is_inexact:
        raise RunError("not-exact", run=folder.name, differences=Joined("items", ["", changed]), remedies="")
    return (changed,)


def as_recorded(data: Data, folder: Path) -> Data:
    """Return the data as a run used it: without validation, where it began before a folder's own was a split."""
    has_environment = (folder / "environment.json").is_file()
    recorded = read_environment(folder).get("data_fingerprint") if has_environment else None
    is_older = recorded != data.fingerprint and recorded == data.fingerprint.partition("-")[0]
    return replace(data, validation=None) if is_older else data


def options_of(folder: Path, recipe: Recipe, given: dict[str, Any]) -> Options:
    """Return the options that the run in `folder` was begun with, with those that are given now in their place."""
    values: dict[str, Any] = {entry.name: getattr(recipe, entry.name) for entry in fields(RecipeOptions)}
    opening = {key: restored(value) for key, value in recipe.data["options"].items()}
    values |= {**opening, "seed": recipe.seed, "split_seed": opening.get("seed", DataOptions.seed)}
    values["tokenizer"] = DataOptions.from_json(recipe.data["options"], folder, given.get("tokenizer")).tokenizer
    arguments = {key: restored(value) for key, value in recipe.optimizer["arguments"].items()}
    values |= {
        "metrics": [entry["name"] for entry in recipe.metrics], "weights": recipe.model.get("weights"), "loss_arguments": recipe.loss.get("arguments"),
        "loss": None if recipe.loss["name"] in (*USERS, OWN_LOSS) else recipe.loss["name"],
        "optimizer": recipe.optimizer["name"], "optimizer_arguments": arguments,
        "schedule": recipe.schedule["name"], "warmup": recipe.schedule["warmup"],
        "model_arguments": recipe.model.get("arguments"),
        "val_data": recipe.data.get("validation"), "test_data": recipe.data.get("test"),
    }  # fmt: skip
    schedule = given.get("schedule", recipe.schedule["name"])
    if recipe.schedule["name"] in (schedule, type(schedule).__name__):  # else by and arguments are not that one's
        values |= {
            "schedule_by": recipe.schedule.get("by", "auto"), "schedule_arguments": recipe.schedule.get("arguments"),
        }  # fmt: skip
    known = {entry.name for entry in fields(Options)}
    return Options(**{name: value for name, value in {**values, **given}.items() if name in known})


def find_origin(
    begun: Begun, conditions: dict[str, Any], options: Options, optimizer: Optimizer | None, outside: str = ""
) -> Origin:
    """Return the checkpoint that a run goes on from, once it is checked that it ends with the same bits.

    `outside` names state that no checkpoint has: the run goes on, and records that it is not exact.

    Raises:
        RunError: something that the bits depend on is not what it was, and `inexact` does not allow that.
        WeightsError: the checkpoint that was asked for is damaged.
    """
    folder, chosen = begun.folder, options.checkpoint
    if chosen is not None:
        checkpoint: Path | None = named_checkpoint(folder, str(chosen))
    else:
        checkpoint = latest_checkpoint(folder) if list_checkpoints(folder) else None
    content = None if checkpoint is None else read_content(checkpoint)
    if content is not None:
        then = unpack(content["conditions"], {})
    else:
        then = read_environment(folder).get("conditions", conditions)
    settings: tuple[dict[str, tuple[Any, Any]], ...] = ()
    if optimizer is not None and optimizer is options.optimizer:  # a live one
        settings = changed_settings(optimizer, options.schedule, begun.recipe.optimizer["arguments"], content)
    found = (*begun.changed, *differences(then, conditions), *setting_differences(settings))
    if found and not options.inexact:
        listed = Joined("items", ["", *found])
        raise RunError("not-exact", run=folder.name, differences=listed, remedies=remedies(then, conditions))
    found += (Note("training.changed.outside", listed=outside),) if outside else ()
    return Origin(checkpoint, chosen is not None, found, options.inexact, settings)


def continued(recipe: Recipe, now: Recipe, optimizer: Optimizer, origin: Origin) -> Recipe:
    """Return a run's recipe with what it goes on with: epochs, schedule, model's source, a live optimizer's other settings."""
    described = {**describe_optimizer(optimizer), "live": True} if origin.settings else recipe.optimizer
    model = now.model if "import" in now.model else recipe.model
    return replace(
        recipe, model=model, schedule=now.schedule, optimizer=described, epochs=now.epochs, on_nan=now.on_nan
    )


def check_rollback(folder: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Raise RunError where a run goes on inside an epoch, to whose beginning it could not be rolled back."""
    if recipe.on_nan != "rollback" or checkpoint is None or age(checkpoint)[1]:
        return
    state = unpack(read_content(checkpoint)["state"], {})
    if not is_whole(checkpoints(folder) / epoch_began(state)):
        ends = (path for path in list_checkpoints(folder) if age(path)[1])
        known = ", ".join(path.name for path in ends if is_whole(path)) or "none"
        raise RunError("no-way-back", run=folder.name, step=state["step"] - state["window"], known=known)


def keep_recipe(training: Training) -> None:
    """Write the recipe of a run that goes on, where it is another now; once nothing can be refused any more."""
    if as_written(training.recipe) != as_written(recipe_from_json(read_recipe(training.folder))):
        files.write_json(training.folder / "recipe.json", recipe_to_json(training.recipe))
    remember(training.folder, training.recipe)
