"""Weights files: a model's parameters and buffers by name, as `.pth`, `.pt` or `.safetensors`.

Reading one never runs anything in it: `.safetensors` cannot hold code, and what torch's `weights_only=True`
refuses in a `.pth` we refuse too, with the way out.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rushlight import files
from rushlight.device import available_memory
from rushlight.errors import UsageError, WeightsError, suggest
from rushlight.export.description import first_few
from rushlight.export.formats import decode_safetensors, decode_torch, encode_safetensors, encode_torch, identity
from rushlight.texts import Joined, Note

TORCH_ENDINGS = (".pth", ".pt")
ENDINGS = (*TORCH_ENDINGS, ".safetensors")
CHECKPOINT_KEYS = ("model_state_dict", "state_dict", "model")  # where training scripts commonly put the weights
KNOWN_STARTS = (
    (b"version https://git-lfs", "weights-pointer"),
    (b"<!doctype", "weights-page"),
    (b"<html", "weights-page"),
    (b"<?xml", "weights-page"),
)


def write_weights(model: nn.Module, path: Path) -> None:
    """Write the model's parameters and buffers to `path`, in the format its ending names.

    `.pth` and `.pt` hold a plain `state_dict`, for `model.load_state_dict(torch.load("model.pth"))`. In
    `.safetensors` tied tensors are written once and named in the header, as `safetensors.torch.save_model` does, so
    `safetensors.torch.load_model` reads them too. Tensors are written as CPU tensors, whatever device they are on.
    Raises UsageError for another ending, WeightsError for what no file can hold.
    """
    path = Path(path)
    content = encode_safetensors if check_ending(path) == ".safetensors" else encode_torch
    files.write_named(path, content(portable_state(model, path)))


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a weights file's tensors by name, on the CPU, and the decisions made; nothing in it is executed.

    Weights nested in a training script's checkpoint (`{"model_state_dict": …, "epoch": …}`) are taken out, and a note
    says so. Raises WeightsError that says what was found when the file holds anything but tensors by name.
    """
    path = Path(path)
    ending, content = check_ending(path), read_file_content(path)
    if ending == ".safetensors":
        return decode_safetensors(content, path), ()
    state = decode_torch(content, path)
    entries = state if isinstance(state, dict) else {}
    nested = next((key for key in CHECKPOINT_KEYS if isinstance(entries.get(key), dict)), None)
    if nested is None:
        return check_entries(state, path), ()
    others = first_few(str(key) for key in entries if key != nested) or Note("export.nothing-else")
    return check_entries(entries[nested], path), (Note("export.nested", path=path, name=nested, others=others),)


