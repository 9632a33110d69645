"""The two formats of weights files: bytes to tensors by name, and back. Decoding never runs anything in the bytes."""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from rushlight.errors import WeightsError
from rushlight.texts import Note


def encode_torch(state: OrderedDict[str, Tensor]) -> bytes:
    """Return the bytes of a `.pth` file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def encode_safetensors(state: OrderedDict[str, Tensor]) -> bytes:
    """Return the bytes of a `.safetensors` file: tied tensors once, their other names in the header's metadata."""
    kept: dict[tuple[object, ...] | str, str] = {}
    for name in sorted(state):
        kept.setdefault(identity(state[name]) or name, name)
    once = {name: state[name] for name in kept.values()}
    other_names = {name: kept[identity(state[name]) or name] for name in state if name not in once}
    return safetensors.torch.save(once, metadata=other_names or None)


def decode_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in a `.safetensors` file, tied names included."""
    if content.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise WeightsError("weights-misnamed", path=path, found="torch.save", name=path.with_suffix(".pth").name)
    try:
        state = safetensors.torch.load(content)
    except Exception as error:  # also KeyError: a dtype this torch does not know
        raise damaged(path, content, str(error)) from error
    length = int.from_bytes(content[:8], "little")  # the format: 8 bytes of length, then a JSON header
    other_names = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    for name, kept in other_names.items():
        if name not in state and kept in state:
            state[name] = state[kept]
    return state


def decode_torch(content: bytes, path: Path) -> object:
    """Return what a `.pth` file holds when that is plain data; raises WeightsError for everything else."""
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        name = path.with_suffix(".safetensors").name
        raise WeightsError("weights-misnamed", path=path, found="safetensors", name=name)
    if (size := unpacked_size(content)) > len(content):  # torch compresses nothing
        raise damaged(path, content, Note("export.unpacks-to", size=size))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own hints, on TorchScript and pickle protocols
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or content.startswith((b"PK\x03\x04", b"\x80")):
            found = Note("export.class", name=named[1]) if named else Note("export.unknown-class")
            raise WeightsError("pickled-model", path=path, found=found) from error
        raise damaged(path, content, Note("export.no-torch-file")) from error
    except Exception as error:  # torch's reader raises RuntimeError, EOFError, ValueError, … for what is damaged
        if "TorchScript" in str(error):
            raise WeightsError("weights-torchscript", path=path) from error
        raise damaged(path, content, why_not_torch(content, error)) from error


def unpacked_size(content: bytes) -> int:
    """Return how many bytes the directory of a ZIP archive says it unpacks to; 0 for what is none, or a broken one."""
    if not content.startswith(b"PK"):
        return 0
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception:  # whatever a broken archive leads its reader to: torch's reader says what is wrong
        return 0


def why_not_torch(content: bytes, error: Exception) -> str:
    """Return, in a few words, why torch's reader gave up."""
    if content.startswith(b"PK") and "central directory" in str(error):
        return Note("export.end-missing")
    if content.startswith(b"PK"):
        return Note("export.other-zip")
    return Note("export.no-torch-file") if "legacy .tar" in str(error) else str(error).split("\n")[0]


def damaged(path: Path, content: bytes, reason: str) -> WeightsError:
    """Return the error for a file that is torn, or no weights file at all."""
    return WeightsError("weights-damaged", path=path, size=len(content), reason=reason or Note("export.too-short"))


def identity(value: Tensor) -> tuple[object, ...] | None:
    """Return what two names of one tensor have in common; None for a tensor without elements."""
    if value.numel() == 0:
        return None
    return value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
