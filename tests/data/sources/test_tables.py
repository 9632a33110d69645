"""Tables: reading CSV and Parquet, what columns and targets are taken for, and the same features at predict."""

from __future__ import annotations

import csv
import gzip
import math
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rushlight.data import DataOptions, open_like, open_source
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.shape.samples import split_indices
from rushlight.data.sources.tables.tables import encode, feature_names, open_table, read_frame, read_rows
from rushlight.data.spec import Column, FeatureSpec, TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError

FLOWERS = "length,width,colour,kind\n" + "".join(
    f"{index / 10},{index * 2},{('red', 'blue')[index % 2]},{('iris', 'rose', 'lily')[index % 3]}\n"
    for index in range(30)
)


def write(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def splits(data: Data) -> tuple[ResidentSplit, ResidentSplit]:
    assert isinstance(data.train, ResidentSplit)
    assert isinstance(data.test, ResidentSplit)
    return data.train, data.test


def specs(data: Data) -> tuple[FeatureSpec, TargetSpec]:
    assert data.features is not None
    assert data.target is not None
    return data.features, data.target


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_csv_becomes_numbers_and_classes(tmp_path: Path) -> None:
    data = open_table(write(tmp_path, FLOWERS), target="kind", normalize="none")
    features, target = specs(data)
    train, test = splits(data)
    assert [column.kind for column in features.columns] == ["number", "number", "category"]
    assert feature_names(features.columns) == ["length", "width", "colour=blue", "colour=red"]
    assert (features.kind, features.shape, features.dtype) == ("table", (4,), "float32")
    assert (target.task, target.classes, target.name) == ("classification", ("iris", "lily", "rose"), "kind")
    assert (train.samples, test.samples) == (24, 6)
    assert torch.bincount(test.targets).tolist() == [2, 2, 2]
    row = train.inputs[3]
    assert float(row[1]) == pytest.approx(float(row[0]) * 20, rel=1e-5)
    assert row[2:].sum() == 1


def test_features_are_standardised_on_the_training_split(tmp_path: Path) -> None:
    train, _ = splits(open_table(write(tmp_path, FLOWERS), target="kind"))
    assert train.inputs.mean(0).abs().max() < 1e-5
    assert (train.inputs.std(0, correction=0) - 1).abs().max() < 1e-4


def test_parquet_and_csv_give_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, FLOWERS)
    pl.read_csv(path).write_parquet(tmp_path / "table.parquet")
    from_csv = open_table(path, target="kind")
    from_parquet = open_table(tmp_path / "table.parquet", target="kind")
    assert from_csv.features == from_parquet.features
    assert from_csv.fingerprint == from_parquet.fingerprint


def test_a_test_file_is_encoded_with_what_the_training_file_taught(tmp_path: Path) -> None:
    path = write(tmp_path, FLOWERS)
    other = write(tmp_path, "kind,colour,width,length,extra\nrose,green,4,,x\nlily,red,5,2.5,y\n", "other.csv")
    data = open_table(path, target="kind", test=other, normalize="none")
    train, test = splits(data)
    assert train.samples == 30
    assert test.targets.tolist() == [2, 1]
    assert test.inputs[0].tolist() == pytest.approx([1.45, 4, 0, 0])  # the mean; green was never seen
    assert test.inputs[1].tolist() == [2.5, 5, 0, 1]


