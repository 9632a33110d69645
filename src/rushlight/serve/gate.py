"""In front of every route: who may ask, how much may come and by when, and what is noted of each request.

No request gets past this to a route unchecked; only health is open without the token.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import StorageError
from rushlight.serve.answers import Refusal
from rushlight.serve.options import Settings
from rushlight.texts import Note
from rushlight.web import (
    HEADERS,
    LOOPBACK,
    App,
    Message,
    Receive,
    Scope,
    Send,
    are_equal_secrets,
    headers_of,
    is_from_elsewhere,
    is_ours,
)

OPEN = re.compile(
    r"/|/ping|/health|/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready|/assets/\w+\.(js|css)"
)
TRACE = re.compile(r"[ -~]{1,200}\Z")  # what is passed on of a header
HARDENED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
MOST_HEADERS = 64 << 10  # bytes
SLICE = 10_000_000  # bytes of a body that must come within the deadline of receiving
WINDOWS = {
    "gzip": 31,
    "deflate": 15,
    "identity": 0,
}  # zlib's window bits; deflate is zlib's format, whatever its name says


class Gate:
    """Answers what is refused, gives the rest to `app`, and adds headers to every answer.

    `refuse` makes the answer to a refusal; `meter` counts; `closes` tells whether a connection ends after its answer.
    """

    def __init__(
        self, app: App, settings: Settings, refuse: Callable[[str, Exception], App], meter: Any,
        closes: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.app, self.settings, self.refuse, self.meter, self.closes = app, settings, refuse, meter, closes
        self.held = 0  # bytes of bodies in memory
        self.tasks: Collection[object] = ()  # the requests that were read and are not answered, as uvicorn counts them
        self.is_local = False  # whether it is for this machine alone, wherever the others listen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, headers, status = time.perf_counter(), headers_of(scope), 500
        scope["rushlight.arrived"], scope["rushlight.headers"] = started, headers
        own = identities_of(headers)

        async def send_hardened(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HARDENED, *own]
                if (model := scope.get("rushlight.model")) is not None:
                    message["headers"].append((b"x-model-version", model.version.encode("latin-1", "replace")))
                if self.closes() or not await self.drop_rest(scope, receive):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            app = self.app if (refusal := self.refusal(scope, headers)) is None else self.refuse(scope["path"], refusal)
            await app(scope, receive, send_hardened)
        finally:
            self.note(scope, status, own)

    def note(self, scope: Scope, status: int, identities: list[tuple[bytes, bytes]]) -> None:
        """Count an answer, and write it to the access log."""
        seconds = time.perf_counter() - scope["rushlight.arrived"]
        self.meter.answered(scope["path"], status, seconds, scope.get("rushlight.totals"))
        if self.settings.log is None:
            return
        entry = {  # no body, no query, no token
            "time": round(time.time(), 6), "method": scope["method"], "path": scope["path"], "status": status,
            "ms": round(1000 * seconds, 3), "client": (scope.get("client") or ("",))[0],
            **{name.decode(): value.decode("latin-1") for name, value in identities},
        }  # fmt: skip
        if (model := scope.get("rushlight.model")) is not None:
            entry |= {"model": model.name, "version": model.version, "rows": scope.get("rushlight.rows", 0)}
        self.settings.log(entry)

    def refusal(self, scope: Scope, headers: dict[str, list[str]]) -> Refusal | None:
        """Return why a request is not answered, before anything of its body is read."""
        hosts, is_page = headers.get("host", []), scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if len(hosts) != 1 or not self.is_known(hosts[0]):
            return Refusal(403, "serve-host")
        if is_from_elsewhere(headers, hosts[0], is_page):
            return Refusal(403, "serve-cross-origin")
        is_read = scope["method"] in ("GET", "HEAD")
        is_open = self.settings.token is None or (is_read and OPEN.fullmatch(scope["path"]))
        if not is_open and not has_token(headers, self.settings.token or ""):
            return Refusal(401, "serve-token", headers={"www-authenticate": "Bearer"})
        return None

    def is_known(self, host: str) -> bool:
        """Tell whether a Host header names this server: by address, which no other name can be made to stand for, or a name given."""
        if is_ours(host, self.settings.hosts):
            return True
        try:
            ipaddress.ip_address(re.sub(r":[0-9]{1,5}\Z", "", host).strip("[]"))
        except ValueError:
            return False
        return self.settings.host != LOOPBACK and not self.is_local

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """Return a request's body, unpacked. Refusal for what is too large, too slow, cut off, or packed in an unknown way."""
        headers, settings = scope["rushlight.headers"], self.settings
        coding = one(headers, "content-encoding").strip().lower() or "identity"
        if coding not in WINDOWS:
            raise Refusal(415, "serve-encoding", found=coding)
        scope["rushlight.read"] = True  # as far as it will be: what breaks it off closes the connection
        length = one(headers, "content-length")
        if length.isdecimal() and int(length[:19]) > settings.most_bytes:
            raise Refusal(413, "serve-too-large", most=settings.most_bytes, headers={"connection": "close"})
        body, slices, loop = bytearray(), 0, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.receive) as limit:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "serve-cut-off")
                    body += (part := message.get("body", b""))
                    self.held += len(part)
                    if len(body) > settings.most_bytes:
                        raise Refusal(413, "serve-too-large", most=settings.most_bytes, headers={"connection": "close"})
                    if self.held > settings.most_held:
                        raise Refusal(503, "serve-memory", headers={"retry-after": "1", "connection": "close"})
                    if not message.get("more_body", False):
                        break
                    if len(body) // SLICE > slices:
                        slices += 1
                        limit.reschedule(loop.time() + settings.receive)
            return bytes(body) if coding == "identity" else unpacked(body, WINDOWS[coding], settings.most_bytes)
        except TimeoutError:
            raise Refusal(408, "serve-too-slow", seconds=settings.receive, headers={"connection": "close"}) from None
        finally:
            self.held -= len(body)

    async def drop_rest(self, scope: Scope, receive: Receive) -> bool:
        """Read and drop what is left of a refused request's body; tell whether the next request follows on this connection.

        What comes after an answer would be taken for the next request's head, and a connection closed in its midst loses the answer.
        """
        headers, left = scope["rushlight.headers"], self.settings.most_bytes
        if "rushlight.read" in scope or not ("content-length" in headers or "transfer-encoding" in headers):
            return True
        scope["rushlight.read"] = True
        if "expect" in headers:  # it waits for leave to send it
            return False
        try:
            async with asyncio.timeout(self.settings.receive):
                while left >= 0 and (message := await receive())["type"] == "http.request":
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return left >= 0
        except TimeoutError:
            pass
        return False


