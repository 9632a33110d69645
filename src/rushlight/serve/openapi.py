"""The addresses of a server as OpenAPI 3 describes them, for people and for the programs that make clients of it."""

from __future__ import annotations

from typing import Any

from rushlight.serve.model import Model
from rushlight.texts import read_room
from rushlight.version import __version__

JSON = "application/json"
WORDS = "serve.api."  # what the keys of the words here begin with
STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 500, 503, 504)  # of an answer that is no success
BODIES = (JSON, "text/csv", "application/octet-stream", "image/png", "image/jpeg", "image/webp", "multipart/form-data")


def openapi(model: Model, language: str) -> dict[str, Any]:
    """Return the description of a server of this model."""
    words, name = read_room(language, "serve")["api"], model.name

    def answers(kind: str, statuses: tuple[int, ...]) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"error": {"type": "string"}, "advice": {"type": "string"}}}
        refused = {"content": {JSON: {"schema": schema}}}
        success = {"description": words["answer"], "content": {kind: {"schema": {}}}}
        return {"200": success, **{str(code): {"description": words[f"status-{code}"], **refused} for code in statuses}}

    paths: dict[str, Any] = {}
    for path, summary in {
        "/health": "alive", "/v2/health/live": "alive", "/ping": "ready", "/v2/health/ready": "ready", "/v2": "server",
        f"/v2/models/{name}": "metadata", f"/v2/models/{name}/ready": "ready", f"/v2/models/{name}/stats": "figures",
        f"/v1/models/{name}": "ready", f"/v1/models/{name}/metadata": "metadata", "/signature": "page", "/metrics": "figures",
        "/openapi.json": "this", "/api-description": "this",
    }.items():  # fmt: skip
        kind = "text/plain" if path == "/metrics" else JSON
        paths[path] = {"get": {"summary": words[summary], "responses": answers(kind, (401, 403, 405, 503))}}
    for path, summary, kinds in (
        ("/predict", "predict", BODIES), ("/invocations", "predict", BODIES), (f"/predictions/{name}", "predict", BODIES),
        (f"/v2/models/{name}/infer", "infer", (JSON, "application/octet-stream")),
        (f"/v1/models/{name}:predict", "tensorflow", (JSON,)), (f"/v1/models/{name}:classify", "tensorflow", (JSON,)),
        (f"/v1/models/{name}:regress", "tensorflow", (JSON,)),
    ):  # fmt: skip
        content = {kind: {"schema": {} if kind == JSON else {"type": "string", "format": "binary"}} for kind in kinds}
        body = {"required": True, "content": content}
        paths[path] = {"post": {"summary": words[summary], "requestBody": body, "responses": answers(JSON, STATUSES)}}
    return {
        "openapi": "3.0.3",
        "info": {"title": name, "version": __version__, "description": words["title"]},
        "paths": paths,
    }