def test_a_class_that_only_the_test_file_has_is_an_error(tmp_path: Path) -> None:
    other = write(tmp_path, "length,width,colour,kind\n1,2,red,tulip\n", "other.csv")
    with pytest.raises(DataError, match="tulip"):
        open_table(write(tmp_path, FLOWERS), target="kind", test=other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("semicolon.csv", FLOWERS.replace(",", ";")),
        ("tab.tsv", FLOWERS.replace(",", "\t")),
        ("bar.txt", FLOWERS.replace(",", "|")),
        ("bom.csv", "\ufeff" + FLOWERS),
        ("crlf.csv", FLOWERS.replace("\n", "\r\n")),
        ("no newline at the end.csv", FLOWERS.rstrip()),
        ("utf16.csv", FLOWERS.encode("utf-16")),
        ("packed.csv.gz", gzip.compress(FLOWERS.encode())),
        ("表 格.csv", FLOWERS),
        ("blanks.csv", FLOWERS.replace(",", " , ").replace("\n", " \n")),
        ("quoted.csv", "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in FLOWERS.split())),
    ],
)
def test_every_way_of_writing_a_csv_gives_the_same_data(tmp_path: Path, name: str, text: str | bytes) -> None:
    expected = open_table(write(tmp_path, FLOWERS), target="kind")
    found = open_table(write(tmp_path, text, name), target="kind")
    assert found.features == expected.features
    assert found.fingerprint == expected.fingerprint


def test_quotes_hold_delimiters_line_breaks_and_quotes(tmp_path: Path) -> None:
    frame = read_frame(write(tmp_path, 'a,b\n"x, y",1\n"two\nlines",2\n"say ""hi""",3\n'))
    assert frame["a"].to_list() == ["x, y", "two\nlines", 'say "hi"']
    assert frame["b"].to_list() == ["1", "2", "3"]


def test_chinese_and_western_encodings_are_told_apart_and_said(tmp_path: Path) -> None:
    chinese = "城市,价格\n" + "北京,1\n上海,2\n" * 5
    path = write(tmp_path, chinese.encode("gb18030"))
    assert read_frame(path).columns == ["城市", "价格"]
    data = open_table(path, target="城市")
    assert specs(data)[1].classes == ("上海", "北京")
    assert any("GB18030" in note for note in data.notes)
    western = write(tmp_path, "Größe,Straße\n1,Müller\n2,café au lait\n".encode("latin-1"), "west.csv")
    frame = read_frame(western)
    assert frame.columns == ["Größe", "Straße"]
    assert frame["Straße"].to_list() == ["Müller", "café au lait"]


@pytest.mark.parametrize(
    ("content", "name", "key"),
    [
        (b"", "a.csv", "table-empty"),
        (b"\n \n", "a.csv", "table-empty"),
        (b"a,b,kind\n", "a.csv", "table-without-rows"),
        (b"a,a,kind\n1,2,x\n", "a.csv", "table-header-doubled"),
        (b"a,kind\n1,x\n1,2,y\n", "a.csv", "table-line-too-long"),
        (b'a,kind\n1,"x\n', "a.csv", "table-not-readable"),
        (b"PK\x03\x04 an excel file", "a.csv", "table-is-excel"),
        (b"\x00\x01\xff\xfe\x00", "a.csv", "table-not-text"),
        (b"no parquet", "a.parquet", "table-not-readable"),
        (b"\x1f\x8bnot gzip", "a.csv.gz", "table-not-readable"),
        (b"a,kind\n1,x\n", "a.xlsx", "not-a-table"),
        (None, "a.csv", "no-table"),
    ],
)
def test_files_that_are_no_table_are_explained(tmp_path: Path, content: bytes | None, name: str, key: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_table(path, target="kind")
    assert caught.value.key == key
    assert name in caught.value.problem


def test_a_line_with_too_many_fields_is_named_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 4: the header names 2 columns, this line has 3"):
        read_frame(write(tmp_path, 'a,b\n"x\ny",1\n1,2,3\n'))


# ── the target ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_or_misspelt_target_is_helped_on(tmp_path: Path) -> None:
    path = write(tmp_path, FLOWERS)
    with pytest.raises(DataError) as caught:
        open_table(path, target=None)
    assert "length, width, colour, kind" in caught.value.problem
    assert "--target" in caught.value.advice
    with pytest.raises(DataError, match='Did you mean "colour"'):
        open_table(path, target="color")


def table_of(values: list[Any]) -> str:
    return "x,y\n" + "".join(f"{index * 7 % 13},{value}\n" for index, value in enumerate(values))


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["no", "yes"] * 5, "classification", ("no", "yes")),
        ([True, False] * 5, "classification", ("False", "True")),
        ([10, 9, 2] * 4, "classification", ("2", "9", "10")),
        ([0.5, 1.5] * 5, "regression", ()),
        ([1.0, 2.0] * 5, "regression", ()),
        (list(range(30)), "regression", ()),
        ([1, 3, 5, 7, 9], "regression", ()),
    ],
)
def test_the_task_follows_the_targets_kind_and_is_said(
    tmp_path: Path, values: list[Any], task: str, classes: tuple[str, ...]
) -> None:
    data = open_table(write(tmp_path, table_of(values)), target="y")
    target = specs(data)[1]
    assert (target.task, target.classes) == (task, classes)
    assert any(task in note and '"y"' in note for note in data.notes)


