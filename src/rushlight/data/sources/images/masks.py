"""A folder of `images/` with `masks/`: a class for each pixel, by its number in the mask or in the mask's palette."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rushlight.data.shape import SPLIT_FOLDERS, Names, Samples, build_data, cut_samples
from rushlight.data.sources.images.find import IMAGE_ENDINGS, folders_in
from rushlight.data.sources.images.folder import bad_notes, choose_shape
from rushlight.data.sources.images.pixels import (
    FORMATS,
    LARGE,
    ONE_AT_A_TIME,
    BadImage,
    Unusable,
    check_size,
    in_threads,
    read_headers,
    read_pixels,
)
from rushlight.data.sources.kind import SourceKind
from rushlight.data.spec import NormalizeName, Share, TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError
from rushlight.files import open_file
from rushlight.formats import format_names
from rushlight.texts import Note

UNLABELLED, IGNORED = 255, -100  # in a mask; in targets, as torch's losses leave it out
NUMBERED = ("1", "L", "P", "I")  # Pillow's modes with one number for each pixel

Pair = tuple[Path, Path]  # an image and its mask


def open_mask_folder(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    normalize: NormalizeName = "auto",
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    test_fraction: Share | None = 0.2,
    val_fraction: float | None = None,
    memory_limit: int,
) -> Data:
    """Open `path/images/` with `path/masks/`, or `path/train/images/` and so on with `val/` and `test/`, as data.

    Without `test/`, what `val/` has is tested. A mask has its image's name and size. Its pixels are class numbers, 255 is
    no class; where there are none but 0 and 255, 255 is the class beside 0. Raises DataError for an image without its
    mask, a mask in colours, or too many for memory.
    """
    path = Path(path)
    folders = masked_splits(path)
    pairs = {split: pairs_in(*both) for split, both in folders.items()}
    headers, bad = read_headers([image for found in pairs.values() for image, _ in found])
    bad_notes(path, bad, len(headers) + len(bad), False)
    shape, note = choose_shape(headers.values(), image_size)
    if len(headers) * (int(np.prod(shape)) + 8 * shape[1] * shape[2]) > memory_limit:
        raise DataError("masks-beyond-memory", path=path, count=len(headers), height=shape[1], width=shape[2])
    samples = {split: read_images_and_masks(path, found, shape) for split, found in pairs.items()}
    target, notes = number_classes(list(samples.values()), classes)
    keys = {"test": "data.tested-on", "validation": "data.validated-on"}
    said = [Note(key, name=folders[split][0].parent.name) for split, key in keys.items() if split in folders]
    cut, validation, test, cut_notes = cut_samples(
        samples["train"], target, seed=seed, test_fraction=None if "test" in samples else test_fraction,
        val_fraction=None if "validation" in samples else val_fraction,
    )  # fmt: skip
    return build_data(
        path.name, "image", cut, samples.get("test", test), target, validation=samples.get("validation", validation),
        normalize=normalize, notes=(*said, note, *notes, *cut_notes),
    )  # fmt: skip


def masked_splits(path: Path) -> dict[str, tuple[Path, Path]]:
    """Return each split's folders of images and of masks; all is for training where `path` has them itself."""
    if (both := images_and_masks(path)) is not None:
        return {"train": both}
    known = {folder.name.lower(): folder for folder in folders_in(path)}
    found = {
        split: [both for name in names if name in known and (both := images_and_masks(known[name])) is not None]
        for split, names in SPLIT_FOLDERS.items()
    }
    splits = {split: folders[0] for split, folders in found.items() if folders}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return splits


def images_and_masks(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders `images` and `masks` in a folder, in capitals or not; None where one of them is missing."""
    known = {each.name.lower(): each for each in folders_in(folder)}
    return (known["images"], known["masks"]) if {"images", "masks"} <= known.keys() else None


def pairs_in(images_folder: Path, masks_folder: Path) -> list[Pair]:
    """Return the images of a folder, sorted by name, each with its mask; DataError names one that has none."""
    masks, images = {file.stem: file for file in sorted_images(masks_folder)}, sorted_images(images_folder)
    for image in images:
        if image.stem not in masks:
            raise DataError("image-without-mask", path=image, masks=masks_folder)
    if not images:
        raise DataError("no-images-beside-masks", path=images_folder)
    return [(image, masks[image.stem]) for image in images]


def sorted_images(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_ENDINGS and file.name[0] != ".")


def read_images_and_masks(root: Path, pairs: Sequence[Pair], shape: tuple[int, int, int]) -> Samples:
    """Read images as uint8 (n, channels, height, width), and masks as they are, int64 (n, height, width)."""
    pixels = in_threads(lambda image: read_pixels(image, shape), [image for image, _ in pairs])
    masks = in_threads(lambda mask: read_mask(mask, shape), [mask for _, mask in pairs])
    bad_notes(root, [each for each in (*pixels, *masks) if isinstance(each, BadImage)], len(pairs), False)
    names = np.array([image.relative_to(root).as_posix() for image, _ in pairs], dtype=object)
    inputs, targets = (torch.from_numpy(np.array(each)) for each in (pixels, masks))
    return Samples(inputs, targets, Names(names))


def read_mask(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a mask's numbers, resized to the nearest, int64 (height, width)."""
    from PIL import Image

    with open_file(path) as file, Image.open(file, formats=FORMATS) as image:
        check_size(image)
        if image.mode not in NUMBERED and not image.mode.startswith("I;16"):
            raise Unusable(Note("data.mask-in-colours", mode=image.mode))
        with ONE_AT_A_TIME if image.size[0] * image.size[1] > LARGE else contextlib.nullcontext():
            numbers = np.array(image.resize((shape[2], shape[1]), Image.Resampling.NEAREST)).astype(np.int64)
    if numbers.min() < 0 or numbers.max() > 0xFFFF:  # each number up to the largest is a class
        raise Unusable(Note("data.mask-numbers"))
    return numbers


def number_classes(samples: Sequence[Samples], classes: Sequence[str] | None) -> tuple[TargetSpec, tuple[Note, ...]]:
    """Make the masks class numbers in place; return what is predicted, and what to say."""
    known = sorted({int(each) for found in samples for each in np.unique(found.targets.numpy())})
    is_binary = known == [0, UNLABELLED]
    if is_binary:
        for found in samples:
            found.targets[found.targets == UNLABELLED] = 1
        names: tuple[str, ...] = ("0", str(UNLABELLED))
    else:
        for found in samples:
            found.targets[found.targets == UNLABELLED] = IGNORED
        names = tuple(map(str, range(max((each for each in known if each != UNLABELLED), default=0) + 1)))
    if classes is not None and len(classes) < len(names):
        raise DataError("too-few-class-names", names=len(classes), classes=len(names), label=len(names) - 1)
    notes: tuple[Note, ...] = (Note("data.masks-are-classes", classes=format_names(names, 20), count=len(names)),)
    if UNLABELLED in known and not is_binary:
        notes += (Note("data.mask-unlabelled", number=UNLABELLED),)
    return TargetSpec("classification", tuple(classes or names), layout="dense"), notes


MASKS: SourceKind = SourceKind(
    "data.kinds.masks",
    lambda source: isinstance(source, (str, Path)) and Path(source).is_dir() and "train" in masked_splits(Path(source)),
    open_mask_folder,
)
