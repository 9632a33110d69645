"""Every address that is answered, and how: Rushlight's own, and those of the servers whose clients people already have."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

import numpy as np

from rushlight.errors import ModelError, RushlightError
from rushlight.export import Answers
from rushlight.serve import inference, tensorflow
from rushlight.serve.answers import Answer, Refusal, json_answer
from rushlight.serve.batcher import Batcher
from rushlight.serve.drift import Drift
from rushlight.serve.explain import explain_rows
from rushlight.serve.gate import Gate, one
from rushlight.serve.metrics import TEXT, Figures, by_names, prometheus, statistics
from rushlight.serve.model import Array, Model
from rushlight.serve.openapi import openapi
from rushlight.serve.options import Settings
from rushlight.serve.reading import in_names, meaning, read_body
from rushlight.serve.registry import Registry
from rushlight.texts import read_room, shown
from rushlight.web import Receive, Scope, Send

PAGE = Path(__file__).parent / "page"
PAGE_WORDS = "serve.page."  # what the keys of the words of the page begin with
LARGE = 64 << 10  # bytes of a body from which it is read in a thread: meanwhile others are answered
MOST_TOP = 1000
NAMED = re.compile(
    r"(/v[12]/models|/predictions|/explanations)/([^/:]+)(?:/(?:versions|labels)/([^/:]+))?([/:].*)?"
)  # … /NAME/versions/VERSION …
BY_NAME = ("/predictions", "/explanations")  # have a version right after the name
BY_QUERY = ("/predict", "/invocations", "/signature", "/drift")  # have the model in the query
TORCHSERVE = (*BY_NAME, "/ping", "/api-description")
NEVER_READ = ("pickle", "zip", "x-tar")  # in a content type
Result = TypeVar("Result")


@dataclass(eq=False)
class Request:
    """A request that the gate let in, and the version of a model that it is for."""

    scope: Scope
    receive: Receive
    chosen: Batcher | None = None

    def header(self, name: str) -> str:
        """Return a header's value, "" where it is absent."""
        return one(self.scope["rushlight.headers"], name)

    def query(self, name: str) -> str:
        """Return a value from the address, "" where it is absent."""
        given = self.scope["query_string"]
        return parse_qs(given[:2000].decode("latin-1")).get(name, [""])[-1] if given else ""

    @property
    def batcher(self) -> Batcher:
        """The version that the request is for."""
        assert self.chosen is not None
        return self.chosen

    @property
    def model(self) -> Model:
        """The model that the request is for."""
        return self.batcher.model