def test_task_overrides_the_guess(tmp_path: Path) -> None:
    path = write(tmp_path, table_of([0, 1] * 10))
    regression = open_table(path, target="y", task="regression")
    assert specs(regression)[1].task == "regression"
    assert splits(regression)[0].targets.shape == (16, 1)
    binary = open_table(path, target="y", task="binary")
    assert specs(binary)[1].classes == ("0", "1")
    assert splits(binary)[0].targets.shape == (16, 1)
    assert sorted(splits(binary)[1].targets.flatten().tolist()) == [0, 0, 1, 1]  # stratified too
    many = open_table(write(tmp_path, table_of(list(range(40)) * 2)), target="y", task="classification")
    assert len(specs(many)[1].classes) == 40


def test_overrides_that_cannot_be_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path, table_of(["a", "b", "c"] * 4))
    with pytest.raises(DataError, match='"y" holds "a"'):
        open_table(path, target="y", task="regression")
    with pytest.raises(DataError, match="has 3: a, b, c"):
        open_table(path, target="y", task="binary")
    with pytest.raises(UsageError):
        open_table(path, target="y", task="multilabel")


def test_texts_that_are_all_different_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_table(write(tmp_path, table_of([f"name {index}" for index in range(40)])), target="y")
    assert caught.value.key == "too-many-classes"


def test_rows_without_a_target_are_left_out_aloud(tmp_path: Path) -> None:
    data = open_table(write(tmp_path, table_of(["a", "b", "", "NA", "a", "b", "a"])), target="y", test_fraction=0.0)
    assert data.train.samples == 5
    assert any("2 of 7 rows" in note for note in data.notes)
    with pytest.raises(DataError) as caught:
        open_table(write(tmp_path, table_of(["", ""])), target="y")
    assert caught.value.key == "target-all-missing"


def test_regression_targets_are_kept_in_their_units(tmp_path: Path) -> None:
    values = [index * 1e6 + 0.5 for index in range(10)]
    data = open_table(write(tmp_path, table_of(values)), target="y", test_fraction=0.0)
    assert isinstance(data.train, ResidentSplit)
    assert specs(data)[1].in_units(data.train.targets).flatten().tolist() == pytest.approx(values, rel=1e-5)


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_that_say_nothing_are_left_out_aloud(tmp_path: Path) -> None:
    rows = [f"{i},{i * i},7,same,,code {i},{'ab'[i % 2]},{'uv'[i // 2 % 2]}" for i in range(20)]
    path = write(tmp_path, "id,x,constant,text,empty,name,group,y\n" + "\n".join(rows))
    data = open_table(path, target="y")
    assert [column.name for column in specs(data)[0].columns] == ["x", "group"]
    said = "\n".join(data.notes)
    for name in ("id", "constant", "text", "empty", "name"):
        assert f'The column "{name}" was left out' in said


def test_too_many_categories_are_left_out(tmp_path: Path) -> None:
    rows = [f"{i % 5},c{i % 1200},{'uv'[i % 2]}" for i in range(4800)]
    data = open_table(write(tmp_path, "x,code,y\n" + "\n".join(rows)), target="y")
    assert [column.name for column in specs(data)[0].columns] == ["x"]
    assert any("categories, more than 1,000" in note for note in data.notes)


