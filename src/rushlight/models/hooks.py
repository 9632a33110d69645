"""What is executed when a module is called, beside the layers of torch and of this package."""

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


def calls_own_code(module: nn.Module) -> bool:
    """Tell whether a call of a module executes code of the user's: a class, a hook, or a `forward` put in the place of another."""
    return next(hooks_in(module), None) is not None or any(
        type(part).__module__.partition(".")[0] not in ("torch", "rushlight") or "forward" in vars(part)
        for part in module.modules()
    )
