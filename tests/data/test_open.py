"""One way in for all data, and other data opened as a model's own was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import rushlight
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.open import KINDS, DataOptions, open_like, open_source, retarget
from rushlight.data.sources.named.named import open_named
from rushlight.data.spec import TargetSpec
from rushlight.errors import DataError, UsageError

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = np.arange(40) % 2


def folder_of_images(path: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in classes:
            (path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (9, 9, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


def test_every_way_to_write_arrays_means_the_same() -> None:
    ways = [
        ((X, Y), (X[:7], Y[:7])),
        (((X, Y), (X[:7], Y[:7])), None),
        ((X, Y, X[:7], Y[:7]), None),
        ([torch.from_numpy(X), torch.from_numpy(Y)], (X[:7], Y[:7])),
    ]
    opened = [open_source(source, test) for source, test in ways]
    assert len({data.fingerprint for data in opened}) == 1
    assert {(data.train.samples, data.test.samples if data.test else None) for data in opened} == {(40, 7)}


def test_data_that_is_open_stays_as_it_is() -> None:
    data = rushlight.open_data("digits")
    assert open_source(data) is data


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("digit", "unknown-data"),
        (3, "unknown-data-kind"),
        (None, "unknown-data-kind"),
        ((X, Y, X), "unknown-data-kind"),
    ],
)
def test_what_nobody_can_open_is_refused(source: Any, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(source)
    assert caught.value.key == key
    if key == "unknown-data":
        assert 'Did you mean "digits"?' in caught.value.problem


def test_a_file_of_unknown_kind_is_refused_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "数据 1.doc").write_text("x")
    with pytest.raises(UsageError, match=r"\.doc") as caught:
        open_source(tmp_path / "数据 1.doc")
    assert caught.value.key == "unknown-file-kind"


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "units"},
        {"task": "guess"},
        {"kind": "sound"},
        {"test_fraction": 1.0},
        {"test_fraction": -0.1},
        {"workers": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        DataOptions(**options)


def test_options_come_back_from_json_as_they_were() -> None:
    options = DataOptions(target="y", classes=("a", "b"), image_size=(4, 5), test_fraction=0.5, skip_bad=True)
    assert DataOptions.from_json(options.to_json()) == options
    assert DataOptions().to_json() == {}


def test_a_test_split_given_apart_replaces_the_one_that_a_dataset_has() -> None:
    arrays = open_named("digits")
    data = open_source("digits", (arrays.test_inputs[:50], arrays.test_targets[:50]))
    own = open_source("digits")
    assert isinstance(data.test, ResidentSplit)
    assert isinstance(own.test, ResidentSplit)
    (mine, _), (theirs, _) = next(data.test.in_order(50)), next(own.test.in_order(50))
    assert torch.equal(mine, theirs)  # normalised as the training split says
    assert data.test.samples == 50


# ── other data for a trained model ───────────────────────────────────────────────────────────────────────────


def test_other_arrays_are_prepared_as_the_models_own_were() -> None:
    data = open_source((X * 100 + 7, Y))
    assert data.features is not None
    assert data.target is not None
    split = open_like((X * 100 + 7, Y), data.features, data.target, DataOptions())
    ((inputs, targets),) = split.in_order(100)
    expected = data.features.normalization.apply(torch.from_numpy(X * 100 + 7), 1)
    assert torch.equal(inputs, expected)
    assert targets.tolist() == Y.tolist()


def test_other_data_of_another_shape_or_with_unknown_classes_is_refused(tmp_path: Path) -> None:
    data = open_source((X, Y))
    assert data.features is not None
    assert data.target is not None
    with pytest.raises(DataError, match=r"\(3,\); these have \(2,\)"):
        open_like((X[:, :2], Y), data.features, data.target, DataOptions())
    images = open_source(folder_of_images(tmp_path / "a"))
    other = folder_of_images(tmp_path / "b", ("cat", "dogs"))
    assert images.features is not None
    assert images.target is not None
    with pytest.raises(DataError, match='Did you mean "dog"') as caught:
        open_like(other, images.features, images.target, DataOptions())
    assert caught.value.key == "unknown-class"


def test_classes_of_other_data_are_numbered_as_the_model_numbers_them(tmp_path: Path) -> None:
    images = open_source(folder_of_images(tmp_path / "a", ("ant", "cat", "dog")))
    other = folder_of_images(tmp_path / "b", ("cat", "dog"))
    assert images.features is not None
    assert images.target is not None
    split = open_like(other, images.features, images.target, DataOptions())
    ((_, targets),) = split.in_order(100)
    assert sorted(set(targets.tolist())) == [1, 2]


def test_class_names_that_are_numbers_are_names_too(tmp_path: Path) -> None:
    images = open_source(folder_of_images(tmp_path / "a", ("1", "3", "7")))
    other = folder_of_images(tmp_path / "b", ("3", "7"))
    assert images.features is not None
    assert images.target is not None
    ((_, targets),) = open_like(other, images.features, images.target, DataOptions()).in_order(100)
    assert sorted(set(targets.tolist())) == [1, 2]
    with pytest.raises(DataError) as caught:
        open_like(folder_of_images(tmp_path / "c", ("3", "12")), images.features, images.target, DataOptions())
    assert caught.value.key == "unknown-class"


def test_classes_of_streamed_data_are_numbered_as_the_model_numbers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_source(folder_of_images(tmp_path / "a", ("ant", "cat", "dog")))
    assert images.features is not None
    assert images.target is not None
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 100)
    split = open_like(folder_of_images(tmp_path / "b", ("cat", "dog")), images.features, images.target, DataOptions())
    assert isinstance(split, StreamedSplit)
    assert [y for _, targets in split.in_order(3) for y in targets.tolist()] == [1, 1, 2, 2]


def test_streamed_folders_keep_a_few_raw_images_as_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_source(folder_of_images(tmp_path / "a"))
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 100)
    streamed = open_source(tmp_path / "a")
    assert isinstance(streamed.train, StreamedSplit)
    assert kept.examples is not None
    assert streamed.examples is not None
    assert torch.equal(kept.examples, streamed.examples)


BYTES = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 1, 6, 6), (40, 6, 6)])
def test_bytes_and_floats_of_the_same_images_are_not_mistaken_for_each_other(shape: tuple[int, ...]) -> None:
    stored = BYTES.reshape(shape)
    unit = stored.astype("float32") / 255
    for train, test in ((stored, unit), (unit, stored)):
        with pytest.raises(DataError, match=r"uint8.*float32|float32.*uint8") as caught:
            open_source((train, Y), (test, Y))
        assert caught.value.key == "other-dtype"
        data = open_source((train, Y))
        assert data.features is not None
        assert data.target is not None
        with pytest.raises(DataError) as caught:
            open_like((test, Y), data.features, data.target, DataOptions())
        assert caught.value.key == "other-dtype"
    with pytest.raises(DataError) as caught:  # features of bytes are kept as floats: their scale differs all the same
        open_source((stored.reshape(40, 36), Y), (unit.reshape(40, 36), Y))
    assert caught.value.key == "other-dtype"


def test_open_data_is_not_scaled_a_second_time() -> None:
    data = open_source((X * 100 + 7, Y), (X * 100 + 7, Y))
    assert data.features is not None
    assert data.target is not None
    assert data.test is not None
    split = open_like(data, data.features, data.target, DataOptions())
    for (found, _), (expected, _) in zip(split.in_order(40), data.test.in_order(40), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(DataError) as caught:
        open_like(open_source((X, Y)), data.features, data.target, DataOptions())
    assert caught.value.key == "scaled-otherwise"


def test_a_runs_own_options_do_not_stand_in_the_way_of_other_data(tmp_path: Path) -> None:
    options = DataOptions(image_size=(5, 5), skip_bad=True, workers=0)
    images = open_source(folder_of_images(tmp_path / "a"), options=options)
    assert images.features is not None
    assert images.target is not None
    arrays = (np.zeros((4, 3, 5, 5), np.uint8), np.array([0, 1, 0, 1]))
    assert open_like(arrays, images.features, images.target, options).samples == 4


# ── options that the data would ignore ───────────────────────────────────────────────────────────────────────


def table(path: Path) -> Path:
    path.write_text("a,y\n" + "".join(f"{i * 0.37 % 1},{'red' if i % 2 else 'blue'}\n" for i in range(40)))
    return path


def as_parquet(path: Path) -> Path:
    pl.read_csv(path).write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


GIVEN: dict[str, Any] = {
    "target": "y", "task": "classification", "kind": "array", "classes": ("x", "y"), "normalize": "unit",
    "image_size": (4, 4), "test_fraction": 0.5, "skip_bad": True, "workers": 1, "shuffle_window": 8,
}  # fmt: skip
IGNORED = {
    "open": set(GIVEN),
    "named": set(GIVEN) - {"normalize"},
    "folder": {"target", "task", "kind", "classes", "shuffle_window"},
    "table": {"kind", "classes", "image_size", "skip_bad", "workers", "shuffle_window"},
    "parquet": {"kind", "classes", "image_size", "skip_bad"},
    "arrays": {"target", "image_size", "skip_bad", "workers", "shuffle_window"},
    "dataset": {"target", "kind", "image_size", "skip_bad", "shuffle_window"},
    "loader": {"target", "kind", "image_size", "skip_bad", "test_fraction", "workers", "shuffle_window"},
}


@pytest.mark.parametrize("kind", IGNORED)
def test_options_that_the_data_would_ignore_are_refused_and_no_others(kind: str, tmp_path: Path) -> None:
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    source: Any = {
        "open": lambda: open_source((X, Y)),
        "named": lambda: "digits",
        "folder": lambda: folder_of_images(tmp_path / "图片 a"),
        "table": lambda: table(tmp_path / "表 1.csv"),
        "parquet": lambda: as_parquet(table(tmp_path / "表 1.csv")),
        "arrays": lambda: (X, Y),
        "dataset": lambda: dataset,
        "loader": lambda: DataLoader(dataset, 8, drop_last=True),
    }[kind]()
    for option, value in GIVEN.items():
        given = DataOptions(**{"target": "y" if kind in ("table", "parquet") else None, "seed": 5, option: value})
        if option not in IGNORED[kind]:
            open_source(source, options=given)
            continue
        with pytest.raises(UsageError, match=option) as caught:
            open_source(source, options=given)
        assert caught.value.key == "option-of-other-data"


def test_every_option_is_for_some_kind_of_data_and_every_kind_takes_the_splits_apart_or_leaves_both() -> None:
    for option in vars(DataOptions()):
        assert any(kind.takes(option) for kind in KINDS), option
    for kind in KINDS:
        assert kind.takes("test") == kind.takes("validation")


def test_a_path_from_home_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    table(tmp_path / "t.csv")
    data = open_source("~/t.csv", "~/t.csv", DataOptions(target="y"), validation="~/t.csv")
    assert {split.samples for split in data.splits.values()} == {40}


def test_test_data_beside_open_data_is_refused() -> None:
    with pytest.raises(UsageError, match="test_data") as caught:
        open_source(open_source((X, Y)), (X, Y))
    assert caught.value.key == "option-of-other-data"


# ── two classes as a binary task ─────────────────────────────────────────────────────────────────────────────


def test_two_classes_become_zeros_and_ones_and_inputs_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = open_source(folder_of_images(tmp_path / "图片 a"))
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: 100)
    streamed = open_source(tmp_path / "图片 a")
    assert isinstance(streamed.train, StreamedSplit)
    before = [x for x, _ in streamed.train.batches(5, seed=0, epoch=1)]
    for data in (kept, streamed):
        assert data.target is not None
        assert data.target.classes == ("cat", "dog")
        binary = retarget(data, replace(data.target, task="binary"))
        assert binary.target == replace(data.target, task="binary")
        batches = list(binary.train.batches(5, seed=0, epoch=1))
        assert torch.cat([y for _, y in batches]).shape == (12, 1)
        assert {float(value) for _, y in batches for value in y.flatten()} == {0.0, 1.0}
        for (x, _), expected in zip(batches, before, strict=True):
            torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


def test_the_open_data_of_python_is_what_train_takes(tmp_path: Path) -> None:
    data = rushlight.open_data(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), test_fraction=0.25, seed=3)
    assert data.target == TargetSpec("classification", ("0", "1"))
    assert data.test is not None
    assert data.test.samples == 10
    run = rushlight.train("linear", data, epochs=1, runs=tmp_path, quiet=True)
    assert run.summary()["test"]["n"] == 10
