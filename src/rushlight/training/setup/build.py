"""The model: a live one, or one built by its name or its class, now or again from its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rushlight import files
from rushlight.data import DATASETS, Data
from rushlight.errors import ModelError, RunError, UsageError
from rushlight.export import load_fitting
from rushlight.formats import format_count, format_names
from rushlight.models import MODELS, as_json, build_custom, build_model, restored, source_digest
from rushlight.options import Options
from rushlight.runs import list_checkpoints
from rushlight.texts import Joined, Note
from rushlight.training.objective import matching
from rushlight.training.setup.resume import Begun
from rushlight.training.state import Training


def choose_model(model: object, data: Data | None, options: Options) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model, and how the recipe describes it; one by name is fitted to the data."""
    if isinstance(model, nn.Module):
        kind = type(model)
        described = {"class": f"{kind.__module__}.{kind.__qualname__}", "name": kind.__name__, "live": True}
        kept = modules_in_eval(model)
        return model, {**described, "eval": kept} if kept else described
    if isinstance(model, type):
        raise ModelError("class-not-instance", name=model.__name__)
    if not isinstance(model, str):
        raise ModelError("no-model", found=type(model).__name__)
    arguments = {key: as_json(value) for key, value in (options.model_arguments or {}).items()}
    if model == "textcnn" and data is not None and data.features is not None and (tokens := data.features.tokens):
        arguments = {"vocabulary": tokens.vocabulary, "padding": tokens.padding, **arguments}
    described = {"name": model, "arguments": arguments, "seed": options.seed}
    if ":" in model:
        own = {"import": model, "name": model.rpartition(":")[2], "source_sha256": source_digest(model)}
        described = own | {"arguments": arguments, "seed": options.seed}
    return build_described(described, data), described


def load_first_weights(
    model: nn.Module, described: dict[str, Any], begun: Begun | None, options: Options
) -> tuple[str, ...]:
    """Load the weights to begin with, where names and shapes fit, and describe them; return what is said of that.

    A run that has checkpoints goes on with theirs. RunError where it has none, and the file is not what it was.
    """
    if begun is not None and list_checkpoints(begun.folder):
        described |= {
            key: begun.recipe.model[key] for key in ("weights", "weights_sha256") if key in begun.recipe.model
        }
        return ()
    if options.weights is None:
        return ()
    path = Path(options.weights).resolve()
    notes = load_fitting(model, path)
    described["weights"] = str(path)
    described["weights_sha256"] = files.sha256_of(path)
    if (
        begun is not None
        and begun.recipe.model.get("weights_sha256") != described["weights_sha256"]
        and not options.inexact
    ):
        changed = Note("training.changed.weights", path=path)
        raise RunError("not-exact", run=begun.folder.name, differences=Joined("items", ["", changed]), remedies="")
    return notes


def freeze(
    model: nn.Module, described: dict[str, Any], patterns: Sequence[str], unfreeze_after: int | None = None
) -> tuple[str, ...]:
    """Let the parameters whose names match not train, and modules that have no other ones stay in eval mode.

    Statistics that run, as BatchNorm's, stay as they are then. What trains later, `unfreeze_after` epochs, stands in
    `described["frozen"]`, for `hold_frozen`.
    """
    named = dict(model.named_parameters())
    names = {name for pattern in patterns for name in matching(pattern, named, "freeze")}
    for name in names:
        named[name].requires_grad_(False)
    kept = []
    for name, module in model.named_modules():
        own = {f"{name}.{leaf}".removeprefix(".") for leaf, _ in module.named_parameters(recurse=False)}
        if own and own <= names and module._buffers:
            module.eval()
            kept.append(name)
    total = format_count(sum(named[name].numel() for name in names))
    if unfreeze_after is not None:
        described["frozen"] = {"parameters": sorted(names), "eval": kept}
        return (Note("training.frozen-at-first", count=len(names), parameters=total, epochs=unfreeze_after),)
    if kept:
        described["eval"] = [*described.get("eval", []), *kept]
    return (Note("training.frozen", count=len(names), parameters=total),) if names else ()


def hold_frozen(training: Training) -> None:
    """Let what `freeze` froze train from the epoch on that the recipe says, and not before: a function of the epoch alone."""
    recipe, model, epoch = training.recipe, training.model, training.state["epoch"]
    frozen = recipe.model.get("frozen")
    if frozen is None or recipe.unfreeze_after is None:
        return
    is_frozen = epoch <= recipe.unfreeze_after
    for name in frozen["parameters"]:
        model.get_parameter(name).requires_grad_(not is_frozen)
    for name in frozen["eval"] if is_frozen else ():
        model.get_submodule(name).training = False
    if epoch == recipe.unfreeze_after + 1 and not training.state["window"]:
        training.events.message(Note("training.unfrozen", count=len(frozen["parameters"]), epoch=epoch))


def modules_in_eval(model: nn.Module) -> list[str]:
    """Return the names of the modules given in eval mode inside a module in training mode: they stay in eval mode."""
    names = {module: name for name, module in model.named_modules()}
    children = (child for parent in model.modules() if parent.training for child in parent.children())
    outermost = [child for child in children if not child.training]
    inside = {module for child in outermost for module in child.modules() if not module.training}
    return [name for module, name in names.items() if module in inside]


def eval_notes(names: list[str]) -> tuple[str, ...]:
    """Return the note that says which modules stay in eval mode."""
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if not outermost:
        return ()
    return (Note("training.stays-in-eval-mode", layers=format_names(outermost)),)


def build_described(described: dict[str, Any], data: Data | None) -> nn.Module:
    """Build the model that a recipe describes, by name or by import."""
    name = described["name"]
    if "import" in described:
        return build_imported(described)
    if name.endswith(".py"):
        raise ModelError("file-without-class", path=name)
    if name in DATASETS:
        raise UsageError("data-as-model", name=name, verb="train")
    arguments = {key: restored(value) for key, value in described["arguments"].items()}
    if name not in MODELS:  # the message is about the name, whatever the data is
        return build_model(name, (), 0, arguments, described["seed"])
    assert data is not None
    if data.features is None or data.target is None:
        raise UsageError("model-needs-spec", model=name, data=data.name)
    if data.features.tokens is not None and name != "textcnn":
        raise ModelError("texts-need-embedding", model=name, data=data.name)
    return build_model(name, data.features.shape, data.target.outputs, arguments, described["seed"])


def build_imported(described: dict[str, Any]) -> nn.Module:
    """Build the user's own class that a recipe describes; that of a live object was built without a word about how."""
    arguments = {key: restored(value) for key, value in described.get("arguments", {}).items()}
    return build_custom(described["import"], arguments, described.get("seed", 0), described.get("head"))
