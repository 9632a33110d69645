"""Parquet folders: one table of many files, in memory or, where it is too large, read in runs of rows."""

from __future__ import annotations

import math
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from rushlight.data import Data, ResidentSplit, StreamedSplit, describe_data, open_like, open_source
from rushlight.data.open import DataOptions
from rushlight.data.order import Windows
from rushlight.data.sources.tables import parquet, passes, streamed
from rushlight.data.sources.tables.tables import open_table
from rushlight.errors import DataError, RushlightError, UsageError

ROWS = 600


def flats(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    """Return a table with every kind of column, gaps and constant ones among them."""
    draw = np.random.default_rng(seed)
    area, city = draw.normal(80, 20, rows).round(2), draw.choice(["Lyon", "Turin", "Ghent"], rows)
    gaps = draw.random(rows) < 0.1
    return pl.DataFrame({
        "id": np.arange(rows), "area": area, "floor": [None if gap else int(area[i]) % 7 for i, gap in enumerate(gaps)],
        "city": [None if gap else name for gap, name in zip(gaps[::-1], city, strict=True)],
        "written": [f"{value:.1f}" for value in area], "built": [date(1950, 1, 1) + timedelta(int(9 * x)) for x in area],
        "day": [f"{1 + i % 28}/{1 + i % 12}/2020" for i in range(rows)], "garden": area > 90, "same": [1.5] * rows,
        "note": [f"a flat number {i} here" for i in range(rows)], "list": [[1]] * rows,
        "large": [bool(name == "Ghent" and x > 80) for name, x in zip(city, area, strict=True)],
        "price": [None if i % 50 == 7 else 1e6 + 3 * x for i, x in enumerate(area)],
        "kind": [None if i % 40 == 3 else ("big" if x > 100 else "small" if x < 60 else "usual") for i, x in enumerate(area)],
    }, schema_overrides={"city": pl.String})  # fmt: skip


def write_folder(folder: Path, frame: pl.DataFrame, files: int = 3, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(frame) // files)
    for number in range(files):
        frame[number * size : (number + 1) * size].write_parquet(folder / f"part-{number}.parquet", **options)
    return folder


def samples(data: Data, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return all samples of a split in order, as the model receives them."""
    batches = list(data.splits[split].in_order(64))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# ── what fits into memory ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("target", ["kind", "price"])
def test_a_folder_that_fits_is_the_same_data_as_one_file_of_all_its_rows(tmp_path: Path, target: str) -> None:
    frame = flats().drop("price" if target == "kind" else "kind")
    frame.write_parquet(tmp_path / "all.parquet")
    one = open_source(tmp_path / "all.parquet", options=DataOptions(target=target))
    folder = open_source(write_folder(tmp_path / "flats", frame), options=DataOptions(target=target))
    assert isinstance(folder.train, ResidentSplit)
    assert folder.fingerprint == one.fingerprint
    assert (folder.features, folder.target, folder.notes[1:]) == (one.features, one.target, one.notes[1:])
    assert folder.name == "flats"
    assert folder.test is not None
    assert folder.test.names is not None
    assert "part-2.parquet row " in str(folder.test.names[-1])


def test_splits_are_folders_and_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for split, rows in (("train", 300), ("valid", 60), ("test", 90)):
        write_folder(tmp_path / split, flats(rows).select("area", "city", "kind"))
        (tmp_path / split / "_SUCCESS").touch()
        (tmp_path / split / "._part.parquet").touch()
    data = open_source(tmp_path, options=DataOptions(target="kind"))
    known = {split: int(flats(rows)["kind"].is_not_null().sum()) for split, rows in (("train", 300), ("test", 90))}
    assert {split: data.splits[split].samples for split in known} == known
    assert data.validation is not None


# ── larger than memory: what is learnt ───────────────────────────────────────────────────────────────────────


def both(path: Path, **options: Any) -> tuple[Data, Data]:
    """Return the data in memory and streamed."""
    return open_table(path, **options), open_table(path, memory_limit=0, **options)


def test_files_in_which_two_values_are_swapped_are_other_data(tmp_path: Path) -> None:
    """All that is learnt of them is the same, and so are the sizes of the files."""
    frame = pl.DataFrame({"x": [float(number) for number in range(200)], "kind": ["a", "b"] * 100})
    swapped = frame.with_columns(x=pl.Series([2.0, 1.0, 0.0, *frame["x"][3:]]))
    options = {"compression": "uncompressed", "statistics": False, "use_pyarrow": False}
    found = []
    for each in (frame, swapped):
        write_folder(tmp_path, each, 1, **options)
        size = (tmp_path / "part-0.parquet").stat().st_size
        found.append((size, open_table(tmp_path, memory_limit=0, target="kind", test_fraction=0.0).fingerprint))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("target", ["kind", "price", "large", "floor"])
@pytest.mark.parametrize("normalize", ["auto", "none"])
def test_a_streamed_table_has_the_spec_and_the_samples_of_one_in_memory(
    tmp_path: Path, target: str, normalize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "CHUNK_CELLS", 1)
    monkeypatch.setattr(parquet, "LEAST_CHUNK", 37)
    frame = flats()
    write_folder(tmp_path / "train", frame[:450])
    write_folder(tmp_path / "test", frame[450:], 1)
    kept, read = both(tmp_path, target=target, normalize=normalize)
    assert isinstance(read.train, StreamedSplit)
    assert kept.features is not None
    assert read.features is not None
    for one, other in zip(kept.features.columns, read.features.columns, strict=True):
        assert math.isclose(one.fill, other.fill, rel_tol=1e-12)
        assert {**vars(one), "fill": 0} == {**vars(other), "fill": 0}
    normalization = kept.features.normalization, read.features.normalization
    for name in ("mean", "std"):
        assert np.allclose(*(getattr(each, name) for each in normalization), rtol=1e-6, atol=1e-9)
    assert kept.features.shape == read.features.shape
    assert kept.target == read.target
    assert kept.may_scale == read.may_scale
    for split in ("train", "test"):
        for one, other in zip(samples(kept, split), samples(read, split), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
            assert one.dtype == other.dtype
    left = {note for note in map(str, kept.notes) if "left out" in note}
    assert {note.split(":")[0] for note in left} == {str(n).split(":")[0] for n in read.notes if "left out" in str(n)}


def test_targets_of_a_streamed_regression_are_standardised_as_in_memory(tmp_path: Path) -> None:
    from rushlight.data import retarget

    write_folder(tmp_path / "train", flats())
    opened = both(tmp_path, target="price", test_fraction=0.0)
    kept, read = (retarget(data, data.target) for data in opened if data.target is not None)
    assert kept.target is not None
    assert read.target is not None
    assert np.allclose((*kept.target.mean, *kept.target.std), (*read.target.mean, *read.target.std), rtol=1e-6)
    assert torch.allclose(samples(kept)[1], samples(read)[1], atol=1e-4)


def test_the_rows_of_a_test_split_are_told_by_row_and_seed_alone(tmp_path: Path) -> None:
    frame = flats().select("area", "kind")
    one, other = write_folder(tmp_path / "one", frame, 1), write_folder(tmp_path / "other", frame, 4, row_group_size=10)
    found = []
    for path, window in ((one, 64), (other, 480)):
        data = open_table(path, target="kind", shuffle_window=window, val_fraction=0.1, seed=3)
        found.append([samples(data, split)[0] for split in ("train", "validation", "test")])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first.sort(0)[0], second.sort(0)[0])
    train, validation, test = map(len, found[0])
    assert train + validation + test == int(frame["kind"].is_not_null().sum())
    assert 80 < test < 160
    assert 20 < validation < 80
    otherwise = samples(open_table(one, target="kind", shuffle_window=64, seed=4), "test")[0]
    assert len(otherwise) != test or not torch.equal(otherwise, found[0][2])


def test_folds_of_a_streamed_table_have_every_row_once(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats().select("area", "kind"))
    folds = [open_table(path, target="kind", shuffle_window=64, test_fraction=(number, 3)) for number in (1, 2, 3)]
    tested = torch.cat(
        [data.features.normalization.undo(samples(data, "test")[0], -1) for data in folds if data.features]
    )
    assert len(tested) == int(flats()["kind"].is_not_null().sum())
    assert len(tested.unique()) == len(flats().drop_nulls("kind")["area"].unique())


# ── order and cost ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_order_of_windows_visits_each_sample_once_and_is_cut_anywhere() -> None:
    counts = np.array([7, 0, 7, 3, 7, 7, 2])
    windows = Windows(counts, together=3, rows=21)
    order = windows.order(5, 2)
    whole = order[0 : len(order)]
    assert sorted(whole.tolist()) == list(range(33))
    assert whole.tolist() != list(range(33))
    for first in range(34):
        for end in range(first, 35):
            assert torch.equal(order[first:end], whole[first:end])
    assert torch.equal(windows.order(5, 2)[0:33], whole)
    assert not torch.equal(windows.order(5, 3)[0:33], whole)
    assert not torch.equal(windows.order(6, 2)[0:33], whole)
    run_of = np.repeat(np.arange(7), counts)
    runs = [set(run_of[order.window(number).numpy()]) for number in range(3)]
    assert [len(each & other) for each in runs for other in runs if each is not other] == [0] * 6


def test_an_epoch_decodes_every_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "t", flats(2000).select("area", "city", "kind"), row_group_size=90)
    data = open_table(path, target="kind", shuffle_window=320, test_fraction=0.0)
    read: Counter[int] = Counter()
    plain = streamed.RowsDataset.read_run
    monkeypatch.setattr(streamed.RowsDataset, "read_run", lambda self, run: (read.update([run]), plain(self, run))[1])
    for epoch in (1, 2):
        read.clear()
        seen = [x for x, _ in data.train.batches(16, seed=1, epoch=epoch)]
        assert sum(map(len, seen)) == data.train.samples
        assert read.total() == len(read)
        assert len(read) >= 50 - 16 * (epoch - 1)  # what was left of the epoch before is there already
    read.clear()
    assert sum(len(x) for x, _ in data.train.in_order(64)) == data.train.samples
    assert read.total() <= 50


def test_a_batch_may_need_more_runs_than_are_kept(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats().select("area", "kind"))
    data = open_table(path, target="kind", shuffle_window=16, test_fraction=0.0)
    assert isinstance(data.train, StreamedSplit)
    (whole, _), (sequence, _) = next(data.train.batches(ROWS, seed=1, epoch=1)), samples(data)
    assert torch.equal(whole, sequence[data.train.order(1, 1)[0:ROWS]])


def test_batches_go_on_in_the_middle_and_are_divided_by_arithmetic(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats().select("area", "city", "kind"))
    train = open_table(path, target="kind", shuffle_window=160, test_fraction=0.0).train
    whole = [x for x, _ in train.batches(50, seed=1, epoch=3)]
    rest = [x for x, _ in train.batches(50, seed=1, epoch=3, start=5)]
    assert all(map(torch.equal, rest, whole[5:]))
    halves = [[x for x, _ in train.batches(50, seed=1, epoch=3, start=2, rank=rank, processes=2)] for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), batch) for *parts, batch in zip(*halves, whole[2:], strict=True))


# ── names, other data, the overview ──────────────────────────────────────────────────────────────────────────


def test_samples_are_called_by_file_and_row(tmp_path: Path) -> None:
    frame = flats().select("area", "kind")
    data = open_table(write_folder(tmp_path / "t", frame, 4), target="kind", shuffle_window=64, normalize="none")
    for split in ("train", "test"):
        names, (values, _) = data.splits[split].names, samples(data, split)
        assert names is not None
        assert len(names) == len(values)
        for index in (0, 70, len(names) - 1):
            file, _, row = str(names[index]).partition(" row ")
            assert float(values[index, 0]) == pytest.approx(
                pl.read_parquet(tmp_path / "t" / file)["area"][int(row) - 1]
            )


def test_another_streamed_table_is_prepared_as_the_training_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = write_folder(tmp_path / "a", flats()), write_folder(tmp_path / "b", flats(200, seed=1))
    data = open_table(train, target="kind", shuffle_window=64)
    whole = open_like(test, data.features, data.target, DataOptions())
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 0)
    rows = open_like(test, data.features, data.target, DataOptions())
    assert isinstance(whole, ResidentSplit)
    assert isinstance(rows, StreamedSplit)
    for one, other in zip(whole.in_order(50), rows.in_order(50), strict=True):
        assert all(map(torch.equal, one, other))


def test_a_streamed_table_may_be_tested_on_a_csv(tmp_path: Path) -> None:
    frame = flats().select("area", "city", "kind")
    frame[:100].write_csv(tmp_path / "test.csv")
    data = open_table(write_folder(tmp_path / "t", frame), target="kind", test=tmp_path / "test.csv", shuffle_window=64)
    assert isinstance(data.test, ResidentSplit)
    assert torch.allclose(data.test.inputs, samples(data)[0][: data.test.samples])


def test_the_overview_of_a_streamed_table_is_that_of_all_its_rows(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "train", flats(4000).select("area", "floor", "city", "kind"))
    kept, read = (describe_data(data, table=path) for data in both(tmp_path, target="kind", test_fraction=0.0))
    assert read["splits"]["train"]["counts"] == kept["splits"]["train"]["counts"]
    for one, other in zip(kept["columns"], read["columns"], strict=True):
        assert other["missing"] <= one["missing"]  # rows without a target are not trained on
        assert other.get("min") == one.get("min")


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"area": pl.Series(["a"] * 20)}, 'b.parquet: the column "area" is String here; in a.parquet it is Int64'),
        ({"more": pl.Series([1] * 20)}, 'the column "more" is Int64 here; in a.parquet it is not there'),
        ({"area": None}, 'the column "area" is not there here; in a.parquet it is Int64'),
    ],
)
def test_files_with_other_columns_are_named(tmp_path: Path, change: Any, words: str, limit: int | None) -> None:
    frame = pl.DataFrame({"area": range(20), "kind": ["a", "b"] * 10})
    frame.write_parquet(tmp_path / "a.parquet")
    other = frame.drop("area") if change.get("area", 0) is None else frame.with_columns(**change)
    other.write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=words) as caught:
        open_table(tmp_path, target="kind", memory_limit=limit)
    assert caught.value.key == "parts-differ"


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize(
    ("write", "key"),
    [
        (lambda path: path.touch(), "table-not-readable"),
        (lambda path: path.write_bytes(b"PAR1 and nothing else"), "table-not-readable"),
        (lambda path: path.write_bytes((path.parent / "a.parquet").read_bytes()[:-100]), "table-not-readable"),
        (lambda path: path.mkdir(), None),
        (lambda path: pl.read_parquet(path.parent / "a.parquet")[:0].write_parquet(path), None),
    ],
)
def test_a_file_that_is_no_parquet_is_named_and_one_without_rows_is_no_harm(
    tmp_path: Path, write: Any, key: str | None, limit: int | None
) -> None:
    flats().select("area", "kind").write_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet")
    if key is None:
        assert open_table(tmp_path, target="kind", memory_limit=limit).train.samples
        return
    with pytest.raises(DataError, match=r"b\.parquet") as caught:
        open_table(tmp_path, target="kind", memory_limit=limit)
    assert caught.value.key == key


def test_folders_without_rows_or_without_files_to_train_on_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "none", flats()[:0], 1)
    write_folder(tmp_path / "only" / "test", flats())
    (tmp_path / "only" / "train").mkdir()
    (tmp_path / "empty").mkdir()
    for name, key in (("none", "table-without-rows"), ("only", "no-parquet"), ("empty", "no-classes")):
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name, options=DataOptions(target=None if name == "empty" else "kind"))
        assert caught.value.key == key


def test_what_a_streamed_table_cannot_do_is_refused_in_words(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats())
    for options in ({"text_column": "note"}, {"window": 3, "time_column": "built"}, {"text_length": 9}):
        with pytest.raises(UsageError, match="needs the whole table in memory") as caught:
            open_table(path, target="price", shuffle_window=64, **options)
        assert caught.value.key == "option-reads-whole"
    flats().select("area", "kind").write_csv(tmp_path / "t.csv")
    for option in ("shuffle_window", "workers"):
        with pytest.raises(UsageError, match="is for Parquet files") as caught:
            open_table(tmp_path / "t.csv", target="kind", **{option: 2})
    with pytest.raises(DataError, match="more than 50 different") as refused:
        streamed_with_few_cells(path, target="note", task="classification")
    assert refused.value.key == "more-classes"
    with pytest.raises(DataError, match="no column is left"):
        streamed_with_few_cells(write_folder(tmp_path / "u", flats().select("note", "kind")), target="kind")


def streamed_with_few_cells(path: Path, **options: Any) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "MOST_CELLS", 50)
        return open_table(path, shuffle_window=64, **options)


def test_columns_of_very_many_different_texts_are_still_numbers_and_dates(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats().with_columns(day=pl.col("built").dt.strftime("%d.%m.%Y")))
    kept = open_table(path, target="price", test_fraction=0.0)
    read = streamed_with_few_cells(path, target="price", test_fraction=0.0)
    assert kept.features is not None
    assert read.features is not None
    assert [vars(each) | {"fill": 0} for each in kept.features.columns] == [
        vars(each) | {"fill": 0} for each in read.features.columns
    ]


def test_a_class_of_the_test_files_that_training_has_not_is_named(tmp_path: Path) -> None:
    frame = flats().select("area", "kind")
    write_folder(tmp_path / "train", frame)
    write_folder(tmp_path / "test", frame.with_columns(kind=pl.lit("huge")))
    for limit in (None, 0):
        with pytest.raises(DataError, match='the class "huge" of "kind" does not occur in the training data'):
            open_table(tmp_path, target="kind", memory_limit=limit)


def test_a_cell_that_is_no_number_is_told_when_the_data_is_opened(tmp_path: Path) -> None:
    frame = (
        flats()
        .select("area", "kind")
        .with_columns(area=pl.when(pl.int_range(ROWS) == 555).then(math.inf).otherwise("area"))
    )
    for split in ("train", "test"):
        for other in ("train", "test"):
            write_folder(tmp_path / other, frame if other == split else flats().select("area", "kind"), 1)
        for limit in (None, 0):
            with pytest.raises(DataError, match="inf"):
                open_table(tmp_path, target="kind", memory_limit=limit)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "t", flats().select("area", "kind"), 1)
    data = open_table(path, target="kind", shuffle_window=64)
    flats(500).select("area", "kind").write_parquet(path / "part-0.parquet")
    with pytest.raises(RushlightError, match="other rows than when the data was opened"):
        samples(data)