def test_a_table_with_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='"x": every value is 1'):
        open_table(write(tmp_path, "x,y\n" + "1,a\n1,b\n" * 5), target="y")


def test_a_column_of_numbers_with_a_stray_text_is_said_to_be_categories(tmp_path: Path) -> None:
    rows = "".join(f"{index % 4},{'uv'[index % 2]}\n" for index in range(20)) + "unknown,u\n"
    data = open_table(write(tmp_path, "age,y\n" + rows), target="y")
    assert specs(data)[0].columns[0].kind == "category"
    assert any('"unknown"' in note and "age" in note for note in data.notes)


def test_missing_numbers_take_the_training_mean_and_are_flagged(tmp_path: Path) -> None:
    rows = "".join(
        f"{cell},{'uv'[index % 2]}\n" for index, cell in enumerate(["1", "", "3", "NA", "?", "5", "nan", "7"])
    )
    data = open_table(write(tmp_path, "x,y\n" + rows), target="y", normalize="none", test_fraction=0.0)
    assert isinstance(data.train, ResidentSplit)
    assert data.train.inputs.tolist() == [[1, 0], [4, 1], [3, 0], [4, 1], [4, 1], [5, 0], [4, 1], [7, 0]]
    assert feature_names(specs(data)[0].columns) == ["x", "x is missing"]


def test_what_is_learnt_of_columns_ignores_the_test_rows(tmp_path: Path) -> None:
    labels = [index % 2 for index in range(40)]
    train_rows, test_rows = split_indices(np.array(labels), 0.2, 0, stratified=True)
    cells = ["1" if index in train_rows else "1000" for index in range(40)]
    cells[train_rows[0]] = "3"
    colours = ["red" if index % 3 else "blue" for index in range(40)]
    colours[test_rows[0]] = "secret"
    text = "x,colour,y\n" + "".join(f"{x},{c},{y}\n" for x, c, y in zip(cells, colours, labels, strict=True))
    data = open_table(write(tmp_path, text), target="y", seed=0)
    number, category = specs(data)[0].columns
    assert number.fill == pytest.approx(1 + 2 / 32)
    assert category.categories == ("blue", "red")


YEAR = [date(2024, 1, 1) + timedelta(days=9 * index) for index in range(40)]  # some of them after the twelfth


def table_of_dates(path: Path, days: list[date], pattern: str) -> Path:
    path.write_text("day,y\n" + "".join(f"{day:{pattern}},{'uv'[n % 2]}\n" for n, day in enumerate(days)))
    return path


@pytest.mark.parametrize(
    ("pattern", "order", "said"),
    [
        ("%Y-%m-%d", "ymd", None), ("%Y/%m/%d", "ymd", None), ("%Y.%m.%d", "ymd", None), ("%Y-%m-%d %H:%M", "ymd", None),
        ("%d/%m/%Y", "dmy", "day first"), ("%d.%m.%Y", "dmy", "day first"), ("%d-%m-%Y", "dmy", "day first"),
        ("%d/%m/%Y %H:%M:%S", "dmy", "day first"), ("%m/%d/%Y", "mdy", "month first"), ("%m-%d-%Y", "mdy", "month first"),
    ],
)  # fmt: skip
def test_dates_in_every_common_order_are_days_since_1970(
    tmp_path: Path, pattern: str, order: str, said: str | None
) -> None:
    options: dict[str, Any] = {"target": "y", "normalize": "none", "test_fraction": 0.0}
    few = YEAR[:1] * 2 + [date(2024, 2, 3)] * 2  # could be read in two ways, were the order not known
    test = table_of_dates(tmp_path / "test.csv", few, pattern)
    data = open_table(table_of_dates(tmp_path / "t.csv", YEAR, pattern), test=test, **options)
    (column,) = specs(data)[0].columns
    assert (column.kind, column.date_order) == ("date", order)
    for split, days in ((data.train, YEAR), (data.test, few)):
        assert isinstance(split, ResidentSplit)
        assert split.inputs[:, 0].tolist() == [(day - date(1970, 1, 1)).days for day in days]
    assert any('"day" was read as dates' in note and (said or "") in note for note in data.notes) == (said is not None)
    assert FeatureSpec.from_json(specs(data)[0].to_json()) == specs(data)[0]