def load_weights(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Load the file at `path` into `model`, every entry or none; return what was decided, a sentence each.

    Raises WeightsError when the file does not fit; the model is then as it was.
    """
    state, notes = read_weights(path)
    return notes + load_state(model, state, str(path))


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> tuple[str, ...]:
    """Load `state` into `model`, every entry or none; return what was decided, a sentence each.

    Values are converted to the model's dtypes and device as `load_state_dict` does. Names that differ only by what a
    wrapper adds (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of a surrounding module) are matched
    when all of them match, and a note says so. Raises WeightsError, with the differences and without having changed
    the model, when anything is missing, left over or of another shape. `source` names the file in that error.
    """
    state, notes = match_names(model, fill_tied(model, state))
    with unchanged_on_error(model):
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise mismatch(model, state, source) from error
    return notes


def load_fitting(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Load the entries of the file at `path` whose names and shapes are the model's; return what was left out.

    Raises WeightsError where none fits.
    """
    state, notes = read_weights(path)
    ours, theirs = bare_names(model.state_dict()), bare_names(state)
    expected = {ours[bare]: state[theirs[bare]] for bare in ours if bare in theirs}
    shapes = {name: size(value) for name, value in model.state_dict().items()}
    fitting = {name: value for name, value in expected.items() if size(value) == shapes[name]}
    if not fitting:
        raise mismatch(model, state, str(path))
    with unchanged_on_error(model):
        model.load_state_dict(fitting, strict=False)
    left_out = sorted(theirs[bare] for bare in theirs if ours.get(bare) not in fitting)  # no file has an order
    as_begun = [name for name in shapes if name not in fitting]
    rest = [Note("export.not-loaded", names=first_few(left_out))] if left_out else []
    rest += [Note("export.as-begun", names=first_few(as_begun))] if as_begun else []
    return (
        *notes,
        Note("export.fitting", path=path, count=len(fitting), whole=len(state), rest=Joined("nothing", rest)),
    )


@contextlib.contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Give the model's tensors back their values where the block raises: loading copies what fits before it does."""
    before = {name: value.clone() for name, value in model.state_dict().items() if is_tensor_of_numbers(value)}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in before:
                    value.copy_(before[name])
        raise


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────


def check_ending(path: Path) -> str:
    """Return the path's ending in lower case; raises UsageError for one that names no format of ours."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        example = path.with_suffix(".pth").name if path.name else "model.pth"
        raise UsageError("weights-ending", path=path, endings=", ".join(ENDINGS), example=example)
    return ending


def portable_state(model: nn.Module, path: Path, extra: dict[str, Any] | None = None) -> OrderedDict[str, Tensor]:
    """Return the model's state on the CPU, contiguous, each tensor in storage of its own; tied names share one.

    What is no tensor goes into `extra`, where that is given; WeightsError names it where it is not.
    """
    state = model.state_dict()
    if extra is not None:
        extra |= {name: state.pop(name) for name, value in list(state.items()) if not isinstance(value, Tensor)}
    refused = [f"{name} ({reason})" for name, value in state.items() if (reason := why_unwritable(value))]
    if refused:
        raise WeightsError("weights-unwritable", path=path, entries=first_few(refused))
    once: dict[tuple[object, ...], Tensor] = {}
    portable: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in state.items():
        key = identity(value)
        # a slice of a larger storage would otherwise take all of that storage into a .pth
        value = value.detach().cpu().contiguous()
        value = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
        portable[name] = once.setdefault(key, value) if key else value
    portable._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # torch's module versions
    return portable


def why_unwritable(value: object) -> str:
    """Return why an entry of a state_dict cannot be written as plain numbers, or '' when it can."""
    if not isinstance(value, Tensor):
        return Note("export.no-tensor", kind=type(value).__name__)
    if is_lazy(value):
        return Note("export.not-initialised")
    if value.is_meta:
        return Note("export.no-values")
    return "" if value.layout == torch.strided and not value.is_quantized else Note("export.sparse")


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_file_content(path: Path) -> bytes:
    """Return the file's bytes; raises WeightsError for what is plainly something else."""
    try:
        content = files.read_bytes(path, available_memory())
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        suggestion = suggest(path.name, [name for name in beside if name.lower().endswith(ENDINGS)])
        raise WeightsError("weights-missing", path=path, suggestion=suggestion) from None
    except OSError as error:
        raise WeightsError("weights-unreadable", path=path, reason=error.strerror or error) from error
    if not content:
        raise WeightsError("weights-empty", path=path)
    start = content[:200].lstrip().lower()
    for known, key in KNOWN_STARTS:
        if start.startswith(known):
            raise WeightsError(key, path=path, size=len(content))
    return content


def check_entries(state: object, path: Path) -> dict[str, Tensor]:
    """Return the state with its values as plain tensors; raises WeightsError for anything else in it."""
    if not isinstance(state, dict):
        raise WeightsError("weights-no-dictionary", path=path, found=Note("export.a-kind", kind=type(state).__name__))
    others = [
        f"{name} ({why_unwritable(value) if isinstance(value, Tensor) and isinstance(name, str) else type(value).__name__})"
        for name, value in state.items()
        if not isinstance(name, str) or why_unwritable(value)
    ]
    if others:
        raise WeightsError("weights-not-tensors", path=path, count=len(others), entries=first_few(others))
    for name, value in state.items():
        state[name] = value.detach()  # in place: an OrderedDict of torch carries its modules' versions along
    return state


# ── fitting ──────────────────────────────────────────────────────────────────────────────────────────────────


def fill_tied(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with names added that are missing but tied, in the model, to one that is there."""
    expected = {name: value for name, value in model.state_dict().items() if is_tensor_of_numbers(value)}
    if expected.keys() <= state.keys():
        return state
    there = {identity(value): name for name, value in expected.items() if name in state and value.numel()}
    filled = state.copy()
    for name, value in expected.items():
        if name not in state and (tied := there.get(identity(value))):
            filled[name] = state[tied]
    return filled


def match_names(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state under the model's names when both differ only by wrappers' prefixes, and a note."""
    expected = model.state_dict()
    if expected.keys() == state.keys():
        return state, ()
    ours, theirs = bare_names(expected), bare_names(state)
    if ours.keys() != theirs.keys() or len(ours) != len(expected) or len(theirs) != len(state):
        return state, ()
    renamed = {ours[bare]: state[theirs[bare]] for bare in ours}
    before, after = next((theirs[bare], ours[bare]) for bare in ours if ours[bare] != theirs[bare])
    return renamed, (Note("export.prefix-matched", before=before, after=after),)


def bare_names(names: dict[str, Any]) -> dict[str, str]:
    """Return the names without what wrappers put before them, each with its full name."""
    bare = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in names}
    while prefixes := [
        prefix for prefix in ("module.", "model.") if bare and all(short.startswith(prefix) for short in bare.values())
    ]:
        bare = {name: short.removeprefix(prefixes[0]) for name, short in bare.items()}
    return {short: name for name, short in bare.items()}


def mismatch(model: nn.Module, state: dict[str, Tensor], source: str) -> WeightsError:
    """Return the error that lists how `state` differs from what `model` expects."""
    expected = model.state_dict()
    missing = [f"{name} {size(value)}" for name, value in expected.items() if name not in state]
    unexpected = [f"{name} {size(value)}" for name, value in state.items() if name not in expected]
    reshaped = [name for name in expected if name in state and size(expected[name]) != size(state[name])]
    shapes = [
        Note("export.shape-differs", name=name, found=size(state[name]), wanted=size(expected[name]))
        for name in reshaped
    ]
    lines = [
        Note("export.missing", count=len(missing), names=first_few(missing)) if missing else "",
        Note("export.unexpected", count=len(unexpected), names=first_few(unexpected)) if unexpected else "",
        Note("export.of-another-shape", count=len(shapes), names=first_few(shapes, "reasons")) if shapes else "",
    ]
    hint = "" if missing or unexpected else explain_shapes(expected, state, reshaped)
    hint = hint or Note("export.other-architecture")
    return WeightsError("weights-mismatch", source=source, differences=Joined("lines", filter(None, lines)), hint=hint)


def explain_shapes(expected: dict[str, Tensor], state: dict[str, Tensor], reshaped: list[str]) -> str:
    """Return what differs when it is only the size of the first layer's input or the last layer's output."""
    layers = [name.rpartition(".")[0] for name, value in expected.items() if value.dim()]
    changed = {name.rpartition(".")[0] for name in reshaped}
    pairs = [(tuple(state[name].shape), tuple(expected[name].shape)) for name in reshaped]
    if not pairs or any(len(found) != len(wanted) or not found for found, wanted in pairs):
        return ""
    found, wanted = pairs[0]
    if changed == {layers[-1]} and all(found[1:] == wanted[1:] for found, wanted in pairs):
        return Note("export.other-outputs", found=found[0], wanted=wanted[0])
    is_first = changed == {layers[0]} and len(pairs) == 1 and len(found) > 1
    if is_first and found[:1] + found[2:] == wanted[:1] + wanted[2:]:
        return Note("export.other-inputs", found=found[1], wanted=wanted[1])
    return ""


def size(value: object) -> str:
    """Return a tensor's shape as (64, 784)."""
    return (
        str(tuple(value.shape))
        if isinstance(value, Tensor) and is_tensor_of_numbers(value)
        else f"({type(value).__name__})"
    )


def is_tensor_of_numbers(value: object) -> bool:
    """Whether an entry of a state_dict is a tensor that holds numbers."""
    return isinstance(value, Tensor) and not is_lazy(value)
