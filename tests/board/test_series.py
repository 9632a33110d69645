"""The reader of losses: no extreme is lost, NaN is counted, smoothing does not depend on the length, files may shrink."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.board.folders import write_losses

from rushlight.board.series import BLOCK, COARSE, PART, Losses, merge, single, smooth

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0, -1, 3e38, -3e38, 1e-45], np.float32)


def losses_of(size: int, share: float, seed: int) -> np.ndarray:
    """Random losses, a share of which is not finite, not positive or extreme."""
    random = np.random.default_rng(seed)
    return np.where(random.random(size) < share, random.choice(SPECIAL, size), random.random(size)).astype(np.float32)


SEEDS = st.integers(0, 1 << 32)
LOSSES = st.builds(losses_of, st.integers(1, 3 * BLOCK), st.sampled_from([0.0, 0.02, 0.5, 1.0]), SEEDS)


def opened(folder: Path, losses: object) -> Losses:
    write_losses(folder, losses)
    read = Losses(folder / "losses.f32")
    read.refresh()
    return read


def finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


@given(steps=LOSSES, places=st.lists(st.integers(0, 3 * BLOCK), max_size=6))
def test_every_cell_has_the_extremes_and_the_counts_of_its_steps(steps: np.ndarray, places: list[int]) -> None:
    edges = np.array(sorted(min(place, len(steps)) for place in [0, *places, len(steps)]))
    cells = merge(single(steps), edges)
    for cell, (start, stop) in enumerate(itertools.pairwise(edges)):
        inside = steps[start:stop]
        if len(finite(inside)):
            assert cells.low[cell] == finite(inside).min()
            assert cells.high[cell] == finite(inside).max()
        else:
            assert np.isnan(cells.low[cell])
            assert np.isnan(cells.high[cell])
        expected = [np.isnan(inside), inside == np.inf, inside == -np.inf, np.isfinite(inside) & (inside <= 0)]
        assert cells.counts[:, cell].tolist() == [int(kind.sum()) for kind in expected]
        if len(inside) and np.isfinite(inside[0]):
            assert cells.first[cell] == inside[0]
        if len(inside) and np.isfinite(inside[-1]):
            assert cells.last[cell] == inside[-1]


def spikes_are_seen(folder: Path, count: int, columns: int, half_life: float, places: int) -> None:
    """Put a spike at some random places, one after the other: each is in its pixel column, smoothed or not."""
    random = np.random.default_rng(0)
    losses = random.random(count).astype(np.float32)
    edges = np.linspace(0, count, columns + 1).astype(np.int64)
    for step in (0, 1, count - 1, *random.integers(0, count, places).tolist()):
        losses[step] += 5
        read = opened(folder, losses)
        losses[step] -= 5
        if half_life:
            read.curve(edges, half_life)
        column = int(np.flatnonzero(read.curve(edges).high > 4)[0])
        assert abs(step - edges[column : column + 2].mean()) <= (1 / 2 + 1 / 16) * count / columns
        assert read.figures()["high_step"] == step + 1


@pytest.mark.parametrize(("columns", "half_life"), [(100, 0), (40, 20)])
def test_one_spike_is_in_its_pixel_column_wherever_it_stands(tmp_path: Path, columns: int, half_life: float) -> None:
    spikes_are_seen(tmp_path, 150_000, columns, half_life, 4)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [400, 1400])
def test_one_spike_in_ten_million_steps_is_in_its_pixel_column(tmp_path: Path, columns: int) -> None:
    spikes_are_seen(tmp_path, 10_000_000, columns, 0, 20)


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, 40 * BLOCK + 7, 5000 * BLOCK + 1])
def test_losses_that_are_not_finite_are_counted_wherever_they_stand(tmp_path: Path, count: int) -> None:
    losses = np.linspace(1, 2, count, dtype=np.float32)
    if count > 10:
        losses[[0, 1, count // 2, count - 1]] = np.nan
        losses[[2, count - 2]] = np.inf, -np.inf
    read = opened(tmp_path, losses)
    for columns in (1, 10, 400):
        cells = read.curve(np.linspace(0, count, columns + 1).astype(np.int64))
        assert cells.counts.sum(axis=1).tolist()[:3] == ([4, 1, 1] if count > 10 else [0, 0, 0])
        assert np.nanmax(cells.high, initial=-1) == (max(finite(losses)) if count else -1)
    figures = read.figures()
    assert (figures["count"], figures["nan"]) == (count, 4 if count > 10 else 0)


@settings(max_examples=60)
@given(values=LOSSES, half_life=st.sampled_from([1.0, 5.0, 20.0, 2000.0]), cut=st.integers(1, 3 * BLOCK))
def test_a_smoothed_value_is_the_same_for_a_prefix_and_the_whole(
    values: np.ndarray, half_life: float, cut: int
) -> None:
    whole, _ = smooth(values, half_life, (0.0, 0.0))
    prefix, _ = smooth(values[:cut], half_life, (0.0, 0.0))
    assert np.array_equal(whole[: len(prefix)], prefix, equal_nan=True)


@pytest.mark.parametrize("half_life", [1.0, 20.0, 500.0])
def test_smoothing_is_the_debiased_mean_by_its_formula(half_life: float) -> None:
    values = np.random.default_rng(0).random(200).astype(np.float32)
    values[[0, 70]] = np.nan, np.inf
    decay, total, weight = 0.5 ** (1 / half_life), 0.0, 0.0
    for value, smoothed in zip(values, smooth(values, half_life, (0.0, 0.0))[0], strict=True):
        is_finite = bool(np.isfinite(value))
        total, weight = total * decay + (value if is_finite else 0), weight * decay + is_finite
        assert (weight == 0 and np.isnan(smoothed)) or smoothed == pytest.approx(total / weight, rel=1e-6)


def test_a_zoom_shows_the_smoothed_values_of_the_whole(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(10_000)
    read = opened(tmp_path, losses)
    whole = smooth(losses.astype(np.float32), 100, (0.0, 0.0))[0]
    for start, stop in ((0, 50), (777, 1001), (9_950, 10_000)):
        assert np.array_equal(read.curve(np.arange(start, stop + 1), 100).first, whole[start:stop])


def test_a_run_that_is_asked_about_as_it_grows_is_drawn_as_one_that_is_read_at_once(tmp_path: Path) -> None:
    """Its summaries lie in several parts, and its curve is reduced in several pieces."""
    losses = losses_of(3 * PART * BLOCK + 77, 0.001, 5)
    path = tmp_path / "losses.f32"
    path.write_bytes(b"")
    grown = Losses(path)
    for start in range(0, len(losses), 4999):
        with path.open("ab") as file:
            file.write(losses[start : start + 4999].astype("<f4").tobytes())
        grown.refresh()
        grown.curve(np.array([0, grown.count]), 20)
    read = opened(tmp_path, losses)
    for columns, coarse in ((7, COARSE), (7, 1 << 20), (1300, COARSE)):
        edges = np.linspace(0, len(losses), columns + 1).astype(np.int64)
        for half_life in (0, 20):
            one, other = (vars(each.curve(edges, half_life, coarse)) for each in (grown, read))
            assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    exact = merge(single(losses), edges)
    assert all(np.array_equal(vars(exact)[name], vars(read.curve(edges))[name], equal_nan=True) for name in vars(exact))
    assert np.array_equal(
        read.curve(np.arange(30_000, 40_001), 20).last, smooth(losses, 20, (0.0, 0.0))[0][30_000:40_000], equal_nan=True
    )


@given(sizes=st.lists(st.integers(0, 4 * BLOCK), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_a_file_that_grows_and_shrinks_reads_as_one_that_is_read_anew(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Resume and roll-back truncate the file; what then grows differs from what was there."""
    path = tmp_path_factory.mktemp("run") / "losses.f32"
    path.write_bytes(b"")
    read, random = Losses(path), np.random.default_rng(len(sizes))
    for size in sizes:
        with path.open("rb+") as file:
            kept = min(size // 2, path.stat().st_size // 4)
            file.truncate(kept * 4)
            file.seek(kept * 4)
            file.write(random.random(size - kept).astype("<f4").tobytes())
        read.refresh()
        anew = Losses(path)
        anew.refresh()
        edges = np.arange(size + 1)
        for half_life in (0, 5):
            assert np.array_equal(read.curve(edges, half_life).first, anew.curve(edges, half_life).first)
        assert read.figures() == anew.figures()


def test_a_file_of_the_same_size_that_took_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    read = opened(tmp_path, np.ones(10 * BLOCK))
    write_losses(tmp_path, np.full(10 * BLOCK, 2))
    (tmp_path / "other").write_bytes((tmp_path / "losses.f32").read_bytes())
    os.replace(tmp_path / "other", tmp_path / "losses.f32")
    read.refresh()
    assert read.figures()["low"] == 2


def test_a_loss_that_is_written_in_part_is_not_read(tmp_path: Path) -> None:
    read = opened(tmp_path, np.ones(3))
    with (tmp_path / "losses.f32").open("ab") as file:
        file.write(b"\x00\x00")
    read.refresh()
    assert read.count == 3


def test_a_link_a_pipe_and_a_folder_are_no_losses(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4000)
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "nothing"):
        read = Losses(tmp_path / name)
        read.refresh()
        assert read.count == 0
