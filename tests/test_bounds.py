"""Every read has an end: only files are opened, only by `files.py`, and nothing unpacks to more than is stated."""

from __future__ import annotations

import ast
import gzip
import io
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from tests.source import calls
from torch import nn

import rushlight
from rushlight import files
from rushlight.cli import main
from rushlight.errors import RushlightError

READ_ELSEWHERE = {
    "files.py": "the place for it",
    "texts/__init__.py": "our own words",
    "device.py": "what Linux tells of the machine",
    "data/sources/named/catalog.py": "our own list",
    "data/sources/named/cache.py": "archives whose digest was compared, or whose content will be",
    "data/sources/named/fetch.py": "the cache's own files",
    "training/engine/compiler.py": "what our own process wrote",
    "cli/__init__.py": "nothing",
    "board/files.py": "files that grow, by the same rules",
    "board/app.py": "our own page",
    "board/page.py": "our own page",
    "board/doing.py": "what our own process wrote",
    "board/serve.py": "the browser",
    "serve/app.py": "our own page",
    "training/record/tensorboard.py": "an image that this run wrote",
}
OPENERS = ("open", "zipfile.ZipFile", "np.load", "np.fromfile", "gzip.open", "gzip.GzipFile")
OPENED = {  # what is open already, or was found to be a file
    "data/sources/images/pixels.py": "Image.open(file", "data/sources/images/masks.py": "Image.open(file", "data/sources/tables/frames.py": "gzip.GzipFile(fileobj=",
    "data/sources/idx.py": ("gzip.GzipFile(fileobj=raw", "np.fromfile(file"), "data/sources/arrays/files.py": "np.load(path",
    "data/sources/named/named.py": ("np.load(SHIPPED", "np.fromfile(path"), "export/inputs.py": "np.load(inputs",
    "export/formats.py": "zipfile.ZipFile(io.BytesIO(", "runs/verify.py": "zipfile.ZipFile(file",
    "serve/deploy.py": ("gzip.GzipFile('', 'wb'", "tarfile.open(fileobj=packed, mode='w')"),  # written, not read
    "board/compare.py": ("zipfile.ZipFile(io.BytesIO(", "archive.open("),
}  # fmt: skip


def test_nothing_but_files_py_opens_files_to_read_them() -> None:
    for name, function, call in calls():
        is_read = function in OPENERS or function.endswith((".read_bytes", ".read_text", ".open"))
        is_ours = function.startswith(("files.", "self.job.", "kind.")) or function == "self.open"
        if is_read and not is_ours and name not in READ_ELSEWHERE:
            called = ast.unparse(call)
            assert name in OPENED and called.startswith(OPENED[name]), (name, called)  # noqa: PT018


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3, 2))


def class_folder(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(folder / name / f"{index}.png")
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "x.pth": lambda path: rushlight.load(path, Net()),
    "x.safetensors": lambda path: rushlight.load(path, Net()),
    "bundle/model.json": lambda path: rushlight.load(path.parent),
    "x.csv": lambda path: rushlight.open_data(path, target="a"),
    "x.csv.gz": lambda path: rushlight.open_data(path, target="a"),
    "x.parquet": lambda path: rushlight.open_data(path, target="a"),
    "x.npz": lambda path: rushlight.open_data(path),
    "x.npy": lambda path: rushlight.open_data(path),
    "idx/train-images-idx3-ubyte": lambda path: rushlight.open_data(path),
    "images/a/bad.png": lambda path: rushlight.open_data(path.parents[1]),
    "net.py": lambda path: rushlight.train(f"{path}:Net", "digits"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    class_folder(tmp_path / "images")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(RushlightError) as refused:
        READERS[name](path)
    assert path.name in str(refused.value) or path.parent.name in str(refused.value)


def test_a_longer_file_than_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(11))
    assert len(files.read_bytes(tmp_path / "x", 11)) == 11
    with pytest.raises(OSError, match="it has 11 bytes, and at most 10 are read"):
        files.read_bytes(tmp_path / "x", 10)


def npz_bomb(path: Path) -> None:
    np.savez_compressed(path, x=np.zeros((100_000, 3), np.float32), y=np.zeros(100_000, np.int64))


def csv_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 500_000))


def idx_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2000, 30, 30) + bytes(2000 * 900)))


def rows_bomb(path: Path) -> None:
    pl.DataFrame({"a": np.zeros(100_000, np.int64)}).write_parquet(path)


