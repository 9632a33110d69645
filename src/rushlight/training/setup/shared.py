"""What several processes cannot train together is refused before the first step; what they open is compared."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.data import Data, LoaderSplit, ResidentSplit, Split, share_of
from rushlight.device import give_back_memory, usable_cores
from rushlight.errors import TrainingError, UsageError
from rushlight.events import Events
from rushlight.options import Options
from rushlight.texts import Note
from rushlight.training.distributed import Shards, World, units
from rushlight.training.objective import Objective, as_module, is_gathering, is_own
from rushlight.training.recipe import Recipe, recipe_from_json, recipe_to_json
from rushlight.training.state import Training

ALONE_ONLY: dict[str, Any] = {  # options, and what they must be
    "step": None, "mixup": None, "cutmix": None, "keep": None, "profile": False, "precision": ("float32", "bfloat16"), "on_nan": ("stop", "skip"),
}  # fmt: skip
UNDIVIDED: dict[str, Any] = {  # the same for a model that is divided
    "ema": None, "swa": None, "unfreeze_after": None, "on_nan": "stop", "precision": "float32",
}  # fmt: skip
BY_NUMBER = (
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adadelta",
    "RMSprop",
    "Rprop",
    "ASGD",
)  # optimizers of torch that update each number by itself
LEAST_SHARED = 1 << 20  # bytes of samples that are worth it
SAME = ("data", "model", "torch", "processes")  # among the conditions of all processes


def check_options_shared(options: Options, world: World) -> None:
    """Raise UsageError for an option that several processes cannot have."""
    if options.processes is not None and options.processes != world.size:
        raise UsageError("processes-launched", given=options.processes, processes=world.size)
    if options.gpus_per_process is not None and options.ray is None:
        raise UsageError("gpus-need-ray", count=options.gpus_per_process)
    if options.sync_batchnorm:
        raise UsageError("sync-batchnorm")
    if not world.is_shared:
        if options.ray is not None:
            raise UsageError("ray-needs-processes", address=options.ray)
        if options.shard:
            raise UsageError("shard-alone")
        return
    if (found := unsuited(options, ALONE_ONLY)) is not None:
        raise UsageError("not-with-processes", option=found[0], value=found[1])
    if options.shard and (found := unsuited(options, UNDIVIDED)) is not None:
        raise UsageError("not-with-shard", option=found[0], value=found[1])


def unsuited(options: Options, must: dict[str, Any]) -> tuple[str, Any] | None:
    """Return the first option that is not what it `must` be, with its value to show; None for none."""
    for option, allowed in must.items():
        value = getattr(options, option)
        if value not in allowed if isinstance(allowed, tuple) else value != allowed:
            return option, value if isinstance(value, (str, int, float)) else "…"
    return None


def check_parts_shared(model: nn.Module, train: Split, recipe: Recipe, device: torch.device, world: World) -> None:
    """Raise UsageError for a model, data or a device that several processes cannot train with together."""
    if not world.is_shared:
        return
    if device.type not in ("cpu", "cuda"):
        raise UsageError("processes-on-device", device=device)
    if isinstance(train, LoaderSplit) or train.samples is None:
        raise UsageError("loader-with-processes", processes=world.size)
    if recipe.batch_size < world.size:
        raise UsageError("batch-below-processes", size=recipe.batch_size, processes=world.size)
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise UsageError("sync-batchnorm")
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise UsageError("sparse-with-processes", layer=name or type(module).__name__)
    last = train.samples % recipe.batch_size
    shares = [len(share_of(size, rank, world.size)) for size in (recipe.batch_size, last) for rank in range(world.size)]
    if 1 in shares and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise UsageError("lone-sample", processes=world.size, size=recipe.batch_size, last=last or recipe.batch_size)


def check_parts_sharded(
    model: nn.Module, train: Split, objective: Objective, optimizer: Optimizer, recipe: Recipe, device: torch.device,
    world: World,
) -> None:  # fmt: skip
    """Raise UsageError for a model, data, loss, metric, optimizer or device that cannot go with a model that is divided."""
    if device.type != "cpu":
        raise UsageError("shard-on-card", device=device)
    kind, last = type(optimizer), (train.samples or 0) % recipe.batch_size
    named = dict(model.named_parameters())
    if 0 < last < world.size:  # one without samples has no gradients to add up
        raise UsageError("shard-last-batch", size=recipe.batch_size, last=last, processes=world.size)
    if kind.__name__ not in BY_NUMBER or not kind.__module__.startswith("torch.optim"):
        raise UsageError("shard-optimizer", optimizer=kind.__name__, known=", ".join(BY_NUMBER))
    if optimizer.state:
        raise UsageError("shard-optimizer-begun", optimizer=kind.__name__)
    if isinstance(objective.loss, nn.Module) and next(objective.loss.parameters(), None) is not None:
        raise UsageError("not-with-shard", option="loss", value=type(objective.loss).__name__)
    if gathering := [name for name, metric in objective.metrics.live.items() if is_gathering(metric)]:
        raise UsageError("not-with-shard", option="metrics", value=gathering[0])
    for name, parameter in named.items():
        if not parameter.dim() or parameter.dtype != next(iter(named.values())).dtype:
            raise UsageError("shard-parameter", name=name, shape=list(parameter.shape), dtype=parameter.dtype)


def own_card(device: torch.device, world: World) -> torch.device:
    """Return the card of this process, by its number on the machine, where any card will do; any other device as it is."""
    if not world.is_shared or str(device) != "cuda":
        return device
    number = int(os.environ.get("LOCAL_RANK", world.rank)) % torch.cuda.device_count()
    return torch.device("cuda", number) if number else device


def notes_shared(model: nn.Module, objective: Objective, world: World, is_divided: bool) -> tuple[str, ...]:
    """Say how many processes train, and what they do each by itself."""
    if not world.is_shared:
        return ()
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    is_users = objective.own is not None or is_own(as_module(objective.loss))
    found = [Note("training.processes", count=world.size)]
    here, cores = int(os.environ.get("LOCAL_WORLD_SIZE", world.size)), usable_cores()
    found += [Note("training.more-processes-than-cores", processes=here, count=cores)] if here > cores else []
    found += [Note("training.divided", units=len(units(model)))] * is_divided
    found += [Note("training.norms-per-process")] * norms + [Note("training.loss-per-process")] * is_users
    return tuple(found)


def set_up_together(
    world: World, stack: ExitStack, events: Events, set_up: Callable[[Events, dict[str, Any]], Training]
) -> Training:
    """Set up the training in every process, once all can; the run's folder is the first one's.

    `set_up` takes the events to follow and the options to replace. The others work in a folder that is deleted in the end,
    tell nothing, and have the first one's recipe.

    Raises:
        TrainingError: another process cannot, or has opened other data or built another model.
    """
    if not world.is_shared:
        return set_up(events, {})
    others: dict[str, Any] = {}
    if not world.is_first:
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="rushlight-", ignore_cleanup_errors=True))
        events = Events()
        others = {"runs": Path(own), "name": None, "resume": False, "tensorboard": False}
    try:
        training = set_up(events, others)
    except Exception as error:
        world.set_up(error)
        raise
    conditions = {name: training.conditions[name] for name in SAME} | {"device": training.device.type}
    recipe, folder = recipe_to_json(training.recipe), str(training.folder.resolve())
    first, recipe, world.folder = world.first_does(lambda: [conditions, recipe, folder])
    different = world.gather([name for name in conditions if conditions[name] != first[name]])
    for rank, names in enumerate(different):
        if names:
            raise TrainingError("process-differs", rank=rank, processes=world.size, names=", ".join(names))
    if not world.is_first:
        training = replace(training, recipe=recipe_from_json(recipe))
    if training.device.type == "cuda":
        if (cards := world.meet_on_cards(training.device)) < world.size:
            note = Note("training.more-processes-than-cards", processes=world.size, count=cards)
            training = replace(training, data=replace(training.data, notes=(*training.data.notes, note)))
    elif "source" in training.recipe.data:  # else the program has the samples anyway
        hold_once(training.data, world)
    if not training.conditions["shard"]:
        return training
    shared = Path(world.folder or training.folder)
    places = world.gather(shared.stat().st_ino if shared.is_dir() else None)
    if any(place != places[0] for place in places):
        raise UsageError("shard-folder", folder=shared)
    return replace(training, shards=Shards(training.model, training.optimizer, world))


def hold_once(data: Data, world: World) -> None:
    """Have the processes of each machine hold the samples that are in memory once.

    The first process of a machine writes them to shared memory that has no name, and all map it. What one writes to its
    samples the others do not see. Where that cannot be had (Linux has it), each process keeps its own.
    """
    machines = world.gather([platform.node(), uuid.getnode()])
    first = machines.index(machines[world.rank])
    splits = [split for split in data.splits.values() if isinstance(split, ResidentSplit)]
    for split, name in itertools.product(splits, ("inputs", "targets")):
        own: Tensor = getattr(split, name)
        if own.nbytes < LEAST_SHARED or not own.is_contiguous():
            continue
        written = in_shared_memory(own) if first == world.rank else None
        place = world.gather(None if written is None else f"/proc/{os.getpid()}/fd/{written}")[first]
        if place is not None:
            object.__setattr__(split, name, mapped_samples(place, own))
        del own
        world.gather(None)  # all have mapped it
        if written is not None:
            os.close(written)
    give_back_memory()


def mapped_samples(place: str, own: Tensor) -> Tensor:
    """Return a file's bytes as this tensor; `own` itself where they are not the same, or there is no such file.

    In a container of its own a process may not see the first one, or see another under its number.
    """
    with contextlib.suppress(RuntimeError):
        mapped = torch.from_file(place, shared=False, size=own.numel(), dtype=own.dtype).view(own.shape)
        if torch.equal(mapped.view(-1).view(torch.uint8), own.view(-1).view(torch.uint8)):
            return mapped
    return own


def in_shared_memory(tensor: Tensor) -> int | None:
    """Write a tensor's bytes to shared memory; return its descriptor, None where the system has no such memory."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("rushlight")
    try:
        left = tensor.view(-1).view(torch.uint8).numpy().data
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
