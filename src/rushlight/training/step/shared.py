"""One optimizer step of several processes: each computes its samples, the gradients are added up, all update alike.

A process scales its loss by the weight of its own samples, and the sum is divided by the weight of all: so unequal shares
count as they would in one process, and one without any sample counts nothing. Two sums go around for each step: the
gradients, and a few numbers in float64.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rushlight.data import Batch, count_samples, share_of, step_seed
from rushlight.errors import UsageError
from rushlight.texts import Note
from rushlight.training.distributed import STEP_SECONDS, Shards, WholeDropout, World
from rushlight.training.objective import held_parameters
from rushlight.training.state import Training
from rushlight.training.step.exact import Parts, backward, computing, update
from rushlight.training.step.runner import step_generator


class SharedStep:
    """Executes a step together with the other processes; `stop`, `weight` and `samples` are the last step's, over all.

    `ask(stop, save)` says what this process wishes for once a step is done: to stop, for the reason of this number, or the
    state to be saved. All learn of it by the step's own sum: `stop` is the greatest reason of any process (0: none), and
    the world's `is_saving` is the first one's wish.
    """

    def __init__(self, training: Training, parts: Parts) -> None:
        self.training, self.parts, self.world = training, parts, training.world
        self.compute = computing(parts)
        self.generator = torch.Generator(parts.device)  # of whole batches' dropout
        self.kernels = None if parts.device.type == "cpu" else step_generator(parts.device)
        self.buffers = [
            (owner, name)
            for root in (parts.model, parts.objective.loss)
            if isinstance(root, nn.Module)
            for owner in root.modules()
            if not is_norm(owner)  # whose statistics are each process's own, and never read in training
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        self.names: list[str] | None = None  # of the numbers that the user's objective tells; None: not known yet
        self.gathered: dict[torch.dtype, Tensor] = {}  # gradients, one after the other
        self.is_begun = False
        self.asked = (0, False)
        self.stop, self.weight, self.samples = 0, 0.0, 0

    def ask(self, stop: int, save: bool) -> None:
        """Say what this process wishes for after the next step."""
        self.asked = (stop, save)

    def __call__(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, Any]:
        """Execute the step on this process's shares of its micro-batches, which may be none.

        Returns the mean loss over all processes, float64 (), and in the first process the outputs of its last samples.
        """
        world, told = self.world, self.parts.objective.told
        parameters = held_parameters(self.parts.optimizer)
        for parameter in parameters:
            parameter.grad = None
        before = self.buffers_now()
        with self.watched():
            loss_sum, weight, samples, outputs = self.go_back(micro_batches)
        stop, save = self.asked
        found = [loss_sum, weight, samples, float(before != self.buffers_now()), float(save and world.is_first)]
        found += [float(stop) if rank == world.rank else 0.0 for rank in range(world.size)]
        shards = self.training.shards
        have = [each.grad is not None for each in parameters] if shards is None else list(shards.take_gradients())
        found += map(float, have)
        found += self.told_sums()
        sums = torch.tensor(found, dtype=torch.float64)
        gradients = self.gather(parameters) if shards is None else {}
        world.add_up(sums, *gradients.values())
        loss_sum, self.weight, whole_samples, changed, save = sums[:5].tolist()
        self.samples, world.is_saving = int(whole_samples), bool(save)
        self.stop = int(sums[5 : 5 + world.size].max())
        rest = sums[5 + world.size :]
        if shards is None:
            self.give(parameters, gradients, rest[: len(have)].tolist())
        else:
            self.scale(shards, rest[: len(have)].tolist())
        if told is not None:
            self.tell(rest[len(have) :].tolist())
        if changed:
            self.share_buffers()
        divisor = 1.0 if self.parts.objective.is_sum else self.weight
        mean = torch.tensor(loss_sum, dtype=torch.float64) / divisor  # NaN where nothing counts, as 0 / 0
        update(self.parts, mean)
        return mean, outputs if world.is_first else None

    # ── this process's samples ───────────────────────────────────────────────────────────────────────────────────

    def go_back(self, micro_batches: Sequence[Batch]) -> tuple[float, float, float, Any]:
        """Compute the gradients of this process's samples; return sums: loss by weight, weight, samples; and outputs."""
        objective, told = self.parts.objective, self.parts.objective.told
        loss_sum, weights, samples = torch.zeros((), dtype=torch.float64, device=self.parts.device), 0.0, 0.0
        outputs: Any = None
        state = self.training.state
        self.generator.manual_seed(step_seed(self.training.recipe.seed, state["epoch"], state["window"]))
        for number, batch in enumerate(micro_batches):
            with self.dropping(number), self.world.explained(STEP_SECONDS, of_all=False):
                loss, outputs = self.compute(self.parts.model, batch)
            weight = objective.weight(batch) if told is None else told.batches[-1][0]
            weights, samples = weights + weight, samples + count_samples(batch)
            if weight == 0 and self.training.shards is None:
                continue  # every target is ignored: its mean is 0 / 0, its share of the whole batch's nothing
            if weight == 0:  # the others need this process to go back too
                if not isinstance(outputs, Tensor):
                    raise UsageError("shard-weightless")
                share = (outputs * 0).sum()
            else:
                share = loss if objective.is_sum else loss * weight
            with self.world.explained(STEP_SECONDS, of_all=False):
                backward(share)
            loss_sum += 0.0 if weight == 0 else share.detach().double()
        return float(loss_sum), float(weights), samples, outputs

    def dropping(self, number: int) -> AbstractContextManager[Any]:
        """Return the context in which micro-batch `number` of the step (from 0) drops what one process would."""
        recipe, state, train = self.training.recipe, self.training.state, self.training.data.train
        if state["micro_batch"] is not None or train.samples is None:
            return nullcontext()  # the batches are cut smaller than the recipe says
        first = (state["window"] * recipe.accumulate + number) * recipe.batch_size
        samples = min(recipe.batch_size, train.samples - first)
        return WholeDropout(self.generator, share_of(samples, self.world.rank, self.world.size), samples, self.kernels)

    def watched(self) -> AbstractContextManager[None]:
        """Return the context that finds, in a first step, what a forward pass draws at random otherwise."""
        if self.is_begun:
            return nullcontext()
        self.is_begun = True
        return WatchedDraws(self.training)

    # ── gradients ────────────────────────────────────────────────────────────────────────────────────────────────

    def gather(self, parameters: list[nn.Parameter]) -> dict[torch.dtype, Tensor]:
        """Return this process's gradients one after the other, by dtype; zeros for parameters that have none."""
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_dtype[parameter.dtype].append(parameter)
        for dtype, those in by_dtype.items():
            count = sum(parameter.numel() for parameter in those)
            if dtype not in self.gathered or self.gathered[dtype].numel() != count:
                self.gathered[dtype] = torch.empty(count, dtype=dtype, device=self.parts.device)
            places = torch.split(self.gathered[dtype], [parameter.numel() for parameter in those])
            for place, parameter in zip(places, those, strict=True):
                if parameter.grad is None:
                    place.zero_()
                else:
                    place.view(parameter.shape).copy_(parameter.grad)
        return {dtype: self.gathered[dtype] for dtype in by_dtype}

    def give(self, parameters: list[nn.Parameter], sums: dict[torch.dtype, Tensor], have: list[float]) -> None:
        """Give each parameter the gradient of the whole batch, where any process has one."""
        if self.weight and not self.parts.objective.is_sum:
            for summed in sums.values():
                summed.div_(self.weight)
        at: dict[torch.dtype, int] = defaultdict(int)
        for parameter, has_gradient in zip(parameters, have, strict=True):
            start, count = at[parameter.dtype], parameter.numel()
            at[parameter.dtype] += count
            whole = sums[parameter.dtype][start : start + count].view(parameter.shape)
            parameter.grad = whole if has_gradient else None

    def scale(self, shards: Shards, have: list[float]) -> None:
        """Make the rows' sums the gradient of the whole batch; UsageError where not all processes went back through all."""
        for name, count in zip(shards.parameters, have, strict=True):
            if count not in (0, self.world.size):
                raise UsageError("shard-branches", name=name)
        if self.weight and not self.parts.objective.is_sum:
            for parameter in shards.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.div_(self.weight)

    # ── what the user's objective tells, and buffers ─────────────────────────────────────────────────────────────

    def told_sums(self) -> list[float]:
        """Return what the user's objective told of this process's samples, as sums: batches, weighed ones, numbers."""
        told = self.parts.objective.told
        if told is None:
            return []
        if self.names is None:  # the same in all processes: each has samples of a run's first batch
            mine = sorted({name for _, _, numbers in told.batches for name in numbers})
            self.names = sorted(set().union(*self.world.gather(mine)))
        sums = dict.fromkeys(self.names, 0.0)
        for weight, _, numbers in told.batches:
            for name, value in numbers.items():
                if name not in sums:
                    raise UsageError("objective-number-new", name=name, known=", ".join(self.names) or "–")
                sums[name] += weight * float(value) if weight else 0.0
        weights = dict.fromkeys(self.names, 0.0)
        for weight, _, numbers in told.batches:
            for name in numbers:
                weights[name] += weight
        return [len(told.batches), sum(is_told for _, is_told, _ in told.batches), *sums.values(), *weights.values()]

    def tell(self, found: list[float]) -> None:
        """Have the step's numbers be those of all processes."""
        told, names = self.parts.objective.told, self.names
        assert told is not None
        assert names is not None
        batches, weighed = found[:2]
        if weighed not in (0, batches):
            raise UsageError("objective-weighs-some")
        sums, weights = found[2 : 2 + len(names)], found[2 + len(names) :]
        told.batches[:] = [
            (weight, weighed > 0, {name: total / weight})
            for name, total, weight in zip(names, sums, weights, strict=True)
            if weight
        ]

    def buffers_now(self) -> list[tuple[int, int]]:
        """Return what tells whether a buffer was changed or replaced."""
        found = (owner._buffers.get(name) for owner, name in self.buffers)
        return [(id(buffer), -1 if buffer is None else buffer._version) for buffer in found]

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Give all processes the first one's buffers, as torch's DistributedDataParallel does."""
        present = {str(place): owner._buffers[name] for place, (owner, name) in enumerate(self.buffers)}
        found = self.world.share_tensors(
            lambda: {place: buffer for place, buffer in present.items() if buffer is not None}
        )
        if self.world.is_first:
            return
        for place, value in found.items():
            owner, name = self.buffers[int(place)]
            buffer = present[place]
            if buffer is not None and buffer.shape == value.shape:
                buffer.copy_(value)
            else:
                owner._buffers[name] = value.to(self.parts.device)


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's own with running statistics."""
    return isinstance(module, _NormBase) and type(module).__module__.startswith("torch.nn.")


def share_norms(model: nn.Module, world: World) -> None:
    """Give all processes the first one's running statistics, which an evaluation goes by."""
    places = {
        f"{place}.{name}": buffer
        for place, owner in enumerate(filter(is_norm, model.modules()))
        for name, buffer in owner._buffers.items()
        if buffer is not None
    }
    if world.is_shared and places:
        for name, value in world.share_tensors(lambda: places).items():
            places[name].copy_(value)


class WatchedDraws(AbstractContextManager[None]):
    """Finds whether a block draws random numbers: torch's are told of, Python's and NumPy's refused."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def __enter__(self) -> None:
        self.before = list(streams())

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            return
        has_moved = [then != now for then, now in zip(self.before, streams(), strict=True)]
        if any(has_moved[1:]):
            raise UsageError("draws-per-process")
        if has_moved[0]:
            self.training.events.warning(Note("training.draws-per-process"))


def streams() -> Iterator[Any]:
    """Give what tells where torch's, Python's and NumPy's global generators are."""
    on_cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    yield [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_cards)]
    yield random.getstate()
    state = np.random.get_state(legacy=False)
    yield state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"]
