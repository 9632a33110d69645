"""Which image files there are, and which split and class each belongs to. Nothing is decoded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rushlight.data.shape import Names, cut_splits
from rushlight.errors import DataError

IMAGE_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"))
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing")
VALIDATION_FOLDERS = ("val", "valid", "validation")  # without a folder to test on, the first one there is tested


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one split, sorted by path, and the class number of each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def take(self, indices: Sequence[int]) -> ImageFiles:
        """Return the files at `indices`."""
        return ImageFiles(tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices))

    def names(self, root: Path) -> Names:
        """Return each file's path from `root` on, with slashes."""
        paths = [path.relative_to(root).as_posix() for path in self.paths]
        return Names(np.array(paths, dtype=object))


def find_images(
    path: Path, *, test_fraction: float | None, val_fraction: float | None, seed: int
) -> tuple[dict[str, ImageFiles], tuple[str, ...], list[str]]:
    """Return ({split: its files}, class names, notes) for either layout; nothing is decoded."""
    if not path.is_dir():
        raise DataError("no-image-folder", path=path)
    folders = {folder.name.lower(): folder for folder in folders_in(path)}
    train_folder = next((folders[name] for name in TRAIN_FOLDERS if name in folders), None)
    tests, validations = (
        [folders[name] for name in names if name in folders] for names in (TEST_FOLDERS, VALIDATION_FOLDERS)
    )
    if train_folder is None and (tests or validations):
        raise DataError("no-train-folder", path=path, found=(tests + validations)[0].name)
    by_class, notes = list_classes(train_folder or path)
    classes = tuple(sorted(by_class))
    splits = {"train": files_of(by_class, classes)}
    if train_folder is not None:
        test, validation, other_notes = choose_folders(tests, validations)
        notes += other_notes
        for split, folder in (("test", test), ("validation", validation)):
            if folder is not None:
                splits[split], folder_notes = find_other(folder, classes)
                notes += [*folder_notes, f'{"Tested" if split == "test" else "Validated"} on "{folder.name}".']
    train = splits["train"]
    cut = cut_splits(
        np.array(train.labels), stratified=True, seed=seed,
        test_fraction=test_fraction if "test" not in splits else None,
        val_fraction=val_fraction if "validation" not in splits else None,
    )  # fmt: skip
    for split, indices in (("train", cut.train), ("validation", cut.validation), ("test", cut.test)):
        if indices is not None:
            splits[split] = train.take(indices.tolist())
    return splits, classes, [*notes, *cut.notes]


def files_of(by_class: dict[str, list[Path]], classes: tuple[str, ...]) -> ImageFiles:
    """Return the files of all classes, in the order of `classes`."""
    pairs = [(file, number) for number, name in enumerate(classes) for file in by_class.get(name, ())]
    return ImageFiles(tuple(file for file, _ in pairs), tuple(number for _, number in pairs))


def choose_folders(tests: list[Path], validations: list[Path]) -> tuple[Path | None, Path | None, list[str]]:
    """Return (folder to test on, folder to validate on, notes) of those that have class folders with images."""
    usable = [folder for folder in tests + validations if any(map(has_images, folders_in(folder)))]
    notes = [
        f'"{folder.name}" has no class folders with images in them, so it is not used.'
        for folder in tests + validations
        if folder not in usable
    ]
    test = usable[0] if usable else None
    validation = (
        next((folder for folder in usable if folder in validations and folder != test), None) if test in tests else None
    )
    if unused := [folder.name for folder in usable if folder not in (test, validation)]:
        notes.append(f"Not used: {listed(unused)}.")
    return test, validation, notes


def find_other(folder: Path, classes: tuple[str, ...]) -> tuple[ImageFiles, list[str]]:
    """Return the files of a split that has a folder of its own; DataError for a class that the training files lack."""
    by_class, notes = list_classes(folder)
    if strangers := sorted(set(by_class) - set(classes)):
        raise DataError(
            "class-in-test-only", path=folder, found=strangers[0], count=len(strangers), known=listed(classes)
        )
    if absent := [name for name in classes if name not in by_class]:
        notes.append(f'"{folder.name}" has no images of {listed(absent)}.')
    return files_of(by_class, classes), notes


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


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in quotes, the first `most` of them."""
    shown = ", ".join(f'"{name}"' for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
