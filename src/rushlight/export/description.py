"""What a bundle says about itself, `model.json`: read, checked, and compared with the bundle's files. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from rushlight import files
from rushlight.data import (
    Column,
    FeatureKind,
    FeatureSpec,
    Floats,
    Layout,
    Normalization,
    Scale,
    TargetSpec,
    Task,
    Tokens,
)
from rushlight.errors import WeightsError
from rushlight.kinds import (
    Kind,
    is_count,
    is_count_below,
    is_finite,
    is_flag,
    is_object,
    is_one_of,
    is_positive,
    is_text,
    is_whole_number,
    maybe,
    wrong_entry,
)
from rushlight.texts import Joined, Note

FORMAT, VERSION = "rushlight-bundle", 1
MODEL, WEIGHTS, EXAMPLES = "model.json", "weights.safetensors", "examples.safetensors"
GRAPH = "graph.onnx"
MOST_TOKENS = 1 << 20  # of a text
FEW = 8  # entries that a message names
DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128",
)  # fmt: skip  # of samples as they are stored
SPECS: dict[str, Kind] = {  # of inputs and targets
    "preprocessing": maybe({
        "kind": is_one_of(*get_args(FeatureKind)), "shape": [is_count], "dtype": is_one_of(*DTYPES), "is_raw?": is_flag,
        "floats?": is_one_of(*get_args(Floats)),
        "normalization": {"name?": is_text, "divisor?": is_positive, "mean?": [is_finite], "std?": [is_finite]},
        "columns": [{
            "name": is_text, "kind": is_one_of("number", "category", "date", "text"), "categories?": [is_text],
            "fill?": is_finite, "flags_missing?": is_flag, "date_order?": is_one_of("ymd", "dmy", "mdy"), "orders?": is_flag,
            "tokens?": maybe({
                "length": is_count_below(MOST_TOKENS), "vocabulary": is_count_below(1 << 31), "padding": is_count_below(1 << 31),
                "tokenizer": is_text, "digest": is_text,
            }),
        }],
    }),
    "target": maybe({
        "task": is_one_of(*get_args(Task)), "classes?": [is_text], "width?": is_count, "name?": is_text, "mean?": [is_finite],
        "std?": [is_finite], "layout?": is_one_of(*get_args(Layout)), "gives?": is_one_of(*get_args(Scale)),
        "ignored?": maybe(is_whole_number), "floats?": is_one_of(*get_args(Floats)),
    }),
}  # fmt: skip
DESCRIPTION: Kind = {
    "version": is_count,
    "files": {f"{name}?": {"sha256": is_text} for name in (WEIGHTS, EXAMPLES, GRAPH)},
    **SPECS,
    "graph?": {"reason": is_text},
    "extra_state?": is_object,
    "architecture": {"name?": is_text, "import?": is_text, "class?": is_text, "arguments?": is_object,
        "head?": {"name": is_text, "outputs": is_count},
    },
    "provenance": is_object,
}  # fmt: skip
RTOL, ATOL = 1e-3, 1e-4  # float32 sums are taken in another order on another machine, and round differently


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of model.json; raises WeightsError when it is not there, not ours or torn."""
    try:
        content = files.parse_json(files.read_bytes(folder / MODEL, files.MOST_JSON))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError("bundle-missing", path=folder, **what_is_there(folder)) from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no JSON
        reason = Note("export.unreadable", name=MODEL, reason=error)
        raise WeightsError("bundle-damaged", path=folder, reason=reason) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = Note("export.says-no-format", name=MODEL, format=FORMAT)
        raise WeightsError("bundle-missing", path=folder, found=found, suggestion="")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise WeightsError("bundle-newer", path=folder, found=version, known=VERSION)
    if (name := wrong_entry(content, DESCRIPTION)) is not None:
        raise WeightsError("bundle-damaged", path=folder, reason=Note("export.garbled", name=MODEL, entry=name))
    return content


def what_is_there(folder: Path) -> dict[str, str]:
    """Return what a path without a bundle is instead, and where a bundle may be."""
    if (folder / "model" / MODEL).is_file():
        return {"found": Note("export.run-folder"), "suggestion": Note("export.bundle-of-run", path=folder / "model")}
    if folder.is_dir():
        entries = first_few(sorted(entry.name for entry in folder.iterdir()))
        found = Note("export.folder-with", entries=entries) if entries else Note("export.empty-folder")
        return {"found": found, "suggestion": ""}
    return {"found": Note("export.a-file" if folder.exists() else "export.nothing-there"), "suggestion": ""}


def read_specs(description: dict[str, Any]) -> tuple[FeatureSpec | None, TargetSpec | None]:
    """Return the specs of inputs and targets in a description; fields that this version does not know are passed over."""
    features, target = description["preprocessing"], description["target"]
    if features is not None:
        normalization = known(Normalization, features["normalization"])
        columns = [known(Column, column) for column in features["columns"]]
        columns = [each | {"tokens": known(Tokens, each["tokens"])} if each.get("tokens") else each for each in columns]
        features = {**known(FeatureSpec, features), "normalization": normalization, "columns": columns}
    return (
        None if features is None else FeatureSpec.from_json(features),
        None if target is None else TargetSpec.from_json(known(TargetSpec, target)),
    )


def read_listed(folder: Path, name: str, expected: str, most: int) -> bytes:
    """Return one file of the bundle, checked against its SHA-256; `name` is one of ours, never one from a file."""
    try:
        content = files.read_bytes(folder / name, most)
    except OSError as error:
        reason = Note("export.unreadable", name=name, reason=error.strerror or error)
        raise WeightsError("bundle-damaged", path=folder, reason=reason) from error
    if hashlib.sha256(content).hexdigest() != expected:
        reason = Note("export.changed", name=name, size=len(content))
        raise WeightsError("bundle-damaged", path=folder, reason=reason)
    return content


def known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that the dataclass `kind` has fields for; a newer writer may add others."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def first_few(entries: Iterable[str], by: str = "list") -> str:
    """Return the first few entries as one text, with how many more there are."""
    entries = list(entries)
    more = [Note("export.and-more", count=len(entries) - FEW)] if len(entries) > FEW else []
    return Joined(by, [*entries[:FEW], *more])
