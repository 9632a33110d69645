"""Arrays in files: .npz, folders of .npy, and the idx files of MNIST. Nothing is ever unpickled.

Inputs and targets are told by name: `x` and `y`, `inputs` and `targets`, `images` and `labels`, `data` and `target`,
each with `_train`, `_val` and `_test` (or `train_`, `val_` and `test_`) where there are several splits. `_val` without
`_test` is what is tested.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rushlight.data.sources.idx import read_idx
from rushlight.errors import DataError
from rushlight.files import most_unpacked, open_file
from rushlight.texts import Note

Pair = tuple[Any, Any]

PAIR_NAMES = (
    ("x", "y"),
    ("inputs", "targets"),
    ("images", "labels"),
    ("data", "target"),
    ("features", "labels"),
)
PICKLE = b"\x80"  # the first byte of a pickle of protocol 2 and later
ARRAY_ENDINGS = (".npy", ".npz", ".gz")
VALIDATION_NAMES = ("val", "valid", "validation")
IDX_SPLITS = {"train": ("train",), "test": ("t10k", "test")}


def read_array_files(path: Path) -> tuple[Pair, Pair | None, Pair | None]:
    """Read (train, validation, test) from an .npz file, or from a folder of .npy or idx files; None where one is absent.

    Pickled arrays are refused: unpickling runs whatever is in the file.
    """
    path = Path(path)
    if path.is_file() and "-ubyte" in path.name:  # one of idx's four files stands for all of them
        path = path.parent
    if path.is_dir():
        idx = idx_files(path)
        if idx is not None:
            return idx[0], None, idx[1]
        files = {file.stem: file for file in sorted(path.glob("*.npy"))}
        if not files:
            raise DataError("no-array-files", path=path)
        return pick_pairs(path, files)
    if path.suffix.lower() == ".npy":
        raise DataError("lone-npy", path=path)
    if not path.exists():
        raise DataError("no-array-files", path=path)
    opened = load_file(path)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise DataError("lone-npy", path=path)
    with opened:
        assert opened.zip is not None
        size, most = sum(entry.file_size for entry in opened.zip.infolist()), most_unpacked(path.stat().st_size)
        if size > most:
            raise DataError("array-not-readable", path=path, reason=Note("data.unpacks-to", size=size, most=most))
        return pick_pairs(path, dict.fromkeys(opened.files, opened))


def holds_array_files(path: Path) -> bool:
    """Tell whether a path is a file of arrays (.npz, .npy, idx), or a folder of .npy or idx files."""
    if path.is_dir():
        return any(path.glob("*.npy")) or idx_file(path, "train", "images") is not None
    return path.exists() and (path.suffix.lower() in ARRAY_ENDINGS or "ubyte" in path.name)


def array_names(path: Path) -> dict[str, tuple[str, str]]:
    """Return the names of inputs and targets, by split, of a .npz file or a folder of .npy files."""
    if path.is_dir():
        return named_pairs(path, sorted(file.stem for file in path.glob("*.npy")))
    with load_file(path) as opened:
        return named_pairs(path, opened.files)


def pick_pairs(path: Path, stored: Mapping[str, Any]) -> tuple[Pair, Pair | None, Pair | None]:
    """Pick inputs and targets by name out of what is stored."""
    found: dict[str, Pair] = {}
    for split, names in named_pairs(path, stored).items():
        x, y = (
            load_file(where) if isinstance(where := stored[name], Path) else read_member(path, where, name)
            for name in names
        )
        found[split] = x, y
    return found["train"], found.get("validation"), found.get("test")


def named_pairs(path: Path, stored: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the stored names of inputs and targets, by split."""
    keys = {key.lower(): key for key in stored}
    for x, y in PAIR_NAMES:
        train = pick(keys, x, y, ("train",)) or ((keys[x], keys[y]) if x in keys and y in keys else None)
        if train is None:
            continue
        validation, test = pick(keys, x, y, VALIDATION_NAMES), pick(keys, x, y, ("test",))
        if test is None:
            validation, test = None, validation
        found = {"train": train, "validation": validation, "test": test}
        return {split: names for split, names in found.items() if names is not None}
    raise DataError("no-pairs", path=path, keys=", ".join(stored) or "nothing")


def pick(keys: Mapping[str, str], x: str, y: str, splits: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the stored names of a split's inputs and targets: `x_test` and `y_test`, or `test_x` and `test_y`."""
    named = (
        (pattern.format(x, split), pattern.format(y, split)) for split in splits for pattern in ("{}_{}", "{1}_{0}")
    )
    return next(((keys[one], keys[other]) for one, other in named if one in keys and other in keys), None)


def load_file(path: Path) -> Any:
    """Open a .npy or .npz file without ever unpickling."""
    try:
        with open_file(path) as file:  # NumPy leaves the file open when it is a ZIP that was cut off
            start = file.read(8)
            if start.startswith(b"PK") and not zipfile.is_zipfile(file):
                raise DataError("array-not-readable", path=path, reason=Note("data.zip-without-end"))
        if not start.startswith((b"PK", np.lib.format.MAGIC_PREFIX, PICKLE)):  # NumPy takes all else for a pickle
            raise DataError("array-not-readable", path=path, reason=Note("data.no-array-file"))
        return np.load(path, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # NumPy's and zipfile's readers raise whatever a broken file leads them to
        raise array_error(path, error) from error


def read_member(path: Path, opened: Any, name: str) -> np.ndarray:
    """Read one array of an .npz file."""
    try:
        found = opened[name]
    except Exception as error:
        raise array_error(path, error) from error
    if not isinstance(found, np.ndarray):  # NumPy gives the bytes of a member that is no array
        raise DataError("array-not-readable", path=path, reason=Note("data.no-array-member", name=name))
    return found


def array_error(path: Path, error: Exception) -> DataError:
    """Return the error for a file that NumPy refuses; a pickled one has its own."""
    key = "array-is-pickled" if "pickle" in str(error).lower() else "array-not-readable"
    return DataError(key, path=path, reason=error)


def idx_files(folder: Path) -> tuple[Pair, Pair | None] | None:
    """Read the idx files of MNIST's naming in a folder; None when they are not there."""
    if idx_file(folder, "train", "images") is None:
        return None
    pairs: list[Pair | None] = []
    for split in IDX_SPLITS:
        images, labels = idx_file(folder, split, "images"), idx_file(folder, split, "labels")
        if images is not None and labels is None:
            raise DataError(
                "idx-without-labels",
                path=images,
                expected=images.name.replace("images", "labels").replace("idx3", "idx1"),
            )
        pairs.append((read_idx(images), read_idx(labels)) if images is not None and labels is not None else None)
    assert pairs[0] is not None
    return pairs[0], pairs[1]


def idx_file(folder: Path, split: str, what: str) -> Path | None:
    """Find one idx file, plain or gzipped, with a dash or a dot before 'idx'."""
    dimensions = "3" if what == "images" else "1"
    names = [
        f"{prefix}-{what}{mark}idx{dimensions}-ubyte{ending}"
        for prefix in IDX_SPLITS[split]
        for mark in "-."
        for ending in ("", ".gz")
    ]
    return next((folder / name for name in names if (folder / name).is_file()), None)
