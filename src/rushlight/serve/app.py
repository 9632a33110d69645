"""Every address that is answered, and how: Rushlight's own, and those of the servers whose clients people already have."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from rushlight.errors import ModelError, RushlightError
from rushlight.export import Answers
from rushlight.serve import inference, tensorflow
from rushlight.serve.batcher import Batcher
from rushlight.serve.gate import Gate
from rushlight.serve.metrics import Meter
from rushlight.serve.model import Array, Model
from rushlight.serve.openapi import openapi
from rushlight.serve.options import Settings
from rushlight.serve.reading import in_names, read_inputs
from rushlight.serve.refusals import Refusal
from rushlight.texts import read_room
from rushlight.version import __version__

PAGE = Path(__file__).parent / "page"
ASSETS = {"try.js": "text/javascript", "try.css": "text/css"}
LARGE = 64 << 10  # bytes of a body from which it is read in a thread: meanwhile others are answered
MOST_TOP = 1000
PAGE_WORDS = "serve.page."  # what the keys of the words of the page begin with
Result = TypeVar("Result")
TORCHSERVE = ("/predictions", "/ping", "/api-description")


class Service:
    """A model behind its addresses. `is_ready` is False before the proof and while the server drains."""

    def __init__(self, model: Model, settings: Settings, language: str) -> None:
        self.model, self.settings, self.language = model, settings, language
        self.meter = Meter()
        self.batcher = Batcher(model, settings.most_waiting, self.meter)
        self.meter.watch(self.batcher)
        self.is_ready = self.is_draining = False
        routes = self.routes()
        handlers: Any = {RushlightError: self.failed, HTTPException: self.failed, Exception: self.failed}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        self.app = Gate(app, settings, self.refused, self.meter, lambda: self.is_draining)

    def routes(self) -> list[Route]:
        """Return all addresses."""
        get: list[tuple[str, Callable[[Request], Any]]] = [
            ("/v2", lambda request: {"name": "rushlight", "version": __version__, "extensions": inference.EXTENSIONS}),
            ("/v2/health/live", lambda request: {"live": True}),
            ("/v2/health/ready", self.ready),
            ("/ping", self.ping),
            ("/health", lambda request: {"status": "alive"}),
            ("/api-description", lambda request: openapi(self.model, self.language)),
            ("/openapi.json", lambda request: openapi(self.model, self.language)),
            ("/signature", lambda request: self.signature()),
            ("/v2/models/stats", lambda request: self.statistics()),
        ]  # fmt: skip
        for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            get.append((place, self.named(lambda request: inference.describe(self.model))))
            get.append((f"{place}/ready", self.named(self.ready)))
            get.append((f"{place}/stats", self.named(lambda request: self.statistics())))
        for place in ("/v1/models/{model}", "/v1/models/{model}/versions/{version}"):
            get.append((f"{place}/metadata", self.named(lambda request: tensorflow.describe(self.model))))
            get.append((place, self.named(lambda request: tensorflow.status(self.model, self.is_ready))))
        post = [
            ("/v2/models/{model}/infer", self.infer), ("/predict", self.predict), ("/invocations", self.predict),
            ("/predictions/{model}", self.predictions), ("/predictions/{model}/{version}", self.predictions),
            ("/v2/models/{model}/versions/{version}/infer", self.infer), ("/v2/repository/index", self.index),
            ("/v1/models/{model}:{verb}", self.tensorflow), ("/v1/models/{model}/versions/{version}:{verb}", self.tensorflow),
        ]  # fmt: skip
        return [
            *(
                Route(path, answer, methods=["POST"]) for path, answer in post
            ),  # first: a request tries one after the other
            *(Route(path, as_json(answer)) for path, answer in [("/v2/", get[0][1]), *get]),
            Route(
                "/predictions/{model}", as_json(lambda request: openapi(self.model, self.language)), methods=["OPTIONS"]
            ),
            Route("/", as_json(lambda request: openapi(self.model, self.language)), methods=["OPTIONS"]),
            Route("/", self.page),
            Route("/assets/{name}", self.asset),
            Route("/metrics", self.metrics),
        ]

    # ── health and descriptions ──

    def ready(self, request: Request) -> dict[str, Any]:
        """Say that the model answers, or refuse."""
        if not self.is_ready:
            raise Refusal(503, "serve-not-ready")
        return {"ready": True, "live": True, "name": self.model.name}

    def ping(self, request: Request) -> dict[str, Any]:
        """Say that the model answers, as TorchServe and SageMaker have it."""
        self.ready(request)
        return {"status": "Healthy"}

    def named(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """Return an answer for the model and the version that there are; any other is not found."""

        def check(request: Request) -> Any:
            self.check_name(request)
            return answer(request)

        return check

    def check_name(self, request: Request) -> None:
        """Refuse a model or a version that is not served."""
        name, version = request.path_params["model"], request.path_params.get("version", self.model.version)
        if name != self.model.name or version != self.model.version:
            raise Refusal(
                404, "serve-no-model", name=f"{name}/{version}", known=f"{self.model.name}/{self.model.version}"
            )

    def statistics(self) -> dict[str, Any]:
        """Return the figures of the statistics extension."""
        totals = self.meter.totals
        parts = {
            "success": ("ok", "request"), "fail": ("failed", ""), "queue": ("ok", "queue"), "compute_infer": ("batches", "compute"),
        }  # fmt: skip
        figures = {
            name: {"count": int(totals[count]), "ns": int(totals.get(total, 0) * 1e9)}
            for name, (count, total) in parts.items()
        }
        own = {
            "name": self.model.name, "version": self.model.version, "inference_count": int(totals["rows"]),
            "execution_count": int(totals["batches"]), "inference_stats": figures,
        }  # fmt: skip
        return {"model_stats": [own]}

    def signature(self) -> dict[str, Any]:
        """Return what the try-it page shows."""
        features, target = self.model.features, self.model.target
        return {
            "name": self.model.name,
            "kind": features and features.kind,
            "shape": features and list(features.shape),
            "columns": [
                {"name": column.name, "kind": column.kind, "categories": column.categories[:200]}
                for column in (features.columns if features else ())
            ],
            "target": target and target.name,
        }

    async def index(self, request: Request) -> Response:
        """List the models, as the repository extension has it."""
        state = {
            "name": self.model.name,
            "version": self.model.version,
            "state": "READY" if self.is_ready else "UNAVAILABLE",
        }
        return respond([{**state, "reason": ""}])

    def page(self, request: Request) -> Response:
        """Show the try-it page, whose words are in the language of the server."""
        html = (PAGE / "try.html").read_text(encoding="utf-8")
        room, section, _ = PAGE_WORDS.split(".")
        words = json.dumps(read_room(self.language, room)[section], ensure_ascii=False)
        for name, value in (
            ("$language", self.language),
            ("$words", words.replace("&", "&amp;").replace('"', "&quot;")),
        ):
            html = html.replace(name, value)
        return HTMLResponse(html)

    def asset(self, request: Request) -> Response:
        """Give the page its script and its style."""
        if (name := request.path_params["name"]) not in ASSETS:
            raise Refusal(404, "serve-no-address")
        return Response((PAGE / name).read_bytes(), media_type=ASSETS[name])

    def metrics(self, request: Request) -> Response:
        """Give Prometheus its figures."""
        self.meter.ready.set(self.is_ready)
        return Response(self.meter.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    # ── predictions ──

    async def predict(self, request: Request) -> Response:
        """Answer a picture, rows or an array with names and probabilities, or values."""
        answers = await self.answered(await self.read(request), self.seconds(request))
        top = request.query_params.get("top", "")
        count = min(int(top), MOST_TOP) if top.isdecimal() and len(top) < 6 else MOST_TOP
        return respond({"model": self.model.name, "predictions": in_names(answers, self.model, count)})

    async def predictions(self, request: Request) -> Response:
        """Answer as TorchServe's image classifier does: an object of names and probabilities, or a list of these."""
        self.check_name(request)
        raw = await self.read(request)
        rows = [
            row.get("probabilities", row.get("value"))
            for row in in_names(await self.answered(raw, self.seconds(request)), self.model, 5)
        ]
        return respond(rows[0] if len(rows) == 1 else rows)

    async def read(self, request: Request) -> Array:
        """Return the raw inputs of a body that is a picture, rows, an array, or a form with one of these as `data`."""
        body = await self.body(request)
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith("multipart/"):
            body, kind = part_of_form(body, request.headers["content-type"]), ""
        if any(word in kind for word in ("pickle", "zip", "x-tar", "octet-stream+py")):
            raise Refusal(415, "serve-content-type", found=kind[:100])
        return await here_or_in_thread(len(body), lambda: read_inputs(body, kind, self.model, self.settings.most_rows))

    async def infer(self, request: Request) -> Response:
        """Answer a request of the Open Inference Protocol."""
        self.check_name(request)
        body, header = await self.body(request), request.headers.get(inference.LENGTH_HEADER, "")
        read = lambda: inference.Request(body, header, self.model, self.settings.most_rows)  # noqa: E731
        asked = await here_or_in_thread(len(body), read)
        answers = await self.batcher.submit(asked.inputs, asked.rows, asked.seconds(self.seconds(request)))
        content, headers = asked.respond(answers, self.model)
        return Response(content, headers=headers)

    async def tensorflow(self, request: Request) -> Response:
        """Answer a request of TensorFlow Serving."""
        self.check_name(request)
        if (verb := request.path_params["verb"]) not in ("predict", "classify", "regress"):
            raise Refusal(404, "serve-no-address")
        body = await self.body(request)
        read = lambda: tensorflow.read_request(body, verb, self.model, self.settings.most_rows)  # noqa: E731
        raw, by_column = await here_or_in_thread(len(body), read)
        answers = await self.answered(raw, self.seconds(request))
        return respond(tensorflow.respond(answers, verb, by_column, self.model))

    async def body(self, request: Request) -> bytes:
        """Return a request's body, unless the model does not answer yet."""
        if not self.is_ready and not self.is_draining:
            raise Refusal(503, "serve-not-ready", headers={"retry-after": "1"})
        return await self.app.read_body(request.scope, request.receive)

    async def answered(self, raw: Array, seconds: float) -> Answers:
        """Return the outputs on raw inputs."""
        return await self.batcher.submit({self.model.inputs[0].name: raw}, len(raw), seconds)

    def seconds(self, request: Request) -> float:
        """Return how long a request may wait for its batch: as its header says, at most as the server's deadline."""
        given = request.headers.get("x-timeout-ms", "")
        own = int(given) / 1000 if given.isdecimal() and len(given) < 10 else self.settings.deadline
        return max(
            0.0, min(own, self.settings.deadline) - time.perf_counter() + float(request.scope["rushlight.arrived"])
        )

    # ── errors ──

    async def failed(self, request: Request, error: Exception) -> Any:
        """Answer what went wrong."""
        return self.refused(request.url.path, error)

    def refused(self, path: str, error: Exception) -> Any:
        """Return the answer to an error, as the protocol of its address has it; nothing of the machine is in it."""
        status, headers = 500, {}
        if isinstance(error, Refusal):
            status, headers = error.status, error.headers
        elif isinstance(error, HTTPException):
            status, headers = error.status_code, dict(error.headers or {})
            error = Refusal(status, "serve-method" if status == 405 else "serve-no-address")
        elif isinstance(error, RushlightError):
            status = 500 if isinstance(error, ModelError) else 400
        else:
            error = Refusal(status, "serve-failed")
        if path.startswith(TORCHSERVE):
            return respond({"code": status, "type": type(error).__name__, "message": error.problem}, status, headers)
        return respond({"error": error.problem, "advice": error.advice}, status, headers)


def as_json(answer: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with JSON."""

    async def endpoint(request: Request) -> Response:
        return respond(answer(request))

    return endpoint


def respond(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON in ASCII: a name need be no UTF-8."""
    return Response(json.dumps(content).encode(), status, headers, "application/json")


async def here_or_in_thread(size: int, read: Callable[[], Result]) -> Result:
    """Return what `read` gives; a large body is read in a thread."""
    return read() if size < LARGE else await asyncio.to_thread(read)


def part_of_form(body: bytes, kind: str) -> bytes:
    """Return the field `data`, or `body`, of a multipart form, else its only field. No file is ever written."""
    boundary = re.search(r'boundary="?([^";]{1,70})"?', kind)
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode("latin-1"), 101) if boundary else []
    parts: dict[bytes, bytes] = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb'[ ;]name="([^"]*)"', head)
        parts[name[1] if name else b""] = content
    found = parts.get(b"data", parts.get(b"body"))
    if found is None and len(parts) == 1:
        (found,) = parts.values()
    if found is None:
        raise Refusal(400, "serve-no-form")
    return found
