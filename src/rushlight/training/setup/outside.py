"""State that an objective reaches and no checkpoint has: a second optimizer, a module, a random generator, a variable."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from rushlight.training.checkpoint import GENERATORS

DEEPEST = 4  # from the objective through functions, methods and containers to an object
SHOWN = 5
LIBRARIES = ("torch", "numpy", "rushlight", "builtins")  # their functions and objects lead to nothing of the user's


def outside_state(functions: Iterable[Any], model: nn.Module, known: Iterable[Any]) -> str:
    """Return the state that the user's functions reach and no checkpoint has, by class or variable; "" for none.

    `known` are the objects that checkpoints have besides the model. A module counts where it is in training mode and has
    parameters that train or statistics that run; so a frozen teacher in eval mode does not.
    """
    known = [model, *known]
    modules = [module for owner in known if isinstance(owner, nn.Module) for module in owner.modules()]
    modules += [module for owner in functions if isinstance(owner, nn.Module) for module in owner.modules()]
    tensors = {id(tensor) for owner in modules for tensor in (*owner.parameters(False), *owner.buffers(False))}
    ids = {id(thing) for thing in (*known, *modules, torch.default_generator, np.random.mtrand._rand)}
    found: dict[str, None] = {}
    seen: set[int] = set()
    for function in functions:
        for name in state_reached(function, ids, tensors, seen, DEEPEST):
            found[name] = None
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, (Optimizer, *GENERATORS)) and id(value) not in ids:
                found[type(value).__name__] = None
    return ", ".join(list(found)[:SHOWN]) + (", …" if len(found) > SHOWN else "")


def state_reached(thing: Any, known: set[int], tensors: set[int], seen: set[int], depth: int) -> Iterator[str]:
    """Give the class of each object with state that `thing` reaches, and the name of each variable that it assigns."""
    if (
        depth < 0
        or id(thing) in seen
        or isinstance(thing, (type, types.ModuleType, str, bytes, torch.Tensor, np.ndarray))
    ):
        return
    seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        yield from assigned(thing.__code__)
    if id(thing) not in known and has_state(thing, tensors):
        yield type(thing).__name__
    elif not isinstance(thing, (nn.Module, Optimizer, *GENERATORS)):
        for inner in inside(thing):
            yield from state_reached(inner, known, tensors, seen, depth - 1)


def has_state(thing: Any, tensors: set[int]) -> bool:
    """Tell whether an object has state that training may change; `tensors` are those that checkpoints have."""
    if isinstance(thing, nn.Module):
        running = (each for each in thing.modules() if getattr(each, "track_running_stats", False))
        changing = [*thing.parameters(), *(buffer for each in running for buffer in each.buffers(False))]
        return thing.training and any(
            id(each) not in tensors and (each.requires_grad or not isinstance(each, nn.Parameter)) for each in changing
        )
    is_stateful = all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))
    return is_stateful or isinstance(thing, GENERATORS)


def inside(thing: Any) -> Iterator[Any]:
    """Give what a function, a method, a container or an object of the user's own leads to."""
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, types.MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, types.FunctionType):
        if thing.__module__ and thing.__module__.partition(".")[0] not in LIBRARIES:
            yield from (thing.__globals__[name] for name in used_globals(thing.__code__) if name in thing.__globals__)
            yield from (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
            for cell in thing.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # it has none yet
                    continue
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from thing
    elif type(thing).__module__.partition(".")[0] not in LIBRARIES and hasattr(thing, "__dict__"):
        yield from vars(thing).values()
        yield inspect.getattr_static(type(thing), "__call__", None)


def used_globals(code: types.CodeType) -> set[str]:
    """Return the names of the global variables that a function reads, those in it included."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(used_globals(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def assigned(code: types.CodeType) -> set[str]:
    """Return the variables outside a function that it assigns: its `nonlocal` and `global` ones."""
    steps = list(dis.get_instructions(code))
    stored = {step.argval for step in steps if step.opname == "STORE_GLOBAL"}
    return stored | {step.argval for step in steps if step.opname == "STORE_DEREF" and step.argval in code.co_freevars}
