"""The plain settings of a module: everything in it that its forward pass may look at, besides its tensors."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

TENSORS = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def settings_of(module: nn.Module, with_identity: bool = False) -> str:
    """Return the SHA-256 over all settings of a module and of those in it.

    With identity it also tells one object from another, and a tensor from itself changed: for comparing a module with
    itself a while ago, in one process.
    """
    lines = []
    for name, part in module.named_modules():
        kept = sorted((key, value) for key, value in vars(part).items() if key not in (*TENSORS, *HOOKS))
        described = ", ".join(f"{key}={describe(value, with_identity)}" for key, value in kept)
        if with_identity:
            tensors = (*part._parameters.items(), *part._buffers.items())
            described += "".join(f", {key} at {id(value)}" for key, value in tensors)
        lines.append(f"{name}: {type(part).__module__}.{type(part).__qualname__}({described})")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(value: Any, with_identity: bool) -> str:
    """Return a value as text that is the same for the same setting."""
    if isinstance(value, PLAIN):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(describe(each, with_identity) for each in value)})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(describe(each, with_identity) for each in value))})"
    if isinstance(value, dict):
        pairs = (f"{describe(key, with_identity)}: {describe(each, with_identity)}" for key, each in value.items())
        return f"{type(value).__name__}({', '.join(pairs)})"
    name = getattr(value, "__qualname__", type(value).__qualname__)
    identity = f" at {id(value)}" if with_identity else ""
    version = f" changed {value._version} times" if with_identity and isinstance(value, Tensor) else ""
    return f"{type(value).__module__}.{name}{identity}{version}"


def source_of(module: nn.Module) -> str:
    """Return the SHA-256 over the source files of all classes in a module that are not torch's own."""
    digest = hashlib.sha256()
    kinds = {kind for part in module.modules() for kind in type(part).__mro__ if issubclass(kind, nn.Module)}
    for kind in sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if not kind.__module__.startswith("torch."):
            digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):  # typed into a console
                digest.update(b"?")
    return digest.hexdigest()


def hooks_in(module: nn.Module) -> Iterator[str]:
    """Give the names of the modules and parameters in a module that somebody has put hooks on."""
    for name, part in module.named_modules():
        if any(getattr(part, hooks, None) for hooks in HOOKS):
            yield name or type(part).__name__
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            yield name
