"""The campaign that disturbs a server would find something. (`.ci/run` has a short one of it.)"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import random
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults.served import Served
from tests.serve.client import BUNDLES

from faults import fuzz, serve


def test_a_model_that_is_opened_with_a_bit_flipped_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLES / "image", tmp_path / "small")
    figures: Counter[str] = Counter()
    assert serve.flipped(2, random.Random(0), tmp_path, figures) == []
    assert figures["bits flipped"] == 6
    monkeypatch.setattr(serve, "find_model", lambda *asked: None)
    assert len(serve.flipped(1, random.Random(0), tmp_path, figures)) == 3


def test_what_fails_in_a_thread_that_asks_is_told() -> None:
    def each(number: int, over: object) -> None:
        if number == 1:
            raise ConnectionResetError("reset")

    with serve.asking(each, 3) as failures:
        pass
    assert failures == ["ConnectionResetError: reset"]


def test_a_server_that_answers_5xx_or_otherwise_or_not_at_all_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version, numbers = "HTTP/1.1", itertools.count(1)

        def log_message(self, *said: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            number = next(self.numbers)
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = (200, b"yes") if number < 60 or number % 3 else (500, b"no")
            if number == 40:
                self.close_connection = True  # and says nothing
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Faulty(Served):
        def __init__(self, *arguments: str) -> None:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.port, self.management, self.said, self.process = self.server.server_port, 0, "Traceback: x", self  # type: ignore[assignment]
            threading.Thread(target=self.server.serve_forever, daemon=True).start()

        def poll(self) -> int | None:
            return None

        def __exit__(self, *error: object) -> None:
            self.server.shutdown()
            self.server.server_close()

    monkeypatch.setattr(fuzz, "Served", Faulty)
    monkeypatch.setattr(fuzz, "drawn", lambda draw, kind: ("POST", "/predict", b"[]", {}))
    monkeypatch.setattr(fuzz, "RAW", 0)
    found = fuzz.campaign(100, 0, tmp_path, print)
    assert sum(": 500:" in failure for failure in found.failures) > 5
    assert sum("RemoteDisconnected" in failure for failure in found.failures) == 1
    assert "Traceback" in found.failures[-1]


def test_a_changed_request_is_a_function_of_the_seed_and_changes_one_that_is_good() -> None:
    drawn: list[list[Any]] = [[fuzz.drawn(random.Random(number), "table") for number in range(300)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    good = {body for body, _ in fuzz.CORPUS["table"]}
    assert 20 < sum(body in good for _, _, body, _ in drawn[0]) < 100
    documents = 0
    for _, _, body, _ in drawn[0]:
        with contextlib.suppress(ValueError):
            documents += bool(json.loads(body)) and body not in good
    assert documents > 50  # which the server reads, and only then refuses
