"""The Open Inference Protocol, version 2: REST with JSON and binary tensors, as Triton's clients speak it.

A body is JSON, or JSON and after it the bytes of tensors; the header `Inference-Header-Content-Length` says where they begin.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np

from rushlight.export import Answers, read_raw
from rushlight.kinds import Kind, is_count, is_flag, is_text, is_whole_number, wrong_entry
from rushlight.serve.answers import Refusal, encode_json
from rushlight.serve.model import DATATYPES, Array, Model
from rushlight.serve.reading import bounded, checked_rows, json_lists, numbers_of, parsed, text_of
from rushlight.version import __version__

DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items() if datatype != "BYTES"}
LENGTH_HEADER = "inference-header-content-length"
SERVER = {
    "name": "rushlight",
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification", "statistics", "model_repository"],
}
MOST_CLASSES = 1000
SHORT = 1024  # bytes of JSON before tensors
PARAMETERS: Kind = {
    "binary_data_size?": is_count, "binary_data?": is_flag, "binary_data_output?": is_flag, "classification?": is_count,
    "timeout?": is_whole_number,
}  # fmt: skip
REQUEST: Kind = {
    "id?": is_text,
    "parameters?": PARAMETERS,
    "inputs": [{"name": is_text, "datatype": is_text, "shape": [is_count], "parameters?": PARAMETERS}],
    "outputs?": [{"name": is_text, "parameters?": PARAMETERS}],
}


class InferRequest:
    """A request of this protocol, read."""

    def __init__(self, content: dict[str, Any], tail: bytes, model: Model, most_rows: int) -> None:
        """Take the checked JSON of a request, and the bytes after it. Refusal or DataError for what does not fit."""
        self.content = content
        given = request_tensors(content["inputs"], memoryview(tail))
        self.inputs, self.rows = model_inputs(given, model, most_rows)

    def seconds(self, usual: float) -> float:
        """Return the time that the request allows, which it has in microseconds."""
        microseconds = self.content.get("parameters", {}).get("timeout", 0)
        return min(usual, microseconds / 1e6) if microseconds > 0 else usual

    def outputs(self, answers: Answers, model: Model) -> Iterator[tuple[str, Array, str, bool]]:
        """Give each output that was asked for: its name, values and datatype, and whether it is to be bytes."""
        everywhere = self.content.get("parameters", {}).get("binary_data_output", False)
        for output in self.content.get("outputs") or [{"name": name} for name in answers]:
            if (name := output["name"]) not in answers:
                raise Refusal(400, "serve-no-output", name=name, known=", ".join(answers))
            values, parameters = answers[name], output.get("parameters", {})
            if count := parameters.get("classification", 0):
                values = classified(values, min(count, MOST_CLASSES), model)
            yield name, values, datatype_of(values.dtype), parameters.get("binary_data", everywhere)

    def respond(self, answers: Answers, model: Model) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of the answer."""
        described, tails = [], []
        for name, values, datatype, is_binary in self.outputs(answers, model):
            entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
            if is_binary:
                tails.append(as_bytes(values))
                entry["parameters"] = {"binary_data_size": len(tails[-1])}
            else:
                entry["data"] = json_lists(values.reshape(-1))
            described.append(entry)
        head = {"model_name": model.name, "model_version": model.version, "outputs": described}
        if "id" in self.content:
            head["id"] = self.content["id"]
        content = encode_json(head)
        if not tails:
            return content, {"content-type": "application/json"}
        headers = {"content-type": "application/octet-stream", LENGTH_HEADER: str(len(content))}
        return b"".join([content, *tails]), headers


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_head_and_tail(body: bytes, header: str) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a body, whose length a header says, and the bytes after it."""
    if not header:
        return checked_request(parsed(body)), b""
    if not header.isascii() or not header.isdecimal() or len(header) > 12 or int(header) > len(body):
        raise Refusal(400, "serve-bad-length", found=header[:40], most=len(body))
    head, tail = body[: int(header)], body[int(header) :]
    return read_head(head) if len(head) < SHORT else checked_request(parsed(head)), tail


@lru_cache(256)
def read_head(head: bytes) -> dict[str, Any]:
    """Return the checked JSON before tensors, which a client sends again and again, and which nothing changes."""
    return checked_request(parsed(head))


def checked_request(content: Any) -> dict[str, Any]:
    """Return the JSON of a request; Refusal where an entry is absent or of another kind."""
    if (name := wrong_entry(content, REQUEST)) is not None:
        raise Refusal(400, "serve-bad-entry", name=name)
    checked: dict[str, Any] = content
    return checked


def request_tensors(described: list[dict[str, Any]], tail: memoryview) -> dict[str, Array]:
    """Return the tensors of a request by name, from its JSON and from the bytes after it."""
    found: dict[str, Array] = {}
    for entry in described:
        name, datatype, shape = entry["name"], entry["datatype"], tuple(entry["shape"])
        if datatype not in DTYPES and datatype != "BYTES":
            raise Refusal(400, "serve-datatype", name=name, found=datatype, known=", ".join(DATATYPES.values()))
        if name in found:
            raise Refusal(400, "serve-input-twice", name=name)
        size, count = entry.get("parameters", {}).get("binary_data_size"), math.prod(shape)
        if size is not None:
            if size > len(tail):
                raise Refusal(400, "serve-short", name=name, expected=size, found=len(tail))
            part, tail = tail[:size], tail[size:]
            values = from_bytes(part, datatype, count, name)
        else:
            values = from_list(entry.get("data"), datatype, name)
        if values.size != count:
            raise Refusal(400, "serve-wrong-count", name=name, shape=shape, expected=count, found=values.size)
        try:
            found[name] = values.reshape(shape)
        except ValueError:  # more axes than NumPy has, or none with bytes beside sides that are too long
            raise Refusal(400, "serve-bad-entry", name="shape") from None
    if len(tail):
        raise Refusal(400, "serve-left-over", found=len(tail))
    return found


def from_bytes(part: memoryview, datatype: str, count: int, name: str) -> Array:
    """Return the numbers, or the byte strings with their lengths before them, of one tensor."""
    if datatype == "BYTES":
        texts = []
        while len(part) >= 4:
            (length,) = struct.unpack_from("<I", part)
            if length > len(part) - 4:
                break
            texts.append(bytes(part[4 : 4 + length]))
            part = part[4 + length :]
        if len(part):
            raise Refusal(400, "serve-short", name=name, expected="4 + n", found=len(part))
        return strings(texts)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    if len(part) != count * dtype.itemsize:
        raise Refusal(400, "serve-short", name=name, expected=count * dtype.itemsize, found=len(part))
    return np.frombuffer(part, dtype)


def from_list(data: Any, datatype: str, name: str) -> Array:
    """Return the values of one tensor, nested or flat, in its datatype."""
    if not isinstance(data, list):
        raise Refusal(400, "serve-no-data", name=name)
    if datatype == "BYTES":
        texts, level = [], data
        while any(isinstance(value, list) for value in level):
            level = [inner for value in level for inner in (value if isinstance(value, list) else [value])]
        for value in level:
            if not isinstance(value, (str, bytes)):
                raise Refusal(400, "serve-not-texts", name=name)
            texts.append(value)
        return strings(texts)
    if datatype == "UINT8":
        with contextlib.suppress(
            TypeError, ValueError
        ):  # nested, or no bytes: then what follows reads it, or says why not
            return np.frombuffer(bytes(data), np.uint8)
    values, dtype = numbers_of(data) if data else np.zeros(0), np.dtype(DTYPES[datatype])
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        is_whole = values.dtype.kind in "biu"
        if not is_whole or int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise Refusal(400, "serve-not-in-datatype", name=name, datatype=datatype)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def strings(texts: list[Any]) -> Array:
    """Return texts as an array of objects, which NumPy would else pad to one length."""
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    return values


def model_inputs(given: Mapping[str, Array], model: Model, most: int) -> tuple[dict[str, Array], int]:
    """Return what the model gets for the tensors of a request, and its rows."""
    name = model.inputs[0].name
    features = model.features
    if features is not None and features.columns and name not in given:
        return {name: (raw := bounded(read_raw(by_row(given, model), features), most))}, len(raw)
    if strangers := sorted({*given} ^ {tensor.name for tensor in model.inputs}):
        raise Refusal(400, "serve-inputs", found=", ".join(strangers), expected=", ".join(t.name for t in model.inputs))
    if features is not None:
        values = given[name]
        if values.dtype == object:
            if features.kind != "image":
                raise Refusal(400, "serve-no-picture")
            pictures = [value if isinstance(value, bytes) else value.encode() for value in values.reshape(-1)]
            return {name: (raw := read_raw(bounded(np.array(pictures, object), most).tolist(), features))}, len(raw)
        return {name: (raw := bounded(read_raw(values, features), most))}, len(raw)
    rows = {len(values) if values.ndim else 1 for values in given.values()}
    for tensor in model.inputs:
        values = given[tensor.name]
        is_shape = len(tensor.shape) == values.ndim and all(
            side in (None, found) for side, found in zip(tensor.shape, values.shape, strict=True)
        )
        if not is_shape or datatype_of(values.dtype) != tensor.described["datatype"]:
            expected, found = tensor.described, {"datatype": datatype_of(values.dtype), "shape": list(values.shape)}
            raise Refusal(400, "serve-other-tensor", name=tensor.name, expected=expected, found=found)
    if len(rows) != 1:
        raise Refusal(400, "serve-rows-differ", found=", ".join(map(str, sorted(rows))))
    texts = {name: np.vectorize(text_of, otypes=[object])(v) if v.dtype == object else v for name, v in given.items()}
    return texts, len(bounded(next(iter(given.values())), most)) if given else 0


def by_row(given: Mapping[str, Array], model: Model) -> list[dict[str, Any]]:
    """Return the columns of a table, each a tensor of its own, as rows."""
    assert model.features is not None
    if len({values.size for values in given.values()}) > 1:
        raise Refusal(400, "serve-rows-differ", found=", ".join(str(values.size) for values in given.values()))
    columns = {
        name: [text_of(value) for value in values.reshape(-1)]
        if values.dtype == object
        else values.reshape(-1).tolist()
        for name, values in given.items()
    }
    count = next((len(values) for values in columns.values()), 0)
    rows = [{name: values[row] for name, values in columns.items()} for row in range(count)]
    return checked_rows(rows, model.features)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype as this protocol has it; NumPy's own names are slow to make."""
    return DATATYPES.get(dtype.name, "BYTES")


