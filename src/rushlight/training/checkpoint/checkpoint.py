"""Keeps the full training state on disk: safetensors, JSON, and the SHA-256 of both.

    checkpoints/00000938/state.safetensors    parameters, buffers, the optimizer's, the scheduler's and the loss's tensors
    checkpoints/00000938/state.json           the state dict, and everything else that is no tensor
    checkpoints/00000938/SHA256SUMS           of these two, as `sha256sum -c` reads it

A folder is published by rename, so it is there whole or not at all. The names are the optimizer steps done; inside
an epoch, or after its last step but before its test, `-mid-epoch` follows: two states never share a name, so a whole
checkpoint is never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rushlight import files
from rushlight.errors import RunError, RushlightError, StorageError, TrainingError, UsageError, WeightsError
from rushlight.export import bundle_architecture, check_bundle, pack, unpack
from rushlight.kinds import Kind, is_count, is_object, maybe, wrong_entry
from rushlight.runs import (
    CHECKPOINTS,
    FORMAT,
    MID_EPOCH,
    PLAIN_FORMAT,
    STATE,
    SUMS,
    TENSORS,
    age,
    checksums,
    damage_of,
    keep_values,
    list_checkpoints,
    newer_format,
    read_state,
    shard_file,
)
from rushlight.texts import Note
from rushlight.training.checkpoint.kept import (
    group_names,
    kept_state,
    parameter_names,
    restore_buffers,
    restore_kept,
    restore_optimizer,
    unsaved_buffers,
)
from rushlight.training.checkpoint.pieces import divided, read_state_tensors
from rushlight.training.checkpoint.randomness import (
    begin_random_streams,
    check_random_streams,
    held_state,
    random_streams,
)
from rushlight.training.objective import averaged
from rushlight.training.state import State, Training

PARTS = ("state", "model", "buffers", "optimizer", "schedule", "random", "conditions")
CONTENT: Kind = {"history_bytes": is_count, "losses_bytes": is_count, **dict.fromkeys(PARTS, is_object)}
STATE_KIND: Kind = {
    **dict.fromkeys(("epoch", "window", "step"), is_count), "best": maybe({"step": is_count}), "ways?": [is_object],
}  # fmt: skip
KEPT = 2  # the newest ones; the best test's stays too


# ── writing one ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the full state at one step boundary; training goes on, and it stays."""

    name: str
    content: dict[str, Any]  # JSON-ready
    tensors: dict[str, Tensor]  # on the CPU
    kept: frozenset[str]  # the names of older ones that must stay: the best test's; what a rollback goes back to
    rows: dict[str, Tensor] = field(default_factory=dict)  # this process's, of a model that is divided; no copies


def take_snapshot(training: Training) -> Snapshot:
    """Copy the full state, the history's length on the disk, and its lines not written yet."""
    state = training.state
    content, tensors = capture_state(training)
    training.history.try_flush()
    for file, name in ((training.history.lines, "history"), (training.history.losses, "losses")):
        content[f"{name}_bytes"] = file.written
        tensors[f"{name}_tail"] = torch.from_numpy(np.frombuffer(bytes(file.pending), np.uint8).copy())
    kept = {f"{state['best']['step']:08d}"} if state["best"] is not None else set()
    if training.recipe.on_nan == "rollback":
        kept.add(epoch_began(state))
    rows = take_rows(training, content, tensors)
    version = PLAIN_FORMAT if training.shards is None else FORMAT
    return Snapshot(checkpoint_name(state), {"format": version, **content}, tensors, frozenset(kept), rows)


