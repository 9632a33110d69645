"""Traces optimizer steps into one graph: forward, backward and update of several steps.

The graph's inputs are, in this order: the trained parameters, the optimizer's tensors (slots), all other tensors of model
and loss, the numbers of each step (count, groups, NUMBERS; float64), the samples and the targets of all steps, and the
noise: the random numbers that dropout and its like would draw. It writes the first three groups in place, and returns the
losses (count,) and the last step's outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from rushlight.texts import Note
from rushlight.training.engine.updates import NUMBERS, Rule, clipped, rule_of
from rushlight.training.step import Parts, computing, has_images

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default  # (query, key, value, dropout, …)


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter that steps change, with the settings of its group."""

    name: str
    parameter: nn.Parameter
    group: int
    slots: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Whatever whole steps of a training read and write, found once."""

    parts: Parts
    rule: Rule
    loss: nn.Module
    trained: tuple[Trained, ...]
    others: dict[str, Tensor]  # buffers, parameters that stay, the loss's own tensors

    def written(self) -> list[Tensor]:
        """Return all that steps may change, in the order of the graph's inputs."""
        state = self.parts.optimizer.state
        slots = [state[each.parameter][slot] for each in self.trained for slot in each.slots]
        return [*(each.parameter.detach() for each in self.trained), *slots, *self.others.values()]


class Whole(nn.Module):
    """Joins model and loss in one module, so that the tensors of both have names."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.model = parts.model
        self.loss = parts.objective.loss
        self.compute = computing(parts)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return loss and outputs of a batch."""
        return self.compute(self.model, batch)


def pieces_of(parts: Parts) -> Pieces:
    """Find the tensors of whole steps, once the optimizer has its own: after a first step."""
    rule, loss = rule_of(parts.optimizer), parts.objective.loss
    assert rule is not None
    assert isinstance(loss, nn.Module)
    names = {id(parameter): name for name, parameter in parts.model.named_parameters()}
    trained = tuple(
        Trained(names[id(parameter)], parameter, number, rule.slots(group))
        for number, group in enumerate(parts.optimizer.param_groups)
        for parameter in group["params"]
        if parameter.requires_grad
    )
    known = {id(each.parameter) for each in trained}
    whole = Whole(parts)
    tensors = (*whole.named_parameters(), *whole.named_buffers())
    others = {name: tensor.detach() for name, tensor in tensors if id(tensor) not in known}
    return Pieces(parts, rule, loss, trained, others)


# ── tracing ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Noise:
    """One drawing of random numbers within a step: `kind` of `DRAWS`, with its settings."""

    kind: str
    shape: Sequence[int]
    strides: Sequence[int]
    settings: Sequence[float]
    dtype: str = "float32"  # or "bfloat16"

    def draw(self) -> Tensor:
        """Draw as the eager step would."""
        room = torch.empty_strided(self.shape, self.strides, dtype=getattr(torch, self.dtype))
        return DRAWS[self.kind](room, *self.settings)


DRAWN = (torch.float32, torch.bfloat16)
DRAWS: dict[str, Callable[..., Tensor]] = {
    "bernoulli_": Tensor.bernoulli_,
    "uniform_": Tensor.uniform_,
    "normal_": Tensor.normal_,
    "rand": Tensor.uniform_,
    "rand_like": Tensor.uniform_,
    "randn": Tensor.normal_,
    "randn_like": Tensor.normal_,
}


class CannotCompile(Exception):
    """The steps cannot be compiled; `reason` says why."""

    def __init__(self, reason: Note) -> None:
        super().__init__(reason)
        self.reason = reason


