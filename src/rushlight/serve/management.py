"""The management port, off unless it is asked for: TorchServe's management API, and load and unload of the repository extension.

It listens on this machine alone. Models are registered by their names below `--models`; nothing is fetched, unpacked, or named by
a path.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rushlight.serve.answers import Answer, Refusal, json_answer
from rushlight.serve.app import Request, Service, answer_with
from rushlight.serve.gate import Gate
from rushlight.serve.metrics import added
from rushlight.serve.registry import Registry
from rushlight.web import Receive, Scope, Send

MODELS = re.compile(r"/models(?:/([^/]+))?(?:/([^/]+))?(/set-default)?")
REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
MOST_LISTED = 100


class Management:
    """What changes which models are served."""

    def __init__(self, service: Service) -> None:
        self.service, self.registry = service, service.registry
        self.app = Gate(
            self.answer, service.settings, self.refused, service.registry.meter, lambda: service.is_draining
        )
        self.app.is_local = True

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that the gate let in."""
        await answer_with(self.handled, self.refused, Request(scope, receive), send)

    def refused(self, path: str, error: Exception) -> Answer:
        """Return the answer to an error, as TorchServe or Triton has it."""
        return self.service.refused(path if path.startswith("/v2") else "/ping", error)

    def handled(self, request: Request) -> Any:
        """Do what a request asks for, and return what it is told."""
        path, method = request.scope["path"], request.scope["method"]
        if path == "/v2/repository/index" and method == "POST":
            return self.registry.state()
        if (found := REPOSITORY.fullmatch(path)) is not None and method == "POST":
            return self.load(request, found[1]) if found[2] == "load" else self.change("unload", {}, found[1])
        if (found := MODELS.fullmatch(path)) is None:
            raise Refusal(404, "serve-no-address")
        name, version, is_default = found[1], found[2] or "", bool(found[3]) or found[2] == "set-default"
        if name is None:
            own: dict[str, Callable[[], Any]] = {
                "GET": lambda: self.listed(request),
                "POST": lambda: self.register(request),
            }
        elif is_default:
            own = {"PUT": lambda: self.set_default(name, version if found[3] else "")}
        else:
            own = {
                "GET": lambda: self.describe(name, version),
                "PUT": lambda: self.scale(request, name, version),
                "DELETE": lambda: self.delete(name, version),
            }
        if method not in own:
            raise Refusal(405, "serve-method", headers={"allow": ", ".join(own)})
        return own[method]()

    # ── Open Inference Protocol ──

    async def load(self, request: Request, name: str) -> dict[str, Any]:
        """Load a model of the folder again; a body may not bring files or settings."""
        body = await self.app.read_body(request.scope, request.receive)
        if b"file:" in body or b'"config"' in body:
            raise Refusal(400, "serve-no-files")
        await self.registry.load(name)
        return {}

    async def change(self, method: str, answer: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """Change what is served in all workers, and return the answer."""
        async with self.registry.turn:
            await self.registry.everywhere(method, *arguments)
        return answer

    # ── TorchServe ──

    def listed(self, request: Request) -> dict[str, Any]:
        """Return the models, in pages."""
        limit, first = request.query("limit"), request.query("next_page_token")
        count = min(int(limit), MOST_LISTED) if limit.isdecimal() and 0 < len(limit) < 6 else MOST_LISTED
        begin = int(first) if first.isdecimal() and len(first) < 9 else 0
        names = [*self.registry.models]
        page = {"models": [{"modelName": name, "modelUrl": name} for name in names[begin : begin + count]]}
        return page | ({"nextPageToken": str(begin + count)} if begin + count < len(names) else {})

    async def register(self, request: Request) -> Answer:
        """Load a model by its name, or NAME/VERSION, in the folder."""
        name, _, version = request.query("url").partition("/")
        served = self.registry.models.get(name, {})
        if (version in served) if version else bool(served):
            raise Refusal(409, "serve-registered", name=name)
        versions = await self.registry.load(name, version)
        text = f'Model "{name}" Version: {", ".join(versions)} registered'
        return json_answer({"status": text})

    async def describe(self, name: str, version: str) -> list[dict[str, Any]]:
        """Return what a model's default version is like, or one version, or "all"."""
        described = descriptions(self.registry, name, version)
        for others in await self.registry.others("describe", name, version):
            by_version = {other["modelVersion"]: other for other in others}
            for own in described:
                if (other := by_version.get(own["modelVersion"])) is not None:
                    own["workers"] += [{**worker, "id": str(len(own["workers"]) + 1)} for worker in other["workers"]]
                    own["jobQueueStatus"] = added(own["jobQueueStatus"], other["jobQueueStatus"])
        for own in described:
            own["minWorkers"] = own["maxWorkers"] = len(own["workers"])
        return described

    def scale(self, request: Request, name: str, version: str) -> Answer:
        """Accept a number of workers: how many there are is set when the server is started."""
        self.registry.find(name, version)
        is_done = request.query("synchronous").lower() == "true"
        text = f"Workers scaled to {self.service.settings.workers}" if is_done else "Processing worker updates..."
        return json_answer({"status": text}, 200 if is_done else 202)

    def set_default(self, name: str, version: str) -> Awaitable[dict[str, Any]]:
        """Let a version answer where none is named."""
        if not version:
            raise Refusal(404, "serve-no-address")
        text = f'Default version successfully updated for model "{name}" to "{version}"'
        return self.change("set_default", {"status": text}, name, version)

    def delete(self, name: str, version: str) -> Awaitable[dict[str, Any]]:
        """Serve a version no more, or the model where none is named."""
        versions = self.registry.models.get(name, {})
        if (
            version
            and len(versions) > 1
            and self.registry.default(name) == self.registry.find(name, version).model.version
        ):
            raise Refusal(403, "serve-default-version", name=f"{name}/{version}")
        return self.change("unload", {"status": f'Model "{name}" unregistered'}, name, version)


def descriptions(registry: Registry, name: str, version: str) -> list[dict[str, Any]]:
    """Return what this process says of a model's default version, of one version, or of "all"; one worker is its queue."""
    versions, described = registry.models.get(name, {}), []
    for batcher in [*versions.values()] if version == "all" else [registry.find(name, version)]:
        model, started = batcher.model, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(batcher.loaded))
        worker = {
            "id": "1", "startTime": started, "status": "READY" if batcher.failure is None else "UNLOADING", "memoryUsage": 0,
            "pid": os.getpid(), "gpu": False, "gpuUsage": "",
        }  # fmt: skip
        room = max(0, batcher.most_waiting - batcher.waiting_rows)
        described.append({
            "modelName": model.name, "modelVersion": model.version, "modelUrl": model.name, "runtime": model.engine, "minWorkers": 1,
            "maxWorkers": 1, "batchSize": model.sizes[-1], "maxBatchDelay": 0, "loadedAtStartup": True, "workers": [worker],
            "jobQueueStatus": {"remainingCapacity": room, "pendingRequests": len(batcher.waiting)},
        })  # fmt: skip
    return described
