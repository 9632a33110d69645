"""Optimizer steps as one graph: forward, backward and update of several steps, with everything they change as inputs.

The graph's inputs are, in this order: the trained parameters, the optimizer's tensors (slots), all other tensors of model
and loss, the numbers of each step (count, groups, NUMBERS; float64), the samples and the targets of all steps, and the
noise: what dropout and its like would draw. It writes the first three groups in place, and returns the losses (count,)
and the last step's outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.optim import Optimizer

from rushlight.training.engine.updates import NUMBERS, Group, Rule, clipped, rule_of
from rushlight.training.step import Parts, computing, has_images

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter that steps change, with the settings of its group."""

    name: str
    parameter: nn.Parameter
    group: int
    slots: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pieces:
    """What whole steps of a training read and write, found once."""

    parts: Parts
    rule: Rule
    trained: tuple[Trained, ...]
    others: dict[str, Tensor]  # buffers, parameters that stay, the loss's own tensors

    @property
    def loss(self) -> nn.Module:
        """The live loss."""
        assert isinstance(self.parts.objective.loss, nn.Module)
        return self.parts.objective.loss

    @property
    def optimizer(self) -> Optimizer:
        """The live optimizer."""
        return self.parts.optimizer

    def slots(self) -> list[Tensor]:
        """Return the optimizer's tensors, as they are now."""
        state = self.optimizer.state
        return [state[each.parameter][slot] for each in self.trained for slot in each.slots]

    def written(self) -> list[Tensor]:
        """Return all that steps may change, as the graph takes it."""
        return [*(each.parameter.detach() for each in self.trained), *self.slots(), *self.others.values()]


class Whole(nn.Module):
    """Model and loss as one module, so that the tensors of both have names, and others can be put in their place."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.model = parts.model
        self.loss = parts.objective.loss
        self.compute = computing(parts)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return loss and outputs of a batch."""
        return self.compute(self.model, batch)


def pieces_of(parts: Parts) -> Pieces:
    """Find what whole steps read and write. For a training that has taken a step: its optimizer has its tensors then."""
    rule, loss = rule_of(parts.optimizer), parts.objective.loss
    if rule is None or not isinstance(loss, nn.Module):
        raise TypeError("not a training that whole steps can be taken for")
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
    return Pieces(parts, rule, trained, others)


# ── tracing ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Noise:
    """One drawing of random numbers within a step: `kind` of `DRAWS`, with its settings."""

    kind: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    settings: tuple[float, ...]
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


class NotCapturable(Exception):
    """The steps cannot be made one graph; the text says why."""


def capture(pieces: Pieces, samples: Tensor, targets: Tensor, count: int) -> tuple[GraphModule, tuple[Noise, ...]]:
    """Trace `count` steps over the samples and targets, a `count`-th of these to each. Nothing is computed or changed.

    Raises NotCapturable, and whatever the model raises when it is traced.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    plain = samples.clone(memory_format=torch.contiguous_format) if has_images(pieces.parts.model) else samples
    arguments = [*pieces.written(), no_numbers(pieces, count), plain, targets]
    trace = make_fx(lambda *inputs: take_steps(pieces, count, *inputs), tracing_mode="fake")
    with keeping_tensors(pieces.parts.model), keeping_tensors(pieces.loss):
        graph, again = trace(*arguments), trace(*arguments)
        other = None if plain.stride() == samples.stride() else trace(*arguments[:-2], samples, targets)
    if graph.code != again.code:
        raise NotCapturable("its forward pass is another each time")
    if any(name.startswith("_tensor_constant") for name in vars(graph)):
        raise NotCapturable("it uses tensors that are neither parameters nor buffers")
    noise = noise_as_inputs(graph)
    if (
        other is not None
    ):  # random numbers are drawn in the order of memory: in the exact step's, whatever the graph's is
        graph, drawn = other, noise_as_inputs(other)
        if [(each.kind, each.shape) for each in drawn] != [(each.kind, each.shape) for each in noise]:
            raise NotCapturable("its random numbers depend on how images lie in memory")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, noise


@contextlib.contextmanager
def keeping_tensors(module: nn.Module) -> Iterator[None]:
    """Put a module's own tensors back after the block: torch's functional_call leaves others in layers that are used twice."""
    kept = [(each, dict(each._parameters), dict(each._buffers)) for each in module.modules()]
    try:
        yield
    finally:
        for each, parameters, buffers in kept:
            each._parameters.update(parameters)
            each._buffers.update(buffers)


def take_steps(pieces: Pieces, count: int, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Take the steps, on the tensors given: what is traced."""
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
        gradients: list[Tensor | None] = list(torch.autograd.grad(loss_of_step, leaves))
        if parts.clip_norm is not None:
            gradients = clipped(gradients, parts.clip_norm)
        for place, (each, gradient) in enumerate(zip(trained, gradients, strict=True)):
            assert gradient is not None
            group: Group = groups[each.group]
            parameters[place], slots[place] = pieces.rule.update(
                group, numbers[step, each.group], parameters[place], gradient, slots[place]
            )
        losses.append(loss_of_step.detach().float())
    changed = [*parameters, *(slot for kept in slots for slot in kept)]
    for place_of, new in zip(in_place, changed, strict=True):
        place_of.copy_(new)
    return torch.stack(losses), outputs.detach()


def no_numbers(pieces: Pieces, count: int) -> Tensor:
    """Return room for the numbers of `count` steps."""
    return torch.zeros(count, len(pieces.optimizer.param_groups), NUMBERS, dtype=torch.float64)


def noise_as_inputs(graph: GraphModule) -> tuple[Noise, ...]:
    """Make every drawing of random numbers in a graph an input; return what they draw, in their order."""
    found: list[Noise] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        noise = noise_of(node)
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{len(found)}")
        last.meta.update(node.meta)
        with graph.graph.inserting_before(node):
            copied = graph.graph.call_function(aten.clone.default, (last,))
        copied.meta.update(node.meta)
        node.replace_all_uses_with(copied)
        graph.graph.erase_node(node)
        found.append(noise)
    return tuple(found)


def noise_of(node: Node) -> Noise:
    """Return what a node draws. Raises NotCapturable for what is not known here."""
    kind = str(node.target.overloadpacket.__name__)  # type: ignore[union-attr]
    drawn = node.meta["val"]
    takes = 1 if kind in ("bernoulli_", "uniform_", "normal_") else len(node.args)
    settings = node.args[takes:]
    if kind not in DRAWS or drawn.dtype not in DRAWN or not all(isinstance(each, (int, float)) for each in settings):
        raise NotCapturable(f"it draws random numbers with {node.target}")
    numbers = tuple(float(each) for each in settings)  # type: ignore[arg-type]
    dtype = str(drawn.dtype).removeprefix("torch.")
    return Noise(kind, tuple(drawn.shape), tuple(drawn.stride()), numbers, dtype)