def capture(pieces: Pieces, samples: Tensor, targets: Tensor, count: int) -> tuple[GraphModule, tuple[Noise, ...]]:
    """Trace `count` steps, each on a `count`-th of the samples and targets; nothing changes.

    Raises CannotCompile, and whatever the model raises when it is traced.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    plain = samples.clone(memory_format=torch.contiguous_format) if has_images(pieces.parts.model) else samples
    arguments = [*pieces.written(), no_numbers(pieces, count), plain, targets]
    trace = make_fx(lambda *inputs: trace_steps(pieces, count, *inputs), tracing_mode="fake")
    with keeping_tensors(pieces.parts.model), keeping_tensors(pieces.loss):
        graph, again = trace(*arguments), trace(*arguments)
        other = again if plain.stride() == samples.stride() else trace(*arguments[:-2], samples, targets)
    if graph.code != again.code:
        raise CannotCompile(Note("engine.capture.changing-forward"))
    if any(name.startswith("_tensor_constant") for name in vars(graph)):
        raise CannotCompile(Note("engine.capture.foreign-tensors"))
    # random numbers are drawn in the exact step's order of memory, whatever the graph's is
    noise, drawn = noise_as_inputs(graph), noise_as_inputs(other)
    if [(each.kind, each.shape) for each in drawn] != [(each.kind, each.shape) for each in noise]:
        raise CannotCompile(Note("engine.capture.random-by-layout"))
    other.graph.eliminate_dead_code()
    other.recompile()
    return other, noise


@contextlib.contextmanager
def keeping_tensors(module: nn.Module) -> Iterator[None]:
    """Restore a module's own tensors: functional_call leaves others in layers used twice."""
    kept = [(each, dict(each._parameters), dict(each._buffers)) for each in module.modules()]
    try:
        yield
    finally:
        for each, parameters, buffers in kept:
            each._parameters.update(parameters)
            each._buffers.update(buffers)


def trace_steps(pieces: Pieces, count: int, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Execute the steps on the graph's inputs, for tracing."""
    *written, numbers, samples, targets = inputs
    parts, trained = pieces.parts, pieces.trained
    groups, whole = parts.optimizer.param_groups, Whole(parts)
    parameters, rest = list(written[: len(trained)]), written[len(trained) :]
    slots = [[rest.pop(0) for _ in each.slots] for each in trained]
    in_place = [*parameters, *(slot for kept in slots for slot in kept)]
    others = dict(zip(pieces.others, rest, strict=True))
    size, losses = len(samples) // count, []
    for step in range(count):
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        tensors = {**others, **{f"model.{each.name}": leaf for each, leaf in zip(trained, leaves, strict=True)}}
        rows = slice(step * size, (step + 1) * size)
        batch = samples[rows], targets[rows]
        loss_of_step, outputs = torch.func.functional_call(whole, tensors, (batch,))
        gradients = list(torch.autograd.grad(loss_of_step, leaves))
        if parts.clip_norm is not None:
            gradients = clipped(gradients, parts.clip_norm)
        for place, (each, gradient) in enumerate(zip(trained, gradients, strict=True)):
            parameters[place], slots[place] = pieces.rule.update(
                groups[each.group], numbers[step, each.group], parameters[place], gradient, slots[place]
            )
        losses.append(loss_of_step.detach().float())
    changed = [*parameters, *(slot for kept in slots for slot in kept)]
    for place_of, new in zip(in_place, changed, strict=True):
        place_of.copy_(new)
    return torch.stack(losses), outputs.detach()


def no_numbers(pieces: Pieces, count: int) -> Tensor:
    """Return room for the numbers of `count` steps."""
    return torch.zeros(count, len(pieces.parts.optimizer.param_groups), NUMBERS, dtype=torch.float64)


def noise_as_inputs(graph: GraphModule) -> tuple[Noise, ...]:
    """Make every drawing of random numbers in a graph an input; return the drawings in order."""
    found: list[Noise] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        if node.target is ATTENTION and node.args[3:4] in ((), (0.0,)):
            continue  # it draws where its dropout is above 0 alone
        found.append(noise_of(node))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{len(found)}")
        with graph.graph.inserting_before(node):
            copied = graph.graph.call_function(aten.clone.default, (last,))
        for new in (last, copied):
            new.meta.update(node.meta)
        node.replace_all_uses_with(copied)
        graph.graph.erase_node(node)
    return tuple(found)


def noise_of(node: Node) -> Noise:
    """Return the drawing of a node. Raises CannotCompile for one that is not known here."""
    kind = str(node.target.overloadpacket.__name__)  # type: ignore[union-attr]
    drawn = node.meta["val"]
    takes = 1 if kind in ("bernoulli_", "uniform_", "normal_") else len(node.args)
    settings = node.args[takes:]
    if kind not in DRAWS or drawn.dtype not in DRAWN or not all(isinstance(each, (int, float)) for each in settings):
        raise CannotCompile(Note("engine.capture.random-operator", operator=str(node.target)))
    numbers = tuple(float(each) for each in settings)  # type: ignore[arg-type]
    return Noise(kind, tuple(drawn.shape), tuple(drawn.stride()), numbers, str(drawn.dtype).removeprefix("torch."))
