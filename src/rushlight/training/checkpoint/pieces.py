"""The tensors of a checkpoint: in one file, or in one for each process of a model that was divided.

    checkpoints/00000938/state.safetensors                   what all processes have alike: buffers, schedule, …
    checkpoints/00000938/shard-00001-of-00002.safetensors    a process's rows of the parameters, and of what the optimizer keeps
    checkpoints/00000938/state.json                          with the index, "shards": {"processes", "tensors": {name: whole shape}}

Rows are divided as `torch.chunk` does. Any number of processes reads them, each only the rows that it needs; so it reads those
of a checkpoint in one file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rushlight import files
from rushlight.runs import TENSORS, shard_file
from rushlight.training.distributed import own_rows
from rushlight.training.state import Training

Shapes = dict[str, tuple[int, ...]]


def divided(training: Training, groups: list[list[str]], present: Shapes, *, whole: bool) -> Shapes:
    """Return the whole shape of each tensor that is divided: parameters, and what the optimizer keeps in their shape.

    `groups` are the names of the optimizer's parameters, `present` the shapes of its tensors: whole ones, or this process's rows.
    """
    shards = training.shards
    assert shards is not None
    found: Shapes = {f"model/{name}": shape for name, shape in shards.shapes.items()}
    names = [name for group in groups for name in group]
    for tensor, shape in present.items():
        place = tensor.split("/")
        if place[:2] == ["optimizer", "state"] and len(place) == 4:
            of_parameter = shards.shapes[names[int(place[2])]]
            first, end = shards.rows(of_parameter[0])
            if shape == (of_parameter if whole else (end - first, *of_parameter[1:])):
                found[tensor] = of_parameter
    return found


def read_state_tensors(
    folder: Path, content: dict[str, Any], prefix: str = "", training: Training | None = None, groups: Any = None
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors whose names begin so; of what `training` divides among processes, this one's rows.

    `content` is the checkpoint's JSON, `groups` the names of the parameters that its optimizer had.
    """
    index = content.get("shards")
    shards = None if training is None else training.shards
    if index is None and shards is None and not prefix:
        path = folder / TENSORS
        if is_utf8(path):
            return safetensors.torch.load_file(path)
        return safetensors.torch.load(files.read_bytes(path, sys.maxsize))
    processes = 0 if index is None else index["processes"]
    names = chain([TENSORS], (shard_file(rank, processes) for rank in range(processes)))
    with ExitStack() as stack:
        plain, *pieces = (stack.enter_context(opened_file(folder / name)) for name in names)
        shapes = {name: tuple(plain.get_slice(name).get_shape()) for name in plain.keys()}  # noqa: SIM118
        mine: Shapes = {}
        if index is None and training is not None and shards is not None:
            mine = divided(training, groups, shapes, whole=True)
        found: dict[str, Tensor] = {}
        for name in shapes:
            if name.startswith(prefix):
                rows = None if shards is None or name not in mine else shards.rows(mine[name][0])
                found[name] = plain.get_tensor(name) if rows is None else slice_of(plain, name, *rows)
        for name, shape in ({} if index is None else index["tensors"]).items():
            if name.startswith(prefix):
                first, end = (0, shape[0]) if shards is None else shards.rows(shape[0])
                parts = []
                for rank, piece in enumerate(pieces):
                    begins, ends = own_rows(shape[0], rank, processes)
                    if max(begins, first) < min(ends, end):
                        parts.append(slice_of(piece, name, max(begins, first) - begins, min(ends, end) - begins))
                found[name] = torch.cat(parts) if parts else slice_of(pieces[0], name, 0, 0)
    return found


def slice_of(file: Any, name: str, first: int, end: int) -> Tensor:
    """Return some rows of a tensor in a file."""
    found: Tensor = file.get_slice(name)[first:end] if first < end else file.get_tensor(name)[:0]
    return found


@contextmanager
def opened_file(path: Path) -> Iterator[Any]:
    """Open a safetensors file to read some of it; the library itself opens only paths that are UTF-8."""
    with ExitStack() as stack:
        named: Any = path if is_utf8(path) else f"/dev/fd/{stack.enter_context(files.open_file(path)).fileno()}"
        yield stack.enter_context(safetensors.safe_open(named, "pt"))


def is_utf8(path: Path) -> bool:
    """Tell whether a path is UTF-8; a path of other bytes has surrogates in their place."""
    return not any("\ud800" <= each <= "\udfff" for each in str(path))
