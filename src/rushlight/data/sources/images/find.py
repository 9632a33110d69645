"""Which image files there are, and which split and class each belongs to. Nothing is decoded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rushlight.data.shape import split_indices
from rushlight.errors import DataError

IMAGE_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"))
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")  # the first one there is used


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one split, sorted by path, and the class number of each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def take(self, indices: Sequence[int]) -> ImageFiles:
        """Return the files at `indices`."""
        return ImageFiles(tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices))


def find_images(
    path: Path, seed: int, test_fraction: float
) -> tuple[ImageFiles, ImageFiles | None, tuple[str, ...], list[str]]:
    """Return (train, test, class names, notes) for either layout; nothing is decoded."""
    if not path.is_dir():
        raise DataError("no-image-folder", path=path)
    folders = {folder.name.lower(): folder for folder in folders_in(path)}
    train_folder = next((folders[name] for name in TRAIN_FOLDERS if name in folders), None)
    tests = [folders[name] for name in TEST_FOLDERS if name in folders]
    if train_folder is None and tests:
        raise DataError("no-train-folder", path=path, found=tests[0].name)
    root = train_folder or path
    by_class, notes = list_classes(root)
    classes = tuple(sorted(by_class))
    files = ImageFiles(
        tuple(file for name in classes for file in by_class[name]),
        tuple(number for number, name in enumerate(classes) for _ in by_class[name]),
    )
    test, test_notes = find_test(tests, classes) if train_folder is not None else (None, [])
    notes += test_notes
    if test is None:
        files, test, note = cut_files(files, seed, test_fraction)
        notes.append(note)
    return files, test, classes, notes


def find_test(candidates: list[Path], classes: tuple[str, ...]) -> tuple[ImageFiles | None, list[str]]:
    """Return the files of the first test folder that has class folders, and what is to be said of all of them."""
    notes: list[str] = []
    for folder in candidates:
        if not any(has_images(inner) for inner in folders_in(folder)):
            notes.append(f'"{folder.name}" has no class folders with images in them, so it is not used.')
            continue
        by_class, folder_notes = list_classes(folder)
        if strangers := sorted(set(by_class) - set(classes)):
            raise DataError(
                "class-in-test-only",
                path=folder,
                found=strangers[0],
                count=len(strangers),
                known=listed(classes),
            )
        notes += [*folder_notes, f'Tested on "{folder.name}".']
        if absent := [name for name in classes if name not in by_class]:
            notes.append(f'"{folder.name}" has no images of {listed(absent)}.')
        if unused := [other.name for other in candidates[candidates.index(folder) + 1 :]]:
            notes.append(f"Not used: {listed(unused)}.")
        pairs = [(file, number) for number, name in enumerate(classes) for file in by_class.get(name, ())]
        return ImageFiles(tuple(file for file, _ in pairs), tuple(number for _, number in pairs)), notes
    return None, notes


def list_classes(root: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return {class name: its image files} of the folders in `root`, and what was passed over."""
    by_class: dict[str, list[Path]] = {}
    ignored: Counter[str] = Counter()
    notes = []
    for folder in folders_in(root):
        images = image_files(folder, ignored)
        if images:
            by_class[folder.name] = images
        else:
            notes.append(f'The folder "{folder.name}" has no images and is no class.')
    loose = sum(is_image(file) for file in root.iterdir() if file.is_file())
    if not by_class:
        raise DataError("no-classes", path=root, loose=loose)
    if loose:
        notes.append(f'{loose:,} images lie in "{root.name}" itself, in no class, and are not used.')
    if ignored:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in ignored.most_common(4))
        notes.append(f'{ignored.total():,} files in "{root.name}" are not images and were passed over ({kinds}).')
    return by_class, notes


def folders_in(path: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted by name; a folder of runs is no class, though it holds pictures."""
    entries = (entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry for entry in entries if not any(entry.glob("*/recipe.json")))


def image_files(folder: Path, ignored: Counter[str] | None = None) -> list[Path]:
    """Return the images in a folder and the folders in it, sorted; other files are counted by ending in `ignored`."""
    images = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            if is_image(file):
                images.append(file)
            elif ignored is not None:
                ignored["hidden" if name.startswith(".") else file.suffix.lower() or "without an ending"] += 1
    return sorted(images)


def is_image(file: Path) -> bool:
    """Tell by the name alone whether a file is an image."""
    return file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith(".")


def has_images(folder: Path) -> bool:
    """Tell whether there is an image anywhere in a folder."""
    return any(is_image(Path(name)) for _, _, names in os.walk(folder) for name in names)


def cut_files(files: ImageFiles, seed: int, fraction: float) -> tuple[ImageFiles, ImageFiles | None, str]:
    """Set the same share of every class aside for testing."""
    train, test = split_indices(np.array(files.labels), fraction, seed, stratified=True)
    if len(test) == 0:
        return files, None, "There is no test split."
    note = (
        f"No test split was given: {len(test):,} of {len(files.paths):,} samples were set aside for testing, "
        f"the same share of every class (seed {seed})."
    )
    return files.take(train.tolist()), files.take(test.tolist()), note


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in quotes, the first `most` of them."""
    shown = ", ".join(f'"{name}"' for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
