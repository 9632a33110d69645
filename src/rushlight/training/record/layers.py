"""The health of a model's layers, for the board: `layers.jsonl`, a line for each evaluation that was observed.

{"epoch", "step", "time", "steps": since the line before, "samples", "layers": [{"name", "kind",
 "zero": share of the outputs that are 0, "dead": share of the units that are 0 for each of these samples, "mean", "std",
 "weight": norm of the layer's parameters, "change": norm of what `steps` changed in them, by that norm,
 "gradient": norm of the gradient of the loss of the first training samples, in eval mode, by the layer's parameters}]}

Outputs are those of an evaluation's first batch, read as they pass by, and nothing is read back from a device before the
evaluation ends. Gradients are computed anew, since a faster execution may leave none behind; no `.grad` is touched.
Observing takes at most four thousandths of the time.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.errors import StorageError
from rushlight.runs import json_line

LAYERS = "layers.jsonl"
MOST_LAYERS = 48
SHARE = 0.004  # of the time
SAMPLED = 4096  # numbers of each parameter by which its change is told
# their forward pass takes another path where hooks are registered, with other rounding or another compilation
UNOBSERVED = {"TransformerEncoderLayer", "TransformerEncoder", "MultiheadAttention", "OptimizedModule"}


class Observer:
    """Observes the layers of one training. Owns when the next time is due, and what the parameters were the last time.

    `first_loss` computes the loss whose gradients are told; where it is None, none are.
    """

    def __init__(self, model: nn.Module, folder: Path, first_loss: Callable[[], Tensor | None] = lambda: None) -> None:
        self.model, self.path, self.first_loss = model, folder / LAYERS, first_loss
        self.due, self.step = 0.0, 0
        self.before: dict[str, Tensor] = {}
        found = [(name or type(part).__name__, part) for name, part in model.named_modules()]
        leaves = [(name, part) for name, part in found if next(part.children(), None) is None]
        is_safe = not any(
            type(part).__name__ in UNOBSERVED or isinstance(part, torch.jit.ScriptModule) for _, part in found
        )
        stride = -(-len(leaves) // MOST_LAYERS) or 1
        self.layers = leaves[::stride] if is_safe else []

    @contextlib.contextmanager
    def observing(self, epoch: int, step: int) -> Iterator[None]:
        """Observe the first batch of an evaluation within the block, where it is due; then write a line."""
        if not self.layers or time.perf_counter() < self.due:
            yield
            return
        found: dict[str, list[Any]] = {}
        spent = 0.0
        handles: dict[str, Any] = {}

        def read(name: str, outputs: Any) -> None:
            nonlocal spent
            began = time.perf_counter()
            handles.pop(name).remove()  # of the first batch alone
            if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.dim() > 1 and outputs.numel():
                found[name] = [len(outputs), figures_of(outputs.detach())]
            spent += time.perf_counter() - began

        for name, layer in self.layers:
            handles[name] = layer.register_forward_hook(
                lambda module, given, outputs, name=name: read(name, outputs) if name in handles else None
            )
        try:
            yield
        finally:
            for handle in handles.values():
                handle.remove()
        began = time.perf_counter()
        with contextlib.suppress(StorageError):  # a line less
            files.append_bytes(self.path, json_line(self.line(epoch, step, found)))
        now = time.perf_counter()
        self.due = now + (spent + now - began) / SHARE

    def line(self, epoch: int, step: int, found: dict[str, list[Any]]) -> dict[str, Any]:
        """Return the line of one observation."""
        steps, self.step = step - self.step, step
        gradients = self.gradients()
        entries = []
        for name, layer in self.layers:
            entry: dict[str, Any] = {"name": name, "kind": type(layer).__name__}
            if name in found:
                zero, dead, mean, deviation = found[name][1].tolist()
                entry |= {"zero": zero, "dead": dead, "mean": mean, "std": deviation}
            if next(layer.parameters(recurse=False), None) is not None:
                entry |= self.parameters_of(name, layer)
            if name in gradients:
                entry["gradient"] = gradients[name]
            if len(entry) > 2:
                entries.append(entry)
        samples = max((count for count, _ in found.values()), default=0)
        return {
            "epoch": epoch,
            "step": step,
            "time": time.time(),
            "steps": steps,
            "samples": samples,
            "layers": entries,
        }

    def parameters_of(self, name: str, layer: nn.Module) -> dict[str, float | None]:
        """Return the norm of some of a layer's parameters, and the norm of their change since the last time, by it."""
        parameters = [parameter.detach().flatten() for parameter in layer.parameters(recurse=False)]
        now = torch.cat([each[:: -(-len(each) // SAMPLED) or 1].float() for each in parameters])
        before, self.before[name] = self.before.get(name), now
        norm = float(now.norm())
        change = None if before is None or not norm else float((now - before).norm()) / norm
        return {"weight": norm, "change": change}

    def gradients(self) -> dict[str, float]:
        """Return the norm of the gradient by the parameters of each layer that are trained.

        None where it cannot be had: memory runs out, or cuDNN's recurrent layers go back in training mode alone.
        """
        trained = {
            name: [each for each in layer.parameters(recurse=False) if each.requires_grad]
            for name, layer in self.layers
        }
        every = [parameter for parameters in trained.values() for parameter in parameters]
        try:
            with torch.enable_grad():
                loss = self.first_loss() if every else None
                if loss is None:
                    return {}
                found = iter(torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True))
        except (RuntimeError, MemoryError):
            return {}
        norms = {name: [float(next(found).norm()) for _ in parameters] for name, parameters in trained.items()}
        return {name: math.hypot(*each) for name, each in norms.items() if each}


def figures_of(outputs: Tensor) -> Tensor:
    """Return the share of zeros, the share of units that are zero throughout, mean and standard deviation, on the device.

    A unit is a channel of (samples, channels, height, width), a feature of (samples, features) and (samples, places, features).
    """
    outputs = outputs.float()
    is_zero = outputs == 0
    units = is_zero.transpose(1, -1) if outputs.dim() == 3 else is_zero
    dead = units.transpose(0, 1).flatten(1).all(1).float().mean()
    return torch.stack([is_zero.float().mean(), dead, outputs.mean(), outputs.std(correction=0)])
