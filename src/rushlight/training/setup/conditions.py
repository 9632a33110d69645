"""What the bits of a training depend on besides its recipe, and what has changed of it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rushlight.data import Data
from rushlight.device import device_name
from rushlight.models import restored
from rushlight.texts import Joined, Note
from rushlight.training.checkpoint import unpack

COMPARED = (
    "torch",
    "processes",
    "shard",
    "threads",
    "device",
    "processor",
    "instructions",
    "matmul_precision",
    "deterministic",
)
REMEDIED = ("processes", "threads", "torch")
EARLIER = {"processes": 1, "shard": False}  # what earlier releases did not record


def conditions_of(
    model: nn.Module, data: Data, device: torch.device, processes: int = 1, shard: bool = False
) -> dict[str, Any]:
    """Return what the bits depend on, JSON-ready. Digests stand for the data and for the model's architecture."""
    return {
        "data": data.fingerprint,
        "model": architecture_digest(model),
        "torch": torch.__version__,
        "processes": processes,
        "shard": shard,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "processor": device_name(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 over the layers with their settings, and the names, shapes and dtypes of all tensors."""
    layers = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))  # where an object lies in memory is no setting
    tensors = (*model.named_parameters(), *model.named_buffers())
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors]
    return hashlib.sha256("\n".join([layers, *lines]).encode()).hexdigest()


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Give a sentence for each condition that is not what it was."""
    if then.get("data") not in (now["data"], now["data"].partition("-")[0]):  # before validation had a part in it
        yield Note("training.changed.data")
    if then.get("model") != now["model"]:
        yield Note("training.changed.model")
    then = EARLIER | then
    for name in COMPARED:
        if name in then and then[name] != now[name]:
            yield Note(f"training.changed.{name.replace('_', '-')}", then=then[name], now=now[name])


def changed_settings(
    optimizer: Optimizer, schedule: str | LRScheduler, recorded: dict[str, Any], content: dict[str, Any] | None
) -> tuple[dict[str, tuple[Any, Any]], ...]:
    """Return each parameter group's settings that are neither the run's first nor the checkpoint's: {name: (then, now)}.

    `recorded` are the settings in the recipe, `content` a checkpoint's (None: there is none). A schedule may have moved a
    setting of an optimizer that was in use since, so of that only the optimizer's default is compared. So it is without a
    checkpoint, since the recipe has the defaults alone.
    """
    moved: tuple[str, ...] = ("lr", "momentum", "betas") if not isinstance(schedule, str) else ("lr",)
    moved = () if schedule == "constant" else moved
    saved: list[dict[str, Any]] = []
    if content is not None:
        tensors: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))  # none of them is a setting in the recipe
        saved = unpack(content["optimizer"], tensors)["param_groups"]
        rates = unpack(content["schedule"], tensors)["base_rates"]
    changed: list[dict[str, tuple[Any, Any]]] = []
    for index, group in enumerate(optimizer.param_groups):
        is_default = [key in moved or index >= len(saved) for key in recorded]
        now = {
            key: optimizer.defaults[key] if usual else group.get(key)
            for key, usual in zip(recorded, is_default, strict=True)
        }
        known = [{key: restored(value) for key, value in recorded.items()}]
        known += [saved[index], {**saved[index], "lr": rates[index]}] if index < len(saved) else []
        changed.append(
            {key: (known[-1].get(key, known[0][key]), now[key]) for key in now if all(then.get(key) != now[key] for then in known)}
        )  # fmt: skip
    return tuple(changed) if any(changed) else ()


def setting_differences(settings: tuple[dict[str, tuple[Any, Any]], ...]) -> Iterator[str]:
    """Give a sentence for each setting of a live optimizer that is another."""
    for index, changed in enumerate(settings):
        text = "training.changed.optimizer-group" if len(settings) > 1 else "training.changed.optimizer"
        for key, (then, now) in changed.items():
            yield Note(text, key=key, group=index, then=then, now=now)


def remedies(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how to restore the conditions that can be restored, in brackets; '' where none of them changed."""
    then = EARLIER | then
    changed = [name for name in REMEDIED if name in then and then[name] != now[name]]
    found = [Note(f"training.remedy.{name}", then=then[name]) for name in changed]
    return Note("training.remedies", listed=Joined("reasons", found)) if found else ""
