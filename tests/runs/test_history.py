from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rushlight.errors import RunError, StorageError
from rushlight.runs import History, read_history, read_losses

TMP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = [
    {"kind": "start", "time": 1.0, "run": "数据", "epochs": 2, "steps_per_epoch": None},
    {"kind": "steps", "epoch": 1, "step": 10, "loss": 0.5, "learning_rate": 0.1, "samples": 640, "time": 2.0},
    {"kind": "epoch", "epoch": 1, "step": 10, "train_loss": 0.5, "test": None, "seconds": 1.0, "time": 3.0},
]


def write_all(folder: Path) -> None:
    with History(folder) as history:
        for line in LINES:
            history.write(line)
        history.write_losses(struct.pack("<3f", 1.0, 0.5, 0.25))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert read_history(tmp_path) == LINES
    assert list(read_losses(tmp_path)) == [1.0, 0.5, 0.25]
    assert (tmp_path / "losses.f32").read_bytes() == struct.pack("<3f", 1.0, 0.5, 0.25)


def test_lines_wait_in_memory_until_a_flush_but_a_start_and_an_event_do_not(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.write(LINES[1])
    assert not (tmp_path / "history.jsonl").exists()
    history.write({"kind": "event", "event": "notice", "time": 2.5})
    assert len(read_history(tmp_path)) == 2
    history.write(LINES[2])
    assert len(read_history(tmp_path)) == 2
    history.flush()
    assert len(read_history(tmp_path)) == 3


def test_a_loss_that_is_not_a_number_becomes_null_in_strict_json_and_stays_exact_in_the_losses(tmp_path: Path) -> None:
    with History(tmp_path) as history:
        history.write({"kind": "steps", "loss": math.nan, "test": {"loss": math.inf, "more": [math.nan, 1.0]}})
        history.write_losses(struct.pack("<f", math.nan))
    (line,) = read_history(tmp_path)
    assert line == {"kind": "steps", "loss": None, "test": {"loss": None, "more": [None, 1.0]}}
    assert math.isnan(read_losses(tmp_path)[0])


@TMP
@given(cut=st.integers(min_value=0, max_value=10_000), junk=st.binary(max_size=30).filter(lambda b: b"\n" not in b))
def test_whatever_is_torn_off_the_end_the_whole_lines_are_read(tmp_path: Path, cut: int, junk: bytes) -> None:
    for name in ("history.jsonl", "losses.f32"):
        (tmp_path / name).unlink(missing_ok=True)
    write_all(tmp_path)
    path = tmp_path / "history.jsonl"
    content = path.read_bytes()[:cut] + junk
    path.write_bytes(content)
    whole = content.count(b"\n")
    if not junk or whole == len(LINES):
        assert read_history(tmp_path) == LINES[:whole]
        with History(tmp_path) as history:  # opening it repairs the end, so that what follows is a line of its own
            history.write(LINES[1])
        assert read_history(tmp_path) == [*LINES[:whole], LINES[1]]


@TMP
@given(length=st.integers(min_value=0, max_value=12))
def test_a_torn_number_at_the_end_of_the_losses_is_left_out_and_repaired(tmp_path: Path, length: int) -> None:
    content = struct.pack("<3f", 1.0, 0.5, 0.25)
    (tmp_path / "losses.f32").write_bytes(content[:length])
    whole = [1.0, 0.5, 0.25][: length // 4]
    assert list(read_losses(tmp_path)) == whole
    with History(tmp_path) as history:
        history.write_losses(struct.pack("<f", 2.0))
    assert list(read_losses(tmp_path)) == [*whole, 2.0]


@pytest.mark.parametrize("broken", [b"{", b"[1]", b"{}", b"", b"\xff", b'{"kind": 3}', b"[" * 100_000])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, broken: bytes) -> None:
    write_all(tmp_path)
    path = tmp_path / "history.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + broken + b"\n" + rest)
    with pytest.raises(RunError, match=r"history\.jsonl, line 2") as caught:
        read_history(tmp_path)
    assert caught.value.key == "history-line-damaged"


def test_a_missing_history_is_named_and_missing_losses_are_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"history\.jsonl: this file of the run is missing"):
        read_history(tmp_path)
    assert list(read_losses(tmp_path)) == []


