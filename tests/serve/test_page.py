"""The try-it page in a real browser: a picture, a row and an array are predicted, and nothing is fetched from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.serve.test_protocols import PIXELS, png
from tests.serve.test_server import BUNDLES, Server

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.mark.parametrize(("kind", "answers"), [("image", 3), ("table", 2), ("array", 1)])
def test_the_page_predicts_what_is_given_to_it(tmp_path: Path, kind: str, answers: int) -> None:
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    other = {"image": "array", "table": "image", "array": "table"}[kind]
    with Server(str(BUNDLES / other), str(BUNDLES / kind)) as server, playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, troubles, asked = browser.new_page(), list[str](), list[str]()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.click(f"nav a:text-is('{kind}')")  # the other model
        page.wait_for_url("**/?model=*")
        page.wait_for_selector("form > *")
        if kind == "image":
            page.set_input_files("input[type=file]", str(tmp_path / "a.png"))
        elif kind == "table":
            page.fill("input[name=age]", "31")
            page.select_option("select", "Rome")
        if kind != "image":
            page.click("button")
        page.wait_for_selector(".answer li")
        assert page.locator(".answer li").count() == answers
        assert troubles == []
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in asked)
        browser.close()
