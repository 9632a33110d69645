"""Verifies a faster mode on the run's own steps; the exact result is kept.

Both modes start from the same state with the same batches and random numbers, and so does a reference in float64. Loss,
gradients, parameters, buffers and the optimizer's tensors must each be as near to the reference as the exact step's are,
within `FACTOR`; the distance is the Euclidean norm of the difference, and what float32 cannot tell apart is forgiven.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from rushlight.data import Batch
from rushlight.device import wait_for
from rushlight.errors import in_a_line
from rushlight.texts import Note
from rushlight.training.checkpoint import random_streams, restore_random_streams, seed_step
from rushlight.training.engine.updates import Rates
from rushlight.training.objective import leave_compiler_alone, make_objective
from rushlight.training.step import Executed, Parts, Step, exact_step

ROUNDS = 3  # of measuring the gain
FACTOR = 10.0
BUFFER = "(buffer)"  # after the name of one
EPSILON = 2.0**-23  # between float32 numbers that are neighbours, relative

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Stretch:
    """Some steps: the micro-batches, the learning rates and the seed of each."""

    steps: Sequence[Sequence[Batch]]
    rates: Sequence[Rates]
    seeds: Sequence[int]


Execute = Callable[[Stretch], Tensor]  # executes some steps; returns their losses


@dataclass(frozen=True)
class StepsOutcome:
    """The losses of some steps, and the tensors that they led to."""

    losses: Tensor
    tensors: Tensors


@dataclass(frozen=True)
class Verdict:
    """The result of a verification: where the mode disagrees, if it does, and its speed."""

    disagrees: str | None
    is_failure: bool = False  # whether it could not be executed at all
    gain: float = 1.0  # how many times as fast as the mode in force
    microseconds: float = 0.0  # of a step


class Verification:
    """Compares a mode with the exact step on a stretch of the run's own steps."""

    def __init__(self, parts: Parts, generator: torch.Generator, exact: Step, stretch: Stretch) -> None:
        self.parts, self.generator, self.stretch = parts, generator, stretch
        self.exact = one_by_one(parts, exact, generator)
        self.live = tensors_of(parts)
        self.before = copies(self.live)

    def verify(
        self,
        run_exactly: Callable[[], Executed],
        open_mode: Callable[[], Execute],
        now: Execute | None,
        is_joined: bool,
    ) -> tuple[Executed, Verdict]:
        """Execute the steps exactly, then in the mode, and restore the exact result.

        The gain is measured against `now`, the mode in force, where that is given.
        """
        executed = run_exactly()
        exact = self.outcome(torch.tensor(executed[0], dtype=torch.float64))
        streams = random_streams()
        try:
            execute = open_mode()
            verdict = Verdict(self.compare(execute, exact, is_joined))
            if verdict.disagrees is None and now is not None:
                verdict = self.measure(execute, now)
        except Exception as error:  # whatever it is, the exact step goes on
            verdict = Verdict(in_a_line(error), True)
        finally:
            assign(self.live, exact.tensors)
            restore_random_streams(streams)
            set_rates(self.parts, self.stretch.rates[-1])
        return executed, verdict

    def compare(self, execute: Execute, exact: StepsOutcome, is_joined: bool) -> str | None:
        """Return the first result too far from the reference, by name; None where none is."""
        parts, before, stretch = self.parts, self.before, self.stretch
        assign(self.live, before)
        fast = self.outcome(execute(stretch), has_gradients=not is_joined)
        disagrees = disagreement(fast, exact, reference(parts, before, stretch, self.generator))
        rates = revealing_rates(parts, before, len(stretch.steps), stretch.rates[-1])
        if disagrees is not None or rates is None or not is_joined:
            return disagrees
        revealing, outcomes = replace(stretch, rates=rates), []
        for each in (execute, self.exact):
            assign(self.live, before)
            outcomes.append(self.outcome(each(revealing), has_gradients=False))
        fast, exact = outcomes
        return disagreement(fast, exact, reference(parts, before, revealing, self.generator))

    def outcome(self, losses: Tensor, has_gradients: bool = True) -> StepsOutcome:
        """Copy the result of the steps just executed."""
        found: Tensors = {**tensors_of(self.parts), **(gradients_of(self.parts) if has_gradients else {})}
        return StepsOutcome(losses.reshape(-1).double().cpu(), copies(found))

    def measure(self, execute: Execute, now: Execute) -> Verdict:
        """Return the gain over the mode in force: the least time of some interleaved rounds."""
        best = [math.inf, math.inf]
        for _ in range(ROUNDS):
            for number, each in enumerate((execute, now)):
                assign(self.live, self.before)
                wait_for(self.parts.device)
                began = time.perf_counter()
                each(self.stretch)
                wait_for(self.parts.device)
                best[number] = min(best[number], time.perf_counter() - began)
        return Verdict(None, gain=best[1] / best[0], microseconds=best[0] / len(self.stretch.steps) * 1e6)