def take_rows(training: Training, content: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take this process's rows out of a state's tensors, and put their index into its content."""
    if training.shards is None:
        return {}
    groups = group_names(training.optimizer, parameter_names(training)) or []
    shapes = divided(training, groups, {name: tuple(each.shape) for name, each in tensors.items()}, whole=False)
    content["shards"] = {"processes": training.world.size, "tensors": shapes}
    return {name: tensors.pop(name) for name in shapes}


def capture_state(training: Training) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Copy the full state: JSON-ready content, and the tensors it refers to by name."""
    tensors: dict[str, Tensor] = {}
    held = held_state(training)  # first: it notes in the state what cannot be restored
    names = parameter_names(training)
    parts: dict[str, Any] = {
        "state": training.state,
        "model": training.model.state_dict() if training.shards is None else training.shards.model_state(),
        "buffers": unsaved_buffers(training.model),
        "optimizer": training.optimizer.state_dict(),
        "optimizer_names": group_names(training.optimizer, names),
        "schedule": training.schedule.state_dict(),
        "random": random_streams(),
        "held": held,
        "conditions": training.conditions,
    }
    if isinstance(training.objective.loss, torch.nn.Module):  # one may keep what moves: a mean over the last batches
        parts["loss"] = training.objective.loss.state_dict()
        parts["loss_buffers"] = unsaved_buffers(training.objective.loss)
    if training.scaler is not None:
        parts["scaler"] = training.scaler.state_dict()
    if training.average is not None:
        parts["average"] = training.average.state_dict()
    if training.keep:
        parts["keep"] = list(map(kept_state, training.keep))
        parts["keep_names"] = [group_names(kept, names) for kept in training.keep]
    copies = training.shards is None  # else it is written before training goes on
    return {name: pack(part, name, tensors, copies=copies) for name, part in parts.items()}, tensors


def check_can_be_saved(training: Training) -> None:
    """Raise UsageError or WeightsError if a checkpoint or the bundle cannot hold something, before work depends on it."""
    _, tensors = capture_state(training)
    for name, tensor in tensors.items():
        try:
            safetensors.torch.save({name: tensor.reshape(-1)[:0].clone()})  # the kind of tensor, not its content
        except Exception as error:
            found = Note("training.found-tensor", dtype=tensor.dtype)
            raise UsageError("not-checkpointable", name=name, found=found) from error
    architecture, data = bundle_architecture(training.recipe.model), training.data
    check_bundle(training.folder, training.model, data.features, data.target, architecture)


def write_snapshot(run: Path, snapshot: Snapshot, keep_epochs: bool = False) -> Path:
    """Publish a snapshot as a checkpoint of the run, and drop those no longer needed.

    The history of the snapshot is on the disk first. Raises StorageError.
    """
    folder = run / CHECKPOINTS / snapshot.name
    if not is_whole(folder):  # a whole one of this name holds this very state, and may be the only one there is
        sync_history(run)
        with files.replacing_folder(folder) as temporary:
            write_state(temporary, snapshot)
    drop_old(run, folder, snapshot, keep_epochs)
    return folder


def sync_history(run: Path) -> None:
    """Wait until the history, which a checkpoint goes with, is on the disk."""
    for name in ("history.jsonl", "losses.f32"):
        if (run / name).exists():
            files.sync_file(run / name)


def write_state(folder: Path, snapshot: Snapshot) -> None:
    """Write the files of a snapshot, and the checksums of all that is in the folder then."""
    files.save_with(folder / TENSORS, lambda path: write_tensors(path, snapshot.tensors))
    body = json.dumps(snapshot.content, allow_nan=False, separators=(",", ":"))
    files.write_new(folder / STATE, [body.encode()])
    files.write_new(folder / SUMS, [checksums(folder)])


def write_together(training: Training, snapshot: Snapshot) -> None:
    """Publish a snapshot of a model that is divided: each process writes its rows, and the first one all else.

    Raises StorageError, in the others TrainingError; nothing is published then.
    """
    world, problem = training.world, None
    run = Path(world.folder or training.folder)
    folder = run / CHECKPOINTS / snapshot.name
    with contextlib.ExitStack() as unpublished:

        def begin() -> str | None:
            if is_whole(folder):
                return None
            sync_history(run)
            return str(unpublished.enter_context(files.replacing_folder(folder)))

        def publish() -> None:
            write_state(Path(place), snapshot)
            unpublished.close()

        if (place := world.first_does(begin)) is not None:
            path = Path(place) / shard_file(world.rank, world.size)
            try:
                files.save_with(path, lambda path: write_tensors(path, snapshot.rows))
            except StorageError as error:
                problem = error
            problems = world.gather(None if problem is None else problem.record)
            rank = next((rank for rank, each in enumerate(problems) if each is not None), None)
            if rank is not None:
                raise problem or TrainingError(
                    "process-failed", rank=rank, processes=world.size, problem=problems[rank]
                )
            world.first_does(publish)
    if world.is_first:
        drop_old(run, folder, snapshot, training.recipe.keep_epochs)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors. Raises OSError, whose number the library hides in a text."""
    first_at: dict[int, str] = {}  # where tied weights lie, which a file has no two names for
    tensors = {
        name: each.clone() if each.numel() and first_at.setdefault(each.data_ptr(), name) != name else each
        for name, each in tensors.items()
    }
    try:
        safetensors.torch.save_file(tensors, path)
    except safetensors.SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def drop_old(run: Path, newest: Path, snapshot: Snapshot, keep_epochs: bool) -> None:
    """Keep the newest checkpoints, those that the snapshot names, and each epoch's if wanted.

    Newer ones than the state just saved were damaged, or were left by going back. Those that cannot be deleted now are tried
    again later.
    """
    try:
        found = list_checkpoints(run)
    except StorageError:  # the new one is written all the same
        return
    older = [path for path in found if age(path) <= age(newest)]
    kept = {*snapshot.kept, *(path.name for path in older[-KEPT:])}
    if keep_epochs:
        kept |= {path.name for path in older if not path.name.endswith(MID_EPOCH)}
    for path in found:
        if path.name not in kept:
            files.delete_folder(path)


# ── restoring one ────────────────────────────────────────────────────────────────────────────────────────────


def restore(training: Training, folder: Path, *, drops_newer: bool = False) -> None:
    """Restore a checkpoint into the objects, the state and the history of `training`.

    `drops_newer` is for a run that goes back: the checkpoints that are newer, whose history it loses, are deleted. Raises
    RunError when the state does not fit these, or the history is too short for it, and nothing on the disk is changed
    then; StorageError where a newer checkpoint stays.
    """
    content, tensors = read_checkpoint(folder, training=training)
    training.history.check_lengths(content["history_bytes"], content["losses_bytes"])
    restore_memory(training, folder, content, tensors)
    if drops_newer:  # a kill after this leaves a run whose newest checkpoint is this one
        for path in list_checkpoints(training.folder):
            if age(path) > age(folder) and not files.delete_folder(path) and path.exists():
                raise StorageError("disk-error", path=path, reason=Note("training.checkpoint-not-deletable"))
        files.sync_folder(checkpoints(training.folder))
    tails = [tensors[f"{name}_tail"].numpy().tobytes() for name in ("history", "losses")]
    training.history.restore(content["history_bytes"], content["losses_bytes"], tails[0], tails[1])
    keep_values(training.folder, training.state["epoch"] - 1)


def restore_memory(training: Training, folder: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Restore a checkpoint's state in memory; RunError when it does not fit the objects there."""
    loss = training.objective.loss
    try:
        load_model = training.model.load_state_dict if training.shards is None else training.shards.load_model_state
        load_model(unpack(content["model"], tensors))
        restore_buffers(training.model, unpack(content["buffers"], tensors), training.device)
        names = unpack(content.get("optimizer_names"), tensors)
        restore_optimizer(training.optimizer, unpack(content["optimizer"], tensors), names, training)
        training.schedule.load_state_dict(unpack(content["schedule"], tensors))
        if isinstance(loss, torch.nn.Module) and "loss" in content:  # early releases did not save it
            loss.load_state_dict(unpack(content["loss"], tensors))
            restore_buffers(loss, unpack(content["loss_buffers"], tensors), training.device)
        if training.scaler is not None:
            training.scaler.load_state_dict(unpack(content["scaler"], tensors))
        if training.average is not None:
            training.average.load_state_dict(unpack(content["average"], tensors))
        if "held" in content:
            training.held.restore(unpack(content["held"], tensors))
        saved = (unpack(content.get(name), tensors) or [] for name in ("keep", "keep_names"))
        for kept, state, groups in zip(training.keep, *saved, strict=True):
            restore_kept(kept, state, groups, training)
        streams = unpack(content["random"], tensors)
        check_random_streams(streams)
    except RushlightError:
        raise
    except Exception as error:  # torch, NumPy and the user's objects each raise their own for what they did not write
        reason = " ".join(str(error).split())[:300]
        raise RunError("state-does-not-fit", run=training.folder.name, folder=folder, reason=reason) from error
    training.state.update(unpack(content["state"], tensors))
    training.state["random"] = streams  # for the loop to set when it begins


def read_checkpoint(
    folder: Path, part: str = "", training: Training | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint whose every byte is as written, or the tensors of one part; WeightsError names a damaged file.

    Of what `training` divides among processes it reads this one's rows.
    """
    content = read_content(folder)
    try:
        groups = unpack(content.get("optimizer_names"), {})
        tensors = read_state_tensors(folder, content, f"{part}/" if part else "", training, groups)
        unpack_all(content, None if part else tensors)
    except Exception as error:  # it changed since its checksum was computed, or was never ours
        raise WeightsError("damaged-checkpoint", folder=folder, reason=error) from error
    return content, tensors


def read_content(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's JSON once every byte is checked; WeightsError where it is damaged."""
    check_format(folder)
    reason = damage_of(folder)
    content: dict[str, Any] = {} if reason else read_state(folder)
    if reason is None and (found := content.get("format")) not in (PLAIN_FORMAT, FORMAT):
        reason = Note("training.checkpoint-format", found=found, known=FORMAT)
    if reason is None:
        try:
            name = wrong_entry(content, CONTENT) or wrong_entry(unpack_all(content)["state"], STATE_KIND)
            reason = None if name is None else Note("runs.lacks", name=name)
        except Exception as error:  # its checksums are right, but no Rushlight wrote it
            reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        raise WeightsError("damaged-checkpoint", folder=folder, reason=reason)
    return content


def unpack_all(content: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Return the parts of a checkpoint's content unpacked; without tensors, with zeros in their place."""
    tensors = defaultdict(lambda: torch.zeros(())) if tensors is None else tensors
    return {name: unpack(content[name], tensors) for name in PARTS}


def share_state(training: Training) -> None:
    """Give all processes of a run the first one's full state: what it was built with, or what it was restored to."""
    world = training.world
    if not world.is_shared:
        return
    told = b""
    if world.is_first:
        content, tensors = capture_state(training)
        take_rows(training, content, tensors)
        checkpoint = training.origin.checkpoint if training.origin is not None else None
        content["from"] = None if checkpoint is None else checkpoint.name
        body, saved = json.dumps(content).encode(), safetensors.torch.save(tensors)
        told = len(body).to_bytes(8, "little") + body + saved
    told = world.share(told)
    if not world.is_first:
        length = int.from_bytes(told[:8], "little")
        content, tensors = json.loads(told[8 : 8 + length]), safetensors.torch.load(told[8 + length :])
        if training.shards is not None and content["from"] is not None:
            path = checkpoints(Path(world.folder or training.folder)) / content["from"]
            tensors = read_checkpoint(path, training=training)[1] | tensors
        elif training.shards is not None:
            tensors = {f"model/{name}": each for name, each in training.shards.model_state().items()} | tensors
        restore_memory(training, training.folder, content, tensors)
        begin_random_streams(training)


# ── finding them ─────────────────────────────────────────────────────────────────────────────────────────────


def checkpoints(run: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return run / CHECKPOINTS


def checkpoint_name(state: State) -> str:
    """Return the name of the checkpoint of a state."""
    return f"{state['step']:08d}{MID_EPOCH if state['window'] else ''}"


def epoch_began(state: State) -> str:
    """Return the name of the checkpoint that the state's epoch began with."""
    return f"{state['step'] - state['window']:08d}"


def is_whole(folder: Path) -> bool:
    """Tell whether there is a checkpoint whose every byte is as written."""
    return folder.is_dir() and damage_of(folder) is None


def latest_checkpoint(run: Path) -> Path:
    """Return the newest whole checkpoint; RunError for none, WeightsError for a newer format."""
    for folder in reversed(list_checkpoints(run)):
        check_format(folder)
        if is_whole(folder):
            return folder
    raise RunError("no-checkpoint", run=run.name)


def check_format(folder: Path) -> None:
    """Raise WeightsError for a newer Rushlight's checkpoint: passing it over loses training."""
    found = newer_format(folder)
    if found is not None:
        raise WeightsError("newer-checkpoint", folder=folder, found=found, known=FORMAT)


def named_checkpoint(run: Path, name: str) -> Path:
    """Return the checkpoint of a name, step or path; RunError for none, WeightsError if damaged."""
    known = {path.name: path for path in list_checkpoints(run)}
    by_step = {age(path)[0]: path for path in known.values()}
    step = int(name) if name.isdecimal() else -1
    folder = known.get(name) or known.get(Path(name).name) or by_step.get(step)
    if folder is None:
        raise RunError("unknown-checkpoint", run=run.name, name=name, known=", ".join(known) or Note("training.none"))
    read_content(folder)
    return folder


def best_checkpoint(run: Path, state: State | None = None) -> Path | None:
    """Return the checkpoint of the best evaluation, or None; the newest whole one names it."""
    if state is None:
        if not list_checkpoints(run):
            return None
        state = unpack_all(read_content(latest_checkpoint(run)))["state"]
    if state["best"] is None:
        return None
    folder = checkpoints(run) / f"{state['best']['step']:08d}"
    return folder if folder.is_dir() else None


def read_model_state(folder: Path, part: str = "model") -> dict[str, Tensor]:
    """Return the model's state_dict from a checkpoint, its weights averaged where they are, or that of its "loss"."""
    content, tensors = read_checkpoint(folder, part)
    state: dict[str, Tensor] = unpack(content[part], tensors)
    if part != "model" or "average" not in content:
        return state
    return averaged(state, unpack(content["average"], read_checkpoint(folder, "average")[1]))


def describe_kept(run: Path) -> str:
    """Tell which state is safe, for the message of a run that failed."""
    try:
        kept = list_checkpoints(run)
    except StorageError as error:  # the other error is the one to show
        return Note("training.kept-unknown", problem=error.record)
    return Note("training.kept", step=age(kept[-1])[0], path=kept[-1]) if kept else Note("training.none-kept")


# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────


def state_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name}:{str(plain.dtype).removeprefix('torch.')}:{tuple(plain.shape)}:".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
