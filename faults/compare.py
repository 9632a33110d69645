"""What must be equal, byte for byte, in a run that was killed and one that was not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight import files
from rushlight.training.checkpoint.checkpoint import latest_checkpoint, read_checkpoint

WALL_CLOCK = frozenset(["time", "seconds"])
WHEN_FLUSHED = frozenset(["history_bytes", "losses_bytes"])  # how much of the history was on the disk already
TAIL = "_tail"  # and in the checkpoint itself, what was not


def differences(reference: Path, run: Path) -> list[str]:
    """Return what is not as in the reference, a sentence each; [] when all of it is."""
    return [
        *losses_differences(reference, run),  # first, since these tell where it began
        *history_differences(reference, run),
        *checkpoint_differences(reference, run),
        *bundle_differences(reference, run),
        *report_differences(reference, run),
        *(f"{path.relative_to(run)} is left over" for path in run.rglob(f"*{files.TEMPORARY}")),
    ]


# ── the last checkpoint: parameters, buffers, optimizer, schedule, random streams, position ──────────────────


def checkpoint_differences(reference: Path, run: Path) -> Iterator[str]:
    """Compare all that the newest checkpoints hold, wall-clock times apart."""
    one, other = latest_checkpoint(reference), latest_checkpoint(run)
    if one.name != other.name:
        yield f"the last checkpoint is {other.name}, not {one.name}"
    (content, tensors), (other_content, other_tensors) = read_checkpoint(one), read_checkpoint(other)
    lengths = losses_length(content, tensors), losses_length(other_content, other_tensors)
    if lengths[0] != lengths[1]:
        yield f"the checkpoint remembers {lengths[1]} bytes of losses, not {lengths[0]}"
    yield from tensor_differences("the checkpoint", tensors, other_tensors)
    yield from value_differences("the checkpoint", timeless(content), timeless(other_content))


def losses_length(content: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """Return how many bytes of losses a checkpoint remembers: those in the file, and those it holds itself."""
    return int(content["losses_bytes"]) + len(tensors["losses" + TAIL])


def tensor_differences(name: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> Iterator[str]:
    """Compare tensors by name, dtype, shape and bytes."""
    for key in sorted(one.keys() ^ other.keys()):
        yield f"{name} has {key} in one run only"
    for key in sorted(one.keys() & other.keys()):
        if not key.endswith(TAIL) and bits(one[key]) != bits(other[key]):
            yield f"{key} in {name} differs"


def bits(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """Return a tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), plain.numpy().tobytes()


def timeless(value: Any) -> Any:
    """Return JSON-ready values without what depends on the clock. Packed dicts are lists of pairs."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in WALL_CLOCK | WHEN_FLUSHED}
    if isinstance(value, list):
        return [timeless(part) for part in value if not (is_pair(part) and part[0] in WALL_CLOCK)]
    return value


def is_pair(value: Any) -> bool:
    """Tell whether this is a key with its value in a packed dict."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def value_differences(name: str, one: Any, other: Any) -> Iterator[str]:
    """Compare JSON-ready values, part by part; numbers by every digit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from value_differences(f"{name}/{key}", one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (part, other_part) in enumerate(zip(one, other, strict=True)):
            yield from value_differences(f"{name}/{number}", part, other_part)
    elif json.dumps(one) != json.dumps(other):
        yield f"{name} is {json.dumps(other)[:80]}, not {json.dumps(one)[:80]}"


# ── the files beside it ──────────────────────────────────────────────────────────────────────────────────────


def losses_differences(reference: Path, run: Path) -> Iterator[str]:
    """Compare losses.f32."""
    one, other = ((folder / "losses.f32").read_bytes() for folder in (reference, run))
    if one != other:
        first = next((i for i in range(0, min(len(one), len(other)), 4) if one[i : i + 4] != other[i : i + 4]), None)
        where = f"{len(other) // 4} steps, not {len(one) // 4}" if first is None else f"first at step {first // 4 + 1}"
        yield f"losses.f32 differs: {where}"


def history_differences(reference: Path, run: Path) -> Iterator[str]:
    """Compare history.jsonl, line by line, less wall-clock times."""
    one, other = history(reference), history(run)
    if len(one) != len(other):
        yield f"history.jsonl has {len(other)} lines, not {len(one)}"
    for number, (line, other_line) in enumerate(zip(one, other, strict=False), start=1):
        if line != other_line:
            yield f"line {number} of history.jsonl is {other_line}, not {line}"
            return


def history(run: Path) -> list[str]:
    """Return the lines of a run's history without wall-clock times, everything else as it stands."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_bytes().splitlines()]
    return [json.dumps({key: value for key, value in line.items() if key not in WALL_CLOCK}) for line in lines]


def bundle_differences(reference: Path, run: Path) -> Iterator[str]:
    """Compare the bundle: weights and examples byte by byte, its description less the time it was made."""
    one, other = (
        {path.name: path.read_bytes() for path in (folder / "model").iterdir()} for folder in (reference, run)
    )
    if one.keys() != other.keys():
        yield f"the bundle has {', '.join(sorted(other))}, not {', '.join(sorted(one))}"
        return
    for name in one:
        if name.endswith(".json"):
            yield from value_differences(f"model/{name}", *(timeless(json.loads(part[name])) for part in (one, other)))
        elif one[name] != other[name]:
            yield f"model/{name} differs"


def report_differences(reference: Path, run: Path) -> Iterator[str]:
    """Compare report.json byte by byte, and predictions.npz array by array."""
    for name in ("report.json", "predictions.npz"):
        if (reference / name).exists() != (run / name).exists():
            yield f"{name} is in one run only"
            return
    if not (reference / "report.json").exists():
        return
    if (reference / "report.json").read_bytes() != (run / "report.json").read_bytes():
        yield "report.json differs"
    if (reference / "predictions.npz").exists():
        one, other = (arrays(folder / "predictions.npz") for folder in (reference, run))
        yield from (
            f"{name} of predictions.npz differs"
            for name in one.keys() | other.keys()
            if one.get(name) != other.get(name)
        )


def arrays(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the arrays of an .npz file: dtype, shape and bytes."""
    with np.load(path, allow_pickle=False) as content:
        return {
            name: (str(content[name].dtype), content[name].shape, content[name].tobytes()) for name in content.files
        }
