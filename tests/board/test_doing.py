"""What the page changes: notes, names, deletions, a request to stop; nothing else, and nothing of a run in use."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.board.client import Client
from tests.board.folders import make_run

import rushlight
from rushlight.board import doing
from rushlight.board.listing import id_of
from rushlight.events import Event
from rushlight.runs import STOP, ask_to_stop, lock_run, read_note
from rushlight.training.record import stop


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for name in ("first", "second"):
        make_run(folder, name)
    return folder


def change(runs: Path, what: str, content: Any, name: str = "first") -> Any:
    answer = Client(runs).post(f"/api/runs/{id_of(name)}/do/{what}", content)
    return answer.json if answer.status == 200 else answer.status


def test_a_note_and_tags_are_kept_shown_in_the_list_and_go_with_the_run(runs: Path) -> None:
    client, address = Client(runs), f"/api/runs/{id_of('first')}"
    given = {"note": "the one to beat <b>", "tags": ["good", " good", "", "x" * 99]}
    assert client.post(f"{address}/do/note", given).json == {}
    assert read_note(runs / "first") == {"note": "the one to beat <b>", "tags": ["good", "x" * 50]}
    rows = {row["name"]: row for row in client.get("/api/runs").json["rows"]}
    assert (rows["first"]["tags"], rows["second"]["tags"]) == (["good", "x" * 50], [])
    assert client.get(address).json["note"]["note"] == "the one to beat <b>"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 99999,
        {"note": 3, "tags": []},
        {"note": "", "tags": "a"},
        {"note": "", "tags": [1]},
        {"note": "x" * (1 << 18), "tags": []},
    ],
)
def test_a_note_that_the_page_never_sends_changes_nothing(runs: Path, content: Any) -> None:
    assert change(runs, "note", content) == 400
    assert not (runs / "first" / "note.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{torn", '{"note": 1, "tags": []}'])
def test_a_note_file_that_is_none_is_an_empty_note(runs: Path, content: str) -> None:
    (runs / "first" / "note.json").write_text(content)
    assert read_note(runs / "first") == {"note": "", "tags": []}
    assert {row["status"] for row in Client(runs).get("/api/runs").json["rows"]} == {"finished"}


def test_a_run_is_renamed_where_the_name_is_free_and_one_that_every_system_takes(runs: Path) -> None:
    assert change(runs, "rename", {"from": "first", "name": "best"}) == {"id": id_of("best")}
    assert sorted(path.name for path in runs.iterdir()) == ["best", "second"]
    for name in ("second", "../out", "a/b", "", "con", ".hidden"):
        assert "error" in change(runs, "rename", {"from": "best", "name": name}, "best"), name
    assert change(runs, "rename", {"from": "other", "name": "third"}, "best") == 400
    assert sorted(path.name for path in runs.iterdir()) == ["best", "second"]


def test_a_run_is_deleted_only_by_its_name(runs: Path) -> None:
    assert change(runs, "delete", {}) == 400
    assert change(runs, "delete", {"name": "second"}) == 400
    assert change(runs, "delete", {"name": "first"})["freed"] > 0
    assert [path.name for path in runs.iterdir()] == ["second"]


def test_a_run_in_use_is_neither_renamed_nor_deleted_and_can_be_asked_to_stop(runs: Path) -> None:
    assert change(runs, "stop", {}) == {}
    assert not (runs / "first" / STOP).exists()  # nobody would see it
    with lock_run(runs / "first"):
        assert "error" in change(runs, "rename", {"from": "first", "name": "third"})
        assert "error" in change(runs, "delete", {"name": "first"})
        assert change(runs, "stop", {}) == {}
        assert Client(runs).get(f"/api/runs/{id_of('first')}").json["is_asked_to_stop"]
    assert (runs / "first" / STOP).exists()


def test_there_are_no_other_changes_and_none_by_reading(runs: Path) -> None:
    assert change(runs, "launch", {}) == 404
    for what in ("resume", "serve"):  # nobody else begins a process here
        address = f"/api/runs/{id_of('first')}/do/{what}"
        assert Client(runs, allowed="other.test").post(address, {}).status == 404
    assert change(runs, "delete", {"name": "third"}, "third") == 404
    client = Client(runs)
    assert client.get(f"/api/runs/{id_of('first')}/do/delete").status == 405
    assert json.loads((runs / "first" / "recipe.json").read_text())


@pytest.mark.slow
def test_a_run_goes_on_and_its_model_is_served_from_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "EVERY", 0.0)

    def ask(event: Event) -> None:
        if event.kind == "epoch":
            ask_to_stop(tmp_path / "stopped")

    with pytest.raises(KeyboardInterrupt):
        rushlight.train("mlp", "digits", epochs=3, quiet=True, runs=tmp_path, name="stopped", on_event=ask)
    client, address = Client(tmp_path), f"/api/runs/{id_of('stopped')}"
    assert client.post(f"{address}/do/resume", {}).json == {}
    for _ in range(1200):
        if client.get("/api/runs").json["rows"][0]["status"] == "finished":
            break
        time.sleep(0.1)
    assert client.get("/api/runs").json["rows"][0]["epochs_done"] == 3
    try:
        served = client.post(f"{address}/do/serve", {}).json["address"]
        assert client.post(f"{address}/do/serve", {}).json["address"] == served
        with urllib.request.urlopen(f"{served}/v2/health/ready") as answer:
            assert answer.status == 200
    finally:
        client.app.leave()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{served}/v2/health/ready")


def test_a_command_that_fails_says_why(runs: Path) -> None:
    assert "rushlight serve" in change(runs, "serve", {})["error"]


@pytest.mark.parametrize(("body", "seconds"), [("echo never mind; exit 0", 60), ("echo thinking; exec sleep 60", 0.5)])
def test_a_server_that_gives_no_address_is_ended_and_told_of(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, seconds: float
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/process'\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(doing, "START_SECONDS", seconds)
    began = time.monotonic()
    assert body.split(";")[0].removeprefix("echo ") in change(runs, "serve", {})["error"]
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):  # noqa: PT012
        for _ in range(100):
            os.kill(int((tmp_path / "process").read_text()), 0)
            time.sleep(0.1)
