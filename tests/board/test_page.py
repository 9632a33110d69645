"""The page's own files: every word from the catalogue, the built files those of the sources, `serve` and the command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from tests.board.folders import make_run

from rushlight.board.app import words_of
from rushlight.board.page import PAGE
from rushlight.board.serve import serve_board
from rushlight.cli import main
from rushlight.errors import RunError, UsageError
from rushlight.texts import LANGUAGES, read_room

SOURCES = Path(__file__).parents[2] / "board"
SCRIPT = "\n".join(path.read_text(encoding="utf-8") for path in sorted((SOURCES / "src").glob("*.js")))
BEGINNINGS = tuple(re.findall(r"say\(`([a-z-]+-)\$\{", SCRIPT))


def test_every_word_of_the_page_is_used_and_every_word_it_asks_for_is_there() -> None:
    quoted = set(re.findall(r'"([a-z0-9-]+)"', SCRIPT))
    words = read_room("en", "board")["page"]
    assert {key for key in words if key not in quoted and not key.startswith(BEGINNINGS)} == set()
    assert set(re.findall(r'say\("([a-z0-9-]+)"', SCRIPT)) <= set(words_of("en"))
    assert set(words_of("zh")) == set(words_of("en"))


def test_the_words_of_the_page_have_only_formats_that_the_page_knows() -> None:
    for code in LANGUAGES:
        for key, entry in words_of(code).items():
            for form in [entry] if isinstance(entry, str) else entry.values():
                assert "{" not in re.sub(r"\{\w+(:,)?\}", "", form), key


def test_the_page_has_no_words_of_its_own() -> None:
    """Text between tags is filled in by `say`, but for names and marks."""
    inside = re.findall(r">([^<>${}`]*[A-Za-z]{2,}[^<>${}`]*)<", re.sub(r"/\*.*?\*/|//.*", "", SCRIPT, flags=re.DOTALL))
    assert {text.strip() for text in inside} <= {"Rushlight", "rushlight resume"}
    assert "innerHTML" not in SCRIPT.replace("dangerouslySetInnerHTML", "innerHTML")


def test_the_page_asks_nothing_of_anybody_else() -> None:
    built = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("board.js", "board.css", "index.html"))
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", built))
    assert addresses <= {"http://www.w3.org", "https://github.com", "https://unpkg.com", "//www.w3.org"}, addresses
    assert "eval(" not in built
    assert "new Function" not in built


def test_the_built_page_is_small() -> None:
    import gzip

    assert sum(len(gzip.compress((PAGE / name).read_bytes())) for name in ("board.js", "board.css")) < 150_000


@pytest.mark.skipif(
    shutil.which("node") is None or not (SOURCES / "node_modules" / "esbuild").exists(),
    reason="needs Node and `npm ci` in board/",
)
def test_the_built_files_are_those_of_the_sources(tmp_path: Path) -> None:
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=SOURCES, check=True)
    for name in ("board.js", "board.css"):
        assert (tmp_path / name).read_bytes() == (PAGE / name).read_bytes(), "run: npm run build"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_is_not_there_and_a_port_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no folder"):
        serve_board(tmp_path / "nothing", None, "en", print, False)
    for port in (-1, 65536):
        with pytest.raises(UsageError, match="A port is a number"):
            serve_board(tmp_path, port, "en", print, False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot be used"):
            serve_board(tmp_path, taken.getsockname()[1], "en", print, False)


def test_a_language_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["board", "--language", "fr", "--no-open"])
    assert "one of en, zh; it is 'fr'" in capsys.readouterr().err


def test_the_command_serves_until_ctrl_c_and_imports_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path, "first")
    code = "import sys; sys.modules['torch'] = None; from rushlight.cli import main; main()"
    board = subprocess.Popen(
        [sys.executable, "-c", code, "board", str(tmp_path), "--no-open", "--port", "0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert board.stdout is not None
    address = next(match[0] for line in board.stdout if (match := re.search(r"http://\S+", line)))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", address)
    try:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({}))
        base = address.split("?")[0]
        with pytest.raises(HTTPError, match="401"):
            opener.open(base)
        for target in (address, base):
            with opener.open(target) as answer:
                page = answer.read()
        assert b"board.js" in page
        with pytest.raises(HTTPError, match="401"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address)  # it was used
    finally:
        board.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert board.wait(10) == 0
    assert time.monotonic() - began < 5
    board.stdout.close()
    with pytest.raises(URLError):
        opener.open(base)
