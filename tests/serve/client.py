"""Requests to a server's application, as they come from a socket; the application runs in this process."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight.serve.app import Service
from rushlight.serve.management import Management
from rushlight.serve.model import Model, find_model
from rushlight.serve.options import Settings
from rushlight.serve.registry import Registry
from rushlight.web import App

BUNDLES = Path(__file__).parent / "bundles"
HOST = ("host", "127.0.0.1:8080")
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def model_of(kind: str) -> Model:
    """Open a bundle of these tests, on one thread."""
    return find_model(str(BUNDLES / kind), Path("runs"), None, None, 1, lambda note: None)


def without_graph(folder: Path, bundle: Path = BUNDLES / "image") -> Path:
    """Copy a bundle without its graph, as one whose graph could not be made: torch runs it."""
    shutil.copytree(bundle, folder)
    (folder / "graph.onnx").unlink()
    described = json.loads((folder / "model.json").read_text("utf-8"))
    del described["files"]["graph.onnx"]
    described["graph"] = {"reason": "it has none"}
    (folder / "model.json").write_text(json.dumps(described), "utf-8")
    return folder


def registry_of(*models: Model) -> Registry:
    """A registry of models that come from no folder."""
    registry = Registry(None, lambda *asked: models[0], Settings.most_waiting, print)
    for model in models:
        registry.add(model)
    return registry


class Client:
    """A server of one bundle, and who asks it."""

    def __init__(self, kind: str | Registry, **settings: Any) -> None:
        registry = registry_of(model_of(kind)) if isinstance(kind, str) else kind
        self.service = Service(registry, Settings(**settings), "en")
        self.service.is_ready = True
        self.app: App = self.service.app

    def managing(self) -> Client:
        """Return who asks at the management port."""
        other = copy.copy(self)
        other.app = Management(self.service).app
        return other

    async def ask(
        self, method: str, target: str, body: bytes | list[bytes] = b"", headers: Headers = (), host: Any = HOST,
        receive: Callable[[], Awaitable[Any]] | None = None,
    ) -> Answer:  # fmt: skip
        """Make a request; a body in pieces comes piece by piece."""
        path, _, query = target.partition("?")
        given = [*([host] if host else []), *headers]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8080),
        }  # fmt: skip
        pieces = [body] if isinstance(body, bytes) else [*body]
        messages: list[Any] = []

        async def come() -> Any:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await asyncio.sleep(60)  # the client stays there

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive or come, send)
        names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in messages[0]["headers"]}
        return Answer(messages[0]["status"], names, b"".join(message.get("body", b"") for message in messages[1:]))

    def get(self, target: str, headers: Headers = (), method: str = "GET", host: Any = HOST) -> Answer:
        """Ask without a body."""
        return asyncio.run(self.ask(method, target, headers=headers, host=host))

    def post(self, target: str, body: Any, headers: Headers = (), host: Any = HOST) -> Answer:
        """Send a body: bytes, pieces of bytes, or what becomes JSON."""
        is_raw = isinstance(body, bytes) or (
            isinstance(body, list) and body and all(isinstance(p, bytes) for p in body)
        )
        return asyncio.run(self.ask("POST", target, body if is_raw else json.dumps(body).encode(), headers, host))