def access_log(path: Path, tell: Callable[[Note], object]) -> Callable[[dict[str, Any]], None]:
    """Return what writes a line of JSON for each request. A disk that refuses later is told once, and no request fails by it."""
    files.append_bytes(path, b"")
    failed: list[bool] = []

    def write(entry: dict[str, Any]) -> None:
        try:
            files.append_bytes(path, json.dumps(entry).encode() + b"\n")  # whole, whichever process writes
        except StorageError as error:
            if not failed:
                tell(Note("serve.no-log", reason=error.record))
            failed.append(True)

    return write


def identities_of(headers: dict[str, list[str]]) -> list[tuple[bytes, bytes]]:
    """Return the request's own identity, or a new one, and that of its trace, to be passed on."""
    identity, trace = one(headers, "x-request-id"), one(headers, "traceparent")
    own = [(b"x-request-id", identity.encode() if TRACE.match(identity) else os.urandom(16).hex().encode())]
    return [*own, (b"traceparent", trace.encode())] if TRACE.match(trace) else own


def has_token(headers: dict[str, list[str]], token: str) -> bool:
    """Tell whether a request brings the token."""
    given = one(headers, "authorization")
    return given.lower().startswith("bearer ") and are_equal_secrets(given[7:].strip(), token)


def one(headers: dict[str, list[str]], name: str) -> str:
    """Return the value of a header that came once; "" for any other."""
    found = headers.get(name, [])
    return found[0] if len(found) == 1 else ""


def unpacked(body: bytearray, bits: int, most: int) -> bytes:
    """Return an unpacked body of at most `most` bytes; what it would unpack to beyond is never made."""
    machine = zlib.decompressobj(bits)
    try:
        content = machine.decompress(body, most + 1)
    except zlib.error:
        raise Refusal(400, "serve-not-packed") from None
    if len(content) > most or machine.unconsumed_tail:
        raise Refusal(413, "serve-too-large", most=most)
    if not machine.eof or machine.unused_data:
        raise Refusal(400, "serve-not-packed")
    return content


def protocol(seconds: float) -> type:
    """Return uvicorn's protocol with a deadline for each request's headers, and a bound on their bytes."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Deadline(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """Closes a connection whose next request does not come in time."""

        clock: asyncio.TimerHandle | None = None
        received = 0  # bytes of headers that have not ended

        def connection_made(self, transport: Any) -> None:
            """Start the clock of the first request; the head of an answer is kept until its body is written, for one packet."""
            write, head = transport.write, b""

            def joined(data: bytes) -> None:
                nonlocal head
                if (
                    not head
                    and data.startswith(b"HTTP/1.1 ")
                    and self.is_answering()
                    and self.cycle.scope["method"] != "HEAD"  # self.scope may be that of the next request
                ):
                    head = data
                else:
                    write(head + data)
                    head = b""

            transport.write = joined
            super().connection_made(transport)
            self.clock = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            """Start the clock with the first bytes of a request, and stop it at the end of its headers."""
            if self.clock is None and self.is_waiting():
                self.clock = self.loop.call_later(seconds, self.transport.close)
            super().data_received(data)
            self.received = self.received + len(data) if self.is_waiting() else 0
            if not self.is_waiting():
                self.stop_clock()
            if self.received > MOST_HEADERS:
                self.transport.close()

        def on_response_complete(self) -> None:
            """Count anew."""
            super().on_response_complete()
            self.received = 0

        def connection_lost(self, error: Exception | None) -> None:
            """Stop the clock."""
            self.stop_clock()
            super().connection_lost(error)
            del self.transport.write  # which holds the transport: both would wait for the collector

        def stop_clock(self) -> None:
            """Let the connection be."""
            if self.clock is not None:
                self.clock.cancel()
                self.clock = None

        def is_answering(self) -> bool:
            """Tell whether the head of an answer is written, and its body is not."""
            return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

        def is_waiting(self) -> bool:
            """Tell whether no request is being answered."""
            return self.cycle is None or bool(self.cycle.response_complete)

    return Deadline
