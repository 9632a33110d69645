"""Executes optimizer steps on an NVIDIA card as one CUDA graph: forward, backward and update of several steps.

A card is mostly faster than Python can ask it for the next kernel. A graph is asked for once: it is captured from the
exact step's own kernels, but for the update, which has few that do all parameters. It lies in memory beside the tensors of the
training, and changes these in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.data import Batch
from rushlight.device import free_memory
from rushlight.texts import Note
from rushlight.training.engine.capture import pieces_of
from rushlight.training.engine.compile_job import CompileJob
from rushlight.training.engine.modes import Mode
from rushlight.training.engine.package import JoinedSteps, Layout, Package, laid_out, layouts, with_channels_last
from rushlight.training.engine.updates import NUMBERS, Group, Rates, is_decoupled, rule_of
from rushlight.training.engine.verification import assign, copies, tensors_of
from rushlight.training.step import Parts, computing, step_generator

MOST_TOGETHER = 32  # steps in a graph
WORK_TOGETHER = 2e11  # floating-point operations in a graph, about: some milliseconds, in which no signal is answered
BYTES_TOGETHER = 1 << 26  # of its samples
TENSOR_CORES = (8, 0)  # compute capability from which convolutions in float32 run on them, channels last
DRAWING, PLAIN = "drawing", "plain"


class GraphJob(CompileJob):
    """Decides whether a training's steps are captured, and how many in one graph."""

    name = "graph"

    def package(self, batch: Batch, joins: int) -> Package | None:
        """Return the layouts of a graph to capture; None where there cannot be one. `batch` is of an earlier step."""
        self.is_over = True
        if (reason := self.why_not(batch) or self.why_no_room()) is not None:
            self.give_up(reason)
            return None
        draws = step_generator(self.training.device).get_offset() > 0  # each step begins at 0
        count = self.count_together(batch, joins)
        example = self.prepare(tuple(torch.cat([each] * count) for each in batch))
        samples, targets = layouts(example)
        return Package(DRAWING if draws else PLAIN, count, (), (samples, targets))

    def why_no_room(self) -> str | None:
        """Return why a graph's own memory cannot be had beside that of single steps; None where it can."""
        device = self.training.device
        needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        return Note("engine.exact.memory") if needed > free_memory(device) else None

    def count_together(self, batch: Batch, joins: int) -> int:
        """Return how many steps to capture in one graph: of those that are short, as many as leave few over in an epoch."""
        samples = batch[0]
        is_sequence = samples.dim() == 3 or not samples.is_floating_point()
        places = samples[0, 0].numel() if self.has_images else samples.shape[1] if is_sequence else 1
        weights = sum(
            each.numel() * (places if each.dim() == 4 or is_sequence else 1)  # used at every place
            for each in self.parts.model.parameters()
        )
        operations = 6.0 * weights * len(samples)
        most = int(min(MOST_TOGETHER, joins, WORK_TOGETHER // operations, BYTES_TOGETHER // max(1, samples.nbytes)))
        return min(range(max(1, most // 2), max(1, most) + 1), key=lambda count: (joins % count, -count))

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch in the layout of captured steps: channels last where the card's convolutions are faster so."""
        suits = self.has_images and torch.cuda.get_device_capability(self.training.device) >= TENSOR_CORES
        return with_channels_last(batch) if suits else batch

    def open(self, mode: Mode) -> CapturedSteps:
        """Return what captures the steps of a mode, and then executes them."""
        return CapturedSteps(self.parts, mode.key, mode.count, mode.takes, self.is_first)

    def open_recorded(self, mode: Mode) -> CapturedSteps | str:
        """Return the steps of a recorded mode; or why they cannot be captured."""
        return Note("engine.compile.something-else") if rule_of(self.parts.optimizer) is None else self.open(mode)


class CapturedSteps(JoinedSteps):
    """Executes steps as a CUDA graph; captured at the first batch, and again where the training's tensors are others."""

    def __init__(self, parts: Parts, key: str, count: int, takes: Sequence[Layout], compiles: bool) -> None:
        self.model: Any = torch.compile(parts.model, options={"fallback_random": True}) if compiles else parts.model
        self.parts, self.compute, self.generator = parts, computing(parts), step_generator(parts.device)
        self.batch = laid_out(takes, parts.device)
        self.numbers = torch.zeros(count, len(parts.optimizer.param_groups), NUMBERS, device=parts.device)
        self.losses = torch.zeros(count, device=parts.device)
        self.outputs: Tensor | None = None  # of the last step
        draws = key == DRAWING
        self.states = [self.generator.clone_state() for _ in range(count if draws else 1)]  # to draw from
        self.graph: torch.cuda.CUDAGraph | None = None
        self.addresses: list[int] = []
        super().__init__(pieces_of(parts), key, count, takes, draws)

    def find(self) -> None:
        """Look up the tensors again; where they lie elsewhere in memory, the graph is captured anew."""
        self.pieces = pieces_of(self.parts)
        super().find()
        if (addresses := [each.data_ptr() for each in self.written]) != self.addresses:
            self.graph, self.addresses = None, addresses

    def take(self, batch: Sequence[Tensor], rates: Sequence[Rates], seeds: Sequence[int]) -> tuple[Tensor, Any]:
        """Execute the steps on a batch; return the losses and the last outputs, which the next call overwrites."""
        for place, given in zip(self.batch, batch, strict=True):
            place.copy_(given)
        if self.counters or list(rates) != self.last_rates:
            numbers = torch.tensor(self.numbers_of(rates), dtype=torch.float32).pin_memory()
            self.numbers.copy_(numbers, non_blocking=True)
            self.last_rates = list(rates)
        if self.graph is None:
            self.graph = self.capture()
        for state, seed in zip(self.states, seeds, strict=False):
            state.manual_seed(seed)
        self.graph.replay()
        if self.counters:
            torch._foreach_add_(self.counters, self.count)
        return self.losses.clone(), self.outputs

    def numbers_for(self, group: Group, step: int) -> tuple[float, ...]:
        """Return the numbers of one step and group, as the updates below take them.

        Adam's update is `scale * mean / (sqrt(square) + shift)`: its corrections are in these two. `decay` is AdamW's factor.
        """
        rate, first_correction, second_correction = super().numbers_for(group, step)
        if not self.pieces.rule.counts:
            return rate, 0.0, 0.0
        scale = rate * second_correction / first_correction
        return scale, group["eps"] * second_correction, 1 - rate * group["weight_decay"]

    # ── capturing ────────────────────────────────────────────────────────────────────────────────────────────

    def capture(self) -> torch.cuda.CUDAGraph:
        """Capture the steps in a graph; the state of the training stays as it is.

        They are executed once before, so that libraries choose their kernels and get their memory. The generator draws from
        states of its own meanwhile: where capturing fails, these are left as if it went on.
        """
        device, live = self.parts.device, tensors_of(self.parts)
        kept, own = copies(live), self.generator.graphsafe_get_state()
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                self.execute()
                torch.cuda.synchronize(device)
                torch.cuda.empty_cache()
                for state in self.states:
                    graph.register_generator_state(state)
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self.execute()
                except Exception:
                    with contextlib.suppress(RuntimeError):  # it tells no more than that capturing has failed
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
            self.generator.graphsafe_set_state(own)
            assign(live, kept)
        return graph

    def execute(self) -> None:
        """Execute the steps on the graph's own batch."""
        size = len(self.batch[0]) // self.count
        parameters = [each.parameter for each in self.pieces.trained]
        for step in range(self.count):
            self.generator.graphsafe_set_state(self.states[step if self.draws else 0])
            batch = tuple(each[step * size : (step + 1) * size] for each in self.batch)
            loss, outputs = self.compute(self.model, batch)
            gradients = [
                laid_out_as(parameter, gradient)
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)
            ]
            if self.parts.clip_norm is not None:
                factor = self.parts.clip_norm / (nn.utils.get_total_norm(gradients) + 1e-6)
                gradients = list(torch._foreach_mul(gradients, factor.clamp(max=1.0)))
            self.update(step, gradients)
            self.losses[step].copy_(loss.detach())
            self.outputs = outputs.detach() if isinstance(outputs, Tensor) else None

    def update(self, step: int, gradients: Sequence[Tensor]) -> None:
        """Update all parameters, by few kernels."""
        optimizer = self.parts.optimizer
        by_class = update_by_adam if self.pieces.rule.counts else update_by_sgd
        for number, group in enumerate(optimizer.param_groups):
            # before torch 2.7 no setting tells AdamW
            settings = {
                **group,
                "decoupled_weight_decay": isinstance(optimizer, torch.optim.AdamW) or is_decoupled(group),
            }
            pairs = [
                (each, gradient)
                for each, gradient in zip(self.pieces.trained, gradients, strict=True)
                if each.group == number
            ]
            if pairs:
                names = pairs[0][0].slots
                slots = [[optimizer.state[each.parameter][name] for each, _ in pairs] for name in names]
                parameters = [each.parameter.detach() for each, _ in pairs]
                found = [gradient for _, gradient in pairs]
                by_class(settings, self.numbers[step, number], parameters, found, slots)


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient in the parameter's layout, as autograd accumulates it: fused kernels take no other."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


# ── updates of all parameters at once ────────────────────────────────────────────────────────────────────────


def update_by_sgd(
    group: Group, numbers: Tensor, parameters: list[Tensor], gradients: list[Tensor], slots: list[list[Tensor]]
) -> None:
    """Update parameters and momentum in place by torch's fused kernel of SGD."""
    torch._fused_sgd_(
        parameters, gradients, slots[0] if slots else [], lr=numbers[0], is_first_step=False,
        **{name: group[name] for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")},
    )  # fmt: skip


def update_by_adam(
    group: Group, numbers: Tensor, parameters: list[Tensor], gradients: list[Tensor], slots: list[list[Tensor]]
) -> None:
    """Update parameters and both moments in place by Adam or AdamW, as `updates.adam_update` states it.

    Not by torch's fused kernel: 1 - beta is a difference of numbers in float32 there (seen with torch 2.11), 1.3e-5 off for
    0.999, and so the second moment is.
    """
    (means, squares), (first, second) = slots, group["betas"]
    scale, shift, decay = numbers.unbind()
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if group["weight_decay"]:
        if is_decoupled(group):
            torch._foreach_mul_(parameters, decay)
        else:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
    torch._foreach_lerp_(means, gradients, 1 - first)
    torch._foreach_mul_(squares, second)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
    divisors = torch._foreach_sqrt(squares)
    torch._foreach_add_(
        divisors, shift, alpha=1
    )  # without alpha the tensor is read as a number, which waits for the card
    moves = torch._foreach_div(means, divisors)
    torch._foreach_mul_(moves, scale)
    torch._foreach_sub_(parameters, moves)
