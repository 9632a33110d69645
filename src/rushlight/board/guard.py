"""Nobody but the user: which requests are answered, decided before anything is read.

A page that a browser shows from elsewhere, another account of this machine, and a name that points here (DNS rebinding) are
refused. The address that the terminal shows has a token that is good once; then a cookie takes its place.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})  # whole names, with any port: `ssh -L` forwards from another one
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

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Answers what is refused, gives the rest to `app`, and adds the security headers to every answer."""

    def __init__(
        self,
        app: App,
        port: int,
        refuse: Callable[[int, str], App],
        welcome: Callable[[str], App],
        allowed: str | None = None,
    ) -> None:
        self.app = app
        self.hosts = HOSTS if allowed is None else HOSTS | {allowed.lower()}
        self.refuse = refuse  # makes the answer of a status and a reason: "host", "cross-origin", "method" or "cookie"
        self.leave: Callable[[], object] = lambda: None  # ends what works for the app, when the board closes
        self.welcome = welcome  # makes the answer that sets a cookie and leads to the page
        self.token: str | None = secrets.token_urlsafe(32)  # good once
        self.session = secrets.token_urlsafe(32)  # the cookie's value
        self.for_changes = secrets.token_urlsafe(32)  # the header's value, which the page is told
        self.cookie = f"rushlight-board-{port}"  # cookies are not kept apart by port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        if scope["type"] == "http":
            await (self.refusal(scope) or self.app)(scope, receive, send_hardened)

    def refusal(self, scope: Scope) -> App | None:
        """Return the answer to a request that the page does not get to see; None where it is the user's own."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not is_ours(hosts[0], self.hosts):
            return self.refuse(403, "host")
        is_page = scope["path"] == "/" and scope["method"] == "GET"
        # Pages of other ports of this machine are of the same site. A link from anywhere may lead to the page itself.
        is_elsewhere = not is_page and {"cross-site", "same-site"} & {*headers.get("sec-fetch-site", [])}
        if is_elsewhere or any(origin != f"http://{hosts[0]}" for origin in origins):
            return self.refuse(403, "cross-origin")
        if not are_equal_secrets(self.cookie_of(headers), self.session):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
            return self.exchange(given[0]) if is_page else self.refuse(401, "cookie")
        if scope["method"] not in ("GET", "HEAD"):
            if scope["method"] != "POST":
                return self.refuse(405, "method")
            if not origins or not are_equal_secrets("".join(headers.get("x-rushlight-token", [])), self.for_changes):
                return self.refuse(403, "cross-origin")
        return None

    def exchange(self, given: str) -> App:
        """Take the token, and answer with the cookie."""
        if self.token is None or not are_equal_secrets(given, self.token):
            return self.refuse(401, "cookie")
        self.token = None
        return self.welcome(f"{self.cookie}={self.session}; HttpOnly; SameSite=Strict; Path=/")

    def cookie_of(self, headers: dict[str, list[str]]) -> str:
        """Return the value of our cookie; "" where there is none."""
        jar = SimpleCookie()
        for line in headers.get("cookie", []):
            try:
                jar.load(line)
            except CookieError:
                continue
        return jar[self.cookie].value if self.cookie in jar else ""


def is_ours(host: str, hosts: frozenset[str] = HOSTS) -> bool:
    """Tell whether a Host header has one of these names, and nothing else but a port."""
    return re.sub(r":[0-9]{1,5}\Z", "", host.lower()) in hosts


def are_equal_secrets(given: str, secret: str) -> bool:
    """Compare in a time that does not tell where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())
