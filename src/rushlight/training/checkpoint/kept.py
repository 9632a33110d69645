"""Restoring state by name and by object: an optimizer's by its parameters' names, and that of the objects in `keep`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.data import GENERATORS, set_state, state_of
from rushlight.errors import RunError, UsageError
from rushlight.formats import format_names
from rushlight.training.objective import named_parameters
from rushlight.training.state import Training

# ── an optimizer's state by name ─────────────────────────────────────────────────────────────────────────────


def parameter_names(training: Training) -> dict[int, str]:
    """Return the name of every parameter by its `id`: the model's own, then those of its loss and of the kept modules."""
    modules = {f"keep{i}:": kept for i, kept in enumerate(training.keep) if isinstance(kept, nn.Module)}
    others = {prefix + name: each for prefix, kept in modules.items() for name, each in kept.named_parameters()}
    own = named_parameters(training.model, training.objective.loss)
    rows = {} if training.shards is None else training.shards.parameters
    return {id(parameter): name for named in (others | own, rows) for name, parameter in named.items()}


def group_names(optimizer: object, names: dict[int, str]) -> list[list[str]] | None:
    """Return an optimizer's parameters by name, group by group; None for another object, or where one has no name."""
    if not isinstance(optimizer, Optimizer):
        return None
    groups = [[names.get(id(each), "") for each in group["params"]] for group in optimizer.param_groups]
    return groups if all(map(all, groups)) else None


def restore_optimizer(
    optimizer: Optimizer, state: dict[str, Any], saved: list[list[str]] | None, training: Training
) -> None:
    """Restore an optimizer's state_dict, saved with each group's parameters in the order of the names `saved`.

    A state goes by positions, and a group that was listed from a set comes in another order in another process. `saved` is
    None for a checkpoint of an earlier release. Raises RunError for a group of other parameters; another number of groups
    is left to torch to refuse.
    """
    names = parameter_names(training)
    for number, (then, group) in enumerate(zip(saved or [], optimizer.param_groups, strict=False)):
        now = [names.get(id(parameter), "") for parameter in group["params"]]
        if sorted(then) != sorted(now):
            raise RunError(
                "optimizer-group-differs", run=training.folder.name, optimizer=type(optimizer).__name__, group=number,
                then=format_names(sorted(set(then) - set(now)), 3) or "–", now=format_names(sorted(set(now) - set(then)), 3) or "–",
            )  # fmt: skip
        places = [now.index(name) for name in then]
        for key in {"params", "param_names"} & group.keys():
            group[key] = [group[key][place] for place in places]
    optimizer.load_state_dict(state)
    lay_out_like_parameters(optimizer)


def lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Lay the optimizer's tensors out as their parameters: fused kernels go by memory order.

    Tensors from a checkpoint are contiguous; a parameter may be channels last.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


# ── objects that are kept besides ────────────────────────────────────────────────────────────────────────────


def check_keep(keep: Any) -> tuple[Any, ...]:
    """Return the objects to keep; UsageError for one that has no state which can be read and set."""
    if not isinstance(keep, (list, tuple)):
        raise UsageError("keep-no-list", found=type(keep).__name__)
    for place, thing in enumerate(keep):
        has_state = all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))
        if isinstance(thing, type) or not (has_state or isinstance(thing, GENERATORS)):
            raise UsageError("not-keepable", place=place, found=type(thing).__name__)
    return tuple(keep)


def kept_state(thing: Any) -> Any:
    """Return the state of a kept object: its state_dict, or where a random generator stands."""
    if isinstance(thing, GENERATORS):
        return state_of(thing)
    if isinstance(thing, nn.Module):
        return {"state": thing.state_dict(), "buffers": unsaved_buffers(thing)}
    state = thing.state_dict()  # a scheduler's may hold its functions, which are made again with it
    return (
        {key: value for key, value in state.items() if not inspect.isfunction(value)}
        if isinstance(state, dict)
        else state
    )


def restore_kept(thing: Any, state: Any, names: list[list[str]] | None, training: Training) -> None:
    """Restore the result of `kept_state`; `names` are an optimizer's parameters, as `group_names` gave them."""
    if isinstance(thing, GENERATORS):
        set_state(thing, state)
    elif isinstance(thing, Optimizer):
        restore_optimizer(thing, state, names, training)
    elif isinstance(thing, nn.Module):
        thing.load_state_dict(state["state"])
        restore_buffers(thing, state["buffers"])
    else:
        thing.load_state_dict(state)


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that state_dict leaves out (persistent=False): training changes them."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in saved}


def restore_buffers(module: nn.Module, buffers: dict[str, Tensor], device: torch.device | None = None) -> None:
    """Restore the result of `unsaved_buffers`, also buffers that have grown or were None."""
    for name, saved in buffers.items():
        owner, _, leaf = name.rpartition(".")
        inner = module.get_submodule(owner)
        present = getattr(inner, leaf, None)
        if isinstance(present, Tensor) and present.shape == saved.shape and present.dtype == saved.dtype:
            present.copy_(saved)
        else:
            inner.register_buffer(leaf, saved.to(device), persistent=False)
