"""One bad run never takes the list down, and none ends a command in anything but words: each file, each entry, each kind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rushlight import console, files, runs
from rushlight.cli import listing
from rushlight.errors import RushlightError
from rushlight.kinds import wrong_entry
from rushlight.runs.history import LINES
from rushlight.runs.values import keep_values, read_values
from rushlight.runs.verify import verify_run
from rushlight.training import recipe_from_json

RECIPE: dict[str, Any] = {
    "model": {"name": "mlp", "arguments": {"hidden": [8]}, "seed": 0},
    "data": {"name": "digits", "source": "digits", "options": {"seed": 1}},
    "loss": {"name": "cross-entropy"},
    "optimizer": {"name": "SGD", "arguments": {"lr": 0.1}},
    "schedule": {"name": "constant", "warmup": 0},
    "epochs": 3, "batch_size": 64, "accumulate": 1, "clip_norm": 1.0, "seed": 0, "device": "cpu", "precision": "float32",
    "numerics": "fast", "early_stopping": 2, "tensorboard": False, "on_nan": "stop", "keep_epochs": False, "compile": "auto",
}  # fmt: skip
FIGURES = {"loss": 1.0, "accuracy": 0.5, "n": 9}
SHARE = {
    f"{name}{ending}": value
    for name in ("precision", "recall", "f1")
    for ending, value in (("", 0.5), ("_interval", [0.4, 0.6]))
}
FILES: dict[str, Any] = {
    "recipe.json": RECIPE,
    "environment.json": {"data_notes": ["one"], "conditions": {"torch": "2"}, "data_fingerprint": "ab"},
    "report.json": {
        "task": "classification", **FIGURES, "accuracy_interval": [0.4, 0.6], "classes": [{"name": "a", "n": 3, **SHARE}] * 2,
        "confusion": [[1, 2], [3, 4]], "target": "x", "most_wrong": [{"index": 1, "true": "a", "predicted": "b", "probability": 0.9}],
    },
    "history.jsonl": [
        {"kind": "start", "time": 5.0, "run": "bad", "epochs": 3, "steps_per_epoch": 3},
        {"kind": "steps", "epoch": 1, "step": 3, "loss": 1.0, "learning_rate": 0.1, "samples": 9, "time": 6.0},
        {"kind": "epoch", "epoch": 1, "step": 3, "train_loss": 1.0, "test": FIGURES, "learning_rate": 0.1, "seconds": 1.0, "time": 7.0},
        {"kind": "event", "event": "skipped", "step": 2, "message": "m", "time": 8.0},
    ],
    "sessions.jsonl": [
        {"event": "started", "step": 0, "time": 5.0, "pid": 3, "host": "h"},
        {"event": "notice", "step": 0, "time": 5.0, "pid": 3, "host": "h", "message": "m"},
        {"event": "failed", "step": 3, "time": 6.0, "pid": 3, "host": "h", "message": "m"},
        {"event": "resumed", "step": 3, "time": 6.0, "pid": 3, "host": "h", "differences": ["d"]},
    ],
    "holder.json": {"pid": 3, "host": "h", "started": 5.0},
}  # fmt: skip
ODD = ("null", "true", '"x"', "-1", "1e400", "-1e400", "1e300", "1180591620717411303424", "NaN", "[]", "{}", "[[1]]", "0.5",
       '"\\ud800"', "[" * 150 + "]" * 150, "[" * 50_000, "1" * 5000)  # fmt: skip


def entries(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every entry in JSON values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (*path, key)
        yield from entries(entry, (*path, key))


def with_entry(content: Any, path: tuple[Any, ...], odd: str | None) -> str:
    """Return JSON in which one entry is something odd, or absent."""
    marked = json.loads(json.dumps(content))
    owner = marked
    for key in path[:-1]:
        owner = owner[key]
    if odd is None:
        del owner[path[-1]]
    else:
        owner[path[-1]] = "the odd one"
    lines = marked if isinstance(content, list) else [marked]
    return "".join(f"{json.dumps(line)}\n" for line in lines).replace('"the odd one"', odd or "")


def write_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        lines = content if isinstance(content, list) else [content]
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "losses.f32").write_bytes(bytes(4))
    (folder / "holder.json").unlink()


def use(folder: Path) -> None:
    """Do with a run what the commands do that read it; words are raised, nothing else."""
    for command in (
        lambda: listing.show_runs(folder.parent, False), lambda: listing.show_run(folder.parent, "bad", False), lambda: listing.show_run(folder.parent, "bad", True),
        lambda: verify_run(folder), lambda: recipe_from_json(runs.read_recipe(folder)),
        lambda: console.print_report(runs.read_report(folder)), lambda: runs.describe_deletion(folder),
    ):  # fmt: skip
        with contextlib.suppress(RushlightError):
            command()


@pytest.mark.parametrize("name", FILES)
def test_any_entry_may_be_of_any_kind(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bad"
    write_run(folder)
    write_run(tmp_path / "good")
    use(folder)
    content = FILES[name]
    every = list(entries(content))
    for number, path in enumerate(every):
        for place, odd in enumerate((None, *ODD)):
            if (number + place) % 16:  # of every entry and of every odd value some
                continue
            text = with_entry(content, path, odd)
            (folder / name).write_text(text)
            use(folder)
            listed = {summary.name: summary.status for summary in runs.list_runs(tmp_path)}
            assert listed["good"] == "unfinished", text[:300]
            assert "bad" in listed
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":"steps","epoch":1,"step":1e400,"loss":1}',
        '{"kind":"epoch","epoch":3,"step":9,"train_loss":1,"seconds":1,"test":{"accuracy":NaN}}',
        '{"kind":"epoch","epoch":3,"step":9,"train_loss":1,"seconds":1e300,"test":null}',
        '{"kind":"epoch","epoch":3,"step":9,"train_loss":"x","seconds":1,"test":null}',
        '{"kind":"epoch","epoch":3,"step":9,"train_loss":1,"seconds":1,"test":{"accuracy":1e300}}',
        '{"kind":"epoch","epoch":3,"step":9,"train_loss":1,"seconds":1,"test":[]}',
        '{"kind":"event","event":3}',
    ],
)
def test_a_line_of_another_kind_makes_its_run_damaged_and_no_other(line: str, tmp_path: Path) -> None:
    for name in ("bad", "good"):
        write_run(tmp_path / name)
    with (tmp_path / "bad" / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    listed = {summary.name: summary for summary in runs.list_runs(tmp_path)}
    assert (listed["bad"].status, listed["good"].status) == ("damaged", "unfinished")
    assert "line 5" in listed["bad"].problem


def test_an_error_that_nobody_foresaw_makes_its_run_damaged_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        write_run(tmp_path / name)

    def read(folder: Path) -> Any:
        if folder.name == "bad":
            raise OverflowError("too large")
        return RECIPE

    monkeypatch.setattr("rushlight.runs.summary.read_recipe", read)
    listed = {summary.name: summary for summary in runs.list_runs(tmp_path)}
    assert listed["bad"].problem == "it cannot be read: OverflowError: too large"
    assert listed["good"].status == "unfinished"


def test_curves_of_extreme_figures_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (1e308, -1e308, 1e-308, 0.0):
        epochs = [
            {"kind": "epoch", "epoch": i, "step": i, "train_loss": value, "test": {"loss": value, "mae": value * i / 2}, "seconds": 1.0}
            for i in (1, 2)
        ]  # fmt: skip
        summary = {"name": "x", "folder": "x", "status": "finished"}
        console.print_run(summary, {}, epochs, [3.4e38, -3.4e38, value, float("nan"), float("inf")])
    capsys.readouterr()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    began = time.monotonic()
    checkpoint = "checkpoints/00000003"
    for name in (
        *FILES,
        "losses.f32",
        f"{checkpoint}/SHA256SUMS",
        f"{checkpoint}/state.json",
        "model/model.json",
        "values.jsonl",
        "predictions.npz",
    ):
        folder = tmp_path / "bad"
        shutil.rmtree(tmp_path)
        write_run(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                os.chdir(path.parent)
                listener.bind(path.name)
                os.chdir("/")
        use(folder)
    assert time.monotonic() - began < 30
    capsys.readouterr()


def test_only_images_of_the_run_are_deleted_with_what_was_logged(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    inside = tmp_path / "run" / "media" / "inside.png"
    inside.parent.mkdir(parents=True)
    names = ["../outside.png", str(outside), "media/../../outside.png", "media/inside.png", 7]
    for path in (outside, inside):
        path.touch()
    values = {f"v{number}": {"media": name} for number, name in enumerate(names)}
    (tmp_path / "run" / "values.jsonl").write_text(json.dumps({"epoch": 3, "step": 9, "values": values}) + "\n")
    keep_values(tmp_path / "run", 2)
    assert outside.exists()
    assert not inside.exists()
    assert read_values(tmp_path / "run") == []


def test_a_wrong_entry_is_named() -> None:
    line = {"kind": "epoch", "epoch": 1, "step": 3, "train_loss": None, "seconds": 1.0, "test": {"accuracy": 2}}
    assert wrong_entry(line, LINES["epoch"]) == "test"
    assert wrong_entry({**line, "test": None}, LINES["epoch"]) is None
    assert wrong_entry({**line, "seconds": True}, LINES["epoch"]) == "seconds"
    assert wrong_entry([], LINES["epoch"]) == ""


@pytest.mark.parametrize(("number", "said"), [(errno.EMFILE, "as many files open"), (errno.EACCES, "may not read")])
def test_what_the_system_refuses_is_no_damage(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, follows: bool = True) -> None:
        raise OSError(number, os.strerror(number), str(path))

    write_run(tmp_path / "it")
    monkeypatch.setattr(files, "open_descriptor", refuse)
    with pytest.raises(RushlightError, match=said):
        runs.read_recipe(tmp_path / "it")
    assert said in runs.list_runs(tmp_path)[0].problem
