"""Digests of a module's settings: all that its forward pass may read besides its tensors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections import deque
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.training.objective import step_hooks
from rushlight.training.step import HOOKS

TENSORS = ("_parameters", "_buffers", "_modules")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def settings_of(module: nn.Module, with_identity: bool = False) -> str:
    """Return the SHA-256 over all settings of a module and of those in it.

    With identity it also tells one object from another, and a tensor or a random generator from itself changed: for comparing
    a module with its earlier self, in one process. Its own parameters and buffers may change: training does that.
    """
    own = frozenset(map(id, (*module.parameters(), *module.buffers()))) if with_identity else None
    lines = []
    for name, part in module.named_modules(remove_duplicate=False):
        kept = sorted((key, value) for key, value in vars(part).items() if key not in (*TENSORS, *HOOKS))
        described = ", ".join(f"{key}={describe_setting(value, own)}" for key, value in kept)
        if with_identity:
            tensors = (*part._parameters.items(), *part._buffers.items())
            described += "".join(f", {key} at {id(value)}" for key, value in tensors)
        lines.append(f"{name}: {type(part).__module__}.{type(part).__qualname__}({described})")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe_setting(value: Any, own: frozenset[int] | None) -> str:
    """Return a value as text that is the same for the same setting.

    With `own`, the identities of a module's own tensors, the text tells one object from another, and other tensors changed.
    """
    if isinstance(value, PLAIN):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, (list, tuple, deque)):
        return f"{type(value).__name__}({', '.join(describe_setting(each, own) for each in value)})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(describe_setting(each, own) for each in value))})"
    if isinstance(value, dict):
        pairs = (f"{describe_setting(key, own)}: {describe_setting(each, own)}" for key, each in value.items())
        return f"{type(value).__name__}({', '.join(pairs)})"
    if isinstance(value, functools.partial):
        return f"partial({describe_setting((value.func, value.args, value.keywords), own)})"
    name = f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return name if own is None else f"{name} at {id(value)}{inside(value, own)}"


def inside(value: Any, own: frozenset[int]) -> str:
    """Return the state of an object that may change while it stays the same object, as text."""
    if isinstance(value, Tensor):
        return "" if id(value) in own else f" changed {value._version} times"
    if isinstance(value, torch.Generator):
        return f" {hashlib.sha256(value.get_state().numpy().tobytes()).hexdigest()}"
    if isinstance(value, np.random.Generator):
        return f" {value.bit_generator.state}"
    if isinstance(value, np.random.RandomState):
        return f" {value.get_state()}"
    if isinstance(value, random.Random):
        return f" {value.getstate()}"
    if isinstance(value, (type, FunctionType, nn.Module)):
        return ""
    plain = {key: each for key, each in getattr(value, "__dict__", {}).items() if isinstance(each, PLAIN)}
    return f" {plain}" if plain else ""


def source_of(*modules: nn.Module) -> str:
    """Return the SHA-256 over the code of all classes in modules that are not torch's own.

    It is that of their methods as they are loaded. Functions that these call from elsewhere are not in it.
    """
    kinds = {kind for module in modules for part in module.modules() for kind in type(part).__mro__}
    digest = hashlib.sha256()
    for kind in sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if kind.__module__ != "builtins" and not kind.__module__.startswith("torch."):
            digest.update(f"{kind.__module__}.{kind.__qualname__}\n".encode())
            for name, value in sorted(vars(kind).items()):
                digest.update(f"{name} {digest_of_code(value)}\n".encode())
    return digest.hexdigest()


def digest_of_code(value: Any) -> str:
    """Return a class's attribute as text: a method's bytecode, defaults and closed-over values."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        return " ".join(digest_of_code(each) for each in (value.fget, value.fset) if each is not None)
    if isinstance(value, FunctionType):
        closed_over = []
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # it is empty yet
                closed_over.append(cell.cell_contents)
        kept = value.__defaults__, value.__kwdefaults__, closed_over
        return f"{bytecode(value.__code__)} {describe_setting(kept, None)}"
    return describe_setting(value, None) if isinstance(value, (*PLAIN, tuple, frozenset)) else type(value).__qualname__


def bytecode(code: CodeType) -> str:
    """Return the instructions and constants of a function as text, wherever it stands in a file."""
    constants = (
        bytecode(each) if isinstance(each, CodeType) else describe_setting(each, None) for each in code.co_consts
    )
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {' '.join(constants)}"


def is_step_hooked(optimizer: Optimizer) -> bool:
    """Tell whether the user follows an optimizer's steps by a hook or a `step` of their own."""
    hooks = [hook for kind in step_hooks(optimizer) for hook in kind.values()]
    step = vars(optimizer).get("step")
    is_wrapped = step is not None and not hasattr(step, "_wrapped_by_lr_sched") and not hasattr(step, "__func__")
    return is_wrapped or not all(str(getattr(hook, "__module__", "")).startswith("rushlight.") for hook in hooks)


def constants_of(optimizer: Optimizer) -> list[Any]:
    """Return the settings of an optimizer that compiled steps have built in; cheap."""
    return [
        value
        for group in optimizer.param_groups
        for key, value in group.items()
        if key not in ("params", "lr", "initial_lr")
    ]