@pytest.mark.parametrize("pattern", ["%d/%m/%Y", "%d-%m-%Y", "%d/%m/%y", "%d %b %Y", "%b %d, %Y"])
def test_dates_that_cannot_be_told_are_no_dates_and_a_note_says_how_to_write_them(tmp_path: Path, pattern: str) -> None:
    days = [date(2024, 1 + index % 12, 1 + index % 11) for index in range(40)]  # none after the twelfth
    rows = "".join(f'"{day:{pattern}}",{n % 5},{"uv"[n % 2]}\n' for n, day in enumerate(days))
    write(tmp_path, "day,x,y\n" + rows, "t.csv")
    data = open_table(tmp_path / "t.csv", target="y")
    assert all(column.kind != "date" for column in specs(data)[0].columns)
    assert any('"day" looks like dates' in note and "2024-12-31" in note for note in data.notes)


def test_names_and_numbers_are_not_said_to_look_like_dates(tmp_path: Path) -> None:
    cells = ["1-2-3", "b 1 c", "May", "10.0.0.1", "2024", "v1.2.3"] * 5
    data = open_table(
        write(tmp_path, "x,y\n" + "".join(f"{cell},{'uv'[n % 2]}\n" for n, cell in enumerate(cells))), target="y"
    )
    assert not any("dates" in note for note in data.notes if "columns (" not in note)


def test_dates_are_days_since_1970_from_text_and_parquet(tmp_path: Path) -> None:
    days = [date(2024, 1, 1 + index) for index in range(10)]
    labels = ["u", "v"] * 5
    frame = pl.DataFrame({"day": days, "at": [datetime(2024, 1, 1, index) for index in range(10)], "y": labels})
    frame.write_parquet(tmp_path / "t.parquet")
    text = "day,at,y\n" + "".join(
        f"{d:%Y/%m/%d},{d.replace(day=1)} 0{i}:00:00,{y}\n" for i, (d, y) in enumerate(zip(days, labels, strict=True))
    )
    for path in (tmp_path / "t.parquet", write(tmp_path, text)):
        data = open_table(path, target="y", normalize="none", test_fraction=0.0)
        assert [column.kind for column in specs(data)[0].columns] == ["date", "date"]
        assert isinstance(data.train, ResidentSplit)
        assert data.train.inputs[:, 0].tolist() == [19723 + index for index in range(10)]
        assert data.train.inputs[6, 1] == 19723.25


def test_booleans_are_one_category_however_they_are_written(tmp_path: Path) -> None:
    pl.DataFrame({"b": [True, False] * 5, "y": ["u", "u", "v", "v", "u"] * 2}).write_parquet(tmp_path / "t.parquet")
    features = specs(open_table(tmp_path / "t.parquet", target="y"))[0]
    assert features.columns[0].categories == ("false", "true")
    assert read_rows({"b": ["TRUE", "False", "true"]}, features).tolist() == [[0, 1], [1, 0], [0, 1]]


# ── predicting ───────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = (
    Column("age", "number", fill=30.0, flags_missing=True),
    Column("city", "category", ("Oslo", "Rome")),
    Column("on", "date", fill=5.0),
)
SPEC = FeatureSpec("table", (5,), "float32", columns=COLUMNS)


