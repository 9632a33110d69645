"""TensorFlow Serving's REST: predict, classify, regress, and what a model is. KServe's version 1 shares the addresses."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from rushlight.export import Answers, read_raw
from rushlight.serve.answers import Refusal
from rushlight.serve.model import Array, Model
from rushlight.serve.reading import bounded, checked_rows, is_texts, json_lists, meaning, numbers_of, parsed

TYPES = {
    "BOOL": "DT_BOOL", "UINT8": "DT_UINT8", "INT8": "DT_INT8", "INT16": "DT_INT16", "UINT16": "DT_UINT16",
    "INT32": "DT_INT32", "UINT32": "DT_UINT32", "INT64": "DT_INT64", "UINT64": "DT_UINT64", "FP16": "DT_HALF",
    "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING",
}  # fmt: skip
SIGNATURE = "serving_default"


def read_request(body: bytes, verb: str, model: Model, most: int) -> tuple[Array, bool]:
    """Return the raw inputs of a request, and whether it gave them by column."""
    content = parsed(body)
    if model.features is None:
        raise Refusal(400, "serve-needs-tensors")
    if not isinstance(content, dict):
        raise Refusal(400, "serve-bad-entry", name="instances")
    if content.get("signature_name", SIGNATURE) not in (SIGNATURE, ""):
        raise Refusal(400, "serve-bad-entry", name="signature_name")
    if verb in ("classify", "regress"):
        return rows_of(content.get("examples"), model, most, "examples"), False
    if ("instances" in content) == ("inputs" in content):
        raise Refusal(400, "serve-instances")
    if "instances" in content:
        return rows_of(content["instances"], model, most, "instances"), False
    return rows_of(rows_of_request(content["inputs"], model), model, most, "inputs"), True


def rows_of(rows: Any, model: Model, most: int, name: str) -> Array:
    """Return the raw inputs of a list of rows: objects of a table, pictures in base64, or arrays."""
    assert model.features is not None
    if not isinstance(rows, list) or not rows:
        raise Refusal(400, "serve-bad-entry", name=name)
    if len(rows) > most:
        raise Refusal(413, "serve-too-many-rows", rows=len(rows), most=most)
    if model.features.columns and isinstance(rows[0], dict):
        return read_raw(checked_rows(rows, model.features), model.features)
    own = model.inputs[0].name
    rows = [row[own] if isinstance(row, dict) and [*row] == [own] else row for row in rows]
    if any(isinstance(row, dict) for row in rows):
        if model.features.kind != "image":
            raise Refusal(400, "serve-no-picture")
        return read_raw([picture(row) for row in rows], model.features)
    are_texts = model.features.tokens is not None and is_texts(rows)
    return bounded(read_raw(rows if are_texts else numbers_of(rows), model.features), most)


def picture(row: Any) -> bytes:
    """Return the bytes in {"b64": "…"}."""
    try:
        return base64.b64decode(row["b64"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise Refusal(400, "serve-no-base64") from None


def rows_of_request(inputs: Any, model: Model) -> Any:
    """Return the rows of a request by column: one tensor, or an object of a tensor for each name."""
    if not isinstance(inputs, dict) or [*inputs] == [model.inputs[0].name]:
        return inputs if not isinstance(inputs, dict) else inputs[model.inputs[0].name]
    if not all(isinstance(values, list) for values in inputs.values()):
        raise Refusal(400, "serve-bad-entry", name="inputs")
    if len({len(values) for values in inputs.values()}) > 1:
        raise Refusal(400, "serve-rows-differ", found=", ".join(str(len(values)) for values in inputs.values()))
    return [dict(zip(inputs, cells, strict=True)) for cells in zip(*inputs.values(), strict=True)]


def respond(answers: Answers, verb: str, by_column: bool, model: Model) -> dict[str, Any]:
    """Return the body of an answer; the one tensor in it has no name."""
    numbers = meaning(answers)
    if verb == "classify":
        if model.target is None or not model.target.classes or numbers.ndim != 2:
            raise Refusal(400, "serve-no-classes")
        return {
            "results": [
                [list(pair) for pair in zip(model.target.classes, row.tolist(), strict=True)] for row in numbers
            ]
        }
    if verb == "regress":
        if numbers.ndim != 2 or numbers.shape[1] != 1 or (model.target is not None and model.target.classes):
            raise Refusal(400, "serve-no-value")
        return {"results": json_lists(numbers[:, 0])}
    return {"outputs" if by_column else "predictions": json_lists(numbers)}


def status(name: str, versions: list[str], is_ready: bool) -> dict[str, Any]:
    """Return the state of a model's versions, as TensorFlow Serving has it and as KServe has it."""
    state, status = "AVAILABLE" if is_ready else "UNLOADING", {"error_code": "OK", "error_message": ""}
    found = [{"version": version, "state": state, "status": status} for version in versions]
    return {"model_version_status": found, "name": name, "ready": is_ready}


def tensorflow_metadata(model: Model) -> dict[str, Any]:
    """Return a model's metadata."""
    definition = {
        "inputs": {tensor.name: tensor_info(tensor.described) for tensor in model.inputs},
        "outputs": {tensor.name: tensor_info(tensor.described) for tensor in model.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": model.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}},
    }


def tensor_info(described: dict[str, Any]) -> dict[str, Any]:
    """Return a tensor's description."""
    sides = [{"size": str(side), "name": ""} for side in described["shape"]]
    shape = {"dim": sides, "unknown_rank": False}
    return {"dtype": TYPES[described["datatype"]], "tensor_shape": shape, "name": f"{described['name']}:0"}
