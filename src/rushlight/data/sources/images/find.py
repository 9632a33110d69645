"""Which image files there are, and which split and class each belongs to. Nothing is decoded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rushlight.data.shape import SPLIT_FOLDERS, Names, cut_splits
from rushlight.data.sources.kind import refuse_folder
from rushlight.data.spec import Share
from rushlight.errors import DataError
from rushlight.texts import Joined, Note

IMAGE_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"))
KEPT_BY_PROGRAMS = {  # folders, in small letters, of small copies and remnants: Synology and QNAP, macOS, Windows, Linux
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip


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
    path: Path, *, test_fraction: Share | None, val_fraction: float | None, seed: int
) -> tuple[dict[str, ImageFiles], tuple[str, ...], list[Note]]:
    """Return ({split: its files}, class names, notes) for either layout; nothing is decoded."""
    if not path.is_dir():
        raise DataError("no-image-folder", path=path)
    folders = {folder.name.lower(): folder for folder in folders_in(path)}
    train_folder = next((folders[name] for name in SPLIT_FOLDERS["train"] if name in folders), None)
    tests, validations = (
        [folders[name] for name in SPLIT_FOLDERS[split] if name in folders] for split in ("test", "validation")
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
                key = "data.tested-on" if split == "test" else "data.validated-on"
                notes += [*folder_notes, Note(key, name=folder.name)]
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


def choose_folders(tests: list[Path], validations: list[Path]) -> tuple[Path | None, Path | None, list[Note]]:
    """Return (folder to test on, folder to validate on, notes) of those that have class folders with images."""
    usable = [folder for folder in tests + validations if any(map(count_images, folders_in(folder)))]
    notes = [
        Note("data.folder-without-classes", name=folder.name) for folder in tests + validations if folder not in usable
    ]
    test = usable[0] if usable else None
    validation = (
        next((folder for folder in usable if folder in validations and folder != test), None) if test in tests else None
    )
    if unused := [folder.name for folder in usable if folder not in (test, validation)]:
        notes.append(Note("data.folders-unused", names=in_quotes(unused)))
    return test, validation, notes


def find_other(folder: Path, classes: tuple[str, ...]) -> tuple[ImageFiles, list[Note]]:
    """Return the files of a split that has a folder of its own; DataError for a class that the training files lack."""
    by_class, notes = list_classes(folder)
    if strangers := sorted(set(by_class) - set(classes)):
        raise DataError(
            "class-in-test-only", path=folder, found=strangers[0], count=len(strangers), known=in_quotes(classes)
        )
    if absent := [name for name in classes if name not in by_class]:
        notes.append(Note("data.class-without-images", name=folder.name, classes=in_quotes(absent)))
    return files_of(by_class, classes), notes


def list_classes(root: Path) -> tuple[dict[str, list[Path]], list[Note]]:
    """Return {class name: its image files} of the folders in `root`, and notes on what is not among them."""
    by_class: dict[str, list[Path]] = {}
    ignored: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    notes = []
    for folder in folders_in(root):
        if images := image_files(folder, ignored, passed_over):
            by_class[folder.name] = images
        else:
            notes.append(Note("data.folder-without-images", name=folder.name))
    loose = sum(is_image(file) for file in root.iterdir() if file.is_file())
    if not by_class:
        raise DataError("no-classes", path=root, loose=loose)
    if all(map(str.isdecimal, by_class)) and (in_order := sorted(by_class)) != sorted(by_class, key=int):
        notes.append(Note("data.numbered-as-text", classes=in_quotes(in_order)))
    if loose:
        notes.append(Note("data.loose-images", count=loose, name=root.name))
    if ignored:
        kinds = Joined(
            "list", (Note("data.files-of-kind", count=count, kind=kind) for kind, count in ignored.most_common(4))
        )
        notes.append(Note("data.other-files", count=ignored.total(), name=root.name, kinds=kinds))
    passed_over += Counter(
        {entry.name: count_images(entry) for entry in root.iterdir() if entry.is_dir() and is_hidden(entry.name)}
    )
    if passed_over:  # a Counter that was added to holds what is more than zero
        notes.append(Note("data.hidden-folders", count=passed_over.total(), names=in_quotes(sorted(passed_over))))
    return by_class, notes


def folders_in(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones and those of runs, which hold pictures."""
    try:
        entries = [entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    except OSError as error:
        refuse_folder(error)
    recipes = {entry: entry.glob("*/recipe.json") for entry in entries}  # a run has its environment beside it
    return sorted(
        entry for entry in entries if not any(path.with_name("environment.json").is_file() for path in recipes[entry])
    )


def is_hidden(name: str) -> bool:
    """Tell whether a folder is hidden, or one that a system keeps its own copies of files in."""
    return name.startswith(".") or name.lower() in KEPT_BY_PROGRAMS


def image_files(folder: Path, ignored: Counter[str], passed_over: Counter[str]) -> list[Path]:
    """Return the images in a folder and the folders in it, sorted.

    Other files are counted by ending in `ignored`, the images in hidden folders by the folder's name in `passed_over`.
    """
    images = []
    for place, inner, names in os.walk(folder, onerror=refuse_folder):
        for name in filter(is_hidden, inner):
            passed_over[name] += count_images(Path(place, name))
        inner[:] = [name for name in inner if not is_hidden(name)]
        for name in names:
            file = Path(place, name)
            if is_image(file):
                images.append(file)
            elif name.startswith("."):
                ignored[Note("data.hidden")] += 1
            else:
                ignored[file.suffix.lower() or Note("data.without-ending")] += 1
    return sorted(images)


def is_image(file: Path) -> bool:
    """Tell by the name alone whether a file is an image."""
    return file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith(".")


def count_images(folder: Path) -> int:
    """Return how many images there are in a folder and the folders in it."""
    return sum(is_image(Path(name)) for _, _, names in os.walk(folder, onerror=refuse_folder) for name in names)


def in_quotes(names: Sequence[str], most: int = 10) -> str:
    """Return names in quotes, the first `most` of them."""
    shown = ", ".join(f'"{name}"' for name in names[:most])
    return shown if len(names) <= most else Note("words.and-more", listed=shown, count=len(names) - most)