@pytest.mark.parametrize(
    "rows",
    [
        {"age": [20, None], "city": ["Rome", "Paris"], "on": ["1970-01-02", None]},
        [{"age": 20, "city": "Rome", "on": "1970-01-02"}, {"age": None, "city": "Paris", "on": None}],
        pl.DataFrame({"on": [date(1970, 1, 2), None], "age": ["20", " "], "city": ["Rome", "Paris"], "more": [1, 2]}),
        {"age": np.array([20.0, np.nan]), "city": np.array(["Rome", "Paris"]), "on": ["1970-01-02", ""]},
    ],
)
def test_rows_are_taken_in_every_form(rows: Any) -> None:
    assert read_rows(rows, SPEC).tolist() == [[20, 0, 0, 1, 1], [30, 1, 0, 0, 5]]


def test_one_row_may_be_a_dict_of_single_values() -> None:
    assert read_rows({"age": 20, "city": "Rome", "on": "1970-01-02"}, SPEC).tolist() == [[20, 0, 0, 1, 1]]


def test_a_pandas_frame_is_read_by_its_columns() -> None:
    class Series(list):  # pandas itself is no dependency: what is used of it is this much
        def tolist(self) -> list[Any]:
            return list(self)

        def isna(self) -> Series:
            return Series(value is None or value != value for value in self)

    class DataFrame(dict):
        columns = ("age", "city", "on")
        isna = None

    frame = DataFrame(age=Series([20.0, math.nan]), city=Series(["Rome", None]), on=Series([date(1970, 1, 2), None]))
    assert read_rows(frame, SPEC).tolist() == [[20, 0, 0, 1, 1], [30, 1, 0, 0, 5]]


def test_rows_of_a_file_are_read_with_its_header(tmp_path: Path) -> None:
    path = write(tmp_path, "city;age;on\nOslo;41;1970-01-11\n")
    assert read_rows(path, SPEC).tolist() == [[41, 0, 1, 0, 10]]


def test_an_array_has_its_columns_in_the_order_of_training() -> None:
    spec = FeatureSpec("table", (2,), "float32", columns=(Column("a", "number"), Column("b", "number")))
    assert read_rows(np.array([[1.0, 2.0]]), spec).tolist() == [[1, 2]]
    with pytest.raises(DataError, match="trained with 2 columns: a, b"):
        read_rows(np.zeros((1, 3)), spec)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"aeg": [1], "city": ["Rome"], "on": [None]}, ['"age"', 'Did you mean "aeg"']),
        ({"age": ["1", "old"], "city": ["Rome"] * 2, "on": [None] * 2}, ['"age", row 2', '"old"']),
        ({"age": [1, math.inf], "city": ["Rome"] * 2, "on": [None] * 2}, ['"age", row 2', '"inf"']),
        ({"age": [1], "city": ["Rome"], "on": ["31.01.2024"]}, ['"on", row 1', '"31.01.2024"']),
        ({"age": [1, 2], "city": ["Rome"], "on": [None]}, ["dict"]),
        ([], ['"age"']),
    ],
)
def test_rows_that_do_not_fit_are_explained(rows: Any, said: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(rows, SPEC)
    for part in said:
        assert part in caught.value.problem


def test_missing_polars_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polars", None)  # as Python itself marks what cannot be imported
    with pytest.raises(UsageError, match=r"pip install polars"):
        read_rows({"age": [1]}, SPEC)


numbers = st.one_of(
    st.none(), st.floats(-1e30, 1e30), st.floats(allow_infinity=False, width=32), st.integers(-(10**12), 10**12)
)
texts = st.one_of(st.none(), st.text(alphabet="ab ,\"'\n;\t中é?-.1", max_size=6))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(numbers, texts, st.booleans(), st.dates()), min_size=4, max_size=25), seed=st.integers(0, 5)
)
def test_any_table_encodes_to_finite_features_and_the_same_at_predict(rows: list[tuple[Any, ...]], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["n", "t", "b", "d", "x", "y"])
            writer.writerows([*row, index % 3, "uv"[index % 2]] for index, row in enumerate(rows))
        data = open_table(path, target="y", normalize="none", seed=seed, test_fraction=0.0)
        features = specs(data)[0]
        assert isinstance(data.train, ResidentSplit)
        again = read_rows(path, features)
        assert again.shape == (len(rows), features.shape[0]) == (len(rows), len(feature_names(features.columns)))
        assert torch.isfinite(again).all()
        assert torch.equal(again, data.train.inputs)
        first = read_frame(path)[:1]
        assert torch.equal(encode(first, features.columns), again[:1])


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60), fraction=st.floats(0.05, 0.6), seed=st.integers(0, 100)
)
def test_a_split_is_disjoint_covers_all_and_keeps_every_class(labels: list[int], fraction: float, seed: int) -> None:
    train, test = split_indices(np.array(labels), fraction, seed, stratified=True)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for value in set(labels):
        count = labels.count(value)
        kept = sum(labels[index] == value for index in train)
        assert kept >= 1
        assert count < 2 or kept < count


