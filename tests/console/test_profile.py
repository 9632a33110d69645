"""The profile on the screen: it fits the page, whatever the page can show."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from rushlight.console import Progress
from rushlight.events import Event
from rushlight.formats import format_step

FOLDER = Path("runs/20261124-0331-mlp-digits-k7/profile")


def profile(**changes: Any) -> dict[str, Any]:
    """The content of a profile.json."""
    shares = {"data": 0.055, "forward": 0.25, "loss": 0.02, "backward": 0.5, "update": 0.15, "rest": 0.025}
    operators = [
        {"name": f"aten::{name}", "part": "backward", "calls": 5.0, "seconds": 1e-4}
        for name in ("mm", "addmm", "sqrt", "a_very_long_name_" * 4, "fifth")
    ]
    return {
        "step_seconds": 2e-3, "median_seconds": 1.9e-3, "steps": 1200, "traced_steps": 5, "trace": "trace.json",
        "parts": {
            name: {"seconds": share * 2e-3, "median_seconds": share * 1e-3, "share": share} for name, share in shares.items()
        },
        "operators": operators, "causes": {"products": 0.58, "rest": 0.42},
        "limit": {"sentence": "Matrix products and convolutions take 58% of a step: …"}, "folder": str(FOLDER), **changes,
    }  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    Progress().show(Event("profile", profile(**changes)))
    return capsys.readouterr().out


def test_parts_stand_with_their_median_their_mean_and_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in shown(capsys).splitlines()]
    assert ["part", "median", "mean", "share"] in rows
    assert ["data", "55", "µs", "110", "µs", "5.5%"] in rows
    assert ["backward", "500", "µs", "1.00", "ms", "50.0%"] in rows
    assert ["the", "rest", "25", "µs", "50", "µs", "2.5%"] in rows


def test_the_first_line_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert "profile: 1.90 ms a step (median of 1,200 steps)\n" in shown(capsys)
    assert "profile: 1.90 ms a step (median of 1 step)\n" in shown(capsys, steps=1)


def test_four_operators_are_shown_without_torchs_own_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    assert "Heaviest operators of a step: mm 100 µs, addmm 100 µs, sqrt 100 µs, a_very" in said
    assert "fifth" not in said
    assert "aten::" not in said


def test_without_a_trace_there_are_no_operators_and_the_figures_have_their_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = shown(capsys, operators=[], trace=None)
    assert "Heaviest" not in said
    assert "perfetto" not in said
    assert f"All figures: {FOLDER / 'profile.json'}\n" in said


def test_a_trace_has_its_file_and_what_opens_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    assert f"A trace of 5 steps: {FOLDER / 'trace.json'}\nOpen it with https://ui.perfetto.dev" in said


def test_an_objective_of_ones_own_has_its_loss_in_the_forward_pass(capsys: pytest.CaptureFixture[str]) -> None:
    none = {"seconds": 0.0, "median_seconds": 0.0, "share": 0.0}
    said = shown(capsys, parts={**profile()["parts"], "loss": none})
    assert "forward, loss" in said
    assert not any(line.split()[:1] == ["loss"] for line in said.splitlines())


def test_a_compiled_step_has_its_data_and_one_other_row(capsys: pytest.CaptureFixture[str]) -> None:
    none = {"seconds": 0.0, "median_seconds": 0.0, "share": 0.0}
    parts = {name: part if name in ("data", "rest") else none for name, part in profile()["parts"].items()}
    said = shown(capsys, parts=parts, causes={"data": 0.1, "compiled": 0.9})
    assert [line.split()[0] for line in said.splitlines() if "%" in line and "µs" in line and ":" not in line] == [
        "data",
        "compiled",
    ]
    assert "the rest" not in said


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_table_is_wider_than_the_page(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    tables = [line for line in shown(capsys).splitlines() if line.startswith(" ")]
    assert len(tables) == 7  # the head, and six parts
    assert max(map(len, tables)) <= columns


def test_a_page_that_has_only_ascii_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(page, encoding="ascii"))
    Progress().show(Event("profile", profile()))
    sys.stdout.flush()
    said = page.getvalue().decode("ascii")
    assert "1.00 ms" in said
    assert "110 us" in said


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=True).show(Event("profile", profile()))
    assert capsys.readouterr().out == ""


def test_the_rows_after_a_profile_have_their_header_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for epoch in (1, 2, 3):
        test = {"loss": 0.4, "accuracy": 0.85}
        line = {"epoch": epoch, "train_loss": 0.5, "test": test, "learning_rate": 0.1, "seconds": 3.2, "is_best": False}
        progress.show(Event("epoch", line))
        if epoch == 1:
            progress.show(Event("profile", profile()))
    assert capsys.readouterr().out.count("train loss") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 µs"), (4.2e-7, "0.4 µs"), (39e-6, "39 µs"), (412e-6, "412 µs"), (1.726e-3, "1.73 ms"), (0.0433, "43.3 ms"),
     (0.9999, "1.00 s"), (2.41, "2.41 s"), (133.0, "133 s")],
)  # fmt: skip
def test_the_time_of_a_step_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_step(seconds) == text
