from __future__ import annotations

from typing import Any

import pytest

from rushlight.console import print_report, print_summary


def report(count: int, names: list[str] | None = None, size: int = 100) -> dict[str, Any]:
    """A report of `count` classes in which each class is taken for the next one as often as its number says."""
    names = names or [f"class {i}" for i in range(count)]
    confusion = [[0] * count for _ in range(count)]
    for i in range(count):
        confusion[i][i] = size - i
        confusion[i][(i + 1) % count] += i
    figures = [
        {"name": name, "n": size, "precision": 0.9, "precision_interval": [0.88, 0.92], "recall": None,
         "recall_interval": [0.0, 1.0], "f1": 0.5 + i / 1000}
        for i, name in enumerate(names)
    ]  # fmt: skip
    wrong = [{"index": 7, "true": names[0], "predicted": names[-1], "probability": 0.987}]
    return {
        "task": "classification", "loss": 0.33, "n": size * count, "accuracy": 0.8841, "accuracy_interval": [0.878, 0.89],
        "classes": figures, "confusion": confusion, "most_wrong": wrong,
    }  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], content: dict[str, Any]) -> str:
    print_report(content)
    return capsys.readouterr().out


def test_a_report_has_accuracy_classes_confusion_and_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, report(3, ["上衣", "trouser [x]", "coat"]))
    assert "test accuracy 88.41% (95% interval 87.8-89.0%)" in text
    assert "loss 0.3300, on 300 samples" in text
    row = next(line.split() for line in text.splitlines() if line.split()[:2] == ["trouser", "[x]"])
    assert row == ["trouser", "[x]", "100", "90.0%", "(88.0-92.0%)", "-", "50.1%"]
    assert next(line.split() for line in text.splitlines() if line.startswith(" 2 coat")) == [
        "2",
        "coat",
        "2",
        "·",
        "98",
    ]
    assert "98.7%" in text


def test_mistakes_are_listed_by_the_samples_names_where_they_have_any(capsys: pytest.CaptureFixture[str]) -> None:
    content = report(3)
    content["most_wrong"][0]["name"] = "class 2/[b] 图.png"
    rows = shown(capsys, content).splitlines()
    assert rows[-1].split() == ["class", "2/[b]", "图.png", "class", "0", "class", "2", "98.7%"]


def test_up_to_twenty_classes_have_a_matrix_and_more_have_the_most_confused_pairs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "confusion: rows" in shown(capsys, report(20))
    text = shown(capsys, report(21))
    assert "confusion: rows" not in text
    first = text[text.index("most confused") :].splitlines()[3]
    assert first.split() == ["class", "20", "class", "0", "20"]


def test_a_matrix_too_wide_for_the_page_becomes_pairs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    text = shown(capsys, report(20))
    assert "most confused" in text
    assert max(map(len, text.splitlines())) <= 50


def test_of_more_than_thirty_classes_the_ten_worst_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "class 29" in shown(capsys, report(30))
    text = shown(capsys, report(31))
    assert "the 10 worst of 31 classes" in text
    table = text[text.index("worst of") : text.index("most confused")]
    assert "class 9 " in table
    assert "class 10" not in table


def test_short_class_names_head_the_columns_of_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, report(2, ["no", "yes"]))
    assert text[text.index("confusion: rows") :].splitlines()[1].split() == ["no", "yes"]


def test_labels_have_classes_and_no_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, {**report(3), "task": "multilabel", "confusion": [], "most_wrong": []})
    assert "by class" in text
    assert "confusion" not in text


def test_a_regression_has_its_errors_in_the_targets_units(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [{"index": 3, "true": [120.5, 1.0], "predicted": [99.25, 2.0], "error": 21.25}]
    text = shown(
        capsys,
        {"task": "regression", "loss": 0.3, "n": 200, "mae": 12.3456, "rmse": 20.1, "r2": None, "target": "price",
         "accuracy": None, "classes": [], "confusion": [], "most_wrong": wrong},
    )  # fmt: skip
    assert "mean absolute error of price 12.3456" in text
    assert "RMSE 20.1000, R² -" in text
    assert "120.5, 1.0000" in text


def test_an_objective_of_ones_own_reports_its_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, {"task": None, "loss": None, "n": 5}) == "test\nloss -, on 5 samples\n"


def test_the_summary_ends_with_the_three_commands_that_come_next(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(folder="runs/数据 1", seconds=16.2, test={"accuracy": 0.8841}, run="latest")
    lines = capsys.readouterr().out.splitlines()
    assert "done: accuracy 88.41%, 16.2s" in lines
    assert "the run is in runs/数据 1" in lines
    assert [line.strip() for line in lines[-3:]] == [
        "rushlight test latest",
        "rushlight predict latest FILE",
        "rushlight save latest model.pth",
    ]


@pytest.mark.parametrize("columns", [50, 60, 80, 120])
def test_no_figure_is_ever_cut_to_fit_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys, report(12, [f"a rather long class name {i}" for i in range(12)]))
    table = text[text.index("by class") : text.index("most c")]
    assert table.count("90.0%") == 12
    assert [f"{50 + i / 10:.1f}%" in table for i in range(12)] == [True] * 12
    assert max(map(len, text.splitlines())) <= columns


def test_a_report_of_places_has_their_iou_and_perplexity_and_no_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        {"name": name, "n": 640, "precision": 0.9, "precision_interval": None, "recall": 0.8, "recall_interval": None,
         "f1": 0.85, "f1_interval": None, "iou": iou}
        for name, iou in (("road", 0.741), ("sky", None))
    ]  # fmt: skip
    content = {
        "task": "classification",
        "loss": 0.33,
        "n": 5,
        "accuracy": 0.9,
        "accuracy_interval": None,
        "classes": figures,
    }
    text = shown(capsys, content | {"iou": 0.741, "perplexity": 1.391, "places": 1280})
    assert "test accuracy 90.00%\nmean IoU 0.7410\nperplexity 1.3910\nloss 0.3300, on 5 samples" in text
    assert "places" in text
    assert "74.1%" in text
    assert "interval" not in text