def test_a_value_that_is_no_number_is_named_by_its_row_in_the_file_also_after_rows_without_a_target(
    tmp_path: Path,
) -> None:
    train = write(tmp_path, "x,y\n" + "".join(f"{n},{'uv'[n % 2]}\n" for n in range(20)))
    test = write(tmp_path, "x,y\n1,\n2,\n3,u\nmany,v\n", "test.csv")
    with pytest.raises(DataError, match="row 4 ") as caught:
        open_table(train, target="y", test=test)
    assert caught.value.key == "not-a-number"


# ── tables in memory ─────────────────────────────────────────────────────────────────────────────────────────


def in_memory(kind: str, frame: pl.DataFrame) -> Any:
    """Return a table as a polars or pandas DataFrame, a dict of columns, or a list of rows."""
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(frame.to_dict(as_series=False))
    if kind == "arrays":
        return {name: frame[name].to_numpy() for name in frame.columns}
    return {"polars": frame, "columns": frame.to_dict(as_series=False), "rows": frame.to_dicts()}[kind]


@pytest.mark.parametrize("kind", ["polars", "pandas", "columns", "arrays", "rows"])
def test_a_table_in_memory_is_opened_as_its_file_is(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, FLOWERS)
    frame = pl.read_csv(path)
    from_file, found = open_source(path, options=DataOptions(target="kind")), in_memory(kind, frame)
    opened = open_source(found, options=DataOptions(target="kind"))
    assert opened.features == from_file.features
    assert opened.target == from_file.target
    for one, other in zip(splits(opened), splits(from_file), strict=True):
        torch.testing.assert_close(one.inputs, other.inputs, rtol=0, atol=0)
        torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)
    assert opened.test is not None
    apart = open_source(found, found, DataOptions(target="kind"))
    assert (apart.train.samples, apart.test.samples) == (30, 30)  # type: ignore[union-attr]
    like = open_like(found, opened.features, opened.target, DataOptions(target="kind"))
    assert like.samples == 30


def test_missing_cells_of_a_frame_are_filled_and_flagged_as_those_of_a_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"a": None if index % 5 == 0 else float(index), "y": index % 2} for index in range(40)]
    data = open_source(pandas.DataFrame(rows), options=DataOptions(target="y", normalize="none"))
    path = write(tmp_path, "a,y\n" + "".join(f"{'' if row['a'] is None else row['a']},{row['y']}\n" for row in rows))
    same = open_source(path, options=DataOptions(target="y", normalize="none"))
    torch.testing.assert_close(splits(data)[0].inputs, splits(same)[0].inputs, rtol=0, atol=0)


def test_a_list_of_samples_is_a_dataset_and_an_empty_frame_is_refused() -> None:
    samples = [(torch.full((3,), float(index)), index % 2) for index in range(20)]
    data = open_source(samples)
    assert (data.train.samples, data.test.samples) == (16, 4)  # type: ignore[union-attr]
    assert data.target is not None
    assert data.target.task == "classification"
    with pytest.raises(DataError, match="no rows"):
        open_source(pl.DataFrame({"a": [], "y": []}), options=DataOptions(target="y"))
    with pytest.raises(UsageError, match="DataFrame"):
        open_source({"x": torch.zeros(5, 2)})