def test_truncating_to_a_checkpoint_gives_the_files_of_a_run_that_was_never_killed(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    with History(killed) as history:
        history.write(LINES[0])
        history.write_losses(struct.pack("<2f", 1.0, 0.5))
        history.flush()
        at_checkpoint = history.lines.written, history.losses.written
        history.write(LINES[1])
        history.write_losses(struct.pack("<2f", 9.0, 9.0))
    with History(killed) as history:
        history.write(LINES[2])  # still in memory: must vanish too
        history.restore(*at_checkpoint, b"", b"")
        assert (history.lines.written, history.losses.written) == at_checkpoint
        history.write(LINES[1])
        history.write_losses(struct.pack("<f", 0.25))
    with History(whole) as history:
        history.write(LINES[0])
        history.write(LINES[1])
        history.write_losses(struct.pack("<3f", 1.0, 0.5, 0.25))
    for name in ("history.jsonl", "losses.f32"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_history_shorter_than_the_checkpoint_remembers_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with History(tmp_path) as history, pytest.raises(RunError, match="has 12 bytes, but the checkpoint"):
        history.restore(10, 16, b"", b"")


@pytest.mark.parametrize("name", ["history.jsonl", "losses.f32"])
def test_a_file_that_is_refused_is_left_as_it_was_found(tmp_path: Path, name: str) -> None:
    write_all(tmp_path)
    lengths = [(tmp_path / file).stat().st_size for file in ("history.jsonl", "losses.f32")]
    content = (tmp_path / name).read_bytes()[:-2]  # its end is torn
    (tmp_path / name).write_bytes(content)
    with History(tmp_path) as history, pytest.raises(RunError, match="was made when it had"):
        history.restore(*lengths, b"", b"")
    assert (tmp_path / name).read_bytes() == content


def test_a_refused_write_is_kept_and_tried_again_without_a_torn_middle(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    history = History(folder)
    history.write(LINES[0])
    history.write(LINES[1])
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        history.flush()
    moved.rename(folder)
    with (folder / "history.jsonl").open("ab") as file:
        file.write(b'{"kind": "st')  # what a full disk leaves of a write that failed half way
    history.write(LINES[2])
    history.try_flush()
    assert read_history(folder) == LINES


def test_very_long_torn_lines_are_repaired(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for whole in ([LINES[0]], []):
        path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in whole) + b"x" * 200_000)
        with History(tmp_path) as history:
            history.write(LINES[1])
        assert read_history(tmp_path) == [*whole, LINES[1]]


def test_what_a_refusing_disk_did_not_take_comes_back_from_the_checkpoint(tmp_path: Path) -> None:
    folder, told = tmp_path / "run", []
    folder.mkdir()
    history = History(folder, told.append)
    history.write(LINES[0])
    at_checkpoint = history.lines.written, history.losses.written
    moved = folder.rename(tmp_path / "elsewhere")
    history.write_losses(struct.pack("<2f", 1.0, 0.5))
    history.write({**LINES[0], "run": "again"})  # a start is flushed at once
    assert "Training goes on" in told[0]
    tails = bytes(history.lines.pending), bytes(history.losses.pending)
    moved.rename(folder)
    with History(folder) as later:
        later.restore(*at_checkpoint, *tails)
    assert [line.get("run") for line in read_history(folder)] == [LINES[0].get("run"), "again"]
    assert list(read_losses(folder)) == [1.0, 0.5]


def test_a_disk_that_refuses_for_too_long_ends_the_time_of_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "nowhere")
    history.write_losses(b"0000")
    history.try_flush()
    monkeypatch.setattr("rushlight.runs.history.GRACE_SECONDS", -1.0)
    with pytest.raises(StorageError):
        history.try_flush()
