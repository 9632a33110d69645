"""Arrays, tensors and lists, in memory and in files: what they are taken for, and what is refused."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rushlight
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.shape.targets import read_targets
from rushlight.data.sources.arrays.arrays import open_arrays, stored_inputs
from rushlight.data.sources.arrays.files import holds_array_files, read_array_files
from rushlight.data.splits import Data
from rushlight.errors import DataError, RunError, RushlightError, UsageError

GENERATOR = np.random.default_rng(0)
LABELS = np.arange(20) % 3


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return GENERATOR.integers(0, 200, shape).astype(dtype)


def splits(data: Data) -> tuple[ResidentSplit, ResidentSplit]:
    assert isinstance(data.train, ResidentSplit)
    assert isinstance(data.test, ResidentSplit)
    return data.train, data.test


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inputs", "kind", "expected"),
    [
        (noise(5, 8, 6), None, ("image", (5, 1, 8, 6), torch.uint8)),
        (noise(5, 3, 8, 6), None, ("image", (5, 3, 8, 6), torch.uint8)),
        (noise(5, 8, 6, 3), None, ("image", (5, 3, 8, 6), torch.uint8)),
        (noise(5, 8, 6, 1), None, ("image", (5, 1, 8, 6), torch.uint8)),
        (noise(5, 8), None, ("array", (5, 8), torch.float32)),
        (noise(5, 8, 6), "array", ("array", (5, 8, 6), torch.float32)),
        (noise(5, 9, 8, 6), None, ("array", (5, 9, 8, 6), torch.float32)),
        (noise(5, 8, dtype=np.int64), None, ("array", (5, 8), torch.float32)),
        (noise(5, 8, dtype=np.int64), "tokens", ("array", (5, 8), torch.int64)),
        (noise(5, 8, dtype=bool), None, ("array", (5, 8), torch.float32)),
        (noise(5, 8, dtype=np.float16), None, ("array", (5, 8), torch.float32)),
        (noise(5, 8, dtype=">f8"), None, ("array", (5, 8), torch.float32)),
        (noise(5, 8, 6, dtype=np.float32), None, ("array", (5, 8, 6), torch.float32)),
        (noise(5, 3, 8, 6, dtype=np.float64), None, ("image", (5, 3, 8, 6), torch.float32)),
        (noise(5, 8, 6, dtype=np.float64), "image", ("image", (5, 1, 8, 6), torch.float32)),
        (torch.zeros(5, 8, dtype=torch.bfloat16, requires_grad=True), None, ("array", (5, 8), torch.float32)),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), None, ("image", (5, 3, 8, 8), torch.uint8)),
        ([[1, 2], [3, 4]], None, ("array", (2, 2), torch.float32)),
    ],
)
def test_inputs_are_told_by_dtype_and_shape(inputs: Any, kind: Any, expected: tuple[Any, ...]) -> None:
    tensor, found, _ = stored_inputs(inputs, kind)
    assert (found, tuple(tensor.shape), tensor.dtype) == expected


def test_channels_last_is_turned_and_said(tmp_path: Path) -> None:
    images = noise(5, 8, 6, 3)
    tensor, _, notes = stored_inputs(images, None)
    assert np.array_equal(tensor.numpy(), images.transpose(0, 3, 1, 2))
    assert "(n, 3, height, width)" in notes[0]


def test_read_only_and_reversed_arrays_are_fine() -> None:
    locked = noise(5, 8, 8)
    locked.flags.writeable = False
    assert np.array_equal(stored_inputs(locked, None)[0][:, 0].numpy(), locked)
    assert np.array_equal(stored_inputs(locked[::-1], None)[0][:, 0].numpy(), locked[::-1])


@pytest.mark.parametrize(
    ("inputs", "kind", "key", "said"),
    [
        (np.arange(7.0), None, "inputs-one-dimensional", "reshape(-1, 1)"),
        (np.float32(3), None, "inputs-one-dimensional", "()"),
        (np.array([["a", "b"]]), None, "inputs-not-numbers", "<U1"),
        (np.array([[1 + 2j]]), None, "inputs-not-numbers", "complex128"),
        (np.array([[None, 1]]), None, "inputs-not-numbers", "object"),
        ([[1, 2], [3]], None, "ragged", "pad or cut"),
        (np.zeros((4, 0)), None, "inputs-without-features", "(4, 0)"),
        (np.array([[1.0, 1e300]]), None, "beyond-float32", "1e+300"),
        (np.zeros((4, 5, 6, 7, 8)), "image", "not-an-image-shape", "(4, 5, 6, 7, 8)"),
        (np.zeros((4, 5)), "tokens", "tokens-not-whole", "float64"),
    ],
)
def test_inputs_that_cannot_be_used_are_explained(inputs: Any, kind: Any, key: str, said: str) -> None:
    with pytest.raises(RushlightError) as caught:
        stored_inputs(inputs, kind)
    assert caught.value.key == key
    assert said in str(caught.value)


# ── targets ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("targets", "task", "expected", "values"),
    [
        ([0, 2, 1], None, ("classification", ("0", "1", "2")), [0, 2, 1]),
        ([[0], [2]], None, ("classification", ("0", "1", "2")), [0, 2]),
        (np.array([True, False]), None, ("classification", ("0", "1")), [1, 0]),
        (np.array([3, 0], dtype=np.uint8), None, ("classification", ("0", "1", "2", "3")), [3, 0]),
        (["b", "a", "b"], None, ("classification", ("a", "b")), [1, 0, 1]),
        (np.array(["b", "a"], dtype=object), None, ("classification", ("a", "b")), [1, 0]),
        ([0.5, 1.5], None, ("regression", ()), [[0.5], [1.5]]),
        ([[0.5, 1.0], [1.5, 2.0]], None, ("regression", ()), [[0.5, 1.0], [1.5, 2.0]]),
        ([[0, 1], [1, 1]], None, ("multilabel", ("0", "1")), [[0, 1], [1, 1]]),
        ([[0.0, 1.0], [1.0, 1.0]], "multilabel", ("multilabel", ("0", "1")), [[0, 1], [1, 1]]),
        ([[0, 1.0], [1, 0]], "classification", ("classification", ("0", "1")), [1, 0]),
        ([0.0, 2.0], "classification", ("classification", ("0", "1", "2")), [0, 2]),
        ([0, 1, 1], "binary", ("binary", ("0", "1")), [[0], [1], [1]]),
        ([[0.0], [1.0]], "binary", ("binary", ("0", "1")), [[0], [1]]),
        (["no", "yes"], "binary", ("binary", ("no", "yes")), [[0], [1]]),
        ([1, 2], "regression", ("regression", ()), [[1], [2]]),
        (torch.tensor([0, 1]), None, ("classification", ("0", "1")), [0, 1]),
    ],
)
def test_targets_are_told_by_dtype_and_shape(
    targets: Any, task: Any, expected: tuple[Any, ...], values: list[Any]
) -> None:
    tensor, spec = read_targets(targets, task)
    assert (spec.task, spec.classes) == expected
    assert tensor.tolist() == values
    assert tensor.dtype == (torch.int64 if spec.task == "classification" else torch.float32)
    assert spec.outputs == (1 if tensor.dim() == 2 and tensor.shape[1] == 1 else max(len(spec.classes), spec.width))


@pytest.mark.parametrize(
    ("targets", "task", "classes", "error", "said"),
    [
        ([0.5, 1.5], "classification", None, UsageError, "2 different values (0.5, 1.5"),
        ([0, 1, 2], "binary", None, UsageError, "3 different values"),
        (["a", "b", "c"], "binary", None, UsageError, "text"),
        ([0, 1], "multilabel", None, UsageError, "(2,)"),
        (["a", "b"], "regression", None, UsageError, "text"),
        (np.zeros((2, 0)), None, None, DataError, "(2, 0)"),
        (np.full((2, 2), "a"), None, None, DataError, "(2, 2)"),
        (np.full((2, 2, 2), 0.5), "classification", None, UsageError, "(2, 2, 2)"),
        (np.full((2, 2, 2), 3), "binary", None, UsageError, "(2, 2, 2)"),
        (np.zeros((2, 2, 2)), "multilabel", None, UsageError, "(2, 2, 2)"),
        (np.full((2, 2), 1 << 40), None, None, DataError, "1,099,511,627,776"),
        ([1 + 2j], None, None, DataError, "complex128"),
        ([None, "a"], None, None, DataError, "object"),
        ([0, 5], None, ("a", "b"), DataError, "2 class names were given, but the labels need 6"),
        (["a", "x"], None, ("a", "b"), DataError, '"x"'),
        ([94105, 10115, 0], None, None, DataError, "94,105"),
    ],
)
def test_targets_that_cannot_be_used_are_explained(
    targets: Any, task: Any, classes: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        read_targets(targets, task, classes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "task", "expected"),
    [
        (np.array([[2, 3], [4, 5]]), None, ("classification", 6, torch.int64)),
        (np.full((2, 3, 4), 7, dtype=np.uint8), None, ("classification", 8, torch.int64)),
        (np.full((2, 3, 4), True), None, ("classification", 2, torch.int64)),
        (np.full((2, 3, 4), -100), None, ("classification", 1, torch.int64)),
        (np.full((2, 1, 3, 4), 0.5), None, ("regression", 0, torch.float32)),
        (np.full((2, 3, 4), 9), "regression", ("regression", 0, torch.float32)),
        (np.ones((2, 3, 4)), "binary", ("binary", 2, torch.float32)),
        (np.ones((2, 3, 4)), "classification", ("classification", 2, torch.int64)),
    ],
)
def test_targets_of_each_place_keep_their_shape(targets: Any, task: Any, expected: tuple[Any, ...]) -> None:
    tensor, spec = read_targets(targets, task)
    assert (spec.task, len(spec.classes), tensor.dtype) == expected
    assert spec.layout == "dense"
    assert tensor.tolist() == targets.tolist()


def test_class_names_stand_in_the_order_of_the_labels() -> None:
    assert read_targets([0, 1, 1], None, ["cat", "dog", "cow"])[1].classes == ("cat", "dog", "cow")
    tensor, spec = read_targets(["dog", "cat"], None, ("dog", "cat"))
    assert (tensor.tolist(), spec.classes) == ([0, 1], ("dog", "cat"))


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pair_becomes_data_with_a_stratified_cut() -> None:
    data = open_arrays((noise(20, 8, 8), LABELS), name="noise", seed=1)
    train, test = splits(data)
    assert data.name == "noise"
    assert train.inputs.dtype == torch.uint8
    assert torch.bincount(test.targets).tolist() == [1, 1, 1]
    assert train.samples == 17


def test_train_and_test_share_classes_and_both_are_read() -> None:
    data = open_arrays((noise(4, 3, dtype=float), [0, 1, 0, 1]), (noise(2, 3, dtype=float), [2, 0]), name="x")
    assert data.target is not None
    assert data.target.classes == ("0", "1", "2")
    assert splits(data)[1].targets.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("train", "test", "key"),
    [
        ((np.zeros((3, 2)), [0, 1]), None, "unequal-counts"),
        ((np.zeros((2, 2)), [0, 1]), (np.zeros((2, 3)), [0, 1]), "shapes-differ"),
        ((np.zeros((2, 2)), [0, 1]), (np.zeros((2, 2)), ["a", "b"]), "targets-differ"),
        ((np.zeros((2, 2)), [0, 1]), (np.zeros((0, 2)), np.zeros(0, dtype=int)), "empty-split"),
        ((np.zeros((0, 2)), []), None, "empty-split"),
        ((np.zeros((3, 2)), [0, -1, 1]), None, "labels-out-of-range"),
        ((np.zeros((3, 2)), [1, 1, 1]), None, "one-class"),
        ((np.array([[1.0], [np.nan], [2.0]] * 3), LABELS[:9]), None, "not-finite"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_explained(train: Any, test: Any, key: str) -> None:
    with pytest.raises(DataError) as caught:
        open_arrays(train, test, name="mine")
    assert caught.value.key == key


def test_what_may_have_been_meant_otherwise_is_said() -> None:
    one_hot = np.eye(3)[LABELS]
    assert any("one-hot" in note for note in open_arrays((noise(20, 4), one_hot), name="x").notes)
    floats = LABELS.astype(np.float32)
    assert any("whole numbers stored as floats" in note for note in open_arrays((noise(20, 4), floats), name="x").notes)
    quantities = open_arrays((noise(20, 4), GENERATOR.normal(size=20)), name="x")
    assert not any("classification" in note for note in quantities.notes)


def test_tokens_stay_whole_and_unscaled() -> None:
    data = open_arrays((noise(20, 5, dtype=np.int32), LABELS), name="x", kind="tokens")
    assert data.features is not None
    assert (data.features.dtype, data.features.normalization.name) == ("int64", "none")
    assert next(iter(data.train.batches(4, seed=0, epoch=1)))[0].dtype == torch.int64


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

X, Y = noise(6, 4), np.arange(6) % 2


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y"),
        ("X", "y"),
        ("inputs", "targets"),
        ("images", "labels"),
        ("data", "target"),
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
    ],
)
def test_npz_pairs_are_told_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: X, names[1]: Y, "other": X})
    (x, y), _, test = read_array_files(tmp_path / "a.npz")
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert test is None


def test_keras_npz_brings_its_test_split(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "mnist.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    (x, _), _, test = read_array_files(tmp_path / "mnist.npz")
    assert test is not None
    assert (len(x), len(test[0]), len(test[1])) == (6, 2, 2)


def test_a_folder_of_npy_files_is_a_pair(tmp_path: Path) -> None:
    folder = tmp_path / "我的 data"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    assert holds_array_files(folder)
    (x, y), _, _ = read_array_files(folder)
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)


def write_idx(path: Path, array: np.ndarray) -> None:
    content = (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(("mark", "ending"), [("-", ""), ("-", ".gz"), (".", "")])
def test_a_folder_of_idx_files_is_read(tmp_path: Path, mark: str, ending: str) -> None:
    images = noise(6, 5, 4)
    for prefix, count in (("train", 6), ("t10k", 2)):
        write_idx(tmp_path / f"{prefix}-images{mark}idx3-ubyte{ending}", images[:count])
        write_idx(tmp_path / f"{prefix}-labels{mark}idx1-ubyte{ending}", Y[:count])
    assert holds_array_files(tmp_path)
    for path in (tmp_path, tmp_path / f"train-labels{mark}idx1-ubyte{ending}"):
        (x, y), _, test = read_array_files(path)
        assert np.array_equal(x, images)
        assert np.array_equal(y, Y)
        assert test is not None
        assert len(test[0]) == 2


def test_files_that_are_no_pair_are_explained(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=X, second=Y)
    np.save(tmp_path / "lone.npy", X)
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}], dtype=object), y=Y)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(X))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    write_idx(tmp_path / "folder" / "train-images-idx3-ubyte", noise(2, 3, 3))
    for name, key in (
        ("a.npz", "no-pairs"), ("lone.npy", "lone-npy"), ("pickled.npz", "array-is-pickled"), ("pickle.npz", "array-is-pickled"),
        ("cut.npz", "array-not-readable"), ("empty.npz", "array-not-readable"), ("folder", "idx-without-labels"),
        ("nothing.npz", "no-array-files"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            read_array_files(tmp_path / name)
        assert caught.value.key == key
        assert str(tmp_path) in caught.value.problem


# ── pictures of any number ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_with_the_channels_first_are_normalised_by_channel_whatever_their_numbers(
    dtype: str, channels: int
) -> None:
    pixels = (GENERATOR.normal(1000, 5, (20, channels, 6, 5)) + 100 * np.arange(5)).astype(dtype)
    data = open_arrays((pixels[..., ::-1], np.arange(20) % 2))
    assert data.features is not None
    assert (data.features.kind, data.features.shape) == ("image", (channels, 6, 5))
    assert len(data.features.normalization.mean) == channels


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int64", "bool"])
def test_a_run_that_normalised_whole_numbers_by_column_is_not_resumed_by_channel_unawares(
    tmp_path: Path, dtype: str
) -> None:
    pair = (GENERATOR.integers(0, 2, (20, 3, 6, 5)).astype(dtype), np.arange(20) % 2)
    data = open_arrays(pair)
    as_before = replace(data, fingerprint=data.fingerprint.removeprefix("channels:"))
    assert as_before.fingerprint == open_arrays(pair, kind="array").fingerprint  # what an earlier release recorded
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 2))
    run = rushlight.train(model, as_before, epochs=1, schedule="constant", runs=tmp_path, quiet=True)
    with pytest.raises(RunError, match="the data is not what this run was trained on") as caught:
        rushlight.resume(run.folder, model, data=pair, epochs=2, quiet=True)
    assert caught.value.key == "not-exact"


def test_the_fingerprint_of_arrays_that_were_normalised_by_channel_before_is_as_it_was() -> None:
    whole = GENERATOR.integers(0, 200, (20, 3, 6, 5))
    for inputs, options in (
        (whole.astype(np.uint8), {}), (whole.astype(np.float32), {}), (whole, {"kind": "image"}), (whole, {"kind": "array"}),
        (whole, {"normalize": "none"}), (whole, {"normalize": "unit"}), (whole[:, :, 0, 0], {}), (whole, {"kind": "tokens"}),
    ):  # fmt: skip
        fingerprint = open_arrays((inputs, np.arange(20) % 2), **options).fingerprint
        assert re.fullmatch("[0-9a-f]{64}", fingerprint)


@pytest.mark.parametrize("shape", [(20, 6, 5), (20, 6, 5, 3)])
def test_pictures_of_sixteen_bits_may_have_their_channels_last_or_none_and_keep_all_bits(
    shape: tuple[int, ...],
) -> None:
    pixels = GENERATOR.integers(0, 65536, shape).astype(np.uint16)
    data = open_arrays((pixels, np.arange(20) % 2), normalize="none", test_fraction=0.0)
    assert data.features is not None
    assert data.features.shape == (shape[-1] if len(shape) == 4 else 1, 6, 5)
    assert isinstance(data.train, ResidentSplit)
    assert np.array_equal(
        data.train.inputs.numpy(), (pixels.transpose(0, 3, 1, 2) if len(shape) == 4 else pixels[:, None])
    )


def test_one_hot_rows_are_classes_where_the_task_says_so_and_else_a_note_tells_what_they_look_like() -> None:
    x, labels = np.zeros((30, 2)) + np.arange(30)[:, None], np.arange(30) % 3
    for dtype in ("float32", "float64", "int64", "bool"):
        one_hot = np.eye(3)[labels].astype(dtype)
        said = open_arrays((x, one_hot), test_fraction=0.0)
        assert any("look one-hot" in note for note in said.notes)
        data = open_arrays((x, one_hot), task="classification", test_fraction=0.0)
        assert isinstance(data.train, ResidentSplit)
        assert data.train.targets.tolist() == labels.tolist()
        assert not any("one-hot" in note for note in data.notes)
