"""The page in a real browser: spikes are pixels, live runs move, hidden tabs are quiet, and nobody else is let in."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.board.folders import make_run, write_lines, write_losses, write_tested
from tests.board.test_app import HOSTILE_NAMES

from rushlight.board.listing import id_of
from rushlight.runs import lock_run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parents[2] / "board" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--host-resolver-rules=MAP evil.test 127.0.0.1"]
SENTENCE = ".chart .sentence"

Look = Callable[[Path], "Board"]


class Board:
    """A board of a folder, and a page that is let in."""

    def __init__(self, folder: Path, browser: Any, **context: Any) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "rushlight", "board", str(folder), "--no-open", "--port", "0"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.server.stdout is not None
        address = next(match[0] for line in self.server.stdout if (match := re.search(r"http://\S+", line)))
        self.base = address.split("?")[0]
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_selector("main")

    def show(self, view: str) -> Any:
        self.page.goto(f"{self.base}#/{view}")
        return self.page

    def curves(self, *names: str, view: str = "") -> Any:
        page = self.show(f"curves?runs={','.join(map(id_of, names))}{view}")
        page.wait_for_selector(".plot:not(.stale) canvas")
        return page

    def column(self) -> list[int]:
        """The pixel columns of the first chart in which something darker than the grid stands in its uppermost quarter."""
        found: list[int] = self.page.evaluate("""() => {
            const canvas = document.querySelector(".plot canvas");
            const [width, height] = [canvas.width, canvas.height];
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const columns = [];
            for (let x = 68; x < width; x += 1)
                for (let y = 14; y < height / 4; y += 1) {
                    const [r, g, b] = pixels.slice(4 * (x + y * width), 4 * (x + y * width) + 3);
                    if (r + g + b < 640) { columns.push(x); break; }
                }
            return columns;
        }""")
        return found

    def close(self) -> None:
        self.context.close()
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(10) == 0
        self.server.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def begin(folder: Path, **context: Any) -> Board:
        boards.append(Board(folder, browser, **context))
        return boards[-1]

    yield begin
    for board in boards:
        board.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(3):
        losses = np.exp(-np.arange(4000) / 800) + random.random(4000) / 10
        optimizer = {"name": "SGD", "arguments": {"lr": 0.1 * (1 + number // 2)}}
        make_run(tmp_path / "runs", f"run-{number}", losses, epochs=4, per_epoch=1000, seed=number, optimizer=optimizer)
    return tmp_path / "runs"


@pytest.mark.parametrize("width", [400, 1400])
def test_a_spike_in_a_million_steps_is_a_pixel_wherever_it_stands(look: Look, tmp_path: Path, width: int) -> None:
    count, random = 1_000_000, np.random.default_rng(width)
    steps = [0, count - 1, *random.integers(0, count, 8).tolist()]
    for number, step in enumerate(steps):
        losses = random.random(count).astype(np.float32)
        losses[step] = 20
        make_run(tmp_path, f"spike-{number}", losses)
    board = look(tmp_path, viewport={"width": width, "height": 800})  # type: ignore[call-arg]
    for number, step in enumerate(steps):
        for smooth in (0, 100):
            page = board.curves(f"spike-{number}", view=f"&smooth={smooth}")
            shown = f"the highest 20 at step {step + 1:,}."
            page.wait_for_function(f"() => document.querySelector('{SENTENCE}').textContent.endsWith('{shown}')")
            page.wait_for_timeout(200)
            left, plot = page.evaluate(
                "() => { const box = document.querySelector('.u-over'); return [box.offsetLeft, box.clientWidth]; }"
            )
            assert any(abs(x - (left + plot * step / count)) <= 2 for x in board.column()), (number, step, smooth)


def test_a_step_is_on_the_page_soon_after_it_was_made_and_moves_no_zoom(look: Look, runs: Path) -> None:
    folder = make_run(runs, "live", np.ones(500))
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:-1]))
    with lock_run(folder):
        board = look(runs)
        page = board.curves("live")
        assert "500 steps" in page.inner_text(SENTENCE)
        for size in (600, 750):
            write_losses(folder, np.ones(size))
            began = time.monotonic()
            page.wait_for_function(f"() => document.querySelector('{SENTENCE}').textContent.includes('{size} steps')")
            assert time.monotonic() - began < 2.5
        page = board.curves("live", view="&low=100&high=200")
        write_losses(folder, np.ones(900))
        page.wait_for_function(f"() => document.querySelector('{SENTENCE}').textContent.includes('900 steps')")
        assert "low=100&high=200" in page.url


def test_a_hidden_tab_asks_nothing(look: Look, runs: Path) -> None:
    folder = make_run(runs, "live", np.ones(50))
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:-1]))
    with lock_run(folder):
        board = look(runs)
        page = board.curves("live")
        hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s}); document.dispatchEvent(new Event('visibilitychange'))"
        page.evaluate(hide % "true")
        page.wait_for_timeout(1500)
        before = len(board.requests)
        page.wait_for_timeout(4000)
        assert len(board.requests) == before
        page.evaluate(hide % "false")
        page.wait_for_timeout(1500)
        assert len(board.requests) > before


def test_an_open_page_shows_what_a_fresh_one_does_after_kills_and_resumes(look: Look, runs: Path) -> None:
    """The losses are cut and grow again, with other values, under the page."""
    folder, random = make_run(runs, "killed", np.ones(3000)), np.random.default_rng(0)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:-1]))
    path = folder / "losses.f32"
    picture = "() => document.querySelector('.plot canvas').toDataURL()"
    with lock_run(folder):
        board = look(runs)
        page = board.curves("killed")
        for _ in range(20):
            with path.open("rb+") as file:
                kept = int(random.integers(0, path.stat().st_size // 4))
                file.truncate(kept * 4)
                file.seek(kept * 4)
                file.write(random.random(int(random.integers(100, 3000))).astype("<f4").tobytes())
            page.wait_for_timeout(int(random.integers(0, 300)))
        count = f"{path.stat().st_size // 4:,} steps"
        page.wait_for_function(f"() => document.querySelector('{SENTENCE}').textContent.includes('{count}')")
        page.wait_for_timeout(2500)
        shown = page.evaluate(picture), page.inner_text(SENTENCE)
        page.reload()
        page.wait_for_selector(".plot:not(.stale) canvas")
        page.wait_for_timeout(1500)
        assert (page.evaluate(picture), page.inner_text(SENTENCE)) == shown


def differing(before: bytes, after: bytes) -> int:
    """The number of pixels in which two screenshots differ."""
    one, other = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in (before, after))
    return int((one != other).any(axis=2).sum()) if one.shape == other.shape else one.size


def test_every_view_survives_a_reload(look: Look, runs: Path) -> None:
    board, chosen = look(runs), ",".join(id_of(f"run-{number}") for number in range(2))
    views = [
        f"runs?filter=run&sort=train-loss&up=1&runs={chosen}", f"curves?runs={chosen}&x=epoch&low=1&high=3&logy=1&smooth=100",
        f"curves?runs={chosen}&x=time&lang=zh&theme=dark", f"run/{id_of('run-0')}?lang=zh",
    ]  # fmt: skip
    for view in views:
        page = board.show(view)
        page.wait_for_timeout(1500)
        page.mouse.move(0, 0)
        before = page.screenshot()
        page.reload()
        page.wait_for_timeout(1500)
        assert differing(before, page.screenshot()) <= 20, view  # a frame's corners are not always drawn alike


def test_the_walk_by_keyboard_chooses_runs_reads_a_curve_and_zooms(look: Look, runs: Path) -> None:
    board = look(runs)
    page = board.page
    page.wait_for_selector("tbody tr[data-row]")
    page.focus("tbody tr[tabindex='0']")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.focus("a.button")
    assert "Overlay 2 runs" in page.inner_text("a.button")
    page.keyboard.press("Enter")
    page.wait_for_selector(".plot:not(.stale) canvas")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("step ")
    page.keyboard.press("End")
    assert "4,000" in page.inner_text(".readout")
    page.keyboard.press("Home")
    page.keyboard.press("+")
    assert "low=" in page.url
    page.keyboard.press("0")
    assert "low=" not in page.url
    page.focus("summary")
    page.keyboard.press("Enter")
    assert page.inner_text("details table tbody tr >> nth=0").startswith("run-")
    page.click("nav a >> nth=0")
    page.wait_for_selector("tbody tr[data-row]")
    page.focus("tbody tr[tabindex='0']")
    page.keyboard.press("Enter")
    page.wait_for_selector(".confusion")
    assert "12 times dog was predicted as cat" in page.inner_text("main")


def test_names_are_text_and_nothing_else(look: Look, tmp_path: Path) -> None:
    for name in HOSTILE_NAMES:
        folder = make_run(tmp_path, name, np.ones(30))
        report = (folder / "report.json").read_text()
        (folder / "report.json").write_text(report.replace('"cat"', '"<img src=x onerror=alert(1)>"'))
        history = (folder / "history.jsonl").read_text()
        (folder / "history.jsonl").write_text(
            history.replace('"finished"', '"finished","message":"<svg onload=alert(1)>"')
        )
    board = look(tmp_path)
    page = board.page
    page.wait_for_selector("tbody tr[data-row]")
    assert page.locator("tbody tr[data-row]").count() >= 20
    for name in HOSTILE_NAMES:
        page = board.show(f"run/{id_of(name)}")
        page.wait_for_selector(".confusion")
        assert page.locator("main img").count() == 0
    page = board.curves(*HOSTILE_NAMES[:30])
    page.locator("summary").first.click()
    page.wait_for_timeout(500)
    assert page.locator("script").count() == 1
    assert board.complaints == []
    assert all(address.startswith((board.base, "data:")) for address in board.requests)


def test_a_name_that_points_here_and_a_page_from_elsewhere_get_nothing(look: Look, runs: Path) -> None:
    """DNS rebinding for real: the browser takes evil.test for this machine."""
    board = look(runs)
    other = board.context.new_page()
    port = board.base.rsplit(":", 1)[1].strip("/")
    for path in ("", "api/runs", f"api/runs/{id_of('run-0')}"):
        answer = other.goto(f"http://evil.test:{port}/{path}")
        assert answer.status == 403
        assert "run-0" not in other.content()
    refused = other.evaluate(
        f"fetch('{board.base}api/runs', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"
    )
    assert refused == "refused"


def test_ten_thousand_runs_scroll_and_sort(look: Look, tmp_path: Path) -> None:
    first = make_run(tmp_path, "run-00000")
    recipe, history = (first / "recipe.json").read_bytes(), (first / "history.jsonl").read_bytes()
    for number in range(1, 10_000):
        folder = tmp_path / f"run-{number:05}"
        folder.mkdir()
        (folder / "recipe.json").write_bytes(recipe)
        (folder / "history.jsonl").write_bytes(history)
    board = look(tmp_path)
    page = board.page
    page.wait_for_function(
        "() => document.querySelector('.spacer')?.textContent.includes('10,000 of 10,000')", timeout=120_000
    )
    assert page.locator("tbody tr[data-row]").count() < 100
    page.focus("tbody tr[tabindex='0']")
    page.keyboard.press("End")
    page.wait_for_selector("tbody tr[data-row='9999']")
    page.fill("input[type=search]", "run-01234")
    page.wait_for_function("() => document.querySelector('.spacer').textContent.startsWith('1 of')")


def test_a_cell_opens_its_samples_as_pictures_and_lists_are_reached_by_keyboard(look: Look, tmp_path: Path) -> None:
    import rushlight

    run = rushlight.train("mlp", "digits", epochs=2, quiet=True, runs=tmp_path)
    board = look(tmp_path)
    page = board.show(f"run/{id_of(run.folder.name)}")
    page.wait_for_selector(".confusion")
    cells = page.locator(".confusion td.wrong a")
    count = int(cells.first.inner_text())
    cells.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => document.querySelectorAll('.cards img').length === {count}", timeout=60_000)
    assert page.evaluate("[...document.querySelectorAll('.cards img')].every((image) => image.naturalWidth === 8)")
    assert page.locator(".cards .life").count() == count
    page.locator(".closer summary").first.click()
    page.wait_for_function("() => document.querySelectorAll('.similar img').length === 6", timeout=60_000)
    assert page.locator(".covered rect").count() > 0
    page.locator(".tabs a", has_text="training and test").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.why').textContent.includes('None of the 360 test samples')")
    assert board.complaints == []


def test_a_run_is_noted_renamed_stopped_and_deleted_from_its_page(look: Look, runs: Path) -> None:
    board = look(runs)
    page = board.show(f"run/{id_of('run-1')}")
    page.get_by_text("Note and tags").click()
    page.get_by_label("Tags").fill("best, to show")
    page.get_by_label("Note", exact=True).fill("<b>the one</b>")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.tag').length === 2")
    page.get_by_text("Rename or delete").click()
    page.get_by_label("New name").fill("run-2")
    page.get_by_role("button", name="Rename").click()
    page.wait_for_selector("[role=alert]")
    page.get_by_label("New name").fill("renamed")
    page.get_by_role("button", name="Rename").click()
    page.wait_for_function("() => document.querySelector('h1')?.textContent.startsWith('renamed')")
    page.get_by_text("Rename or delete").click()
    page.get_by_role("button", name="Delete …").click()
    assert (runs / "renamed").exists()
    page.get_by_role("button", name="Delete it for good").click()
    page.wait_for_function("() => location.hash.startsWith('#/runs')")
    page.wait_for_function("() => !document.querySelector('main').textContent.includes('renamed')")
    assert not (runs / "renamed").exists()
    history = runs / "run-0" / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:-1]))
    with lock_run(runs / "run-0"):
        page = board.show(f"run/{id_of('run-0')}")
        page.get_by_role("button", name="Stop it").click()
        page.get_by_text("Asked to stop").wait_for()
        (runs / "run-0" / "stop.request").unlink()  # as a training does
        page.get_by_text("It has noticed").wait_for(timeout=5000)
    assert board.complaints == []


def test_runs_that_differ_in_their_seeds_become_one_line_with_a_band_from_the_lowest_to_the_highest(
    look: Look, runs: Path
) -> None:
    board = look(runs)
    page = board.curves("run-0", "run-1", view="&smooth=0&low=1&high=100&group=1")
    page.wait_for_function(f"() => document.querySelector('{SENTENCE}').textContent.includes('drawn as their mean')")
    page.focus(".plot")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    assert (
        page.locator(".legend .swatch line").evaluate_all(
            "(lines) => new Set(lines.map((one) => one.getAttribute('stroke'))).size"
        )
        == 1
    )
    assert "step 1" in page.inner_text(".readout")
    page.locator("[data-figure=train_loss] summary").click()
    page.wait_for_selector("[data-figure=train_loss] thead th")
    assert page.locator("[data-figure=train_loss] thead th").count() == 2  # the step, and the mean alone
    assert board.complaints == []


def test_a_run_without_a_setting_has_no_dot_on_its_axis(look: Look, runs: Path) -> None:
    for number, momentum in enumerate((0.9, 0.5)):
        optimizer = {"name": "SGD", "arguments": {"lr": 0.1, "momentum": momentum}}
        make_run(runs, f"heavy-{number}", epochs=4, seed=number, optimizer=optimizer)
    board = look(runs)
    chosen = ",".join(map(id_of, ("run-0", "heavy-0", "heavy-1")))
    page = board.show(f"compare?runs={chosen}&by=optimizer momentum")
    page.wait_for_selector(".dots circle")
    places = page.locator(".dots circle").evaluate_all("(dots) => dots.map((one) => one.getAttribute('cx'))")
    assert sorted(map(float, places)) == [70.0, 490.0]
    assert board.complaints == []


def test_a_chart_is_saved_as_a_picture_of_its_lines(look: Look, runs: Path) -> None:
    losses = np.ones(4000, np.float32)
    losses[1234] = 9
    write_losses(make_run(runs, HOSTILE_NAMES[0]), losses)
    board = look(runs)
    page = board.curves(HOSTILE_NAMES[0], view="&smooth=0")
    page.locator("summary").first.click()
    saved = {}
    for kind in ("PNG", "SVG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as {kind}").click()
        saved[kind] = Path(download.value.path()).read_bytes()
    picture = Image.open(io.BytesIO(saved["PNG"]))
    assert picture.width > 1000
    drawing = ElementTree.fromstring(saved["SVG"])
    (path,) = [one for one in drawing.iter("{http://www.w3.org/2000/svg}path") if len(one.get("d", "")) > 1000]
    points = [tuple(map(float, point.split(","))) for point in re.findall(r"[ML]([\d.-]+,[\d.-]+)", path.get("d", ""))]
    highest = min(points, key=lambda point: point[1])
    ends = points[0][0], points[-1][0]
    assert (highest[0] - ends[0]) / (ends[1] - ends[0]) == pytest.approx(1234 / 4000, abs=0.002)
    assert HOSTILE_NAMES[0] in "".join(drawing.itertext())
    assert board.complaints == []


@pytest.mark.parametrize("mode", ["", "theme=dark", "lang=zh", "phone"])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(look: Look, runs: Path, mode: str) -> None:
    if not AXE.exists():
        pytest.skip("needs `npm ci` in board/")
    size = {"width": 360, "height": 740} if mode == "phone" else {"width": 1280, "height": 900}
    write_tested(runs / "run-0", [0, 0, 0, 1], [1, 1, 0, 1], [[0.9, 0.2, 0.8, 0.7], [0.1, 0.1, 0.9, 0.9]])
    layer = {"name": "0.net", "kind": "ReLU", "zero": 0.2, "dead": 0.9, "mean": 0.0, "std": 1.0, "change": 0.01}
    lines = [{"step": step, "steps": 10, "samples": 64, "layers": [layer]} for step in (10, 20, 30)]
    write_lines(runs / "run-0" / "layers.jsonl", lines)
    (runs / "run-0" / "profile").mkdir()
    limit = {
        "step_seconds": 0.002,
        "parts": {"data": {"share": 0.9}},
        "limit": {"sentence": "Most of a step waits for data."},
    }
    (runs / "run-0" / "profile" / "profile.json").write_text(json.dumps(limit))
    board = look(runs, viewport=size)  # type: ignore[call-arg]
    query = "" if mode == "phone" else mode
    chosen = ",".join(id_of(f"run-{number}") for number in range(3))
    for view in (
        f"runs?runs={chosen}&{query}",
        f"curves?runs={chosen}&{query}",
        f"curves?runs={chosen}&group=1&{query}",
        f"compare?runs={chosen}&{query}",
        f"run/{id_of('run-0')}?{query}",
        f"run/{id_of('run-0')}?list=cell&cell=0-1&{query}",
    ):
        page = board.show(view)
        page.wait_for_timeout(1200)
        page.evaluate("document.querySelectorAll('details').forEach((one) => void (one.open = true))")
        page.wait_for_timeout(300)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})")
        assert [(entry["id"], entry["nodes"][0]["html"][:200]) for entry in found["violations"]] == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], view
        if mode == "lang=zh":
            page.wait_for_selector("html[lang=zh-CN]")


def test_the_server_leaves_at_once_with_the_page_open(look: Look, runs: Path) -> None:
    board = look(runs)
    began = time.monotonic()
    board.server.send_signal(signal.SIGINT)
    assert board.server.wait(10) == 0
    assert time.monotonic() - began < 3
    board.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    board.page.wait_for_selector("[role=alert]")
    assert "does not answer" in board.page.inner_text("[role=alert]")
