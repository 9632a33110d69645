"""Nobody but the user: which requests are answered, decided before anything is read.

A page that a browser shows from elsewhere, another account of this machine, and a name that points here (DNS rebinding) are
refused. The address that the terminal shows has a token that is good once; then a cookie takes its place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from rushlight.web import (
    HEADERS,
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
        self.others = () if allowed is None else (allowed.lower(),)  # names besides this machine's own
        self.refuse = refuse  # makes the answer of a status and a reason: "host", "cross-origin", "method" or "cookie"
        self.begin: Callable[[], object] = lambda: None  # does ahead what the first question will need
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
        headers = headers_of(scope)
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not is_ours(hosts[0], self.others):
            return self.refuse(403, "host")
        is_page = scope["path"] == "/" and scope["method"] == "GET"
        if is_from_elsewhere(headers, hosts[0], is_page):
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
