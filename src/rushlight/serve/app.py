"""Every address that is answered, and how: Rushlight's own, and those of the servers whose clients people already have."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

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
from rushlight.web import Receive, Scope, Send

PAGE = Path(__file__).parent / "page"
PAGE_WORDS = "serve.page."  # what the keys of the words of the page begin with
LARGE = 64 << 10  # bytes of a body from which it is read in a thread: meanwhile others are answered
MOST_TOP = 1000
NAMED = re.compile(
    r"(/v[12]/models|/predictions)/([^/:]+)(?:/versions/([^/:]+))?([/:].*)?"
)  # … /NAME/versions/VERSION …
TORCHSERVE = ("/predictions", "/ping", "/api-description")
NEVER_READ = ("pickle", "zip", "x-tar")  # in a content type
Result = TypeVar("Result")


class Service:
    """A model behind its addresses. `is_ready` is False before the proof and while the server drains."""

    def __init__(self, model: Model, settings: Settings, language: str) -> None:
        self.model, self.settings, self.language = model, settings, language
        self.meter = Meter()
        self.batcher = Batcher(model, settings.most_waiting, self.meter)
        self.meter.watch(self.batcher)
        self.is_ready = self.is_draining = False
        self.app = Gate(self.answer, settings, self.refused, self.meter, lambda: self.is_draining)
        described, statistics = (lambda request: openapi(model, language)), (lambda request: self.statistics())
        server = {"name": "rushlight", "version": __version__, "extensions": inference.EXTENSIONS}
        self.addresses: dict[str, dict[str, Callable[[Request], Any]]] = {  # NAME and the version are left out
            "/": {"GET": self.page, "OPTIONS": described},
            "/assets/try.js": {
                "GET": lambda request: Response((PAGE / "try.js").read_bytes(), media_type="text/javascript")
            },
            "/assets/try.css": {
                "GET": lambda request: Response((PAGE / "try.css").read_bytes(), media_type="text/css")
            },
            "/health": {"GET": lambda request: {"status": "alive"}},
            "/ping": {"GET": lambda request: self.ready(request) and {"status": "Healthy"}},
            "/metrics": {"GET": self.metrics},
            "/openapi.json": {"GET": described},
            "/api-description": {"GET": described},
            "/signature": {"GET": lambda request: self.signature()},
            "/predict": {"POST": self.predict},
            "/invocations": {"POST": self.predict},
            "/predictions/NAME": {"POST": self.predictions, "OPTIONS": described},
            "/v2": {"GET": lambda request: server},
            "/v2/": {"GET": lambda request: server},
            "/v2/health/live": {"GET": lambda request: {"live": True}},
            "/v2/health/ready": {"GET": self.ready},
            "/v2/repository/index": {"POST": lambda request: [self.state()]},
            "/v2/models/stats": {"GET": statistics},
            "/v2/models/NAME": {"GET": lambda request: inference.describe(model)},
            "/v2/models/NAME/ready": {"GET": self.ready},
            "/v2/models/NAME/stats": {"GET": statistics},
            "/v2/models/NAME/infer": {"POST": self.infer},
            "/v1/models/NAME": {"GET": lambda request: tensorflow.status(model, self.is_ready)},
            "/v1/models/NAME/metadata": {"GET": lambda request: tensorflow.describe(model)},
            **{f"/v1/models/NAME:{verb}": {"POST": self.tensorflow} for verb in ("predict", "classify", "regress")},
        }

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that the gate let in."""
        try:
            content = self.handler(scope)(Request(scope, receive))
            content = await content if inspect.isawaitable(content) else content
            response = content if isinstance(content, Response) else respond(content)
        except Exception as error:
            response = self.refused(scope["path"], error)
        await response(scope, receive, send)

    def handler(self, scope: Scope) -> Callable[[Request], Any]:
        """Return what answers an address; Refusal for one that there is not, and for a model that is not served."""
        path = scope["path"]
        if path not in self.addresses and (found := NAMED.fullmatch(path)) is not None:
            place, name, version, rest = found[1], found[2], found[3] or self.model.version, found[4] or ""
            if place == "/predictions":
                version, rest = rest[1:] or version, ""
            if (name, version) != (self.model.name, self.model.version):
                known = f"{self.model.name}/{self.model.version}"
                raise Refusal(404, "serve-no-model", name=f"{name}/{version}", known=known)
            path = f"{place}/NAME{rest}"
        if (methods := self.addresses.get(path)) is None:
            raise Refusal(404, "serve-no-address")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in methods:
            raise Refusal(405, "serve-method", headers={"allow": ", ".join(methods)})
        return methods[method]

    # ── health and descriptions ──

    def ready(self, request: Request) -> dict[str, Any]:
        """Say that the model answers, or refuse."""
        if not self.is_ready:
            raise Refusal(503, "serve-not-ready")
        return {"ready": True, "live": True, "name": self.model.name}

    def state(self) -> dict[str, Any]:
        """Return the model's entry in the index of the repository extension."""
        state = "READY" if self.is_ready else "UNAVAILABLE"
        return {"name": self.model.name, "version": self.model.version, "state": state, "reason": ""}

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

    def page(self, request: Request) -> Response:
        """Show the try-it page, whose words are in the language of the server."""
        room, section, _ = PAGE_WORDS.split(".")
        words = json.dumps(read_room(self.language, room)[section])
        html = (PAGE / "try.html").read_text(encoding="utf-8").replace("$language", self.language)
        return Response(html.replace("$words", escape(words)), media_type="text/html")

    def metrics(self, request: Request) -> Response:
        """Give Prometheus its figures."""
        self.meter.ready.set(self.is_ready)
        return Response(self.meter.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    # ── predictions ──

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer a picture, rows or an array with names and probabilities, or values."""
        top = request.query_params.get("top", "")
        count = min(int(top), MOST_TOP) if top.isdecimal() and len(top) < 6 else MOST_TOP
        return {"model": self.model.name, "predictions": in_names(await self.predicted(request), self.model, count)}

    async def predictions(self, request: Request) -> Any:
        """Answer as TorchServe's image classifier does: an object of names and probabilities, or a list of these."""
        named = in_names(await self.predicted(request), self.model, 5)
        rows = [row.get("probabilities", row.get("value")) for row in named]
        return rows[0] if len(rows) == 1 else rows

    async def predicted(self, request: Request) -> Answers:
        """Return the outputs on a body that is a picture, rows, an array, or a form with one of these as `data`."""
        body = await self.body(request)
        kind = request.headers.get("content-type", "")
        if kind.lower().startswith("multipart/"):
            body, kind = part_of_form(body, kind), ""
        if any(word in kind.lower() for word in NEVER_READ):
            raise Refusal(415, "serve-content-type", found=kind[:100])
        raw = await here_or_in_thread(
            body, lambda: read_inputs(body, kind.lower(), self.model, self.settings.most_rows)
        )
        return await self.run(request, raw)

    async def infer(self, request: Request) -> Response:
        """Answer a request of the Open Inference Protocol."""
        body, header = await self.body(request), request.headers.get(inference.LENGTH_HEADER, "")
        asked = await here_or_in_thread(
            body, lambda: inference.Request(body, header, self.model, self.settings.most_rows)
        )
        answers = await self.submit(request, asked.inputs, asked.rows, asked.seconds(self.seconds(request)))
        content, headers = asked.respond(answers, self.model)
        return Response(content, headers=headers)

    async def tensorflow(self, request: Request) -> dict[str, Any]:
        """Answer a request of TensorFlow Serving."""
        body, verb = await self.body(request), request.scope["path"].rpartition(":")[2]
        raw, by_column = await here_or_in_thread(
            body, lambda: tensorflow.read_request(body, verb, self.model, self.settings.most_rows)
        )
        return tensorflow.respond(await self.run(request, raw), verb, by_column, self.model)

    async def body(self, request: Request) -> bytes:
        """Return a request's body, unless the model does not answer yet."""
        if not self.is_ready and not self.is_draining:
            raise Refusal(503, "serve-not-ready", headers={"retry-after": "1"})
        return await self.app.read_body(request.scope, request.receive)

    async def run(self, request: Request, raw: Array) -> Answers:
        """Return the outputs on raw inputs."""
        return await self.submit(request, {self.model.inputs[0].name: raw}, len(raw), self.seconds(request))

    async def submit(self, request: Request, inputs: Mapping[str, Array], rows: int, seconds: float) -> Answers:
        """Return the outputs on rows; where these have to wait and the client leaves, they are never run."""
        answers = self.batcher.submit(inputs, rows, seconds)
        if not self.batcher.is_busy:
            return await answers
        waiting, leaving = asyncio.ensure_future(answers), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise Refusal(400, "serve-cut-off")
            return waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()

    def seconds(self, request: Request) -> float:
        """Return how long a request may wait for its batch: as its header says, at most as the server's deadline."""
        given = request.headers.get("x-timeout-ms", "")
        most = int(given) / 1000 if given.isdecimal() and len(given) < 10 else self.settings.deadline
        passed: float = time.perf_counter() - request.scope["rushlight.arrived"]
        return max(0.0, min(most, self.settings.deadline) - passed)

    def refused(self, path: str, error: Exception) -> Response:
        """Return the answer to an error, as the protocol of its address has it; nothing of the machine is in it."""
        if not isinstance(error, RushlightError):
            logging.getLogger(__name__).exception(error)
            error = Refusal(500, "serve-failed")
        status, headers = 500 if isinstance(error, ModelError) else 400, {}
        if isinstance(error, Refusal):
            status, headers = error.status, error.headers
        if path.startswith(TORCHSERVE):
            return respond({"code": status, "type": type(error).__name__, "message": error.problem}, status, headers)
        return respond({"error": error.problem, "advice": error.advice}, status, headers)


def respond(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON in ASCII: a name need be no UTF-8."""
    return Response(json.dumps(content).encode(), status, headers, "application/json")


async def here_or_in_thread(body: bytes, read: Callable[[], Result]) -> Result:
    """Return what `read` makes of a body; a large one is read in a thread."""
    return read() if len(body) < LARGE else await asyncio.to_thread(read)


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
