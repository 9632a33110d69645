"""An evaluation that several processes share out: batch k is process k's, and the first one gets all in their order.

Each evaluates whole batches, the very ones that one process would, so every figure has the bits of one process. What draws
random numbers in an evaluation, or changes a buffer, is evaluated by all of them from the beginning to the end, as one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from rushlight.data import Batch, LoaderSplit, Split
from rushlight.errors import TrainingError
from rushlight.training.interrupt import Interrupted, SharedInterrupt
from rushlight.training.step import Buffers, is_out_of_memory, streams


class Judged(NamedTuple):
    """What the evaluation of one batch gives."""

    loss: Tensor
    weight: float
    samples: int
    numbers: Mapping[str, float | Tensor]  # of the user's objective, by their weight
    measurable: tuple[Tensor, ...]  # outputs and targets, where a metric asks for them
    counted: tuple[Tensor, ...]  # of targets at places
    judged: tuple[Tensor, ...]  # of each sample


class Indivisible(Exception):
    """A model draws random numbers in an evaluation, or changes a buffer: its batches depend on those before. Raised in all."""


def judged_together(
    judge: Callable[[Batch], Judged], model: nn.Module, split: Split, size: int, interrupt: SharedInterrupt, whole: bool
) -> Iterator[Judged]:
    """Evaluate a split in batches of `size`; give the first process what comes of each, in order, and the others nothing.

    With `whole`, every process evaluates all of them. `model` has the loss beside it, if that is a module.

    Raises:
        Interrupted: a process was told to stop; it is raised in all.
        Indivisible: the batches cannot be divided; all buffers are as they were.
        TrainingError, MemoryError: another process failed.
    """
    world, buffers, count = interrupt.world, Buffers(model), split.count_batches(size)
    whole = whole or count is None or count < world.size or isinstance(split, LoaderSplit)
    own = split.in_order(size) if whole else split.in_order(size, world.rank, world.size)
    rounds = None if whole else -(-(count or 0) // world.size)
    number, last = 0, None
    while number != rounds:
        judged, content, error, leaves_traces = None, None, None, False
        try:
            if (batch := next(own, None)) is not None:
                last = batch
                before = [] if whole else traces(model)
                judged = judge(batch)
                leaves_traces = not whole and before != traces(model)
                content = b"" if whole or world.is_first else packed(judged)
            elif world.is_divided and not whole:  # the others need this process to compute with them
                judge(last)
        except Exception as failed:
            if world.is_divided:  # the others are not here, but inside the model
                raise
            error = failed
        is_memory = error is not None and is_out_of_memory(error)
        found = world.hand_in(content, error, is_memory, interrupt.reason, leaves_traces)
        if found.asked:
            interrupt.agree(found.asked)
            raise Interrupted
        if found.refused:
            buffers.restore()
            raise Indivisible
        if whole and len(set(found.have)) > 1:
            raise TrainingError("process-differs", rank=world.rank, processes=world.size, names="data")
        if whole and judged is None:
            return
        if world.is_first:
            assert judged is not None
            yield judged
            for content in filter(None, found.contents):
                yield unpacked_batch(content, judged.loss.device)
        number += 1


def traces(model: nn.Module) -> list[Any]:
    """Return what tells whether random numbers were drawn, or a buffer changed or replaced."""
    return [*streams(), *((id(buffer), buffer._version) for buffer in model.buffers())]


def packed(judged: Judged) -> bytes:
    """Return what came of a batch as safetensors."""
    found = {"loss": judged.loss, "weight": number_tensor(judged.weight), "samples": torch.tensor(judged.samples)}
    found |= {f"numbers/{name}": number_tensor(value) for name, value in judged.numbers.items()}
    for part in ("measurable", "counted", "judged"):
        found |= {f"{part}/{place}": each for place, each in enumerate(getattr(judged, part))}
    return safetensors.torch.save({name: each.detach().contiguous().clone() for name, each in found.items()})


def unpacked_batch(content: bytes, device: torch.device) -> Judged:
    """Return what `packed` was given, on a device; numbers are tensors."""
    found = {name: each.to(device) for name, each in safetensors.torch.load(content).items()}
    lists = []
    for part in ("measurable", "counted", "judged"):
        those = [name for name in found if name.startswith(f"{part}/")]
        lists.append(tuple(found[f"{part}/{place}"] for place in range(len(those))))
    numbers = {name.partition("/")[2]: each for name, each in found.items() if name.startswith("numbers/")}
    return Judged(found["loss"], float(found["weight"]), int(found["samples"]), numbers, *lists)


def number_tensor(value: float | Tensor) -> Tensor:
    """Return a number as a tensor () of its own precision."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