def one_by_one(parts: Parts, step: Step, generator: torch.Generator) -> Execute:
    """Return a function that executes a stretch with a step function."""

    def execute(stretch: Stretch) -> Tensor:
        losses = []
        for micro_batches, rates, seed in zip(stretch.steps, stretch.rates, stretch.seeds, strict=True):
            set_rates(parts, rates)
            seed_step(generator, seed)
            losses.append(step(micro_batches)[0])
        return torch.stack(losses)

    return execute


# ── the state that steps change ──────────────────────────────────────────────────────────────────────────────


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
    """Return copies of the tensors."""
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


# ── the reference ────────────────────────────────────────────────────────────────────────────────────────────


def reference(parts: Parts, before: Tensors, stretch: Stretch, generator: torch.Generator) -> StepsOutcome:
    """Execute the steps in float64, on a copy of model and optimizer in the state `before`."""
    model, optimizer, loss = copy.deepcopy((parts.model, parts.optimizer, parts.objective.loss))
    if "step" in vars(parts.optimizer):  # a copy has torch's own methods
        leave_compiler_alone(optimizer)
    assert isinstance(loss, nn.Module)  # a training without one is executed exactly
    model.double()
    loss.double()
    for kept in optimizer.state.values():
        kept.update({slot: value.double() for slot, value in kept.items() if is_floating(value) and slot != "step"})
    exact = replace(
        parts, model=model, optimizer=optimizer, objective=make_objective(loss, mixing=parts.objective.mixing), precision="float32", skips_bad=False
    )  # fmt: skip
    assign(tensors_of(exact), before)
    doubled = tree_map(lambda value: value.double() if is_floating(value) else value, list(stretch.steps))
    with DrawnInFloat32():  # type: ignore[no-untyped-call]
        losses = one_by_one(exact, exact_step(exact), generator)(replace(stretch, steps=doubled))
    return StepsOutcome(losses.cpu(), {**tensors_of(exact), **gradients_of(exact)})


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
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return tree_map(lambda value: value.double() if is_floating(value) else value, drawn)  # attention gives several


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────────


def disagreement(fast: StepsOutcome, exact: StepsOutcome, expected: StepsOutcome) -> str | None:
    """Return the first result of `fast` too far from `expected`, by name; None for none."""
    if not is_near(fast.losses, exact.losses, expected.losses, norm(expected.losses)):
        return Note("engine.faster.the-loss")
    largest: dict[str, float] = {}
    for name in fast.tensors:
        largest[kind_of_tensor(name)] = max(largest.get(kind_of_tensor(name), 0.0), norm(expected.tensors[name]))
    for name, found in fast.tensors.items():
        wanted = expected.tensors[name]
        scale = (
            norm(wanted) if kind_of_tensor(name) == BUFFER else largest[kind_of_tensor(name)]
        )  # buffers have nothing in common
        if not is_near(found, exact.tensors[name], wanted, scale):
            return name
    return None


def kind_of_tensor(name: str) -> str:
    """Return the kind of a tensor: '(gradient)', '(exp_avg)', '(buffer)'; '' for a parameter."""
    return name.rpartition(" ")[2] if name.endswith(")") else ""


def is_near(fast: Tensor, exact: Tensor, expected: Tensor, scale: float) -> bool:
    """Tell whether `fast` is as near to `expected` as `exact` is, within `FACTOR`.

    Whole numbers must be equal. What float32 cannot tell apart in tensors of norm `scale` is forgiven: the gradient of a bias before a BatchNorm is 0, and
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
    """Return rates that show gradients in the parameters; None where the optimizer's tensors do.

    At a small learning rate the update is lost in the rounding of the parameters. At one that makes it as large as these, it
    shows. Nothing moves in the steps before.
    """
    if any(isinstance(value, Tensor) for kept in parts.optimizer.state.values() for value in kept.values()):
        return None
    moved = {name: value.grad for name, value in parts.model.named_parameters() if value.grad is not None}
    size, slope = (
        float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(each))))
        for each in ([before[name] for name in moved], list(moved.values()))
    )
    if not size or not slope:
        return None
    return [*([[0.0] * len(rates)] * (count - 1)), [size / slope] * len(rates)]
