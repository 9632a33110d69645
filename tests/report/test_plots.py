from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rushlight import fonts
from rushlight.errors import StorageError
from rushlight.report.plots import (
    smoothed,
    thinned,
    write_confusion_plot,
    write_importance_plot,
    write_loss_plot,
    write_rate_plot,
)


def epochs(count: int, **figures: float) -> list[dict[str, Any]]:
    return [{"step": 10 * i, "test": {"loss": 1.0 / i, **figures}} for i in range(1, count + 1)]


def size_of(path: Path) -> tuple[int, int]:
    """The picture opens, and is not all of one colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(1_000_000)
        assert colours is not None
        assert len(colours) > 1
        return image.size


@pytest.mark.parametrize(
    ("losses", "lines"),
    [
        ([], []),
        ([0.5], [{"step": 1, "test": None}]),
        ([1.0, 0.5, math.nan, math.inf, 0.2], epochs(3, accuracy=0.5)),
        ([math.nan] * 300, epochs(1, accuracy=0.5)),
        ([1e6 / (i + 1) for i in range(5000)], epochs(60, mae=2.0)),
        ([0.0] * 500, epochs(2)),
        ([-1.0, -2.0] * 200, []),
    ],
)
def test_any_course_of_a_training_has_a_loss_plot(
    tmp_path: Path, losses: list[float], lines: list[dict[str, Any]]
) -> None:
    write_loss_plot(tmp_path / "损失 loss.png", losses, lines)
    assert size_of(tmp_path / "损失 loss.png")[0] > 800


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_curves_say_which_split_they_are_of(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("rushlight.report.plots.write_figure", lambda path, figure: drawn.append(figure))
    lines = [{"step": line["step"], "test": None, split: line["test"]} for line in epochs(3, accuracy=0.5)]
    write_loss_plot(tmp_path / "loss.png", [1.0, 0.5], lines)
    loss, accuracy = drawn[0].axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training loss", f"{split} loss, by epoch"]
    assert accuracy.get_ylabel() == f"{split} accuracy"


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_a_confusion_plot_is_as_large_as_its_classes_need_and_no_larger(tmp_path: Path, count: int) -> None:
    confusion = (np.eye(count, dtype=int) * 90 + 1).tolist()
    write_confusion_plot(tmp_path / "confusion.png", confusion, [f"class {i}" for i in range(count)])
    width, height = size_of(tmp_path / "confusion.png")
    assert 400 <= height <= width <= 2000


def test_classes_that_no_font_can_write_raise_no_warning(tmp_path: Path) -> None:
    names = ["上衣", "$裤$ \\frac", "line\nbreak", "🙂" * 30, ""]
    write_confusion_plot(tmp_path / "confusion.png", np.eye(5, dtype=int).tolist(), names)
    size_of(tmp_path / "confusion.png")


def test_names_hide_and_reorder_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("rushlight.report.plots.write_figure", lambda path, figure: drawn.append(figure))
    names = ["a\u202eb", "\x1b]52;c;\x07", "zero\u200bwidth", "plain"]
    write_confusion_plot(tmp_path / "confusion.png", np.eye(4, dtype=int).tolist(), names)
    written = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    assert written == [r"a\u202eb", r"\x1b]52;c;\x07", r"zero\u200bwidth", "plain"]


def test_chinese_names_are_written_only_where_a_font_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "cjk_font", lambda: None)
    assert not fonts.font_of("上衣")
    assert fonts.font_of("Ankle boot é")
    monkeypatch.setattr(fonts, "cjk_font", lambda: "SimHei")
    assert fonts.font_of("上衣")


def test_thinning_keeps_the_mean_and_leaves_gaps_where_nothing_is_finite() -> None:
    losses = np.concatenate([np.full(5000, 2.0), np.full(5000, np.nan)])
    steps, values = thinned(losses)
    assert len(values) == 1000
    assert (values[:500] == 2.0).all()
    assert np.isnan(values[500:]).all()
    assert steps[0] == 5.5
    assert steps[-1] == 9995.5


def test_smoothing_leaves_a_level_curve_level_to_its_ends() -> None:
    assert smoothed(np.full(1000, 0.5)) == pytest.approx(np.full(1000, 0.5))


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_loss_plot(tmp_path / "file" / "loss.png", [1.0], [])


def test_plots_never_import_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rushlight.report.plots import write_loss_plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "write_loss_plot(Path(sys.argv[1]), [1.0, 0.5], [])\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "loss.png")], check=True)


def test_matplotlib_does_not_tell_where_it_keeps_its_cache(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("matplotlib")
    logger.warning("Matplotlib created a temporary cache directory at %s; set MPLCONFIGDIR", "x")
    logger.warning("mkdir -p failed for path %s", "x")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_what_a_search_found_has_a_panel_for_each_choice_with_every_trial_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("rushlight.report.plots.write_figure", lambda path, figure: drawn.append(figure))
    kinds = [("complete", 1e-4, "relu"), ("complete", 1e-1, True), ("pruned", 1e-2, "relu")]
    trials = [
        {"choices": {"lr": lr, "kind": kind}, "figures": {1: 0.5, 2: 0.75}, "status": status}
        for status, lr, kind in kinds
    ]
    trials.append({"choices": {"lr": 1e-3, "kind": "relu"}, "figures": {}, "status": "failed"})
    write_importance_plot(tmp_path / "importance.png", {"lr": 0.8, "kind": None}, trials, "accuracy")
    lr, kind = drawn[0].axes
    assert [lr.get_title(), kind.get_title(), lr.get_xscale()] == ["lr: 80%", "kind", "log"]
    points = [tuple(point) for dots in lr.collections for point in np.asarray(dots.get_offsets())]
    assert points == [(1e-2, 0.75), (1e-4, 0.75), (1e-1, 0.75)]  # pruned ones first
    assert sum(len(np.asarray(dots.get_offsets())) for dots in kind.collections) == 3


def test_a_range_test_has_its_curve(tmp_path: Path) -> None:
    write_rate_plot(tmp_path / "rate.png", [1e-5, 1e-3, 1e-1], [2.0, 1.0, 3.0], 1e-4)
    assert size_of(tmp_path / "rate.png")[0] > 800
