"""Chinese characters are two columns wide: tables and rows stand straight with them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len

from rushlight.cli.overview import print_overview, show_datasets
from rushlight.console import Progress, print_report, print_run, print_runs
from rushlight.console.progress import cut_in_middle

RUN: dict[str, Any] = {
    "name": "猫和狗-k7", "folder": Path("runs"), "started": 1.79e9, "status": "finished", "epochs_done": 5, "epochs": 5,
    "train_loss": 0.31, "best_accuracy": 0.885, "best_epoch": 4, "metric": "accuracy", "metric_value": 0.8841,
    "seconds": 16.2, "problem": "",
}  # fmt: skip
FIGURES = {"loss": 0.5, "accuracy": 0.75}
SESSION: dict[str, Any] = {
    "began": 1.79e9, "ended": 1.79e9, "from_step": 0, "step": 9, "end": "killed", "pid": 7, "host": "ada", "message": None,
    "differences": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHLIGHT_LANGUAGE", "zh")
    monkeypatch.setenv("COLUMNS", "120")


def table_under(printed: str, title: str, rows: int) -> list[str]:
    """The heading of the table under a title, and its rows."""
    lines = printed.splitlines()
    at = lines.index(title) + 1
    return [lines[at], *lines[at + 2 : at + 2 + rows]]


def columns_before(lines: list[str], words: list[str]) -> set[int]:
    """How many columns of the screen each line fills before its word: one number where they stand straight."""
    return {cell_len(line[: line.index(word)]) for line, word in zip(lines, words, strict=True)}


def columns_through(lines: list[str], words: list[str]) -> set[int]:
    """How many columns of the screen each line fills up to the end of its word."""
    return {cell_len(line[: line.index(word) + len(word)]) for line, word in zip(lines, words, strict=True)}


def test_the_list_of_runs_stands_straight(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([RUN, {**RUN, "name": "ascii", "status": "interrupted"}])
    lines = capsys.readouterr().out.splitlines()
    assert "已中断" in lines[3]
    assert len(columns_before([lines[0], *lines[2:4]], ["开始", "2026", "2026"])) == 1
    assert len(columns_through([lines[0], *lines[2:4]], ["损失", "0.3100", "0.3100"])) == 1


def test_the_epochs_and_sessions_of_a_run_stand_straight(capsys: pytest.CaptureFixture[str]) -> None:
    history = [{"kind": "epoch", "epoch": i, "train_loss": 1.0, "validation": FIGURES, "seconds": 3.0} for i in (1, 2)]
    print_run(RUN, {"epochs": 2}, history, [], [SESSION, {**SESSION, "end": "interrupted", "host": "电脑"}])
    printed = capsys.readouterr().out
    assert len(columns_through(table_under(printed, "各轮", 2), ["验证准确率", "75.00%", "75.00%"])) == 1
    sessions = table_under(printed, "运行过的进程", 2)
    assert len(columns_before(sessions, ["结局", "被终止", "已中断"])) == 1


def test_the_rows_of_a_training_stand_straight(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    epoch = {"epoch": 1, "train_loss": 1.0, "learning_rate": 0.1, "seconds": 3.0, "is_best": False, "test": FIGURES}
    progress.show(SimpleNamespace(kind="epoch", data=epoch))
    heading, row = capsys.readouterr().out.splitlines()
    for word, value in (("测试损失", "0.5000"), ("准确率", "75.00%"), ("用时", "3.0s")):
        assert len(columns_through([heading, row], [word, value])) == 1


def test_the_classes_of_a_report_stand_straight(capsys: pytest.CaptureFixture[str]) -> None:
    classes = [
        {"name": name, "n": 9, "precision": 0.5, "recall": 0.5, "f1": 0.25} for name in ("连衣裙", "T-shirt/top", "包")
    ]
    print_report({"loss": 0.1, "n": 27, "accuracy": 0.5, "classes": classes, "confusion": [[9, 0, 0]] * 3})
    printed = capsys.readouterr().out
    assert len({cell_len(line) for line in table_under(printed, "各个类别", 3)}) == 1
    assert len({cell_len(line) for line in table_under(printed, "混淆矩阵：行是真实类别，列是模型的回答", 3)}) == 1


def test_what_data_holds_stands_straight(capsys: pytest.CaptureFixture[str]) -> None:
    split = {"samples": 9, "storage": "resident", "counts": {"猫": 4, "dog": 5}, "min": 0.0, "max": 1.0}
    about = {"name": "x", "kind": "image", "shape": [1, 8, 8], "dtype": "uint8", "task": "classification"}
    rest = {"columns": None, "duplicates": {"count": 0, "of": 9, "pairs": []}, "mean": None, "std": None, "notes": []}
    print_overview({**about, **rest, "splits": {"train": split, "validation": None, "test": split}})
    printed = capsys.readouterr().out
    assert len(columns_before(printed.splitlines()[1:3], ["9 个样本", "9 个样本"])) == 1
    assert len({cell_len(line) for line in table_under(printed, "每个类别的样本数", 2)}) == 1


def test_the_list_of_datasets_stands_straight(capsys: pytest.CaptureFixture[str]) -> None:
    show_datasets(as_json=False)
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if "像素" in line or "1×8×8" in line]
    assert len(columns_through(lines, ["像素", "1×8×8"])) == 1


@pytest.mark.parametrize("room", range(8, 24))
def test_a_long_chinese_name_is_cut_to_the_columns_there_are(room: int) -> None:
    assert cell_len(cut_in_middle("训练用的图片.tar.gz", room)) == min(room, 19)
