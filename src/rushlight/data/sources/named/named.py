"""Datasets by name, as NumPy arrays.

`digits` ships with Rushlight, so that something real runs with no network at all. It holds the 1,797 test
images of UCI's Optical Recognition of Handwritten Digits as scikit-learn distributes them
(sklearn/datasets/data/digits.csv.gz). A pixel counts the ink in a block of 4x4, 0 to 16; opening scales it to
`(pixel * 255 + 8) // 16`, 0 to 255, rounded. The split is fixed: sorted by class (and within a class in the
file's order), every fifth sample from the first on is a test sample, which gives 1,437 and 360 with each
class in proportion.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight.data.sources.idx import read_idx
from rushlight.data.sources.named.cache import Progress, cache_folder, find_faults, is_complete
from rushlight.data.sources.named.catalog import DATASETS, NamedDataset
from rushlight.texts import Note

SHIPPED = Path(__file__).with_name("digits.npz")


@dataclass(frozen=True)
class NamedArrays:
    """A dataset in memory: inputs uint8 (n, channels, height, width), targets int64 (n,)."""

    name: str
    train_inputs: NDArray[np.uint8]
    train_targets: NDArray[np.int64]
    test_inputs: NDArray[np.uint8]
    test_targets: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_named(name: str, *, progress: Progress | None = None) -> NamedArrays:
    """Open the dataset called `name`, one of `DATASETS`, fetching it first if need be.

    Raises:
        FetchError: no source could give it.
        StorageError: the cache cannot be written.
    """
    return open_declared(DATASETS[name], progress=progress)


def open_declared(dataset: NamedDataset, *, cache: Path | None = None, progress: Progress | None = None) -> NamedArrays:
    """Open a declared dataset; `cache` is `cache_folder()` unless given. Raises as `open_named` does."""
    if dataset.layout == "shipped":
        arrays = open_digits()
        notes = [Note("data.ships-along"), Note("data.same-writers")]
    else:
        from rushlight.data.sources.named.fetch import fetch_files  # not needed to list the names

        folder, notes = fetch_files(dataset, cache=cache, progress=progress)
        read = read_idx_split if dataset.layout == "idx" else read_cifar_split
        arrays = (*read(dataset, folder, "train"), *read(dataset, folder, "test"))
    return NamedArrays(dataset.name, *arrays, classes=dataset.classes, notes=tuple(notes))


def read_idx_split(dataset: NamedDataset, folder: Path, split: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Read a split whose first file holds the images and whose second holds the labels."""
    images, labels = (read_idx(path) for path in paths_of(dataset, folder, split))
    return images.reshape(-1, *dataset.shape), labels.astype(np.int64)


def read_cifar_split(dataset: NamedDataset, folder: Path, split: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Read records of one or two label bytes, the last of which is the class, and an image's bytes."""
    paths = paths_of(dataset, folder, split)
    count = (dataset.train_count if split == "train" else dataset.test_count) // len(paths)
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(count, -1) for path in paths])
    pixels = int(np.prod(dataset.shape))
    images = np.ascontiguousarray(records[:, -pixels:]).reshape(-1, *dataset.shape)
    return images, records[:, -pixels - 1].astype(np.int64)


def paths_of(dataset: NamedDataset, folder: Path, split: str) -> list[Path]:
    """Return the cached files of one split, in the order of their declaration."""
    return [folder / content.name for file in dataset.files for content in file.contents if content.split == split]


def open_digits() -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Read and split the shipped digits; see the module's head for the scale and the split."""
    with np.load(SHIPPED, allow_pickle=False) as shipped:
        counts, targets = shipped["images"], shipped["targets"].astype(np.int64)  # (1797, 8, 8) of 0 to 16, (1797,)
    images = ((counts.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[:, None]
    by_class = np.argsort(targets, kind="stable")
    is_test = np.zeros(len(targets), bool)
    is_test[by_class[::5]] = True
    return images[~is_test], targets[~is_test], images[is_test], targets[is_test]


def needs_network(source: object) -> bool:
    """Tell whether opening a source reads from the network: a dataset not whole in the cache, a share of Windows."""
    dataset = DATASETS.get(str(source))
    if dataset is None:
        return os.name == "nt" and str(source).startswith(("\\\\", "//"))
    return dataset.layout != "shipped" and bool(find_faults(dataset, cache_folder() / dataset.name))


def describe_datasets() -> list[dict[str, Any]]:
    """Return a line of `rushlight data` for every dataset that has a name; `download_bytes` is 0 for one that ships along."""
    told = ("name", "title", "train_count", "test_count", "shape", "licence")
    return [
        {name: getattr(dataset, name) for name in told}
        | {
            "classes": len(dataset.classes),
            "download_bytes": sum(file.size_bytes for file in dataset.files),
            "is_cached": is_complete(dataset, cache_folder() / dataset.name),
        }
        for dataset in DATASETS.values()
    ]
