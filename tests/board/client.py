"""Requests to the board's application, as a browser on this machine makes them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight.board.app import build_app

PORT = 8642
HOST = f"127.0.0.1:{PORT}"
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A browser that has (or has not) the board's cookie."""

    def __init__(self, folder: Path, language: str = "en", allowed: str | None = None) -> None:
        self.app = build_app(folder, PORT, language, allowed)

    @property
    def cookie(self) -> tuple[str, str]:
        return ("cookie", f"{self.app.cookie}={self.app.session}")

    def post(self, target: str, content: Any) -> Answer:
        """Ask for a change, as the page does."""
        origin, token = ("origin", f"http://{HOST}"), ("x-rushlight-token", self.app.for_changes)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.get(target, [("host", HOST), self.cookie, origin, token], "POST", body)

    def get(self, target: str, headers: Headers | None = None, method: str = "GET", body: bytes = b"") -> Answer:
        """Make a request; without `headers` it is the user's own."""
        path, _, query = target.partition("?")
        given = [("host", HOST), self.cookie] if headers is None else headers
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", PORT),
        }  # fmt: skip
        messages: list[Any] = []

        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await asyncio.sleep(60)  # the browser stays there

        async def send(message: Any) -> None:
            messages.append(message)

        asyncio.run(self.app(scope, receive, send))
        start = messages[0]
        names = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], names, b"".join(message.get("body", b"") for message in messages[1:]))
