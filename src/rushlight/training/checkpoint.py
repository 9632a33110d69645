"""The full training state on disk: tensors as safetensors, all else as JSON, each with its SHA-256.

    checkpoints/00000938/state.safetensors    parameters, buffers, the optimizer's and the scheduler's tensors
    checkpoints/00000938/state.json           the state dict, everything that is no tensor, and the tensors' SHA-256

A folder is published by rename, so it is there whole or not at all. The names are the optimizer steps done.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rushlight import files
from rushlight.errors import RunError, WeightsError
from rushlight.training.state import Training

FORMAT = 1
KEPT = 2  # the newest ones; the best test's stays too
TENSORS, JSON = "state.safetensors", "state.json"
TENSOR_MARK = "$tensor"


def write_checkpoint(training: Training) -> Path:
    """Save the state at this step boundary, and drop checkpoints that are no longer needed."""
    content, tensors = capture(training)
    data = safetensors.torch.save(tensors)
    folder = checkpoints(training.folder) / f"{training.state['step']:08d}"
    with files.replacing_folder(folder) as temporary:
        files.write_bytes(temporary / TENSORS, data)
        record = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **content}
        body = json.dumps(record, allow_nan=False, sort_keys=True)
        files.write_json(temporary / JSON, {"sha256": hashlib.sha256(body.encode()).hexdigest(), "content": record})
    drop_old(training, folder)
    return folder


def capture(training: Training) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Copy the full state: JSON-ready content, and the tensors it refers to by name."""
    tensors: dict[str, Tensor] = {}
    history_bytes, losses_bytes = training.history.sync()
    content = {
        "state": pack(training.state, "state", tensors),
        "model": pack(training.model.state_dict(), "model", tensors),
        "optimizer": pack(training.optimizer.state_dict(), "optimizer", tensors),
        "schedule": pack(training.schedule.state_dict(), "schedule", tensors),
        "history_bytes": history_bytes,
        "losses_bytes": losses_bytes,
    }
    return content, tensors


def restore(training: Training, folder: Path) -> None:
    """Bring a checkpoint's state back into the model, optimizer, schedule and state of `training`.

    Newer checkpoints are there only if they are damaged; each is named.
    """
    content, tensors = read_checkpoint(folder)
    for newer in list_checkpoints(training.folder):
        if int(newer.name) > int(folder.name):
            training.progress.message(f"{newer} is damaged and was not used; {folder.name}, before it, is whole.")
    training.model.load_state_dict(unpack(content["model"], tensors))
    training.optimizer.load_state_dict(unpack(content["optimizer"], tensors))
    training.schedule.load_state_dict(unpack(content["schedule"], tensors))
    training.state.update(unpack(content["state"], tensors))
    training.history.truncate(content["history_bytes"], content["losses_bytes"])


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint whose every byte is as it was written; WeightsError names what is damaged."""
    try:
        record = json.loads((folder / JSON).read_text(encoding="utf-8"))
        content: dict[str, Any] = record["content"]
        body = json.dumps(content, allow_nan=False, sort_keys=True)
        data = (folder / TENSORS).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("damaged-checkpoint", folder=folder, reason=error) from error
    for name, expected, found in (
        (JSON, record.get("sha256"), hashlib.sha256(body.encode()).hexdigest()),
        (TENSORS, content.get("sha256"), hashlib.sha256(data).hexdigest()),
    ):
        if expected != found:
            raise WeightsError(
                "damaged-checkpoint", folder=folder, reason=f"the checksum of {name} is not the recorded one"
            )
    return content, safetensors.torch.load(data)


def list_checkpoints(run: Path) -> list[Path]:
    """Return the run's published checkpoints, oldest first."""
    folder = checkpoints(run)
    return sorted(path for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def latest_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint that is whole; RunError when there is none."""
    for folder in reversed(list_checkpoints(run)):
        try:
            read_checkpoint(folder)
        except WeightsError:
            continue
        return folder
    raise RunError("no-checkpoint", run=run.name)


def read_model_state(folder: Path) -> dict[str, Tensor]:
    """Return the model's own state_dict from a checkpoint."""
    content, tensors = read_checkpoint(folder)
    state: dict[str, Tensor] = unpack(content["model"], tensors)
    return state


def describe_kept(run: Path) -> str:
    """Say which state is safe, for the message of a run that failed."""
    kept = list_checkpoints(run)
    return (
        f"The state after step {int(kept[-1].name):,} is kept in {kept[-1]}."
        if kept
        else "No step was saved before it."
    )


def checkpoints(run: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return run / "checkpoints"


def drop_old(training: Training, newest: Path) -> None:
    """Keep the newest checkpoints and the one of the best test."""
    marker = checkpoints(training.folder) / "best.json"
    best = training.state["best"]
    if best is not None and best["epoch"] == training.state["epoch"] - 1 and training.state["window"] == 0:
        files.write_json(marker, {"checkpoint": newest.name, "epoch": best["epoch"]})
    kept = {path.name for path in list_checkpoints(training.folder)[-KEPT:]} | {newest.name}
    if marker.is_file():
        kept.add(json.loads(marker.read_text(encoding="utf-8"))["checkpoint"])
    for path in list_checkpoints(training.folder):
        if path.name not in kept:
            shutil.rmtree(path)


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of the best test, or None."""
    marker = checkpoints(run) / "best.json"
    if not marker.is_file():
        return None
    folder = checkpoints(run) / str(json.loads(marker.read_text(encoding="utf-8"))["checkpoint"])
    return folder if folder.is_dir() else None


# ── nested state as JSON and tensors ─────────────────────────────────────────────────────────────────────────


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` JSON-ready: every tensor in it goes, copied to the CPU, into `tensors` under a name of its path.

    A dict becomes a list of pairs, since optimizers use whole numbers as keys. Floats that JSON does not have are
    written as text. A value that is no data raises TypeError.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {TENSOR_MARK: name}
    if isinstance(value, dict):
        return {"$dict": [[key, pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        mark = "$tuple" if isinstance(value, tuple) else "$list"
        return {mark: [pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} holds a {type(value).__name__}, which a checkpoint cannot save")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild what `pack` took apart."""
    if not isinstance(value, dict):
        return value
    ((mark, content),) = value.items()
    if mark == TENSOR_MARK:
        return tensors[content]
    if mark == "$dict":
        return {key: unpack(item, tensors) for key, item in content}
    if mark == "$float":
        return float(content)
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if mark == "$tuple" else items


def walk(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Give a state_dict's tensors in the order of their names."""
    for name in sorted(state):
        if isinstance(state[name], Tensor):
            yield name, state[name]


def state_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 over the parameters and buffers in name order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in walk(model.state_dict()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{str(plain.dtype).removeprefix('torch.')}:{tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