class Service:
    """Models behind their addresses. `is_ready` is False before the proof and while the server drains."""

    def __init__(self, registry: Registry, settings: Settings, language: str) -> None:
        self.registry, self.settings, self.language = registry, settings, language
        self.is_ready = self.is_draining = False
        self.to_shed = 0  # connections that are to be made anew, so that another worker gets them
        self.shadows: set[asyncio.Task[None]] = set()
        self.testing, self.tested = asyncio.Lock(), (0.0, json_answer({}))
        self.app = Gate(self.answer, settings, self.refused, registry.meter, self.closes)
        described = lambda request: openapi([b.model for b in registry.batchers()], language)  # noqa: E731
        self.addresses: dict[str, dict[str, Callable[[Request], Any]]] = {  # NAME and the version are left out
            "/": {"GET": self.page, "OPTIONS": described},
            "/assets/try.js": {"GET": lambda request: Answer((PAGE / "try.js").read_bytes(), "text/javascript")},
            "/assets/try.css": {"GET": lambda request: Answer((PAGE / "try.css").read_bytes(), "text/css")},
            "/health": {"GET": lambda request: {"status": "alive"}},
            "/ping": {"GET": lambda request: self.ready(request) and {"status": "Healthy"}},
            "/metrics": {"GET": self.metrics},
            "/openapi.json": {"GET": described},
            "/api-description": {"GET": described},
            "/signature": {"GET": self.signature},
            "/selftest": {"GET": self.selftest, "POST": self.selftest},
            "/drift": {"GET": self.drift},
            "/predict": {"POST": self.predict},
            "/invocations": {"POST": self.predict},
            "/predictions/NAME": {"POST": self.predictions, "OPTIONS": described},
            "/explanations/NAME": {"POST": self.explanations},
            "/v2": {"GET": lambda request: inference.SERVER},
            "/v2/": {"GET": lambda request: inference.SERVER},
            "/v2/health/live": {"GET": lambda request: {"live": True}},
            "/v2/health/ready": {"GET": self.ready},
            "/v2/repository/index": {"POST": lambda request: registry.state()},
            "/v2/models/stats": {"GET": self.statistics},
            "/v2/models/NAME": {"GET": lambda request: inference.describe(request.model, self.versions(request))},
            "/v2/models/NAME/ready": {"GET": self.ready},
            "/v2/models/NAME/stats": {"GET": self.statistics},
            "/v2/models/NAME/infer": {"POST": self.infer},
            "/v1/models/NAME": {"GET": self.tensorflow_status},
            "/v1/models/NAME/metadata": {"GET": lambda request: tensorflow.tensorflow_metadata(request.model)},
            **{f"/v1/models/NAME:{verb}": {"POST": self.tensorflow} for verb in ("predict", "classify", "regress")},
        }

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that the gate let in."""
        await answer_with(self.handled, self.refused, Request(scope, receive), send)

    def closes(self) -> bool:
        """Tell whether a connection is to be closed after its answer."""
        if self.to_shed and not self.is_draining:
            self.to_shed -= 1
            return True
        return self.is_draining

    def handled(self, request: Request) -> Any:
        """Return the answer at an address, or what awaits it; Refusal where there is none, and for a model that is not served."""
        scope, is_named = request.scope, False
        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        if path not in self.addresses and (found := NAMED.fullmatch(path)) is not None:
            place, name, version, rest = found[1], found[2], found[3] or "", found[4] or ""
            if place in BY_NAME:
                version, rest = rest[1:] or version, ""
            path, is_named = f"{place}/NAME{rest}", True
        if (methods := self.addresses.get(path)) is None:
            raise Refusal(404, "serve-no-address")
        if method not in methods:
            raise Refusal(405, "serve-method", headers={"allow": ", ".join(methods)})
        if is_named or path in BY_QUERY:
            if not is_named:
                name, version = request.query("model"), request.query("version")
            request.chosen = self.registry.find(name, version, self.sticky(request, name))
            scope["rushlight.model"] = request.model
            if method == "POST":
                scope["rushlight.totals"] = request.batcher.totals
        return methods[method](request)

    def sticky(self, request: Request, name: str) -> str | None:
        """Return what keeps the sender of a request at one version of a model whose requests are split."""
        plan = self.registry.plans.get(self.registry.named(name))
        return (request.header(plan.sticky.lower()) or None) if plan is not None and plan.split else None

    def versions(self, request: Request) -> list[str]:
        """Return the versions of a request's model."""
        return [*self.registry.models.get(request.model.name, ())]

    # ── health and descriptions ──

    def ready(self, request: Request) -> dict[str, Any]:
        """Say that the models answer, or the one that is asked for; or refuse."""
        asked = [request.chosen] if request.chosen is not None else [*self.registry.batchers()]
        if not self.is_ready or not asked or any(batcher.failure is not None for batcher in asked):
            raise Refusal(503, "serve-not-ready")
        return {"ready": True, "live": True, "name": asked[0].model.name}

    async def statistics(self, request: Request) -> dict[str, Any]:
        """Return the figures of the statistics extension."""
        totals = by_names((await self.registry.all_figures())["counts"]["models"])
        asked = [request.chosen] if request.chosen is not None else self.registry.batchers()
        keys = [(batcher.model.name, batcher.model.version) for batcher in asked]
        return {"model_stats": [statistics(totals[key], *key) for key in keys if key in totals]}

    def tensorflow_status(self, request: Request) -> dict[str, Any]:
        """Return the state of one version, or of all where none is named."""
        is_one = "/versions/" in request.scope["path"] or "/labels/" in request.scope["path"]
        versions = [request.model.version] if is_one else self.versions(request)
        return tensorflow.status(request.model.name, versions, self.is_ready)

    async def selftest(self, request: Request) -> Answer:
        """Repeat the recorded examples of every model now; one that no longer does is not asked again until it does."""
        came = time.monotonic()
        async with self.testing:
            if self.tested[0] > came:  # somebody else's, which began after this request came
                return self.tested[1]
            began, found = time.monotonic(), []
            async with self.registry.turn:
                proofs = await self.registry.prove()
                for others in await self.registry.others("prove"):  # a worker that is wrong makes all wrong
                    proofs = [own if own[2] else other for own, other in zip(proofs, others, strict=True)]
                await self.registry.everywhere("judge", proofs)
                for name, version, reason in proofs:
                    count = self.registry.find(name, version).model.summary.examples
                    entry = {"name": name, "version": version, "ok": not reason, "examples": count, "reason": reason}
                    found.append(entry)
            is_good = bool(found) and all(entry["ok"] for entry in found)
            self.tested = began, json_answer({"ok": is_good, "models": found}, 200 if is_good else 503)
        return self.tested[1]

    async def drift(self, request: Request) -> dict[str, Any]:
        """Say how far what the model is asked has moved from what it was trained on."""
        drift = drift_of(request.batcher, await self.registry.all_figures())
        return {
            "name": request.model.name, "version": request.model.version, "rows": drift.rows, "sentence": shown(drift.sentence()),
            "deviations": drift.deviations(), "shares": drift.shares(), "tested": drift.tested,
        }  # fmt: skip

    def signature(self, request: Request) -> dict[str, Any]:
        """Return what the try-it page shows."""
        features, target = request.model.features, request.model.target
        return {
            "name": request.model.name,
            "models": [*self.registry.models],
            "kind": features and ("array" if features.time else features.kind),
            "shape": features and list(features.shape),
            "columns": [
                {"name": column.name, "kind": column.kind, "categories": column.categories[:200]}
                for column in (features.columns if features else ())
            ],
            "target": target and target.name,
        }

    def page(self, request: Request) -> Answer:
        """Show the try-it page, whose words are in the language of the server."""
        room, section, _ = PAGE_WORDS.split(".")
        words = json.dumps(read_room(self.language, room)[section])
        html = (PAGE / "try.html").read_text(encoding="utf-8").replace("$language", self.language)
        return Answer(html.replace("$words", escape(words)).encode(), "text/html;charset=utf-8")

    async def metrics(self, request: Request) -> Answer:
        """Give Prometheus its figures."""
        figures = await self.registry.all_figures()
        waiting = by_names(figures["now"]["waiting"])
        drifts = {(b.model.name, b.model.version): drift_of(b, figures) for b in self.registry.batchers()}
        gauges: dict[str, dict[Any, float]] = {
            "rushlight_ready": {(): int(self.is_ready)},
            "rushlight_workers": {(): figures["now"]["workers"]},
            "nv_inference_pending_request_count": {key: jobs for key, (jobs, _) in waiting.items()},
            "rushlight_waiting_rows": {key: rows for key, (_, rows) in waiting.items()},
            "rushlight_drift_deviations": {
                (*key, name): value for key, own in drifts.items() for name, value in own.deviations().items()
            },
            "rushlight_drift_share": {
                (*key, name): value for key, own in drifts.items() for name, value in own.shares().items()
            },
        }
        return Answer(prometheus(figures["counts"], gauges), TEXT)

    # ── predictions ──

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer a picture, rows or an array with names and probabilities, or values."""
        top, model = request.query("top"), request.model
        count = min(int(top), MOST_TOP) if top.isdecimal() and len(top) < 6 else MOST_TOP
        answers = await self.run(request, await self.raw_inputs(request))
        return {"model": model.name, "predictions": in_names(answers, model, count)}

    async def predictions(self, request: Request) -> Any:
        """Answer as TorchServe's image classifier does: an object of names and probabilities, or a list of these."""
        named = in_names(await self.run(request, await self.raw_inputs(request)), request.model, 5)
        rows = [row.get("probabilities", row.get("value")) for row in named]
        return rows[0] if len(rows) == 1 else rows

    async def explanations(self, request: Request) -> Any:
        """Answer how much each part of the input speaks for the answer."""
        raw = await self.raw_inputs(request)

        def run(rows: Array) -> Awaitable[Answers]:
            return self.run(request, rows, is_live=rows is raw)  # the others have a part hidden

        return await explain_rows(request.model, raw, request.query("target"), run)

    async def raw_inputs(self, request: Request) -> Array:
        """Return the inputs in a body that is a picture, rows, an array, or a form with one of these as `data`."""
        body = await self.body(request)
        kind = request.header("content-type")
        if kind.lower().startswith("multipart/"):
            body, kind = part_of_form(body, kind), ""
        if any(word in kind.lower() for word in NEVER_READ):
            raise Refusal(415, "serve-content-type", found=kind[:100])
        most = self.settings.most_rows
        return await here_or_in_thread(body, lambda: read_body(body, kind.lower(), request.model, most))

    async def infer(self, request: Request) -> Answer:
        """Answer a request of the Open Inference Protocol."""
        body, header = await self.body(request), request.header(inference.LENGTH_HEADER)
        asked = await here_or_in_thread(
            body,
            lambda: inference.InferRequest(
                *inference.read_head_and_tail(body, header), request.model, self.settings.most_rows
            ),
        )
        answers = await self.submit(request, asked.inputs, asked.rows, asked.seconds(self.seconds(request)))
        content, headers = asked.respond(answers, request.model)
        return Answer(content, headers=headers)

    async def tensorflow(self, request: Request) -> dict[str, Any]:
        """Answer a request of TensorFlow Serving."""
        body, verb = await self.body(request), request.scope["path"].rpartition(":")[2]
        raw, by_column = await here_or_in_thread(
            body, lambda: tensorflow.read_request(body, verb, request.model, self.settings.most_rows)
        )
        return tensorflow.respond(await self.run(request, raw), verb, by_column, request.model)

    async def body(self, request: Request) -> bytes:
        """Return a request's body, unless the model does not answer yet."""
        self.check_answers(request.batcher)
        return await self.app.read_body(request.scope, request.receive)

    def check_answers(self, batcher: Batcher) -> None:
        """Refuse where a model does not answer yet, or no longer, or has no room; before the inputs are read."""
        if (not self.is_ready and not self.is_draining) or batcher.failure is not None:
            raise Refusal(503, "serve-not-ready", headers={"retry-after": "1"})
        batcher.check_room(1)

    async def run(self, request: Request, raw: Array, is_live: bool = True) -> Answers:
        """Return the outputs on raw inputs."""
        inputs = {request.model.inputs[0].name: raw}
        return await self.submit(request, inputs, len(raw), self.seconds(request), is_live)

    async def submit(
        self, request: Request, inputs: Mapping[str, Array], rows: int, seconds: float, is_live: bool = True
    ) -> Answers:
        """Return the outputs on rows; where these have to wait and the client leaves, they are never run.

        Rows that are not live, made up here, count neither for drift nor for a shadow.
        """
        batcher = request.batcher
        if is_live:
            request.scope["rushlight.rows"] = rows
        answering = batcher.submit(inputs, rows, seconds, is_live, len(self.app.tasks) == 1)
        if not batcher.is_busy:
            answers = await answering
        else:
            waiting, leaving = asyncio.ensure_future(answering), asyncio.ensure_future(request.receive())
            try:
                await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise Refusal(400, "serve-cut-off")
                answers = waiting.result()
            finally:
                waiting.cancel()
                leaving.cancel()
        if is_live and (shadow := self.registry.shadow_of(batcher)) is not None:
            task = asyncio.create_task(self.compare(shadow, inputs, rows, answers))
            self.shadows.add(task)
            task.add_done_callback(self.shadows.discard)
        return answers

    async def compare(self, shadow: Batcher, inputs: Mapping[str, Array], rows: int, answers: Answers) -> None:
        """Ask another version the same, unless it has work, and count the rows on which it agrees."""
        outcomes = self.registry.meter.shadows
        if shadow.is_busy or shadow.waiting:
            outcomes[shadow.model.name, "skipped"] += rows
            return
        try:
            own, other = meaning(answers), meaning(await shadow.submit(inputs, rows, 1.0))
            is_class = shadow.model.target is not None and shadow.model.target.task == "classification"
            same = (
                (own.argmax(1) == other.argmax(1))
                if is_class
                else np.isclose(own, other, rtol=0.01).reshape(rows, -1).all(1)
            )
            outcomes[shadow.model.name, "same"] += int(same.sum())
            outcomes[shadow.model.name, "other"] += int(rows - same.sum())
        except (RushlightError, ValueError, IndexError):  # it takes or gives something else
            outcomes[shadow.model.name, "failed"] += rows

    def seconds(self, request: Request) -> float:
        """Return how long a request may wait for its batch: as its header says, at most as the server's deadline."""
        given = request.header("x-timeout-ms")
        most = int(given) / 1000 if given.isdecimal() and len(given) < 10 else self.settings.deadline
        passed: float = time.perf_counter() - request.scope["rushlight.arrived"]
        return max(0.0, min(most, self.settings.deadline) - passed)

    def refused(self, path: str, error: Exception) -> Answer:
        """Return the answer to an error, as the protocol of its address has it; nothing of the machine is in it."""
        if not isinstance(error, RushlightError):
            logging.getLogger(__name__).exception(error)
            error = Refusal(500, "serve-failed")
        status, headers = 500 if isinstance(error, ModelError) else 400, {}
        if isinstance(error, Refusal):
            status, headers = error.status, error.headers
        if path.startswith(TORCHSERVE):
            return json_answer(
                {"code": status, "type": type(error).__name__, "message": error.problem}, status, headers
            )
        return json_answer({"error": error.problem, "advice": error.advice}, status, headers)


def drift_of(batcher: Batcher, figures: Figures) -> Drift:
    """Return the drift of a version over all workers."""
    model = batcher.model
    sums = figures["now"]["drift"].get(model.name, {}).get(model.version, {}).get(model.state)
    return batcher.drift if sums is None else batcher.drift.with_figures(sums)


async def answer_with(
    handle: Callable[[Request], Any], refuse: Callable[[str, Exception], Answer], request: Request, send: Send
) -> None:
    """Send what a request is answered, or why it is refused."""
    try:
        content = handle(request)
        content = await content if inspect.isawaitable(content) else content
        answer = content if isinstance(content, Answer) else json_answer(content)
    except Exception as error:
        answer = refuse(request.scope["path"], error)
    await answer(request.scope, request.receive, send)


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
