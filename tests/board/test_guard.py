"""Nobody but the user: every route refuses every other sender before a file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.board.client import HOST, Client
from tests.board.folders import make_run

from rushlight.board import app, serve_board
from rushlight.errors import UsageError

ROUTES = [
    "/", "/assets/board.js", "/assets/board.css", "/api/words/en", "/api/runs", "/api/runs/0123456789ab", "/api/logs?run=a~~~",
    "/api/curves?run=0123456789ab", "/api/compare?run=a&run=b", "/api/recipes?run=a", "/api/runs/0123456789ab/losses.csv", "/api/runs/0123456789ab/media/a.png", "/nothing",
    "/api/runs/0123456789ab/samples?list=wrong", "/api/runs/0123456789ab/shown?index=1", "/api/runs/0123456789ab/do/stop",
]  # fmt: skip
FOREIGN_HOSTS = [
    "evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "evil.test:8642", "127.0.0.1@evil.test", "0.0.0.0", "[::1", "",
    "127.0.0.1:8642:1", "127.0.0.1:x", "127.0.0.1\n", "localhost.", "127.1",
]  # fmt: skip


@pytest.fixture
def client(tmp_path: Path) -> Client:
    make_run(tmp_path / "runs", "first")
    return Client(tmp_path / "runs")


@pytest.fixture
def unread(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of a board that must not be asked for anything."""

    async def reached(*arguments: object) -> None:
        raise AssertionError("the application was reached")

    monkeypatch.setattr(client.app, "app", reached)
    return client


def test_all_routes_are_tested(client: Client) -> None:
    paths = [route.split("?")[0] for route in ROUTES]
    for route in client.app.app.routes:  # type: ignore[attr-defined]
        assert any(route.path_regex.fullmatch(path) for path in paths), route.path


@pytest.mark.parametrize("route", ROUTES)
def test_a_host_that_is_not_this_machine_is_refused(unread: Client, route: str) -> None:
    for host in FOREIGN_HOSTS:
        assert unread.get(route, [("host", host), unread.cookie]).status == 403, host
    assert unread.get(route, [unread.cookie]).status == 403
    assert unread.get(route, [("host", HOST), ("host", HOST), unread.cookie]).status == 403


@pytest.mark.parametrize("route", ROUTES)
def test_without_the_cookie_everything_is_refused(unread: Client, route: str) -> None:
    name = unread.app.cookie
    for cookie in ("", f"{name}=", f"{name}=guess", f"other={unread.app.session}", f'{name}="', "=;;"):
        assert unread.get(route, [("host", HOST), ("cookie", cookie)]).status == 401, cookie
    assert unread.get(route, [("host", HOST)]).status == 401


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_from_another_origin_is_refused(unread: Client, route: str) -> None:
    own = [("host", HOST), unread.cookie]
    for origin in ("http://evil.test", "null", "http://127.0.0.1:9999", f"https://{HOST}", "http://localhost:8642"):
        assert unread.get(route, [*own, ("origin", origin)]).status == 403, origin
    if route != "/":  # a link from elsewhere may lead to the page; its cookie is strict, so such a request has none
        for site in ("cross-site", "same-site"):  # another port of this machine is of the same site
            assert unread.get(route, [*own, ("sec-fetch-site", site)]).status == 403


@pytest.mark.parametrize("route", ROUTES)
def test_a_change_needs_the_origin_and_the_header(unread: Client, route: str) -> None:
    own, origin = [("host", HOST), unread.cookie], ("origin", f"http://{HOST}")
    token = ("x-rushlight-token", unread.app.for_changes)
    for headers in (
        [],
        [origin],
        [token],
        [origin, ("x-rushlight-token", "guess")],
        [("origin", "http://evil.test"), token],
    ):
        assert unread.get(route, [*own, *headers], method="POST").status == 403, headers
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert unread.get(route, [*own, origin, token], method=method).status == 405


def test_any_port_and_every_name_of_this_machine_are_let_in(client: Client) -> None:
    for host in ("127.0.0.1", "localhost:1", "LOCALHOST:9000", "[::1]:8642", "127.0.0.1:65535"):
        assert client.get("/api/runs", [("host", host), client.cookie]).status == 200, host


def test_another_name_is_let_in_only_where_it_is_allowed_and_only_that_one(tmp_path: Path) -> None:
    client = Client(tmp_path, allowed="Lab-Server")
    for host in ("lab-server", "LAB-SERVER:8642", HOST):
        assert client.get("/api/runs", [("host", host), client.cookie]).status == 200, host
        assert client.get("/api/runs", [("host", host)]).status == 401, host
    for host in ("lab-server.evil.test", "xlab-server", "lab-server.", *FOREIGN_HOSTS):
        assert client.get("/api/runs", [("host", host), client.cookie]).status == 403, host
    for name in ("*", "", ".test", "a b", "evil.test:80", "a/b", "[::1]"):
        with pytest.raises(UsageError, match="one host name"):
            serve_board(tmp_path, 0, "en", print, False, name)


def test_the_token_is_good_once_and_gives_a_strict_cookie(client: Client) -> None:
    token, bare = client.app.token, [("host", HOST)]
    assert client.get("/?token=guess", bare).status == 401
    assert client.get("/?token=", bare).status == 401
    answer = client.get(f"/?token={token}", bare)
    cookie = answer.headers["set-cookie"]
    assert answer.status == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert cookie.startswith(f"rushlight-board-8642={client.app.session};")
    assert token.encode() not in answer.body  # type: ignore[union-attr]
    assert client.get(f"/?token={token}", bare).status == 401
    for target in ("/", f"/?token={token}"):  # who is let in stays so
        assert client.get(target, [*bare, ("cookie", cookie.split(";")[0])]).status == 200


@pytest.mark.parametrize("headers", [None, [("host", "evil.test")], [("host", HOST)]])
def test_every_answer_has_the_security_headers(client: Client, headers: list[tuple[str, str]] | None) -> None:
    for route in ROUTES:
        found = client.get(route, headers).headers
        policy = found["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "no-referrer"


def test_the_page_escapes_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / '"><script>alert(1)<'
    make_run(folder, "first")
    body = Client(folder).get("/").body.decode()
    assert "<script>alert" not in body
    assert body.count("<script") == 1


def test_a_browser_that_is_not_let_in_is_told_so_in_its_language(tmp_path: Path) -> None:
    assert "board again" in Client(tmp_path).get("/", [("host", HOST)]).body.decode()
    assert "rushlight board" in Client(tmp_path, "zh").get("/", [("host", HOST)]).body.decode()
    assert app.words_of("zh")["runs"] == "全部训练"
