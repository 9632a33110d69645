"""What the page gets: the list by version, logs by cursor, curves as bytes, images by their names in the log."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.board.client import Client
from tests.board.folders import make_run, write_lines, write_losses

from rushlight.board.listing import Runs, id_of
from rushlight.runs import lock_run

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder, "first", np.linspace(2, 1, 20))
    return folder


def listed(client: Client, since: int = 0) -> dict[str, Any]:
    answer = client.get(f"/api/runs?since={since}")
    assert answer.status == 200
    content: dict[str, Any] = answer.json
    return content


def statuses(client: Client) -> dict[str, str]:
    return {row["name"]: row["status"] for row in listed(client)["rows"]}


def curves(client: Client, *names: str, **view: Any) -> tuple[dict[str, Any], np.ndarray, list[np.ndarray]]:
    query = "&".join([*(f"run={id_of(name)}" for name in names), *(f"{key}={value}" for key, value in view.items())])
    answer = client.get(f"/api/curves?{query}")
    assert answer.status == 200
    (length,) = struct.unpack_from("<I", answer.body)
    header = json.loads(answer.body[4 : 4 + length])
    places = np.frombuffer(answer.body, "<f8", header["places"], 4 + length)
    rest = np.frombuffer(answer.body, "<f4", offset=4 + length + places.nbytes)
    return header, places, list(rest.reshape(-1, header["places"])) if len(places) else []


# ── the list ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_gives_what_is_new_since_a_version(runs: Path) -> None:
    client = Client(runs)
    first = listed(client)
    assert [row["name"] for row in first["rows"]] == ["first"]
    row = first["rows"][0]
    assert (row["status"], row["metric"], row["epochs_done"], row["lr"]) == ("finished", "accuracy", 2, 0.1)
    assert listed(client, first["version"])["rows"] == []
    make_run(runs, "second")
    second = listed(client, first["version"])
    assert [row["name"] for row in second["rows"]] == ["second"]
    shutil.rmtree(runs / "first")
    assert listed(client, second["version"])["gone"] == [id_of("first")]
    assert [row["name"] for row in listed(client)["rows"]] == ["second"]


def test_the_state_of_a_run_comes_from_its_lock(runs: Path) -> None:
    client = Client(runs)
    history = runs / "first" / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:-1]))
    assert statuses(client) == {"first": "unfinished"}
    with lock_run(runs / "first"):
        assert statuses(client) == {"first": "running"}
        holder = (runs / "first" / "holder.json").read_bytes()
    (runs / "first" / "holder.json").write_bytes(holder)  # what a killed process leaves behind
    assert statuses(client) == {"first": "unfinished"}


def test_a_folder_that_is_not_there_yet_is_an_empty_list_until_it_comes(tmp_path: Path) -> None:
    client = Client(tmp_path / "runs")
    assert listed(client)["rows"] == []
    make_run(tmp_path / "runs", "first")
    assert statuses(client) == {"first": "finished"}


def test_a_long_list_is_read_in_parts_and_none_is_lost(tmp_path: Path) -> None:
    for number in range(40):
        make_run(tmp_path, f"run-{number:02}")
    (tmp_path / "no-run").mkdir()
    expected = Runs(tmp_path).changes(0)
    runs, parts = Runs(tmp_path), []
    while not runs.is_whole:
        before = {*runs.entries}
        runs.refresh(0.001)
        parts.append({*runs.entries} - before)
    assert sum(map(bool, parts)) > 1
    assert runs.entries[id_of("run-39")].version == 1  # the newest first
    found = runs.changes(0)
    assert found["whole"]
    assert found["rows"] == expected["rows"]
    shutil.rmtree(tmp_path / "run-07")
    make_run(tmp_path, "run-40")
    later = runs.changes(found["version"])
    assert ([row["name"] for row in later["rows"]], later["gone"]) == (["run-40"], [id_of("run-07")])


def test_what_is_read_before_anybody_asks_is_what_is_read_then(runs: Path) -> None:
    asked, ahead = Runs(runs), Runs(runs)
    ahead.read_ahead()
    assert ahead.is_whole
    assert ahead.changes(0)["rows"] == asked.changes(0)["rows"]


def test_the_list_reads_without_changing_anything(runs: Path) -> None:
    def seen() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in sorted(runs.rglob("*"))}

    before = seen()
    client = Client(runs)
    for target in ("/api/runs", f"/api/runs/{id_of('first')}", f"/api/logs?run={id_of('first')}~~~"):
        client.get(target)
    curves(client, "first")
    assert seen() == before


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_logs_are_read_on_from_a_cursor_and_anew_when_the_file_was_cut(runs: Path) -> None:
    client, identity, path = Client(runs), id_of("first"), runs / "first" / "history.jsonl"
    whole = path.read_bytes()

    def read(cursor: str) -> tuple[int, bool, str]:
        found = client.get(f"/api/logs?run={identity}~{cursor}~~").json[identity]["history"]
        return len(found["lines"]), found["anew"], found["cursor"]

    count, anew, cursor = read("")
    assert (count, anew) == (4, False)
    assert read(cursor)[:2] == (0, False)
    path.write_bytes(whole + b'{"kind":"steps","step":21}\n{"torn')
    assert read(cursor)[:2] == (1, False)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert read(cursor)[:2] == (2, True)
    path.write_bytes(whole.replace(b"finished", b"Finished"))  # as long as before
    assert read(cursor)[:2] == (4, True)
    for nonsense in ("x", "1.2", "1.2.3", "..", "1.99999999999999999999.3", "-1.-1.-1"):
        assert read(nonsense)[0] > 0


def test_a_long_log_is_given_in_pieces_and_none_is_lost(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushlight.board.files.MOST_LINES", 500)
    client, identity = Client(runs), id_of("first")
    write_lines(runs / "first" / "values.jsonl", [{"epoch": number, "values": {"x": number}} for number in range(100)])
    cursor, found = "", []
    while True:
        part = client.get(f"/api/logs?run={identity}~~{cursor}~").json[identity]["values"]
        if not part["lines"]:
            break
        found += [line["epoch"] for line in part["lines"]]
        cursor = part["cursor"]
    assert found == list(range(100))


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_few_steps_are_each_at_their_own_place(runs: Path) -> None:
    header, places, values = curves(Client(runs), "first", smooth=5)
    assert header["slots"] == 1
    assert places[:20].tolist() == list(range(1, 21))
    assert values[0][:20].tolist() == np.linspace(2, 1, 20, dtype=np.float32).tolist()
    assert header["runs"][0]["smoothed"] is True
    assert header["runs"][0]["low_step"] == 20


def test_what_cannot_be_drawn_is_marked_with_its_place_and_counts(runs: Path) -> None:
    losses = np.ones(30)
    losses[[0, 10, 11, 29]], losses[5], losses[20] = np.nan, np.inf, -1
    make_run(runs, "bad", losses)
    (run,) = curves(Client(runs), "bad", logy=1)[0]["runs"]
    assert [run[name] for name in ("nan", "up", "down", "under")] == [4, 1, 0, 1]
    nan, up, under = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]
    assert run["marks"] == [[0, *nan], [5, *up], [10, *nan], [11, *nan], [20, *under], [29, *nan]]
    (run,) = curves(Client(runs), "bad")[0]["runs"]
    assert [mark[0] for mark in run["marks"]] == [0, 5, 10, 11, 29]
    assert run["first"] is None


def test_runs_of_any_length_share_the_places_of_the_longest(runs: Path) -> None:
    make_run(runs, "long", np.arange(50_000))
    header, places, values = curves(Client(runs), "first", "long", columns=100)
    assert (header["low"], header["high"], header["slots"]) == (1, 50_000, 4)
    assert len(places) == 400
    assert np.nanmax(values[1]) == 49_999
    assert np.nanmax(values[0]) == 2
    assert np.isnan(values[0][8:]).all()


def test_the_axis_of_epochs_follows_the_ends_of_epochs(runs: Path) -> None:
    header, places, values = curves(Client(runs), "first", x=0, axis="epoch", columns=40)
    assert (header["low"], header["high"]) == (0, 2)
    drawn = places[~np.isnan(values[0])]
    assert drawn.min() == pytest.approx(0.1, abs=0.05)  # the end of step 1 of 10
    assert drawn.max() == pytest.approx(2, abs=0.05)
    assert header["runs"][0]["knots"][0][:3] == [0, 10, 20]


def test_pauses_and_what_was_trained_twice_do_not_count_as_time_of_training(runs: Path) -> None:
    folder = make_run(runs, "resumed", np.ones(20), epochs=0)
    write_lines(
        folder / "history.jsonl",
        [
            {"kind": "start", "time": 1000.0, "steps_per_epoch": 10},
            {"kind": "epoch", "epoch": 1, "step": 10, "time": 1010.0},
            {"kind": "epoch", "epoch": 2, "step": 20, "time": 90_007.0},
        ],
    )
    sessions = [("started", 0, 999.0), ("interrupted", 14, 1014.0), ("resumed", 12, 90_000.0)]
    write_lines(folder / "sessions.jsonl", [{"event": e, "step": s, "time": t} for e, s, t in sessions])
    header, _, _ = curves(Client(runs), "resumed", axis="time")
    assert header["high"] == pytest.approx(11 + 7, abs=0.01)  # from the start to step 10, then from step 12


@pytest.mark.parametrize("axis", ["step", "epoch", "time"])
@pytest.mark.parametrize("log", [0, 1])
def test_every_axis_draws_every_extreme(runs: Path, axis: str, log: int) -> None:
    losses = np.ones(20_000)
    losses[[0, 7_777, 19_999]] = 5, 9, 7
    make_run(runs, "spikes", losses, epochs=4, per_epoch=5000)
    header, _, values = curves(Client(runs), "spikes", axis=axis, log=log, columns=300)
    assert {5, 7, 9} <= set(values[0].tolist())
    assert header["runs"][0]["count"] == 20_000


def test_a_view_that_does_not_exist_is_refused_in_words_and_not_by_a_failure(runs: Path) -> None:
    client = Client(runs)
    for query in ("axis=sideways", "columns=many", "low=nan", "high=inf", "smooth=x"):
        assert client.get(f"/api/curves?run={id_of('first')}&{query}").status == 400, query
    for query in ("columns=-5", "low=5&high=1", "low=-1e300&high=1e300", "smooth=-3", "columns=1e9", "low=1e12"):
        curves(client, "first", **dict(part.split("=") for part in query.split("&")))
    assert curves(client, "nowhere")[0]["runs"] == []


def test_the_memory_for_summaries_is_bounded(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rushlight.board import curves as module

    monkeypatch.setattr(module, "MOST_SUMMARIES", 100)
    read = module.Curves()
    view = module.View("step", None, None, 100, 20, False)
    for number in range(5):
        write_losses(make_run(runs, f"run-{number}"), np.ones(64 * 60))
        read.read({"a": runs / f"run-{number}"}, view)
    assert len(read.losses) == 1
    assert list(read.losses) == [runs / "run-4"]


def test_all_losses_are_given_as_csv_that_reads_back_as_the_same_numbers(runs: Path) -> None:
    losses = np.random.default_rng(0).random(25_001).astype(np.float32)
    losses[[0, 3]] = np.nan, -np.inf
    make_run(runs, "long", losses)
    answer = Client(runs).get(f"/api/runs/{id_of('long')}/losses.csv")
    head, *lines = answer.body.decode().splitlines()
    assert head == "step,loss"
    assert [int(line.split(",")[0]) for line in lines] == list(range(1, 25_002))
    assert np.array_equal(np.array([line.split(",")[1] for line in lines], np.float32), losses, equal_nan=True)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert Client(runs).get("/api/runs/0/losses.csv").status == 404


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_images_that_the_log_names_are_given_and_only_as_png(runs: Path) -> None:
    folder = runs / "first"
    (folder / "media").mkdir()
    names = ["a.png", "not.png", "../recipe.json", "..png", "link.png"]
    write_lines(folder / "values.jsonl", [{"epoch": 1, "values": {"x": {"media": f"media/{name}"}}} for name in names])
    for name in ("a.png", "unlisted.png"):
        (folder / "media" / name).write_bytes(PNG)
    (folder / "media" / "not.png").write_bytes(b"<svg onload=alert(1)>")
    (folder / "media" / "link.png").symlink_to(folder / "media" / "a.png")
    client, base = Client(runs), f"/api/runs/{id_of('first')}/media"
    answer = client.get(f"{base}/a.png")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, PNG, "image/png")
    for name in ("unlisted.png", "not.png", "link.png", "..%2Frecipe.json", "../recipe.json", "recipe.json", ""):
        assert client.get(f"{base}/{name}").status == 404, name


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_gives_its_recipe_and_its_report(runs: Path) -> None:
    found = Client(runs).get(f"/api/runs/{id_of('first')}").json
    assert found["recipe"]["batch_size"] == 16
    assert found["report"]["confusion"] == [[40, 10], [12, 38]]
    assert found["problems"] == []
    assert Client(runs).get("/api/runs/..").status == 404


@pytest.mark.parametrize(
    "report",
    [
        [], {"classes": 3}, {"confusion": [[1]]}, {"classes": [{}]}, {"confusion": "abc"}, {"loss": "low"}, {"most_wrong": [1]},
        {"accuracy_interval": [None]}, {"n": [1]}, {"confusion": [[1, 2], [3]], "classes": [{"name": "a"}, {"name": "b"}]},
    ],
)  # fmt: skip
def test_a_report_that_is_none_is_a_problem_in_words(runs: Path, report: object) -> None:
    (runs / "first" / "report.json").write_text(json.dumps(report))
    found = Client(runs).get(f"/api/runs/{id_of('first')}").json
    assert found["report"] is None
    assert len(found["problems"]) == 1


# ── hostile folders ──────────────────────────────────────────────────────────────────────────────────────────

HOSTILE_NAMES = [
    "<script>alert(1)<script>", "'\"><img src=x onerror=alert(1)>", "{{7*7}}", "$(id)", "`id`", "a b", " lead", "日本語", "🔥",
    "\u202egnp.exe", "a\u200b", "a..", "-rf", "%2e%2e%2f", "con", "a" * 200, "=1+1", "@SUM(1)", "\\\\server", "a\nb", "a\tb",
    "javascript:alert(1)", "a?b#c", "a&b=c", "a;b", "~", "*", "|", "latest", "null", "undefined", "__proto__", "constructor", "toString",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_runs_of_any_name_are_listed_and_found(tmp_path: Path) -> None:
    for name in HOSTILE_NAMES:
        make_run(tmp_path, name)
    os.mkdir(os.fsencode(tmp_path) + b"/not-utf-8-\xff")  # noqa: PTH102 (bytes)
    (tmp_path / os.fsdecode(b"not-utf-8-\xff") / "recipe.json").write_text("{}")
    client = Client(tmp_path)
    rows = listed(client)["rows"]
    assert {row["name"] for row in rows if row["status"] == "finished"} == set(HOSTILE_NAMES)
    assert len(rows) == len(HOSTILE_NAMES) + 1
    for row in rows:
        assert client.get(f"/api/runs/{row['id']}").status == 200


DEEP = b"[" * 100_000
FILES = (
    "recipe.json",
    "history.jsonl",
    "report.json",
    "sessions.jsonl",
    "values.jsonl",
    "environment.json",
    "holder.json",
)
CONTENTS = [
    b"", b"\0" * 100, b"{", b"null", b"3", b"[]", b'"x"', DEEP, b'{"epochs":1e999}', b'{"kind":[]}\n', b"\xff\xfe",
    b'{"kind":"epoch","epoch":{},"step":"x","time":[],"train_loss":"a","seconds":"b"}\n', b"9" * 10_000, b'{"model":{},"data":[],"epochs":"x"}',
    b'{"kind":"epoch","epoch":1,"step":1e308,"time":1e308,"train_loss":1e400,"seconds":' + b"9" * 400 + b',"test":{"accuracy":"x","loss":{}}}\n',
    b'{"event":{},"time":null,"step":{}}\n{"event":"resumed","step":1e300,"time":-1}\n', b'{"values":[{"media":1}]}\n{"values":{"a":{"media":["x"]}}}\n',
]  # fmt: skip


def targets(identity: str) -> list[str]:
    views = [f"axis={axis}&smooth=20&log={log}" for axis in ("step", "epoch", "time") for log in (0, 1)]
    pages = ["/api/runs", f"/api/runs/{identity}", f"/api/logs?run={identity}~~~", f"/api/runs/{identity}/media/a.png"]
    pages += [f"/api/{page}?run={identity}&run={id_of('first')}" for page in ("compare", "recipes")]
    return [*pages, *(f"/api/curves?run={identity}&{view}" for view in views)]


@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_holds_nothing_fails_and_the_other_runs_are_shown(runs: Path, name: str) -> None:
    folder = make_run(runs, "hostile", np.ones(30))
    client = Client(runs)
    for content in CONTENTS:
        (folder / name).write_bytes(content)
        for target in targets(id_of("hostile")):
            assert client.get(target).status in (200, 404), (content[:40], target)
        assert statuses(client)["first"] == "finished"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
@pytest.mark.parametrize("name", [*FILES, "losses.f32"])
def test_links_pipes_and_folders_in_place_of_files_are_not_read(runs: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}\n')
    for make in (lambda path: path.symlink_to(secret), Path.mkdir, os.mkfifo):
        folder = make_run(runs, "hostile", np.ones(30))
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        client = Client(runs)
        for target in targets(id_of("hostile")):
            answer = client.get(target)
            assert answer.status in (200, 404), target
            assert b"secret" not in answer.body.replace(b"secret.json", b"")
        assert statuses(client)["first"] == "finished"
        if name in ("recipe.json", "history.jsonl"):
            assert statuses(client).get("hostile") in ("damaged", None)
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_run_that_is_a_link_out_of_the_folder_is_refused(runs: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere", "private", np.ones(30))
    (runs / "out").symlink_to(tmp_path / "elsewhere" / "private")
    (runs / "in").symlink_to(runs / "first")
    (runs / "circle").symlink_to(runs / "circle")
    client = Client(runs)
    assert statuses(client) == {"first": "finished", "in": "finished", "out": "damaged"}
    assert client.get(f"/api/runs/{id_of('out')}").status == 404
    assert client.get(f"/api/logs?run={id_of('out')}~~~").json == {}
    assert curves(client, "out")[0]["runs"] == []


def test_a_file_that_is_too_large_is_not_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (runs / "first" / "history.jsonl").open("rb+") as file:
        file.truncate(1 << 32)  # a hole: no bytes on the disk
    client = Client(runs)
    (row,) = listed(client)["rows"]
    assert row["status"] == "damaged"
    assert "history.jsonl has 4,294,967,296 bytes" in row["problem"]
    for target in targets(row["id"]):
        assert client.get(target).status in (200, 404)


def test_every_spike_of_many_runs_is_drawn_in_its_column_or_beside_it(tmp_path: Path) -> None:
    random, steps, places = np.random.default_rng(0), 20_000, {}
    for number in range(40):
        losses = random.random(steps).astype(np.float32)
        places[f"run-{number}"] = step = int(random.integers(0, steps))
        losses[step] = 9
        make_run(tmp_path, f"run-{number}", losses)
    header, x, values = curves(Client(tmp_path), *places, columns=100, smooth=0)
    assert header["slots"] == 4
    for run, drawn in zip(header["runs"], values, strict=True):
        step = next(step for name, step in places.items() if id_of(name) == run["id"])
        column = int(np.flatnonzero(drawn == 9)[0]) // 4
        assert abs(x[column * 4 : column * 4 + 4].mean() - step) <= steps / 100 * 0.8
        assert run["high"] == 9


def test_losses_that_a_killed_training_left_without_a_line_of_history_are_news(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", np.ones(100))
    client = Client(tmp_path)
    first = client.get("/api/runs").json
    with (folder / "losses.f32").open("ab") as file:
        file.write(b"0000")
    (folder / "holder.json").write_text("{}")  # as every beginning of a training does
    (row,) = client.get(f"/api/runs?since={first['version']}").json["rows"]
    assert (first["rows"][0]["bytes"], row["bytes"]) == (400, 404)
