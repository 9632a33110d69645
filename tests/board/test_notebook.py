"""A run in a notebook: a picture of every step, names escaped, nothing raised for a damaged run."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from tests.board.folders import make_run
from tests.board.test_app import HOSTILE_NAMES

import rushlight
from rushlight.board import run_html


def test_a_run_shows_its_figures_and_a_spike_of_a_long_training(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(300_000).astype(np.float32)
    losses[123_456] = 40
    folder = make_run(tmp_path, "run", losses)
    shown = run_html(folder)
    assert "66.67%" in shown
    assert "the highest 40.0000 at step 123,457" in shown
    points = next(ElementTree.fromstring(shown).iter("polyline")).get("points", "").split()
    highest = min(points, key=lambda point: float(point.split(",")[1]))
    assert abs(int(highest.split(",")[0]) - 640 * 123_456 / 300_000) <= 1
    assert rushlight.open_run(str(folder))._repr_html_() == shown


def test_names_are_text_and_a_damaged_run_is_said_to_be_one(tmp_path: Path) -> None:
    for name in HOSTILE_NAMES[:10]:
        shown = run_html(make_run(tmp_path, name, np.ones(30), model={"name": "<script>alert(1)</script>"}))
        assert "<script" not in shown
        ElementTree.fromstring(shown)
    folder = make_run(tmp_path, "damaged", [np.nan, np.inf])
    (folder / "recipe.json").write_text("{")
    assert "damaged" in run_html(folder)
    assert "<svg" not in run_html(folder)
