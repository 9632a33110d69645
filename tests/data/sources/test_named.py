"""Datasets by name, and the idx files most of them are made of."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from rushlight.data.sources.idx import DTYPES, read_idx
from rushlight.data.sources.named.cache import sha256_of
from rushlight.data.sources.named.catalog import DATASETS, NamedDataset
from rushlight.data.sources.named.named import describe_datasets, open_declared, open_named
from rushlight.errors import DataError

FASHION_MNIST = DATASETS["fashion-mnist"]
CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in DTYPES.items()}


def idx_bytes(array: NDArray[Any]) -> bytes:
    header = bytes([0, 0, CODES[array.dtype], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


# ── idx ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(CODES, key=str)), st.booleans())
def test_what_an_idx_file_holds_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dtype: np.dtype[Any], is_packed: bool
) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    array = data.draw(arrays.arrays(dtype, shape))
    path = tmp_path_factory.mktemp("idx") / "some file 数据"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if is_packed else content)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()
    assert read.flags.writeable


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "idx-magic"),
        (b"\0\0", "idx-magic"),
        (b"<html><body>404</body></html>", "idx-magic"),
        (b"\0\0\x07\x01\0\0\0\1\0", "idx-magic"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "idx-magic"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "idx-magic"),
        (b"\0\0\x08\x03\0\0\0\2\0\0", "idx-truncated"),
        (b"\0\0\x08\x01\0\0\0\5abcd", "idx-truncated"),
        (b"\0\0\x0d\x01\0\0\0\2" + bytes(7), "idx-truncated"),
        (b"\0\0\x08\x01\0\0\0\3abcd", "idx-too-long"),
        (b"\0\0\x08\x01\0\0\0\0a", "idx-too-long"),
    ],
)
def test_a_wrong_idx_file_is_explained(tmp_path: Path, content: bytes, key: str, is_packed: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert caught.value.key == key
    assert str(path) in caught.value.problem


LIAR = """
import resource, sys
from rushlight.data.sources.idx import read_idx
from rushlight.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    read_idx(sys.argv[1])
except DataError as error:
    print(error.key)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory by RLIMIT_AS")
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path, is_packed: bool) -> None:
    content = b"\0\0\x08\x02" + np.array([1 << 21, 1 << 21], ">u4").tobytes() + b"few"
    path = tmp_path / "liar"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIAR, str(path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == "idx-truncated", done.stderr


def test_a_torn_gzip_and_a_missing_file_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(100, dtype=np.uint8)))[:-9])
    for where in (path, tmp_path / "missing", tmp_path):
        with pytest.raises(DataError) as caught:
            read_idx(where)
        assert caught.value.key == "idx-unreadable"


# ── declarations ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))
def test_a_declaration_is_consistent(dataset: NamedDataset) -> None:
    assert len(set(dataset.classes)) == len(dataset.classes) == (100 if dataset.name == "cifar100" else 10)
    assert all(source.endswith("/") for source in dataset.sources if source.startswith("http"))  # a file's name follows
    for file in dataset.files:
        digests = [file.sha256, *(content.sha256 for content in file.contents if content.sha256)]
        assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
    if dataset.layout == "idx":
        pixels = int(np.prod(dataset.shape))
        sizes = [content.size_bytes for file in dataset.files for content in file.contents]
        for images, labels, count in zip(
            sizes[::2], sizes[1::2], (dataset.train_count, dataset.test_count), strict=True
        ):
            assert (images, labels) == (16 + count * pixels, 8 + count)


def test_every_name_has_a_row_with_its_size_and_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHLIGHT_DATA", str(tmp_path))
    rows = {row["name"]: row for row in describe_datasets()}
    assert list(rows) == list(DATASETS)
    assert rows["fashion-mnist"]["download_bytes"] == 26_421_880 + 29_515 + 4_422_102 + 5_148
    assert rows["kmnist"]["licence"].startswith("CC BY-SA 4.0")
    assert [name for name, row in rows.items() if row["is_cached"]] == ["digits"]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────


