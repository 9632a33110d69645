"""A bundle: one folder with everything a model needs to be used elsewhere, and no code.

    weights.safetensors     parameters and buffers, and the tensors of a module's extra state
    model.json              signature, preprocessing, classes, architecture, provenance, SHA-256 of the other files
    examples.safetensors    a few raw inputs with the model's outputs on them, compared on every load
    graph.onnx              the model as ONNX Runtime runs it, where one was asked for and repeats the examples

The architecture is written down as a name or as the class that is needed; nothing named in a bundle is ever imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import FeatureSpec, TargetSpec
from rushlight.device import available_memory
from rushlight.errors import UsageError, WeightsError
from rushlight.export.description import (
    ATOL,
    EXAMPLES,
    FORMAT,
    GRAPH,
    MODEL,
    RTOL,
    VERSION,
    WEIGHTS,
    first_few,
    read_description,
    read_listed,
    read_specs,
)
from rushlight.export.formats import decode_safetensors, encode_safetensors
from rushlight.export.nested import pack, unpack
from rushlight.export.predictions import device_of
from rushlight.export.weights import portable_state
from rushlight.models import eval_mode
from rushlight.texts import Note


@dataclass(frozen=True)
class Bundle:
    """What a bundle's folder holds, checked against its SHA-256 sums.

    `architecture` is {"name": "mlp", "arguments": {…}} for a model by name, else {"import": "net.py:Net", …} or
    {"class": "package.Net"}. `examples` is empty or has "inputs", raw as stored, and the outputs on them: "outputs",
    or "outputs.0", "outputs.name" where the model gives several.
    """

    weights: dict[str, Any]  # tensors, and what a module's `get_extra_state` gave
    features: FeatureSpec | None
    target: TargetSpec | None
    architecture: dict[str, Any]
    provenance: dict[str, Any]
    examples: dict[str, Tensor]


def write_bundle(
    folder: Path,
    model: nn.Module,
    *,
    features: FeatureSpec | None,
    target: TargetSpec | None,
    architecture: Mapping[str, Any],
    provenance: Mapping[str, Any],
    examples: Tensor | None,
) -> None:
    """Write the bundle of `model` to `folder`, whole or not at all.

    `examples` are a few raw inputs as stored, (n, *features.shape); the model's outputs on them are written beside them,
    unless it answers differently each time it is asked. `provenance` is JSON-ready; a number in it that is not finite
    is written as null. An earlier bundle in `folder` is replaced; raises UsageError when anything else is there,
    WeightsError for a model that cannot be written.
    """
    files.check_local(folder)
    folder = Path(folder).resolve()
    check_free(folder)
    weights, extra = state_and_extra(model, folder)
    contents = {WEIGHTS: encode_safetensors(weights)}
    recorded = {} if examples is None or not len(examples) else record_examples(model, features, examples)
    if recorded:
        contents[EXAMPLES] = safetensors.torch.save(recorded)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "signature": {  # for readers that know nothing of Rushlight
            "inputs": features and {"kind": features.kind, "shape": list(features.shape), "dtype": features.dtype},
            "outputs": target and target.outputs,
            "task": target and target.task,
        },
        "preprocessing": features and features.to_json(),
        "target": target and target.to_json(),
        **({"extra_state": extra} if extra else {}),
        "architecture": files.without_nan(architecture),
        "provenance": files.without_nan(provenance),
        "examples": {"recorded": len(recorded["inputs"]) if recorded else 0, "rtol": RTOL, "atol": ATOL},
        "files": {
            name: {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()} for name, part in contents.items()
        },
    }
    with files.replacing_folder(folder) as temporary:
        for name, part in contents.items():
            files.write_bytes(temporary / name, part)
        files.write_json(temporary / MODEL, description)


def check_bundle(
    folder: Path, model: nn.Module, features: FeatureSpec | None, target: TargetSpec | None, architecture: Mapping[str, Any]
) -> None:  # fmt: skip
    """Raise what `write_bundle` would for a model and the specs of its data; write nothing."""
    json.dumps([features and features.to_json(), target and target.to_json(), files.without_nan(architecture)])
    state_and_extra(model, folder)


def state_and_extra(model: nn.Module, folder: Path) -> tuple[OrderedDict[str, Tensor], dict[str, Any]]:
    """Return a model's state as tensors, and as JSON what `get_extra_state` gives, whose own tensors are among them."""
    extra: dict[str, Any] = {}
    weights = portable_state(model, folder, extra)
    return weights, {name: pack(value, name, weights) for name, value in extra.items()}


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in `folder`, checking every file against its SHA-256.

    Fields this version does not know are passed over. Raises WeightsError when there is no bundle, a newer one, or a
    damaged one.
    """
    folder = Path(folder)
    description = read_description(folder)
    listed = description["files"]
    features, target = read_specs(description)
    if WEIGHTS not in listed:
        raise WeightsError("bundle-damaged", path=folder, reason=Note("export.lists-no", name=MODEL, file=WEIGHTS))
    weights = with_extra(
        read_tensors(folder, WEIGHTS, listed[WEIGHTS]["sha256"]), description.get("extra_state", {}), folder
    )
    examples = read_tensors(folder, EXAMPLES, listed[EXAMPLES]["sha256"]) if EXAMPLES in listed else {}
    if examples and "inputs" not in examples:
        raise WeightsError("bundle-damaged", path=folder, reason=Note("export.garbled", name=EXAMPLES, entry="inputs"))
    return Bundle(weights, features, target, description["architecture"], description["provenance"], examples)


def bundle_architecture(described: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's model as a bundle describes it: by name where it can be built from that, else by its class."""
    if described.get("live"):
        return {"class": described["class"]}
    kept = ("import", "arguments", "head") if "import" in described else ("name", "arguments")
    return {key: described[key] for key in kept if key in described}


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────


