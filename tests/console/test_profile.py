"""The profile on the screen: it fits the page, whatever the page can show."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from rushlight.console import Progress
from rushlight.formats import format_step
from rushlight.training.events import Event

FOLDER = Path("runs/20261124-0331-mlp-digits-k7/profile")


def profile(**changes: Any) -> dict[str, Any]:
    """The content of a profile.json."""
    shares = {"data": 0.055, "forward": 0.25, "loss": 0.02, "backward": 0.5, "update": 0.15, "rest": 0.025}
    operators = [
        {"name": f"aten::{name}", "calls": 5.0, "seconds": 1e-4, "share": 0.05}
        for name in ("mm", "addmm", "sqrt", "a_very_long_name_" * 4, "mul_", "sixth")
    ]
    return {
        "step_seconds": 2e-3, "steps": 1200, "warm_up_steps": 10, "traced_steps": 5, "trace": "trace.json",
        "parts": {name: {"seconds": share * 2e-3, "share": share} for name, share in shares.items()},
        "operators": operators, "limit": {"sentence": "Matrix products and convolutions take 58% of a step: …"},
        "reading": None, "setting": {"has_loss": True}, "folder": str(FOLDER), **changes,
    }  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    Progress().show(Event("profile", profile(**changes)))
    return capsys.readouterr().out


def test_parts_stand_with_their_time_their_share_and_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in shown(capsys).splitlines()]
    assert ["data", "110", "µs", "5.5%", "━"] in rows
    assert ["backward", "1.00", "ms", "50.0%", "━" * 12] in rows
    assert ["the", "rest", "50", "µs", "2.5%", "━"] in rows


def test_the_first_line_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert "profile: 2.00 ms a step (1,200 steps after 10 to warm up)\n" in shown(capsys)
    assert "profile: 2.00 ms a step (1 step)\n" in shown(capsys, steps=1, warm_up_steps=0)


def test_five_operators_are_shown_without_torchs_own_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    assert ["addmm", "5", "100", "µs", "5.0%"] in [line.split() for line in said.splitlines()]
    assert "sixth" not in said
    assert "aten::" not in said


def test_without_a_trace_there_are_no_operators_and_the_figures_have_their_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = shown(capsys, operators=[], trace=None, reading="Reading took 2.00 ms of a step, all else 8.00 ms.")
    assert "heaviest" not in said
    assert "perfetto" not in said
    assert f"All figures: {FOLDER / 'profile.json'}\n" in said
    assert "Reading took 2.00 ms" in said


def test_an_objective_of_ones_own_has_its_loss_in_the_forward_pass(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {**profile()["parts"], "loss": {"seconds": 0.0, "share": 0.0}}
    said = shown(capsys, setting={"has_loss": False}, parts=parts)
    assert "forward, loss" in said
    assert not any(line.split()[:1] == ["loss"] for line in said.splitlines())


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_table_is_wider_than_the_page(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    tables = [line for line in shown(capsys).splitlines() if line.startswith(" ")]
    assert len(tables) > 10
    assert max(map(len, tables)) <= columns


def test_a_page_that_has_only_ascii_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(page, encoding="ascii"))
    Progress().show(Event("profile", profile()))
    sys.stdout.flush()
    said = page.getvalue().decode("ascii")
    assert "1.00 ms" in said
    assert "110 us" in said
    assert "#" * 12 in said


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
