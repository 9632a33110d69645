"""The addresses of a server as OpenAPI 3 describes them, for people and for the programs that make clients of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rushlight.serve.model import Model
from rushlight.texts import read_room
from rushlight.version import __version__

JSON = "application/json"
WORDS = "serve.api."  # what the keys of the words here begin with
STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 500, 503, 504)  # of an answer that is no success
BODIES = (JSON, "text/csv", "application/octet-stream", "image/png", "image/jpeg", "image/webp", "multipart/form-data")


def openapi(models: Sequence[Model], language: str) -> dict[str, Any]:
    """Return the description of a server of these models."""
    words, names = read_room(language, "serve")["api"], dict.fromkeys(model.name for model in models)

    def answers(kind: str, statuses: tuple[int, ...]) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"error": {"type": "string"}, "advice": {"type": "string"}}}
        refused = {"content": {JSON: {"schema": schema}}}
        success = {"description": words["answer"], "content": {kind: {"schema": {}}}}
        return {"200": success, **{str(code): {"description": words[f"status-{code}"], **refused} for code in statuses}}

    paths: dict[str, Any] = {}
    for path, summary in {
        "/health": "alive", "/v2/health/live": "alive", "/ping": "ready", "/v2/health/ready": "ready", "/v2": "server",
        "/signature": "page", "/metrics": "figures", "/selftest": "selftest", "/drift": "drift", "/openapi.json": "this",
        "/api-description": "this",
        **{
            f"{start}{name}{end}": word
            for name in names
            for start, end, word in (
                ("/v2/models/", "", "metadata"), ("/v2/models/", "/ready", "ready"), ("/v2/models/", "/stats", "figures"),
                ("/v1/models/", "", "ready"), ("/v1/models/", "/metadata", "metadata"),
            )
        },
    }.items():  # fmt: skip
        kind = "text/plain" if path == "/metrics" else JSON
        paths[path] = {"get": {"summary": words[summary], "responses": answers(kind, (401, 403, 404, 405, 503))}}
    for path, summary, kinds in (
        ("/predict", "predict", BODIES), ("/invocations", "predict", BODIES),
        *((f"/predictions/{name}", "predict", BODIES) for name in names),
        *((f"/explanations/{name}", "explain", BODIES) for name in names),
        *((f"/v2/models/{name}/infer", "infer", (JSON, "application/octet-stream")) for name in names),
        *((f"/v1/models/{name}:{verb}", "tensorflow", (JSON,)) for name in names for verb in ("predict", "classify", "regress")),
    ):  # fmt: skip
        content = {kind: {"schema": {} if kind == JSON else {"type": "string", "format": "binary"}} for kind in kinds}
        body = {"required": True, "content": content}
        paths[path] = {"post": {"summary": words[summary], "requestBody": body, "responses": answers(JSON, STATUSES)}}
    return {
        "openapi": "3.0.3",
        "info": {"title": ", ".join(names), "version": __version__, "description": words["title"]},
        "paths": paths,
    }
