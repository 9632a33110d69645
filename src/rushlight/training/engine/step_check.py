"""Whether a faster mode of executing steps computes what the exact step does.

Both start from the same state with the same batches and random numbers, and so does a reference in float64. Loss, gradients,
parameters, buffers and the optimizer's tensors must each be as near to the reference as the exact step's are, within
`FACTOR`; the distance is the Euclidean norm of the difference, and what float32 cannot tell apart is forgiven.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from rushlight.data import Batch
from rushlight.training.objective import leave_compiler_alone, make_objective
from rushlight.training.step import Parts, exact_step

FACTOR = 10.0
BUFFER = "(buffer)"  # after the name of one
EPSILON = 2.0**-23  # between float32 numbers that are neighbours, relative

Tensors = dict[str, Tensor]
Rates = list[float]  # the learning rates of one step, for each group


@dataclass(frozen=True)
class Stretch:
    """Some steps: the micro-batches of each, its learning rates, and the seed of its random numbers."""

    steps: Sequence[Sequence[Batch]]
    rates: Sequence[Rates]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Outcome:
    """What some steps led to."""

    losses: Tensor
    tensors: Tensors


def tensors_of(parts: Parts) -> Tensors:
    """Return every tensor that a step may change, the live ones, by name."""
    names = {id(parameter): name for name, parameter in parts.model.named_parameters()}
    found = {name: tensor.detach() for name, tensor in parts.model.named_parameters()}
    found |= {f"{name} {BUFFER}": tensor.detach() for name, tensor in parts.model.named_buffers()}
    for parameter, kept in parts.optimizer.state.items():
        for slot, value in kept.items():
            if isinstance(value, Tensor):
                found[f"{names[id(parameter)]} ({slot})"] = value
    return found


def gradients_of(parts: Parts) -> Tensors:
    """Return the gradients of the last step."""
    named = parts.model.named_parameters()
    return {f"{name} (gradient)": value.grad for name, value in named if value.grad is not None}


def copies(tensors: Tensors) -> Tensors:
    """Return copies."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


@torch.no_grad()
def assign(tensors: Tensors, values: Tensors) -> None:
    """Write values into live tensors."""
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def set_rates(parts: Parts, rates: Rates) -> None:
    """Set the learning rates of a step."""
    for group, rate in zip(parts.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def reference(parts: Parts, before: Tensors, stretch: Stretch, generator: torch.Generator) -> Outcome:
    """Execute the steps in float64, on a copy of model and optimizer in the state `before`."""
    model, optimizer, loss = copy.deepcopy((parts.model, parts.optimizer, parts.objective.loss))
    if "step" in vars(parts.optimizer):  # a copy has torch's own methods
        leave_compiler_alone(optimizer)
    model.double()
    if isinstance(loss, nn.Module):
        loss.double()
    for kept in optimizer.state.values():
        kept.update({slot: value.double() for slot, value in kept.items() if is_floating(value) and slot != "step"})
    assert loss is not None
    objective = make_objective(loss)
    exact = replace(
        parts, model=model, optimizer=optimizer, objective=objective, precision="float32", skips_bad=False
    )  # fmt: skip
    assign(tensors_of(exact), before)
    step, losses = exact_step(exact), []
    for micro_batches, rates, seed in zip(stretch.steps, stretch.rates, stretch.seeds, strict=True):
        set_rates(exact, rates)
        generator.manual_seed(seed)
        doubled = tree_map(lambda value: value.double() if is_floating(value) else value, micro_batches)
        with DrawnInFloat32():  # type: ignore[no-untyped-call]
            losses.append(step(doubled)[0])
    return Outcome(torch.stack(losses), {**tensors_of(exact), **gradients_of(exact)})


def is_floating(value: Any) -> bool:
    """Tell whether a value is a tensor of real numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


class DrawnInFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws random numbers as a model in float32 would, whatever they are drawn for."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch would import its compiler to keep it out of here
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as ever; draw in float32."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)

        def single(value: Any) -> Any:
            if value is torch.float64:
                return torch.float32
            return value.float() if isinstance(value, Tensor) and value.dtype == torch.float64 else value

        drawn = func(*tree_map(single, args), **tree_map(single, kwargs))
        return args[0].copy_(drawn) if func._schema.is_mutable else drawn.double()


def disagreement(fast: Outcome, exact: Outcome, expected: Outcome) -> str | None:
    """Return what in `fast` is further from the reference than `exact` allows; None where nothing is."""
    if not is_near(fast.losses, exact.losses, expected.losses, norm(expected.losses)):
        return "the loss"
    largest: dict[str, float] = {}
    for name in fast.tensors:
        largest[kind_of(name)] = max(largest.get(kind_of(name), 0.0), norm(expected.tensors[name]))
    for name, found in fast.tensors.items():
        wanted = expected.tensors[name]
        scale = norm(wanted) if kind_of(name) == BUFFER else largest[kind_of(name)]  # buffers have nothing in common
        if not is_near(found, exact.tensors[name], wanted, scale):
            return name
    return None


def kind_of(name: str) -> str:
    """Return what tensors of one scale have in common: '(gradient)', '(exp_avg)', '(buffer)', or '' for parameters."""
    return name.rpartition(" ")[2] if name.endswith(")") else ""


def is_near(fast: Tensor, exact: Tensor, expected: Tensor, scale: float) -> bool:
    """Tell whether `fast` is as near to `expected` as `exact` is, within `FACTOR`. Whole numbers must be equal.

    What float32 cannot tell apart in tensors of norm `scale` is forgiven: the gradient of a bias before a BatchNorm is 0, and
    what comes out instead is the rounding of numbers as large as other gradients.
    """
    if torch.equal(fast, exact):  # also where both are infinite, as masks are
        return True
    if not exact.is_floating_point():
        return False
    wanted = expected.double()
    return norm(fast - wanted) <= FACTOR * (norm(exact - wanted) + EPSILON * scale)


def norm(tensor: Tensor) -> float:
    """Return the Euclidean norm, in float64."""
    return float(torch.linalg.vector_norm(tensor.double()))


def revealing_rates(parts: Parts, before: Tensors, count: int, rates: Rates) -> list[Rates] | None:
    """Return rates that show the last step's gradients in the parameters; None where the optimizer's own tensors show them.

    At a small learning rate the update is lost in the rounding of the parameters. At one that makes it as large as these, it shows.
    Nothing moves in the steps before.
    """
    if any(isinstance(value, Tensor) for kept in parts.optimizer.state.values() for value in kept.values()):
        return None
    gradients = [value.grad for _, value in parts.model.named_parameters() if value.grad is not None]
    parameters = [before[name] for name, value in parts.model.named_parameters() if value.grad is not None]
    size, slope = (
        float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(each)))) for each in (parameters, gradients)
    )
    if not size or not slope:
        return None
    return [*([[0.0] * len(rates)] * (count - 1)), [size / slope] * len(rates)]
