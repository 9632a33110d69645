"""What a server answers: contents, and what it says no to, with the status of HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from rushlight.errors import RushlightError
from rushlight.web import Receive, Scope, Send


class Refusal(RushlightError):
    """A request that is not answered: `status` is HTTP's, `headers` go out with it. Its words name no path and no code."""

    def __init__(self, status: int, key: str, /, headers: Mapping[str, str] | None = None, **values: object) -> None:
        self.status, self.headers = status, dict(headers or {})
        super().__init__(key, **values)


class Answer:
    """A whole answer of HTTP."""

    def __init__(
        self, body: bytes, kind: str = "application/json", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body, self.status = body, status
        given = {"content-length": str(len(body)), "content-type": kind, **(headers or {})}
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return JSON."""
    return Answer(encode_json(content), "application/json", status, headers)


def encode_json(content: Any) -> bytes:
    """Return JSON; in ASCII where a name is no UTF-8."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return json.dumps(content).encode()