def check_free(folder: Path) -> None:
    """Raise UsageError unless the folder is new, empty, or a bundle: replacing it would delete what is in it."""
    if folder.is_dir():
        others = sorted({entry.name for entry in folder.iterdir()} - {MODEL, WEIGHTS, EXAMPLES, GRAPH})
        if others:
            raise UsageError("bundle-occupied", path=folder, kind=Note("words.folder"), entries=first_few(others))
    elif folder.exists():
        size = Note("export.bytes", count=folder.stat().st_size)
        raise UsageError("bundle-occupied", path=folder, kind=Note("words.file"), entries=size)


def record_examples(model: nn.Module, features: FeatureSpec | None, examples: Tensor) -> dict[str, Tensor]:
    """Return the raw examples with the model's outputs on them; empty when these are random or no tensors."""
    outputs, again = (answer(model, features, examples) for _ in range(2))
    if not outputs or any(difference(outputs[name], again[name]) > 0 for name in outputs):
        return {}
    return {"inputs": examples.detach().cpu().contiguous(), **outputs}


def answer(model: nn.Module, features: FeatureSpec | None, raw: Tensor) -> dict[str, Tensor]:
    """Return the model's outputs, by name, on the CPU, on raw inputs."""
    raw = raw.to(device_of(model))
    with eval_mode(model), torch.no_grad():
        outputs = model(features.prepare(raw) if features else raw)
    named = named_outputs(outputs)
    # cloned: outputs may be views of one another, which a file cannot hold
    return {name: part.cpu().contiguous().clone() for name, part in named.items()}


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return the tensors in a model's answer by name: "outputs", or "outputs.0", "outputs.name" where it gives several."""
    if isinstance(outputs, Tensor):
        return {"outputs": outputs}
    if isinstance(outputs, (tuple, list)):
        named = {f"outputs.{number}": part for number, part in enumerate(outputs)}
    else:
        named = {f"outputs.{name}": part for name, part in outputs.items()} if isinstance(outputs, dict) else {}
    return {name: part for name, part in named.items() if isinstance(part, Tensor)}


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_tensors(folder: Path, name: str, expected: str) -> dict[str, Tensor]:
    """Return the tensors of one file of the bundle, checked."""
    return decode_safetensors(read_listed(folder, name, expected, available_memory()), folder / name)


def with_extra(weights: dict[str, Any], extra: Any, folder: Path) -> dict[str, Any]:
    """Return a bundle's state with the extra state of modules in it, in place of that state's own tensors."""
    try:
        found = {name: unpack(value, weights) for name, value in extra.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = Note("export.garbled", name=MODEL, entry=error)
        raise WeightsError("bundle-damaged", path=folder, reason=reason) from error
    own = tuple(f"{name}/" for name in extra)
    return {name: value for name, value in weights.items() if not name.startswith(own)} | found


def difference(expected: Tensor, found: Tensor) -> float:
    """Return 0 when the two agree within the tolerance, else their largest difference (infinite: other shapes)."""
    if expected.shape != found.shape:
        return math.inf
    left, right = expected.double(), found.double()
    if torch.allclose(right, left, rtol=RTOL, atol=ATOL, equal_nan=True):
        return 0.0
    apart = (left - right).abs().max().item()
    return math.inf if math.isnan(apart) else apart
