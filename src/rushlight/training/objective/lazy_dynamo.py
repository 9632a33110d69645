"""Optimizers of torch that leave torch's compiler alone until somebody compiles.

`Optimizer.step`, `zero_grad`, `add_param_group`, `state_dict` and `load_state_dict` are decorated so that `torch.compile` does not
trace through them. The decorators import `torch._dynamo` when they are first called, in every program that trains: about as long
as importing torch itself. While nothing is being compiled they do nothing else, so an optimizer made here calls what they
decorate, and torch's own method as soon as `torch.compiler.is_compiling()`.

It is the instance that is changed: the classes of torch, and every other optimizer in the process, stay as they are. Where a torch
decorates its methods in another way, they are left as they are, and all that is lost is the time.
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


def make_optimizer(kind: type[Optimizer], parameters: list[torch.nn.Parameter], arguments: dict[str, Any]) -> Optimizer:
    """Return `kind(parameters, **arguments)`, whose methods do not import torch's compiler."""
    made = kind.__new__(kind)
    put_in_place(made, "add_param_group", uncompiled(kind, "add_param_group"))  # its own __init__ calls it
    made.__init__(parameters, **arguments)  # type: ignore[misc]
    leave_compiler_alone(made)
    return made


def leave_compiler_alone(optimizer: Optimizer) -> None:
    """Put methods that do not import torch's compiler in place of this optimizer's own."""
    kind = type(optimizer)
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        put_in_place(optimizer, name, uncompiled(kind, name))
    put_in_place(optimizer, "step", plain_step(getattr(kind, "step")))  # noqa: B009  # mypy knows it with its overloads only


def uncompiled(kind: type[Optimizer], name: str) -> Method | None:
    """Return a method of an optimizer class without its look at the compiler; None where it has none."""
    return beneath(getattr(torch, "_disable_dynamo", None), getattr(kind, name))


def beneath(decorator: Decorator | None, method: Method) -> Method | None:
    """Return the function that `decorator` has decorated; None where the method is not this decorator's work."""
    if decorator is None or not hasattr(method, "__code__"):
        return None
    is_its_work = method.__code__ is getattr(decorator(lambda optimizer: None), "__code__", None)
    return getattr(method, "__wrapped__", None) if is_its_work else None


def plain_step(step: Method) -> Method | None:
    """Return an optimizer class's `step` with its hooks, its profiling and its gradient mode, and no look at the compiler."""
    hooked = getattr(Optimizer, "profile_hook_step", None)
    guarded = beneath(hooked, step)
    update = (
        None if guarded is None else beneath(getattr(torch_optimizer, "_use_grad_for_differentiable", None), guarded)
    )
    if hooked is None or update is None:
        return None

    @functools.wraps(update)
    def without_gradients(optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return update(optimizer, *arguments, **named)

    watched = hooked(without_gradients)

    @functools.wraps(update)
    def plain(optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
        step = watched if is_watched(optimizer) else without_gradients
        return step(optimizer, *arguments, **named)

    return plain


def is_watched(optimizer: Optimizer) -> bool:
    """Tell whether somebody has a hook on the optimizer's steps, or a profiler runs: about 10 µs a step, else for nothing."""
    is_profiled = torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    return is_profiled or any(step_hooks(optimizer)) or "_optimizer_step_code" in vars(optimizer)


def step_hooks(optimizer: Optimizer) -> tuple[dict[int, Method], ...]:
    """Return the hooks around an optimizer's steps: those on all optimizers, and those on this one."""
    return (
        torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
    )  # fmt: skip


def put_in_place(optimizer: Optimizer, name: str, plain: Method | None) -> None:
    """Let `optimizer.name` call `plain`, and the class's own method while something is being compiled."""
    if plain is None:
        return
    own, itself = (
        getattr(type(optimizer), name),
        weakref.ref(optimizer),
    )  # a cycle would keep its state from being freed

    @functools.wraps(own)
    def method(*arguments: Any, **named: Any) -> Any:
        call = own if torch.compiler.is_compiling() else plain
        return call(itself(), *arguments, **named)

    method.__func__ = own  # type: ignore[attr-defined]  # torch's schedulers wrap a step as the bound method it was
    setattr(optimizer, name, method)
