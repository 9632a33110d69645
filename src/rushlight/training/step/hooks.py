"""Finds hooks, which are code of the user's that a forward or a backward pass calls."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooks_in(module: nn.Module) -> Iterator[str]:
    """Give the names of the modules and parameters in a module that have hooks."""
    for name, part in module.named_modules():
        if any(getattr(part, hooks, None) for hooks in HOOKS):
            yield name or type(part).__name__
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            yield name
