"""Nested state as JSON and tensors: what a checkpoint is written from, and rebuilt to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from rushlight.errors import UsageError

TENSOR_MARK, ARRAY_MARK, SCALAR_MARK = "$tensor", "$array", "$scalar"


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` JSON-ready: every tensor in it goes, copied to the CPU, into `tensors` under a name of its path.

    A dict becomes a list of pairs, since optimizers use whole numbers as keys. Floats that JSON does not have are
    written as text. NumPy's arrays and numbers go the tensors' way. A value that is no data raises UsageError.
    """
    if isinstance(value, Tensor) and value.layout is torch.strided:
        return {TENSOR_MARK: put(value.detach().to("cpu", copy=True).contiguous(), name, tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        mark = ARRAY_MARK if isinstance(value, np.ndarray) else SCALAR_MARK
        try:
            return {mark: put(torch.from_numpy(np.array(value, order="C")), name, tensors)}
        except (TypeError, ValueError) as error:  # objects, text, dates, another machine's byte order
            raise UsageError("not-checkpointable", name=name, found=f"NumPy value of {value.dtype}") from error
    if isinstance(value, dict):
        pairs = ((key, item, f"{name}/{key}") for key, item in value.items())
        return {"$dict": [[pack(key, inner, tensors), pack(item, inner, tensors)] for key, item, inner in pairs]}
    if isinstance(value, (list, tuple)):
        mark = "$tuple" if isinstance(value, tuple) else "$list"
        return {mark: [pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
    raise UsageError("not-checkpointable", name=name, found=kind)


def put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    """Add a tensor under its name, or, where the keys 1 and "1" lead to the same, one like it; return the name."""
    while name in tensors:
        name += "'"
    tensors[name] = tensor
    return name


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild what `pack` took apart."""
    if not isinstance(value, dict):
        return value
    ((mark, content),) = value.items()
    if mark == TENSOR_MARK:
        return tensors[content]
    if mark in (ARRAY_MARK, SCALAR_MARK):
        array = tensors[content].numpy()
        return array if mark == ARRAY_MARK else array[()]
    if mark == "$dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    if mark == "$float":
        return float(content)
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if mark == "$tuple" else items


def lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Let the optimizer's tensors lie in memory as their parameters do: fused kernels take them element by element, as they lie.

    What `unpack` gives is contiguous; a parameter may be channels last.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
