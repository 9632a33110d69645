"""The full training state on disk: tensors as safetensors, all else as JSON, each with its SHA-256.

    checkpoints/00000938/state.safetensors    parameters, buffers, the optimizer's and the scheduler's tensors
    checkpoints/00000938/state.json           the state dict, everything that is no tensor, and the tensors' SHA-256

A folder is published by rename, so it is there whole or not at all. The names are the optimizer steps done; inside
an epoch, or after its last step but before its test, `-mid-epoch` follows: two states never share a name, so a whole
checkpoint is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rushlight import files
from rushlight.data.order import step_seed
from rushlight.errors import RunError, UsageError, WeightsError
from rushlight.training.state import State, Training

FORMAT = 2
KEPT = 2  # the newest ones; the best test's stays too
TENSORS, JSON = "state.safetensors", "state.json"
MID_EPOCH = "-mid-epoch"
TENSOR_MARK, ARRAY_MARK, SCALAR_MARK = "$tensor", "$array", "$scalar"


def write_checkpoint(training: Training) -> Path:
    """Save the state at this step boundary, and drop checkpoints that are no longer needed."""
    folder = checkpoints(training.folder) / checkpoint_name(training.state)
    if not is_whole(folder):  # a whole one of this name holds this very state, and may be the only one there is
        history_bytes, losses_bytes = training.history.sync()
        content, tensors = capture(training)
        data = safetensors.torch.save(tensors)
        record = {
            "format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), "history_bytes": history_bytes,
            "losses_bytes": losses_bytes, **content,
        }  # fmt: skip
        body = json.dumps(record, allow_nan=False, sort_keys=True)
        with files.replacing_folder(folder) as temporary:
            files.write_bytes(temporary / TENSORS, data)
            files.write_json(temporary / JSON, {"sha256": hashlib.sha256(body.encode()).hexdigest(), "content": record})
    drop_old(training, folder)
    return folder


def check_can_be_saved(training: Training) -> None:
    """Raise UsageError if something in the state as it is now cannot be saved, before any work depends on it."""
    _, tensors = capture(training)
    for name, tensor in tensors.items():
        try:
            safetensors.torch.save({name: tensor.reshape(-1)[:0].clone()})  # the kind of tensor, not its content
        except Exception as error:
            raise UsageError("not-checkpointable", name=name, found=f"tensor of {tensor.dtype}") from error


def capture(training: Training) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Copy the full state: JSON-ready content, and the tensors it refers to by name."""
    tensors: dict[str, Tensor] = {}
    parts = {
        "state": training.state,
        "model": training.model.state_dict(),
        "buffers": unsaved_buffers(training.model),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "random": random_streams(),
    }
    return {name: pack(part, name, tensors) for name, part in parts.items()}, tensors


def restore(training: Training, folder: Path) -> None:
    """Bring a checkpoint's state back into the model, optimizer, schedule and state of `training`.

    Newer checkpoints are there only if they are damaged; each is named.
    """
    content, tensors = read_checkpoint(folder)
    for newer in list_checkpoints(training.folder):
        if age(newer) > age(folder):
            training.progress.message(f"{newer} is damaged and was not used; {folder.name}, before it, is whole.")
    training.model.load_state_dict(unpack(content["model"], tensors))
    restore_buffers(training.model, unpack(content["buffers"], tensors), training.device)
    training.optimizer.load_state_dict(unpack(content["optimizer"], tensors))
    training.schedule.load_state_dict(unpack(content["schedule"], tensors))
    training.state.update(unpack(content["state"], tensors))
    training.history.truncate(content["history_bytes"], content["losses_bytes"])
    training.state["random"] = unpack(content["random"], tensors)  # for the loop to set when it begins


