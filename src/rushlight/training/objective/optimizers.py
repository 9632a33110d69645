"""Optimizers: by name, or checked as live objects."""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rushlight.errors import UsageError, suggest
from rushlight.formats import format_names
from rushlight.training.objective.lazy_dynamo import make_optimizer


def named_parameters(model: nn.Module, loss: object) -> dict[str, nn.Parameter]:
    """Return the parameters of a model and of its loss, by name; the loss's begin with "loss."."""
    own = loss.named_parameters(prefix="loss") if isinstance(loss, nn.Module) else ()
    return {**dict(model.named_parameters()), **dict(own)}


def matching(pattern: str, names: Iterable[str], option: str) -> list[str]:
    """Return the names that a pattern matches ("backbone.*"), or that lie inside the module of that name ("backbone").

    Raises UsageError where it matches none.
    """
    known = list(names)
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]
    if not found:
        raise UsageError("pattern-without-match", option=option, pattern=pattern, known=format_names(known, 8))
    return found


def parameter_groups(named: dict[str, nn.Parameter], groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return parameter groups with their settings: first what no pattern matches, then each pattern's, by the first that does."""
    left, found = dict(named), []
    for pattern, settings in groups.items():
        names = [name for name in matching(pattern, named, "groups") if name in left]
        if names:
            found.append({"params": [left.pop(name) for name in names], **settings})
    return [{"params": list(left.values())}, *found] if left else found


def named_optimizer(
    name: str, model: nn.Module, arguments: dict[str, Any], loss: object = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> Optimizer:  # fmt: skip
    """Return a new `torch.optim` optimizer by class name over the parameters of model and loss that train.

    `groups` has other settings by patterns of parameter names.

    Raises:
        UsageError: no such optimizer, no such argument, or nothing in the model trains.
    """
    known = {
        key: value for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }  # fmt: skip
    by_lower = {key.lower(): value for key, value in known.items()}
    if name.lower() not in by_lower:
        raise UsageError(
            "unknown-optimizer", name=name, known=", ".join(sorted(known)), suggestion=suggest(name, known)
        )
    optimizer_class = by_lower[name.lower()]
    accepted = [key for key in inspect.signature(optimizer_class).parameters if key != "params"]
    for argument, value in [pair for each in (arguments, *(groups or {}).values()) for pair in each.items()]:
        if argument not in accepted:
            raise UsageError(
                "unknown-optimizer-argument", optimizer=optimizer_class.__name__, argument=argument,
                known=", ".join(accepted), suggestion=suggest(argument, accepted),
            )  # fmt: skip
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError("not-a-finite-number", option=argument, value=value)
    named = {name: each for name, each in named_parameters(model, loss).items() if each.requires_grad}
    parameters = parameter_groups(named, groups) if groups else list(named.values())
    if not named:
        raise UsageError("nothing-trains", model=type(model).__name__)
    try:
        return make_optimizer(optimizer_class, parameters, arguments)
    except (TypeError, ValueError) as error:
        raise UsageError("optimizer-arguments", optimizer=optimizer_class.__name__, reason=error) from error


def held_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that an optimizer has, some of which may train later."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def check_live_optimizer(optimizer: Optimizer, model: nn.Module, loss: object = None) -> None:
    """Raise UsageError when a live optimizer holds foreign parameters, or none that trains."""
    own = set(map(id, named_parameters(model, loss).values()))
    held = held_parameters(optimizer)
    foreign = sum(id(parameter) not in own for parameter in held)
    if foreign:
        raise UsageError(
            "foreign-optimizer", optimizer=type(optimizer).__name__, model=type(model).__name__,
            foreign=foreign, held=len(held),
        )  # fmt: skip
    if not any(parameter.requires_grad for parameter in held):
        raise UsageError("nothing-trains", model=type(model).__name__)


def check_steps_alone(optimizer: Optimizer) -> None:
    """Raise UsageError for an optimizer whose step needs a closure of the loss (LBFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError("needs-closure", optimizer=type(optimizer).__name__)


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's class and the constructor's settings that JSON can hold."""
    accepted = inspect.signature(type(optimizer)).parameters
    plain = {
        key: value for key, value in optimizer.defaults.items()
        if key in accepted and isinstance(value, (int, float, str, bool, tuple))
        and not (isinstance(value, float) and not math.isfinite(value))
    }  # fmt: skip
    return {"name": type(optimizer).__name__, "arguments": plain}