def texts_bomb(path: Path) -> None:
    texts = pl.repeat("x" * 10_000, 100, eager=True)
    pl.DataFrame({"a": [1, 2] * 50, "b": texts, "c": texts.cast(pl.Categorical)}).write_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npz", npz_bomb),
        ("x.csv.gz", csv_bomb),
        ("train-images-idx3-ubyte.gz", idx_bomb),
        ("rows.parquet", rows_bomb),
        ("texts.parquet", texts_bomb),
    ],
)
def test_a_small_file_cannot_unpack_to_a_full_memory(
    name: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_UNPACKED", 1 << 16)
    monkeypatch.setattr(files, "MOST_RATIO", 10)
    write(tmp_path / name)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 2000) + bytes(2000))
    with pytest.raises(RushlightError, match="unpacks to"):
        rushlight.open_data(tmp_path / name, target="a" if name.endswith(("csv.gz", "parquet")) else None)


def test_weights_that_are_compressed_are_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    torch.save({"1.weight": torch.zeros(1000, 1000)}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(RushlightError, match="torch compresses nothing"):
        rushlight.load(tmp_path / "x.pth", Net())


@pytest.mark.parametrize(
    ("value", "why"),
    [(torch.zeros(2, device="meta"), "meta device"), (torch.zeros(2, 2).to_sparse(), "sparse"), (3, "int")],
)
def test_entries_without_plain_numbers_are_named(value: Any, why: str, tmp_path: Path) -> None:
    torch.save({"1.weight": value}, tmp_path / "x.pth")
    with pytest.raises(RushlightError, match=rf"1\.weight \(.*{why}"):
        rushlight.load(tmp_path / "x.pth", Net())


ROWS = "".join(f"{i},{i % 3},{'yes' if i % 2 else 'no'}\n" for i in range(30))


@pytest.mark.parametrize(
    "content",
    [
        ("a,b,kind\n" + ROWS).replace("\n", "\r").encode(),
        ("a,b,kind\n" + ROWS).encode("utf-16-le"),
        ("a,b,kind\n" + ROWS).encode("utf-16-be"),
    ],
)
def test_odd_line_ends_and_encodings_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    data = rushlight.open_data(tmp_path / "t.csv", target="kind")
    assert data.target is not None
    assert data.target.classes == ("no", "yes")


def write_nested(path: Path) -> None:
    pl.DataFrame({"a": [1, 2, 3, 4], "kind": [[1], [2], [1], [2]]}).write_parquet(path)


@pytest.mark.parametrize(
    ("name", "write", "why"),
    [
        (
            "t.csv",
            lambda path: path.write_text('a,kind\n1,"x\n' + "2,y\n" * 40_000),
            "a quote is opened and not closed",
        ),
        ("t.parquet", write_nested, "holds lists or records"),
        ("t.npz", lambda path: path.write_bytes(bytes(100)), "does not begin as NumPy"),
        ("t.npz", lambda path: zipfile.ZipFile(path, "w").writestr("x", "text"), "found nothing|no pairs|x"),
    ],
)
def test_what_no_reader_can_read_is_said_in_words(name: str, write: Any, why: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    options = {} if name.endswith("npz") else {"target": "kind"}
    with pytest.raises(RushlightError, match=why):
        rushlight.open_data(tmp_path / name, **options)


def test_a_parquet_file_is_read_and_none_that_its_name_would_match(tmp_path: Path) -> None:
    for name, kind in (("a*.parquet", "x"), ("aX.parquet", "y"), ("d[1].parquet", "z")):
        pl.DataFrame({"a": range(8), "kind": [kind, f"{kind}2"] * 4}).write_parquet(tmp_path / name)
    for name, kind in (("a*.parquet", "x"), ("d[1].parquet", "z")):
        data = rushlight.open_data(tmp_path / name, target="kind")
        assert data.target is not None
        assert data.target.classes == (kind, f"{kind}2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "x" * 5000], ["data", "a\0b"], ["data", f"{'x' * 5000}.csv"], ["train", "mlp", "x" * 5000],
        ["train", "mlp", "digits", "--runs", "x" * 5000], ["train", "mlp", "digits", "--seed", str(2**70)],
        ["train", f"{'x' * 5000}.py:Net", "digits"], ["train", "a\0b.py:Net", "digits"], ["runs", "x" * 5000],
        ["runs", "a\0b"], ["predict", "x" * 5000, "y"], ["save", "a\0b", "y"], ["runs", "--runs", "x" * 5000],
        ["train", "mlp", "~nosuchuser/x"], ["predict", "latest", "**a"],
    ],
)  # fmt: skip
def test_paths_that_the_system_refuses_are_errors_in_words(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr().err
    assert left.value.code == 2 or "the system refuses this path" in said, (
        said
    )  # 1 would be an error that nobody foresaw
    assert len(said) < 6000
    shutil.rmtree(tmp_path, ignore_errors=True)