def unsaved_buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the buffers that the model's state_dict leaves out (persistent=False): training may change these too."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def restore_buffers(model: torch.nn.Module, buffers: dict[str, Tensor], device: torch.device) -> None:
    """Bring back what `unsaved_buffers` gave; a buffer that has grown, or was None at first, too."""
    for name, saved in buffers.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        present = getattr(module, leaf, None)
        if isinstance(present, Tensor) and present.shape == saved.shape and present.dtype == saved.dtype:
            present.copy_(saved)
        else:
            module.register_buffer(leaf, saved.to(device), persistent=False)


def random_streams() -> dict[str, Any]:
    """Return where the global random generators stand: Python's, NumPy's and torch's (a GPU's is seeded at every step)."""
    version, words, gauss = random.getstate()
    return {
        "python": (version, np.array(words, np.uint32), gauss),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }


def begin_random_streams(training: Training) -> None:
    """Set the global random generators to where the restored state had them; in a new run, to the recipe's seed.

    Right before the first step, since what is done on the way there draws from them too: importing rich does.
    """
    streams = training.state.pop("random", None)
    if streams is not None:
        restore_random_streams(streams)
    elif not training.state["step"]:
        seed = step_seed(training.recipe.seed, 0, 0)
        random.seed(seed)
        np.random.seed(seed)


def restore_random_streams(streams: dict[str, Any]) -> None:
    """Set the global random generators to where `random_streams` found them."""
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(streams["numpy"])
    torch.set_rng_state(streams["torch"])


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
    if content.get("format") != FORMAT:
        reason = f"it is of format {content.get('format')}, and this version of Rushlight reads format {FORMAT}"
        raise WeightsError("damaged-checkpoint", folder=folder, reason=reason)
    return content, safetensors.torch.load(data)


def list_checkpoints(run: Path) -> list[Path]:
    """Return the run's published checkpoints, oldest first."""
    folder = checkpoints(run)
    found = folder.iterdir() if folder.is_dir() else []
    return sorted((path for path in found if path.name.removesuffix(MID_EPOCH).isdecimal()), key=age)


def checkpoint_name(state: State) -> str:
    """Return the name of a state's checkpoint."""
    return f"{state['step']:08d}{MID_EPOCH if state['window'] else ''}"


def age(folder: Path) -> tuple[int, bool]:
    """Return what orders checkpoints: the steps done, then whether the epoch is tested and closed."""
    return int(folder.name.removesuffix(MID_EPOCH)), not folder.name.endswith(MID_EPOCH)


def is_whole(folder: Path) -> bool:
    """Tell whether there is a checkpoint whose every byte is as it was written."""
    try:
        read_checkpoint(folder)
    except WeightsError:
        return False
    return True


def latest_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint that is whole; RunError when there is none."""
    for folder in reversed(list_checkpoints(run)):
        if is_whole(folder):
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
        f"The state after step {age(kept[-1])[0]:,} is kept in {kept[-1]}." if kept else "No step was saved before it."
    )


def checkpoints(run: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return run / "checkpoints"


def sweep_checkpoints(run: Path) -> None:
    """Delete what a killed process left half written; for the process that holds the run's lock."""
    files.sweep(checkpoints(run))


def drop_old(training: Training, newest: Path) -> None:
    """Keep the newest checkpoints and the one of the best test; one that cannot be deleted now is tried again later."""
    kept = {newest, best_checkpoint(training.folder, training.state), *list_checkpoints(training.folder)[-KEPT:]}
    for path in list_checkpoints(training.folder):
        if path not in kept:
            files.delete_folder(path)


def best_checkpoint(run: Path, state: State | None = None) -> Path | None:
    """Return the checkpoint of the best test, or None; which it is stands in the newest whole one's state."""
    if state is None:
        if not list_checkpoints(run):
            return None
        content, tensors = read_checkpoint(latest_checkpoint(run))
        state = unpack(content["state"], tensors)
    if state["best"] is None:
        return None
    folder = checkpoints(run) / f"{state['best']['step']:08d}"
    return folder if folder.is_dir() else None


# ── nested state as JSON and tensors ─────────────────────────────────────────────────────────────────────────


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