def as_bytes(values: Array) -> bytes:
    """Return an array's bytes, little-endian; texts each with its length before it."""
    if datatype_of(values.dtype) != "BYTES":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [value if isinstance(value, bytes) else str(value).encode() for value in values.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def classified(values: Array, count: int, model: Model) -> Array:
    """Return the `count` largest of each row as texts, "value:index:class"."""
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise Refusal(400, "serve-no-classes")
    names = model.class_names(values.shape[1])
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    texts = [
        [f"{row[index]:f}:{index}" + (f":{names[index]}" if names else "") for index in indices]
        for row, indices in zip(values, order, strict=True)
    ]
    return strings([text.encode() for row in texts for text in row]).reshape(order.shape)


def describe(model: Model, versions: list[str]) -> dict[str, Any]:
    """Return the metadata of a model, which has some versions; a table's inputs are its columns."""
    inputs = [tensor.described for tensor in model.inputs]
    if model.features is not None and model.features.columns:
        inputs = [
            {"name": column.name, "datatype": "FP64" if column.kind == "number" else "BYTES", "shape": [-1]}
            for column in model.features.columns
        ]
    properties = {"engine": model.engine, "batch_sizes": ",".join(map(str, model.sizes))}
    if model.target is not None and model.target.classes:
        properties["classes"] = json.dumps(model.target.classes[:MOST_CLASSES], ensure_ascii=False)
    return {
        "name": model.name, "versions": versions, "platform": "onnxruntime_onnx" if "ONNX" in model.engine else "pytorch",
        "inputs": inputs, "outputs": [tensor.described for tensor in model.outputs], "properties": properties,
    }  # fmt: skip
