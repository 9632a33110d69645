"""Optimizers of torch that leave torch's compiler alone until somebody compiles.

`Optimizer.step`, `zero_grad`, `add_param_group`, `state_dict` and `load_state_dict` are decorated so that `torch.compile` does not
trace through them. The decorators import `torch._dynamo` when they are first called, in every program that trains: about as long
as importing torch itself. While nothing is being compiled they do nothing else, so an optimizer made here calls what they
decorate, and torch's own method as soon as `torch.compiler.is_compiling()`.

It is the instance that is changed: the classes of torch, and every other optimizer in the process, stay as they are. Where a torch
decorates its methods otherwise, they are left as they are, and all that is lost is the time.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch.optim import Optimizer

Method = Callable[..., Any]
Decorator = Callable[[Method], Method]


def make_optimizer(kind: type[Optimizer], parameters: list[Any], arguments: dict[str, Any]) -> Optimizer:
    """Return `kind(parameters, **arguments)`, whose methods do not import torch's compiler."""
    made = kind.__new__(kind)
    replace_method(made, "add_param_group")  # its own __init__ calls it
    made.__init__(parameters, **arguments)  # type: ignore[misc]
    leave_compiler_alone(made)
    return made


def leave_compiler_alone(optimizer: Optimizer) -> None:
    """Replace this optimizer's methods by some that do not import torch's compiler."""
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step"):
        replace_method(optimizer, name)


def replace_method(optimizer: Optimizer, name: str) -> None:
    """Let `optimizer.name` call the undecorated method, and the class's own while compiling."""
    own = getattr(type(optimizer), name)
    plain = plain_step(own) if name == "step" else beneath(getattr(torch, "_disable_dynamo", None), own)
    if plain is None:
        return
    itself = weakref.ref(optimizer)  # a cycle would keep its state from being freed

    @functools.wraps(own)
    def method(*arguments: Any, **named: Any) -> Any:
        call = own if torch.compiler.is_compiling() else plain
        return call(itself(), *arguments, **named)

    method.__func__ = own  # type: ignore[attr-defined]  # torch's schedulers wrap a step as the bound method it was
    setattr(optimizer, name, method)


def beneath(decorator: Decorator | None, method: Method | None) -> Method | None:
    """Return the function that `decorator` has decorated; None where it did not make the method."""
    if decorator is None or method is None or not hasattr(method, "__code__"):
        return None
    is_its_work = method.__code__ is getattr(decorator(lambda optimizer: None), "__code__", None)
    return getattr(method, "__wrapped__", None) if is_its_work else None


def plain_step(step: Method) -> Method | None:
    """Return a class's `step` with hooks, profiling and gradient mode, without the compiler."""
    hooked = getattr(Optimizer, "profile_hook_step", None)
    graded = getattr(torch_optimizer, "_use_grad_for_differentiable", None)
    update = beneath(graded, beneath(hooked, step))
    if hooked is None or update is None:
        return None

    @functools.wraps(update)
    def without_gradients(optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return update(optimizer, *arguments, **named)

    watched = hooked(without_gradients)

    @functools.wraps(update)
    def plain(optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
        is_profiled = torch.autograd._profiler_enabled() or "_optimizer_step_code" in vars(optimizer)  # type: ignore[attr-defined]
        step = watched if is_profiled or any(step_hooks(optimizer)) else without_gradients  # which saves 10 µs
        return step(optimizer, *arguments, **named)

    return plain


def step_hooks(optimizer: Optimizer) -> tuple[dict[int, Method], ...]:
    """Return the hooks around an optimizer's steps: on all optimizers, and on this one."""
    return (
        torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
    )  # fmt: skip
