"""Nested state as JSON and tensors: checkpoints and bundles are written from these, and read to them."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight.errors import UsageError
from rushlight.texts import Note

TENSOR_MARK, ARRAY_MARK, SCALAR_MARK = "$tensor", "$array", "$scalar"


def pack(value: Any, name: str, tensors: dict[str, Tensor], *, copies: bool = True) -> Any:
    """Return `value` JSON-ready; copy its tensors to the CPU, into `tensors` by their path. Without `copies` they are its own.

    A dict becomes a list of pairs, since optimizers use whole numbers as keys. Floats that JSON does not have are
    written as text. NumPy's arrays and numbers become tensors. Any other value raises UsageError.
    """
    if isinstance(value, Tensor) and value.layout is torch.strided:
        return {TENSOR_MARK: put(value.detach().to("cpu", copy=copies).contiguous(), name, tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        mark = ARRAY_MARK if isinstance(value, np.ndarray) else SCALAR_MARK
        try:
            return {mark: put(torch.from_numpy(np.array(value, order="C")), name, tensors)}
        except (TypeError, ValueError) as error:  # objects, text, dates, another machine's byte order
            found = Note("training.found-array", dtype=value.dtype)
            raise UsageError("not-checkpointable", name=name, found=found) from error
    if isinstance(value, dict):
        pairs = ((key, item, f"{name}/{key}") for key, item in value.items())
        return {
            "$dict": [
                [pack(key, inner, tensors), pack(item, inner, tensors, copies=copies)] for key, item, inner in pairs
            ]
        }
    if isinstance(value, (list, tuple, deque)):
        mark = "$tuple" if isinstance(value, tuple) else "$list"
        return {mark: [pack(item, f"{name}/{i}", tensors, copies=copies) for i, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    is_tensor = isinstance(value, Tensor)
    kind = Note("training.found-layout", layout=value.layout) if is_tensor else type(value).__name__
    raise UsageError("not-checkpointable", name=name, found=kind)


def put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    """Add a tensor under its name, or one like it, as keys 1 and "1" agree; return the name."""
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
