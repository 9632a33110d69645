"""What people send: a picture, rows of a table as JSON or CSV, arrays as JSON or `.npy`; and what they are told.

Bytes become raw inputs by `read_raw`, which `predict` uses too. No text from a request is ever taken for a path.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rushlight import files
from rushlight.data import FeatureSpec
from rushlight.export import Answers, read_raw
from rushlight.serve.answers import Refusal
from rushlight.serve.model import Array, Model

PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
NPY = b"\x93NUMPY"
KEYS = ("instances", "inputs", "rows", "data")  # under which JSON may have its rows
HERE = Path("request")  # in the place of a file's name


def read_body(body: bytes, kind: str, model: Model, most: int) -> Array:
    """Return the raw inputs in a body: by its first bytes, else by its content type. Refusal or DataError for any other."""
    features = model.features
    if features is None:
        raise Refusal(400, "serve-needs-tensors")
    if not body:
        raise Refusal(400, "serve-empty")
    if body.startswith(PICTURES) and not (features.kind != "image" and body.startswith(b"BM")):
        if features.kind != "image":
            raise Refusal(400, "serve-no-picture")
        return bounded(read_raw([body], features), most)
    if body.startswith(NPY):
        return bounded(read_raw(read_npy(body), features), most)
    if features.tokens is not None and kind.startswith("text/plain"):
        return read_raw(body.decode("utf-8", "replace"), features)
    if "csv" in kind or ("json" not in kind and body.lstrip()[:1] not in (b"[", b"{")):
        return bounded(read_csv(body, features, most), most)
    return bounded(from_json(parsed(body), features), most)


def parsed(body: bytes) -> Any:
    """Return the values of a JSON body; Refusal for NaN, infinity, what is nested too deep, and what is no JSON."""
    try:
        found = orjson.loads(body)
        if body.count(b"[") + body.count(b"{") > files.DEEPEST:
            files.check_values(found)
        return found
    except ValueError as error:  # no UTF-8 too
        raise Refusal(400, "serve-no-json", reason=str(error)[:200]) from None


def from_json(content: Any, features: FeatureSpec) -> Array:
    """Return raw inputs from a row, a list of rows, or an object that has these under a usual key."""
    if isinstance(content, dict) and len(content) <= 2 and not is_row(content, features):
        content = next((content[key] for key in KEYS if key in content), content)
    if features.kind == "table" and isinstance(content, dict):
        content = [content] if is_row(content, features) else content
    if features.tokens is not None and content and (isinstance(content, str) or is_texts(content)):
        return read_raw(content, features)
    if features.kind == "table" and isinstance(content, list) and content and isinstance(content[0], dict):
        return read_raw(checked_rows(content, features), features)
    return read_raw(numbers_of(content), features)


def is_texts(content: Any) -> bool:
    """Tell whether content is a list of texts."""
    return isinstance(content, list) and all(isinstance(each, str) for each in content)


def is_row(content: dict[str, Any], features: FeatureSpec) -> bool:
    """Tell whether an object has columns of the table."""
    return any(column.name in content for column in features.columns)


def checked_rows(rows: Sequence[Any], features: FeatureSpec) -> list[dict[str, Any]]:
    """Return rows that have every column, each a text, a number, true, false or null; Refusal names the first that has not."""
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refusal(400, "serve-no-row", row=number + 1, columns=", ".join(c.name for c in features.columns[:50]))
        for column in features.columns:
            if column.name not in row:
                raise Refusal(400, "serve-no-column", row=number + 1, column=column.name)
            if not isinstance(row[column.name], (str, int, float, type(None))):
                raise Refusal(400, "serve-bad-cell", row=number + 1, column=column.name)
    names = [column.name for column in features.columns]
    return [{name: row[name] for name in names} for row in rows]


def numbers_of(content: Any) -> Array:
    """Return numbers in nested lists as an array; DataError for text, objects, and lists of several lengths."""
    try:
        array = np.array(content)
    except (ValueError, OverflowError):  # lists of several lengths
        raise Refusal(400, "serve-ragged") from None
    if array.size == 0:
        raise Refusal(400, "serve-empty")
    if array.dtype.kind not in "biuf":
        raise Refusal(400, "serve-not-numbers")
    return array


def read_npy(body: bytes) -> Array:
    """Return the array in an `.npy` file; objects are refused, since they would be unpickled."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream, max_header_size=10_000)
        values = np.frombuffer(body, dtype, offset=stream.tell())  # which no objects can be read from
        return values.reshape(shape, order="F" if is_fortran else "C")
    except Exception:  # NumPy's reader raises whatever a broken header leads it to
        raise Refusal(400, "serve-no-npy") from None


def read_csv(body: bytes, features: FeatureSpec, most: int) -> Array:
    """Return raw inputs from lines of a CSV, with or without a header; a table's cells by its names, else by their order."""
    from rushlight.data import cut_csv

    lines = cut_csv(HERE, body)
    names = [column.name for column in features.columns] or [str(place) for place in range(features.size)]
    header = [cell.strip() for cell in lines[0]]
    has_header = bool(features.columns) and {*names} <= {*header}
    if has_header:
        names, lines = header, lines[1:]
    if len(lines) > most:
        raise Refusal(413, "serve-too-many-rows", rows=len(lines), most=most)
    for number, line in enumerate(lines):
        if len(line) != len(names):
            raise Refusal(400, "serve-bad-line", row=number + 1, found=len(line), expected=len(names))
    if features.columns:
        return read_raw(checked_rows([dict(zip(names, line, strict=True)) for line in lines], features), features)
    try:
        numbers = np.array(lines, dtype=np.float64)
    except ValueError:
        raise Refusal(400, "serve-not-numbers") from None
    whole = numbers.astype(np.int64) if not features.dtype.startswith("float") and (numbers % 1 == 0).all() else numbers
    return read_raw(whole.reshape(len(lines), *features.shape), features)


def bounded(raw: Array, most: int) -> Array:
    """Return inputs of at most `most` rows."""
    if len(raw) > most:
        raise Refusal(413, "serve-too-many-rows", rows=len(raw), most=most)
    return raw


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_names(answers: Answers, model: Model, top: int) -> list[dict[str, Any]]:
    """Return for each row its label and its `top` classes with their probabilities, or its value, as `predict --json` does."""
    target = model.target
    numbers = meaning(answers)
    if target is None or not target.classes or numbers.ndim != 2:
        return [{"value": json_lists(row[0] if row.ndim == 1 and len(row) == 1 else row)} for row in numbers]
    rows = []
    for row in numbers:
        order = np.argsort(-row, kind="stable")[:top]
        label = target.classes[int(row.argmax())]
        if target.task == "multilabel":
            label = ", ".join(target.classes[index] for index in np.flatnonzero(row > 0.5))
        probabilities = {target.classes[index]: float(row[index]) for index in order}
        rows.append({"label": label, "probabilities": probabilities})
    return rows


def meaning(answers: Answers) -> Array:
    """Return the output that says what the others mean; the first where none does."""
    return next(
        (answers[name] for name in ("probabilities", "values") if name in answers), next(iter(answers.values()))
    )


def json_lists(values: Any) -> Any:
    """Return an array as lists; numbers that strict JSON does not have are null."""
    values = np.asarray(values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return files.without_nan(values.tolist())
    if values.dtype.kind in "OS":
        return [json_lists(value) for value in values] if values.ndim else text_of(values[()])
    return values.tolist()


def text_of(value: Any) -> str:
    """Return bytes of a tensor as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
