from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rushlight.errors import RunError
from rushlight.runs import list_runs, lock_run, summarize_run
from rushlight.runs.sessions import list_sessions, read_sessions, write_session

RECIPE = {"model": {"name": "mlp"}, "data": {"name": "digits"}, "epochs": 3}


def epoch(number: int, **test: float) -> dict[str, Any]:
    return {
        "kind": "epoch", "epoch": number, "step": 10 * number, "train_loss": 1.0 / number,
        "test": {"n": 100, **test} if test else None, "learning_rate": 0.1, "seconds": 2.5, "time": 100.0 + number,
    }  # fmt: skip


def event(name: str) -> dict[str, Any]:
    return {"kind": "event", "event": name, "step": 20, "message": "", "time": 110.0}


def make_run(runs: Path, name: str, *lines: dict[str, Any], started: float = 100.0) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    write_lines(folder, {"kind": "start", "time": started, "run": name, "epochs": 3, "steps_per_epoch": 10}, *lines)
    return folder


def write_lines(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_summary_has_the_last_and_the_best_figures(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path, "a", epoch(1, loss=0.5, accuracy=0.8), epoch(2, loss=0.3, accuracy=0.9), epoch(3, loss=0.4, accuracy=0.85),
        event("finished"),
    )  # fmt: skip
    found = summarize_run(folder)
    assert (found.status, found.model, found.data) == ("finished", "mlp", "digits")
    assert (found.epochs_done, found.epochs, found.steps, found.started) == (3, 3, 30, 100.0)
    assert (found.accuracy, found.best_accuracy, found.best_epoch) == (0.85, 0.9, 2)
    assert (found.metric, found.metric_value, found.test_loss) == ("accuracy", 0.85, 0.4)
    assert (found.train_loss, found.seconds) == (1.0 / 3, 7.5)


def test_a_regression_is_judged_by_its_lowest_mean_absolute_error(tmp_path: Path) -> None:
    found = summarize_run(make_run(tmp_path, "a", epoch(1, loss=0.5, mae=3.0), epoch(2, loss=0.4, mae=4.0)))
    assert (found.metric, found.metric_value, found.best_epoch) == ("mae", 4.0, 1)
    assert (found.accuracy, found.best_accuracy) == (None, None)


def test_a_run_tested_only_at_its_end_has_the_figures_of_its_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", epoch(1), event("finished"))
    (folder / "report.json").write_text(json.dumps({"loss": 0.2, "accuracy": 0.7}))
    assert summarize_run(folder).accuracy == 0.7


@pytest.mark.parametrize(
    ("sessions", "events", "status"),
    [
        ([], [], "unfinished"),
        (["started"], [], "unfinished"),
        (["started", "interrupted"], [], "interrupted"),
        (["started", "failed"], [], "failed"),
        (["started", "interrupted", "resumed"], [], "unfinished"),
        (["started", "interrupted", "resumed", "finished"], ["skipped", "finished"], "finished"),
        (["started", "finished", "resumed"], [], "unfinished"),  # going on to more epochs
    ],
)
def test_the_status_is_what_the_last_session_and_the_history_say(
    tmp_path: Path, sessions: list[str], events: list[str], status: str
) -> None:
    folder = make_run(tmp_path, "a", epoch(1), *map(event, events))
    for name in sessions:
        write_session(folder, name, 20)
    assert summarize_run(folder).status == status
    assert list_runs(tmp_path)[0].status == status


def test_a_session_is_one_process_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    change = "the number of threads: 2 then, 1 now"
    for name, step, more in (
        ("started", 0, {}),  # killed
        ("resumed", 3, {"differences": [change]}),
        ("failed", 7, {"message": "the disk is full"}),
        ("resumed", 7, {}),
        ("interrupted", 9, {}),
        ("resumed", 9, {}),
    ):
        write_session(tmp_path, name, step, **more)
    found = list_sessions(tmp_path)
    assert [(session["from_step"], session["step"], session["end"]) for session in found] == [
        (0, None, "killed"), (3, 7, "failed"), (7, 9, "interrupted"), (9, None, "killed"),
    ]  # fmt: skip
    assert [session["differences"] for session in found] == [[], [change], [], []]
    assert [session["message"] for session in found] == [None, "the disk is full", None, None]
    assert {session["pid"] for session in found} == {os.getpid()}
    assert [session["end"] for session in list_sessions(tmp_path, is_running=True)][-1] == "running"
    assert list_sessions(tmp_path / "none") == []


def test_a_torn_line_of_sessions_is_left_out_and_the_next_begins_a_line_of_its_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", epoch(1))
    write_session(folder, "started", 0)
    with (folder / "sessions.jsonl").open("ab") as file:
        file.write(b'{"event": "interr')
    assert [line["event"] for line in read_sessions(folder)] == ["started"]
    write_session(folder, "resumed", 3, differences=["the number of threads: 2 then, 1 now"])
    assert [line["event"] for line in read_sessions(folder)] == ["started", "resumed"]
    assert summarize_run(folder).inexact == ("resumed at step 3: the number of threads: 2 then, 1 now",)
    assert list_runs(tmp_path)[0].inexact == list_runs(tmp_path)[0].inexact == summarize_run(folder).inexact


def test_a_run_that_a_living_process_holds_is_running(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a")
    assert list_runs(tmp_path)[0].status == "unfinished"
    with lock_run(folder):
        assert summarize_run(folder).status == "running"
        assert list_runs(tmp_path)[0].status == "running"
    assert list_runs(tmp_path)[0].status == "unfinished"


def test_runs_are_listed_newest_first_and_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    make_run(tmp_path, "old", started=1.0)
    make_run(tmp_path, "new", started=3.0)
    make_run(tmp_path, "middle", started=2.0)
    make_run(tmp_path, "torn.part", started=9.0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "note.txt").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == ["new", "middle", "old"]
    assert list_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.json", b"{"),
        ("recipe.json", b"[]"),
        ("history.jsonl", b"nonsense\n{}\n"),
        ("recipe.json", b'{"model": "mlp", "data": "digits", "epochs": "3"}'),
        ("history.jsonl", b'{"kind":"epoch"}\n'),
        ("history.jsonl", b'{"kind":"epoch","epoch":1,"train_loss":"x","seconds":1}\n'),
        ("history.jsonl", b'{"kind":"epoch","epoch":1,"train_loss":1,"seconds":1,"test":3}\n'),
        ("history.jsonl", b'{"kind":"epoch","epoch":"x","train_loss":1,"seconds":1}\n'),
    ],
)
def test_a_damaged_run_is_listed_as_damaged_beside_the_whole_ones(tmp_path: Path, file: str, content: bytes) -> None:
    make_run(tmp_path, "whole", event("finished"))
    damaged = make_run(tmp_path, "hurt")
    (damaged / file).write_bytes(content)
    found = {run.name: run for run in list_runs(tmp_path)}
    assert found["whole"].status == "finished"
    assert found["hurt"].status == "damaged"
    assert file in found["hurt"].problem
    with pytest.raises(RunError, match=file.replace(".", r"\.")):
        summarize_run(damaged)


def test_a_thousand_runs_are_listed_newest_first(tmp_path: Path) -> None:
    steps = [{"kind": "steps", "epoch": 1, "step": step, "loss": 0.5, "learning_rate": 0.1, "samples": 640, "time": 2.0}
             for step in range(10)]  # fmt: skip
    lines = [*steps, epoch(1, loss=0.5, accuracy=0.8), *steps, epoch(2, loss=0.4, accuracy=0.9), event("finished")]
    for number in range(1000):
        make_run(tmp_path, f"run-{number}", *lines, started=float(number))
    assert [run.name for run in list_runs(tmp_path)] == [f"run-{number}" for number in reversed(range(1000))]


def test_changed_and_removed_runs_are_listed_as_they_are_now(tmp_path: Path) -> None:
    changed, removed = make_run(tmp_path, "changed"), make_run(tmp_path, "removed")
    assert {run.steps for run in list_runs(tmp_path)} == {0}
    write_lines(changed, {"kind": "start", "time": 5.0}, epoch(1, loss=0.5, accuracy=0.8))
    for file in removed.iterdir():
        file.unlink()
    removed.rmdir()
    (found,) = list_runs(tmp_path)
    assert (found.name, found.steps, found.started) == ("changed", 10, 5.0)


def test_the_steps_since_the_last_epoch_count(tmp_path: Path) -> None:
    step = {"kind": "steps", "epoch": 2, "step": 15, "loss": 0.5, "learning_rate": 0.1, "samples": 640, "time": 2.0}
    folder = make_run(tmp_path, "a")
    lines = [{"kind": "start", "time": 5.0}, {**step, "step": 5}, epoch(1, loss=0.5), {**step, "step": 12}, step]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (folder / "history.jsonl").write_text(text + '{"kind":"steps","st')  # the end is torn
    assert summarize_run(folder).steps == 15


def test_the_index_of_older_versions_is_left_alone(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    (tmp_path / "index.sqlite").write_bytes(b"SQLite format 3")
    assert [run.name for run in list_runs(tmp_path)] == ["a"]
    assert (tmp_path / "index.sqlite").read_bytes() == b"SQLite format 3"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_runs_in_a_folder_that_cannot_be_written_are_listed_all_the_same(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    tmp_path.chmod(0o555)
    try:
        assert [run.name for run in list_runs(tmp_path)] == ["a"]
    finally:
        tmp_path.chmod(0o755)


def test_listing_runs_imports_neither_torch_nor_numpy_nor_rich(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    code = (
        "import sys; from pathlib import Path; from rushlight.runs import list_runs; list_runs(Path(sys.argv[1]))\n"
        "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
