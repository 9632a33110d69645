"""What every server of ours shares: where it listens, whose requests it answers, and in which headers.

Neither a page that a browser shows from elsewhere nor a name that points here (DNS rebinding) gets an answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any

from rushlight.errors import UsageError

LOOPBACK = "127.0.0.1"
HOSTS = frozenset({LOOPBACK, "localhost", "[::1]"})  # whole names, with any port: `ssh -L` forwards from another one
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "img-src": "'self' data:",
    "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}  # fmt: skip
HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
QUIET: dict[str, Any] = {  # uvicorn's options that all servers share
    "lifespan": "off",
    "ws": "none",
    "log_level": "error",
    "access_log": False,
    "proxy_headers": False,
    "server_header": False,
}

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@contextlib.contextmanager
def listening(port: int | None, usual: int, host: str = LOOPBACK) -> Iterator[socket.socket]:
    """Listen on a port; where none was asked for, on the usual one, or on a free one."""
    if port is not None and not 0 <= port < 65536:
        raise UsageError("port-bad", port=port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # by its protocol asyncio knows a connection that is to send at once: answers would else wait for acknowledgements, 40 ms
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        if os.name != "nt":  # there it would let two servers listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, usual if port is None else port))
        except OSError as error:
            if port is not None or host != LOOPBACK:
                used = usual if port is None else port
                raise UsageError("port-used", port=used, reason=error.strerror or error) from error
            listener.bind((host, 0))
        listener.listen(1024)  # from here on, who comes waits
        yield listener


def headers_of(scope: Scope) -> dict[str, list[str]]:
    """Return the values of a request's headers by their names in lower case."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def is_from_elsewhere(headers: dict[str, list[str]], host: str, is_page: bool) -> bool:
    """Tell whether a page that is not ours made the request; a link from anywhere may lead to our page itself.

    Pages of other ports of this machine are of the same site.
    """
    is_other_site = not is_page and {"cross-site", "same-site"} & {*headers.get("sec-fetch-site", [])}
    return bool(is_other_site) or any(origin != f"http://{host}" for origin in headers.get("origin", []))


def is_ours(host: str, others: Sequence[str] = ()) -> bool:
    """Tell whether a Host header has one of the names of this machine, or of `others`, and nothing else but a port."""
    name = re.sub(r":[0-9]{1,5}\Z", "", host.lower())
    return name in HOSTS or name in others


def are_equal_secrets(given: str, secret: str) -> bool:
    """Compare in a time that does not tell where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())