def test_digits_need_no_network_and_are_split_the_same_for_everyone() -> None:
    digits = open_named("digits")
    assert digits.train_inputs.shape == (1437, 1, 8, 8)
    assert digits.test_inputs.shape == (360, 1, 8, 8)
    assert digits.train_inputs.dtype == np.uint8
    assert digits.train_targets.dtype == digits.test_targets.dtype == np.int64
    assert sorted(np.unique(digits.train_inputs))[::8] == [0, 128, 255]
    shares = np.bincount(digits.test_targets) / np.bincount(np.r_[digits.test_targets, digits.train_targets])
    assert np.all(np.abs(shares - 0.2) < 0.005)
    everything = digits.test_inputs.tobytes() + digits.test_targets.tobytes() + digits.train_inputs.tobytes()
    as_published = "47700f3ab9230fb2717a212dfd1f08918278438516f75ffd95e01188d21cbb21"
    assert hashlib.sha256(everything).hexdigest() == as_published  # figures are compared across machines


def test_the_shipped_digits_tell_apart_as_real_digits_do() -> None:
    digits = open_named("digits")
    train = digits.train_inputs.reshape(1437, -1).astype(np.float32)
    test = digits.test_inputs.reshape(360, -1).astype(np.float32)
    distances = (train**2).sum(1) - 2 * test @ train.T
    nearest = digits.train_targets[distances.argmin(1)]
    assert (nearest == digits.test_targets).mean() > 0.97


def idx_copy(place: Path) -> tuple[NamedDataset, NDArray[Any], NDArray[Any]]:
    """Declare a small set in Fashion-MNIST's layout, with a copy of it in `place`."""
    place.mkdir()
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    labels = np.array([0, 1, 2, 3, 4, 5], np.uint8)
    files = []
    for file, array in zip(FASHION_MNIST.files, (images[:4], labels[:4], images[4:], labels[4:]), strict=True):
        content = idx_bytes(array)
        path = place / file.name
        path.write_bytes(gzip.compress(content))
        inner = replace(file.contents[0], size_bytes=len(content), sha256=None)
        files.append(replace(file, size_bytes=path.stat().st_size, sha256=sha256_of(path), contents=(inner,)))
    dataset = replace(
        FASHION_MNIST,
        files=tuple(files),
        sources=(str(place),),
        shape=(1, 2, 2),
        train_count=4,
        test_count=2,
    )
    return dataset, images, labels


def test_an_idx_dataset_opens_as_images_with_a_channel_and_says_where_it_came_from(tmp_path: Path) -> None:
    dataset, images, labels = idx_copy(tmp_path / "copy")
    opened = open_declared(dataset, cache=tmp_path / "cache")
    np.testing.assert_array_equal(opened.train_inputs, images[:4, None])
    np.testing.assert_array_equal(opened.test_targets, labels[4:])
    assert opened.train_targets.dtype == np.int64
    assert opened.train_inputs.flags.writeable
    assert opened.classes == FASHION_MNIST.classes
    assert str(tmp_path / "copy") in opened.notes[0]


@pytest.mark.parametrize(("dataset", "label_bytes"), [(DATASETS["cifar10"], 1), (DATASETS["cifar100"], 2)])
def test_cifar_records_open_as_colour_images(tmp_path: Path, dataset: NamedDataset, label_bytes: int) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / dataset.name
    folder.mkdir()
    contents, everything = [], []
    for content in dataset.files[0].contents:
        records = generator.integers(0, 10, (3, label_bytes + 3072), dtype=np.uint8)
        (folder / content.name).write_bytes(records.tobytes())
        digest = sha256_of(folder / content.name)
        contents.append(replace(content, size_bytes=records.nbytes, sha256=digest))
        everything.append(records)
    file = replace(dataset.files[0], contents=tuple(contents))
    small = replace(dataset, files=(file,), sources=(), train_count=3 * (len(contents) - 1), test_count=3)
    opened = open_declared(small, cache=tmp_path)
    expected = np.concatenate(everything[:-1])
    np.testing.assert_array_equal(opened.train_inputs, expected[:, label_bytes:].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(opened.train_targets, expected[:, label_bytes - 1])
    np.testing.assert_array_equal(opened.test_targets, everything[-1][:, label_bytes - 1])
    assert opened.train_inputs.flags.c_contiguous


def test_opening_a_dataset_does_not_import_torch() -> None:
    code = "import sys, rushlight.data.sources.named.named as named; named.open_named('digits'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert done.stdout.strip() == "False"
