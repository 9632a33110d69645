"""One run as one file: it opens after the run is gone, asks nobody, executes nothing that the run holds, and is small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.board.folders import make_run, write_lines, write_tested
from tests.board.test_browser import ARGUMENTS, CHROMIUM

from rushlight.board import export_run
from rushlight.board.export import MOST_BYTES
from rushlight.cli import main
from rushlight.errors import RunError

HOSTILE = "</script><img src=x onerror=alert(1)>"


def exported(folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
    export_run(folder, path, "en")
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="exported">(.*?)</script>', page, re.DOTALL)
    content: dict[str, Any] = json.loads(data)
    return page, content


def test_names_of_a_run_stand_in_the_file_as_data_and_scripts_are_let_in_by_their_digests(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", np.ones(50), model={"name": HOSTILE})
    report = (folder / "report.json").read_text()
    (folder / "report.json").write_text(report.replace("cat", HOSTILE.replace("/", "\\/")))
    page, content = exported(folder, tmp_path / "run.html")
    assert HOSTILE not in page
    assert HOSTILE in json.dumps(content["answers"])
    policy = re.findall(r'content-security-policy" content="([^"]*)"', page)[0].replace("&#x27;", "'")
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in script]
    assert [f"script-src 'sha256-{digests[0]}'"] == re.findall(r"script-src [^;]*", policy)
    assert len(script) == 1
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_file_holds_what_was_kept_of_every_mistake_and_not_whose_machine_it_was(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", np.ones(50))
    write_tested(folder, [0] * 50 + [1] * 50, [0] * 40 + [1] * 10 + [0] * 12 + [1] * 38)
    (folder / "environment.json").write_text(json.dumps({"host": "my-laptop", "python": "3.12", "command": ["x"]}))
    page, content = exported(folder, tmp_path / "run.html")
    cells = {
        re.findall(r"truth=(\d)&predicted=(\d)", key)[0]: found["count"]
        for key, found in content["answers"].items()
        if "list=cell" in key
    }
    assert cells == {("0", "0"): 40, ("0", "1"): 10, ("1", "0"): 12, ("1", "1"): 38}
    assert "my-laptop" not in page
    assert "3.12" in page


def test_more_than_five_megabytes_are_left_out_the_oldest_pictures_first(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", np.random.default_rng(0).random(100_000))
    (folder / "media").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3)).astype(np.uint8)
    for number in range(6):
        Image.fromarray(noise).save(folder / "media" / f"{number}.png")
    lines = [
        {"epoch": 1, "step": number, "values": {"a": {"media": f"media/{number}.png", "width": 700}}}
        for number in range(6)
    ]
    write_lines(folder / "values.jsonl", lines)
    _, content = exported(folder, tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size <= MOST_BYTES
    assert sorted(content["media"]) == ["4.png", "5.png"]


def test_the_command_exports_the_newest_run_and_tells_of_a_folder_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", "first", np.ones(10))
    with pytest.raises(SystemExit, match="0"):
        main(["board", str(tmp_path / "runs"), "--export", str(tmp_path / "run.html")])
    assert "first is now one file" in capsys.readouterr().out
    with pytest.raises(RunError):
        export_run(tmp_path, tmp_path / "other.html", "en")


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.mark.slow
def test_the_file_opens_without_a_network_after_the_run_is_gone(tmp_path: Path, browser: Any) -> None:
    import rushlight

    run = rushlight.train("mlp", "digits", epochs=2, quiet=True, runs=tmp_path / "runs")
    export_run(run.folder, tmp_path / "run.html", "zh")
    shutil.rmtree(tmp_path / "runs")
    context = browser.new_context(offline=True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "run.html").as_uri())
    page.wait_for_selector(".confusion")
    assert "混淆矩阵" in page.inner_text("main")
    count = int(page.locator(".confusion td.wrong a").first.inner_text())
    page.locator(".confusion td.wrong a").first.click()
    page.wait_for_function(f"() => document.querySelectorAll('.cards img').length === {count}")
    page.get_by_text("曲线", exact=True).first.click()
    page.wait_for_selector(".plot:not(.stale) canvas")
    assert "46" in page.inner_text(".chart .sentence")
    assert said == []
    assert all(address.startswith(("file:", "data:")) for address in asked)
