"""TensorBoard's event files as runs, read without TensorBoard; and whatever bytes they hold, nothing breaks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.board.client import Client
from tests.board.folders import make_run

from rushlight.board.listing import id_of
from rushlight.board.tensorboard import EventLogs, read_events

FILE = "events.out.tfevents.1700000000.host.1.0"


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def event(step: int, **values: float) -> bytes:
    summary = b"".join(
        field(1, field(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value))
        for tag, value in values.items()
    )
    body = varint(1 << 3 | 1) + struct.pack("<d", 1.7e9 + step) + varint(2 << 3) + varint(step) + field(5, summary)
    return struct.pack("<Q", len(body)) + b"crc1" + body + b"crc2"


def test_scalars_of_steps_are_read_on_as_the_file_grows_and_anew_when_it_was_cut(tmp_path: Path) -> None:
    path, logs = tmp_path / FILE, EventLogs()
    path.write_bytes(event(1, loss=0.5) + event(1, accuracy=0.25) + event(300, loss=float("nan")))
    lines, cursor, anew = logs.new_lines(tmp_path, "")
    assert [(line["step"], list(line["values"])) for line in lines] == [(1, ["loss", "accuracy"]), (300, ["loss"])]
    assert (lines[0]["values"], anew) == ({"loss": 0.5, "accuracy": 0.25}, False)
    more = event(301, loss=1.0)
    with path.open("ab") as file:
        file.write(more[:20])
    assert logs.new_lines(tmp_path, cursor)[0] == []
    with path.open("ab") as file:
        file.write(more[20:])
    assert [line["step"] for line in logs.new_lines(tmp_path, cursor)[0]] == [301]
    path.write_bytes(event(9, loss=2.0))
    lines, _, anew = logs.new_lines(tmp_path, cursor)
    assert ([line["step"] for line in lines], anew) == ([9], True)


def test_what_tensorboard_itself_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("old", step / 4, step)
            writer.add_scalar("new", step / 8, step, new_style=True)
        writer.add_histogram("weights", np.arange(100), 0)
        writer.add_text("note", "hello", 0)
    lines, _, _ = EventLogs().new_lines(tmp_path, "")
    found = {(line["step"], tag): value for line in lines for tag, value in line["values"].items()}
    assert found == {(step, tag): step / size for step in range(5) for tag, size in (("old", 4), ("new", 8))}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), cut=st.integers(0, 220))
def test_damaged_bytes_are_left_out_and_never_raise(tmp_path: Path, damage: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(b"".join(event(step, loss=1.0, other=2.0) for step in range(3)))
    for place, byte in damage:
        content[place % len(content)] = byte
    (tmp_path / FILE).write_bytes(bytes(content[:cut]))
    lines: list[dict[str, Any]] = []
    assert read_events(tmp_path / FILE, 0, lines) <= cut
    assert all(isinstance(value, float) for line in lines for value in line["values"].values())


def test_folders_of_events_are_listed_beside_runs_and_cannot_be_changed(tmp_path: Path) -> None:
    make_run(tmp_path, "ours")
    (tmp_path / "ours" / "tensorboard").mkdir()  # belongs to its run
    (tmp_path / "ours" / "tensorboard" / FILE).write_bytes(event(1, loss=1.0))
    for name in ("theirs/version_0", "theirs/version_1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / FILE).write_bytes(event(1, loss=1.0))
    (tmp_path / "linked").symlink_to("/")
    client = Client(tmp_path)
    rows = {row["name"]: row for row in client.get("/api/runs").json["rows"]}
    assert {name: row["status"] for name, row in rows.items() if name != "linked"} == {
        "ours": "finished", "theirs/version_0": "tensorboard", "theirs/version_1": "tensorboard",
    }  # fmt: skip
    identity = rows["theirs/version_0"]["id"]
    values = client.get(f"/api/logs?run={identity}~~~").json[identity]["values"]["lines"]
    assert values[0]["values"] == {"loss": 1.0}
    for what in ("rename", "delete", "note", "stop"):
        content = {"from": "version_0", "name": "version_0", "note": "", "tags": []}
        assert client.post(f"/api/runs/{identity}/do/{what}", content).status == 404
    for target in (
        f"/api/runs/{identity}",
        f"/api/curves?run={identity}",
        f"/api/recipes?run={identity}",
        f"/api/compare?run={identity}&run={id_of('ours')}",
    ):
        assert client.get(target).status == 200, target
    (tmp_path / "theirs" / "version_1" / FILE).unlink()
    assert rows["theirs/version_1"]["id"] in client.get("/api/runs?since=1").json["gone"]
