"""No text from a file or a name commands the terminal, hides in it, or begins a line of its own; nothing else prints."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.source import calls

from rushlight import console
from rushlight.cli import main
from rushlight.errors import DataError
from rushlight.texts import MOST_CHARACTERS, Joined, Note, quoted, shown, text, visible

EVIL = "a\x1b]52;c;ZWNobw==\x07b\x9b31mc\u202ed\u200be\nerror: f\rg\x00h\udce9"
HOME = "console/output.py"  # the one place that prints
OTHERS = {
    "options/__main__.py": "writes a page of the documentation",
    "texts/__init__.py": "tells of an unknown language before there is a console",
    "training/engine/compiler.py": "answers another process of ours",
}
VISIBLE_FORMATS = {
    "\u0600",
    "\u0601",
    "\u0602",
    "\u0603",
    "\u0604",
    "\u0605",
    "\u06dd",
    "\u070f",
    "\u0890",
    "\u0891",
    "\u08e2",
}


def is_harmless(printed: str) -> bool:
    return all(unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in printed.replace("\n", ""))


def test_whatever_a_terminal_obeys_hides_or_reorders_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in VISIBLE_FORMATS:
            is_script = 0x110BD <= code <= 0x110CD or 0x13430 <= code <= 0x1343F  # marks that are seen
            assert is_script or visible(character) != character, hex(code)
    assert visible("Äpfel 苹果 ‮".strip("\u202e")) == "Äpfel 苹果 "
    assert visible("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
    assert visible(visible(EVIL)) == visible(EVIL)


def test_long_text_loses_its_middle_and_long_lists_their_end() -> None:
    assert len(visible("x" * 10**7)) <= MOST_CHARACTERS
    assert visible("begin" + "x" * 10**4 + "end").startswith("begin")
    assert visible("begin" + "x" * 10**4 + "end").endswith("end")
    assert len(Joined("list", ("y" * 10 for _ in range(10**5)))) < 2000


def test_values_of_texts_are_visible_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    note = Note("data.same-file-content") if False else Note("data.folder-without-images", name=EVIL)
    error = DataError("no-table", path=EVIL)
    for language in ("en", "zh"):
        monkeypatch.setenv("RUSHLIGHT_LANGUAGE", language)
        for said in (shown(note), error.problem, text("console.saved", path=Path(EVIL)), shown(EVIL)):
            assert is_harmless(said)
            assert "\n" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize("name", ["plain", "my run", "$(touch ran)", "it's", "a\x1bb", "a'\n\\b", "\udce9", "\u202e数"])
def test_a_name_in_a_command_is_that_name_in_a_shell(name: str, tmp_path: Path) -> None:
    assert quoted("plain") == "plain"
    assert is_harmless(quoted(name))
    command = text("console.upkeep.look-at", run=name).partition("--verify ")[2]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    given = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True, cwd=tmp_path, env=environment)
    assert given.stdout == os.fsencode(name)
    assert not (tmp_path / "ran").exists()
    if name.isprintable():
        assert shlex.split(command) == [name]


def hostile_report() -> dict[str, Any]:
    share = dict.fromkeys(("precision", "recall", "f1"), 0.5)
    classes = [{"name": EVIL + str(i), "n": 3, **share} for i in range(3)]
    wrong = [{"index": 1, "name": EVIL, "true": EVIL, "predicted": EVIL, "probability": 0.9}]
    return {"loss": 1.0, "n": 9, "accuracy": 0.5, "classes": classes, "confusion": [[1, 2, 3]] * 3, "most_wrong": wrong}


def hostile_run(runs: Path) -> Path:
    folder = runs / EVIL.replace("\0", "").replace("/", "")
    folder.mkdir(parents=True)
    named = {"name": EVIL, "arguments": {EVIL: EVIL}}
    recipe = {"model": named, "data": {"name": EVIL}, "epochs": 3, EVIL: EVIL, "device": EVIL}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "environment.json").write_text(json.dumps({"data_notes": [EVIL]}))
    figures = {"loss": 1.0, "accuracy": 0.5}
    history = [
        {"kind": "start", "time": 5.0},
        {"kind": "epoch", "epoch": 1, "step": 3, "train_loss": 1.0, "test": figures, "seconds": 1.0},
        {"kind": "event", "event": EVIL, "message": EVIL, "step": 2, "time": 1.0},
    ]
    sessions = [
        {"event": "started", "step": 0, "host": EVIL, "pid": 3, "time": 5.0},
        {"event": "notice", "message": EVIL},
        {"event": "failed", "message": EVIL},
        {"event": "resumed", "step": 3, "differences": [EVIL]},
    ]
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in history))
    (folder / "sessions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in sessions))
    return folder


def printed_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(list(arguments))
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.skipif(sys.platform != "linux", reason="such names of files")
def test_a_hostile_run_is_shown_without_effect(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUSHLIGHT_LANGUAGE", language)
    folder = hostile_run(tmp_path / "runs")
    for arguments in (
        ["runs"],
        ["runs", "latest"],
        ["runs", "--verify"],
        ["runs", "--verify", "latest"],
        ["test"],
        ["resume"],
    ):
        said = printed_by(capsys, *arguments)
        assert is_harmless(said), arguments
        assert not any(line.startswith("error: f") for line in said.splitlines()), arguments
    json_said = printed_by(capsys, "runs", "latest", "--json")
    assert is_harmless(json_said)
    assert json.loads(json_said)["name"] == folder.name
    console.print_report(hostile_report())
    console.print_summary(folder=EVIL, seconds=1.0, test=None, run="latest")
    said = capsys.readouterr().out
    assert is_harmless(said)
    assert not any(line.startswith("error: f") for line in said.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="such names of files")
def test_hostile_classes_and_columns_are_shown_without_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    evil = EVIL.replace("\0", "").replace("/", "")
    for number, name in enumerate((evil, f"{evil}2")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            image = Image.fromarray(np.full((8, 8), 40 * number + index, np.uint8))
            image.save(tmp_path / "images" / name / f"{evil}{index}.png")
    rows = "".join(f"{i},{i % 2}x{evil.encode('ascii', 'ignore').decode()!r},{i % 2}\n" for i in range(40))
    (tmp_path / "t.csv").write_text(f'a,"{evil.encode("ascii", "ignore").decode()}",kind\n{rows}')
    (tmp_path / "images" / evil / f"{evil}bad.png").write_bytes(b"no image")
    for arguments in (
        ["data", "images", "--skip-bad"], ["data", "images"], ["data", "t.csv", "--target", "kind"], ["data", "t.csv"],
        ["data", evil], ["train", evil, "digits"], ["train", "mlp", evil], [evil], ["runs", evil], ["train", f"--{evil}"],
    ):  # fmt: skip
        said = printed_by(capsys, *arguments)
        assert is_harmless(said), arguments
        assert not any(line.startswith("error: f") for line in said.splitlines()), arguments


def test_what_the_user_logs_and_a_raw_error_are_shown_without_effect(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.Progress()
    for kind, data in (
        ("values", {"values": {EVIL: EVIL, "image": {"media": EVIL}, "number": 0.5}}), ("message", {"text": EVIL}),
        ("warning", {"text": EVIL}), ("announcement", {"epochs": 1, "title": EVIL, "lines": [EVIL]}),
    ):  # fmt: skip
        progress.show(type("Event", (), {"kind": kind, "data": data}))
    console.print_error(RuntimeError(EVIL), traceback=True)
    said = capsys.readouterr()
    assert is_harmless(said.out + said.err)
    assert not any(line.startswith("error: f") for line in said.out.splitlines())


def test_nothing_but_the_console_prints() -> None:
    printers = ("print", "typer.echo", "typer.secho", "Console", "Table", "Table.grid")
    for name, called, _ in calls():
        if name != HOME and name not in OTHERS:
            assert called not in printers, (name, called)
            assert not called.startswith(("sys.stdout.write", "sys.stderr.write")), (name, called)
