"""A folder of images as data: one shape for all of them, in memory or, where they are too many, read as they are needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from rushlight.data.feed import StreamedSplit
from rushlight.data.order import evenly_spaced
from rushlight.data.shape import (
    EXAMPLES,
    PrepareBatch,
    Samples,
    build_data,
    check_more_than_one_class,
    learn_normalization,
    normalization_notes,
)
from rushlight.data.sources.images.find import ImageFiles, find_images
from rushlight.data.sources.images.pixels import (
    BadImage,
    Header,
    in_threads,
    no_image_warnings,
    read_headers,
    read_pixels,
    read_shape,
)
from rushlight.data.sources.kind import SourceKind
from rushlight.data.spec import FeatureSpec, NormalizeName, Share, TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError
from rushlight.texts import Joined, Note

__all__ = ["IMAGES", "ImageFolderDataset", "open_image_folder"]

KEPT_SIDE = 256  # images of one size are kept at it up to here
CAPPED_SIDE = 128  # the longer side of a size that had to be chosen
SAMPLE_FOR_NORMALIZATION = 2048


def open_image_folder(
    path: str | Path,
    *,
    normalize: NormalizeName = "auto",
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    test_fraction: Share | None = 0.2,
    val_fraction: float | None = None,
    skip_bad: bool = False,
    workers: int = 0,
    memory_limit: int,
) -> Data:
    """Open `path/train/<class>/*` with `path/test/` and `path/val/`, or `path/<class>/*`, as data.

    `val/` without `test/` is what is tested. A `test_fraction` of None means that the test split comes from elsewhere.
    `image_size` is (height, width). Images that together need more than `memory_limit` bytes, decoded, are streamed by
    `workers` processes. Raises DataError for a folder without classes or images, and for unreadable images unless
    `skip_bad`.
    """
    path = Path(path)
    splits, classes, notes = find_images(path, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)
    target = TargetSpec("classification", classes)
    paths = [path for files in splits.values() for path in files.paths]
    headers, bad = read_headers(paths)
    splits = {split: without(files, bad) for split, files in splits.items()}
    sized = [headers[path] for split, files in splits.items() for path in files.paths if split != "validation"]
    if not sized:
        raise unreadable_images(path, bad, len(paths))
    shape, size_note = choose_shape(sized, image_size)
    notes.append(size_note)
    if len(headers) * int(np.prod(shape)) > memory_limit:
        return open_streamed_folder(path, splits, target, shape, bad, notes, normalize, skip_bad, workers)
    samples = {}
    for split, files in splits.items():
        samples[split], newly_bad = decode(files, shape, path)
        bad += newly_bad
    notes += bad_notes(path, bad, len(paths), skip_bad)
    return build_data(
        path.name, "image", samples["train"], samples.get("test"), target, validation=samples.get("validation"),
        normalize=normalize, notes=tuple(notes),
    )  # fmt: skip


def choose_shape(headers: Iterable[Header], image_size: tuple[int, int] | None) -> tuple[tuple[int, int, int], Note]:
    """Return (channels, height, width) for all images, and the sentence that says how it was chosen."""
    headers = list(headers)
    channels = 1 if all(header.is_grey for header in headers) else 3
    colour = Note("data.grey" if channels == 1 else "data.rgb")
    sizes = {(header.height, header.width) for header in headers}
    if image_size is not None:
        height, width = image_size
        if height < 1 or width < 1:
            raise UsageError("image-size-impossible", height=height, width=width)
        return (channels, height, width), Note(
            "data.images-resized-as-asked", colour=colour, height=height, width=width
        )
    height, width = (max(round(median(side)), 1) for side in zip(*((h.height, h.width) for h in headers), strict=True))
    if len(sizes) == 1 and max(height, width) <= KEPT_SIDE:
        return (channels, height, width), Note("data.images-all-one-size", colour=colour, height=height, width=width)
    scale = min(1.0, CAPPED_SIDE / max(height, width))
    was = f"{height}×{width}"
    height, width = max(round(height * scale), 1), max(round(width * scale), 1)
    if len(sizes) == 1:
        note = Note("data.images-made-smaller", colour=colour, height=height, width=width, size=was)
    else:
        note = Note("data.images-of-many-sizes", colour=colour, height=height, width=width, count=len(sizes))
    return (channels, height, width), note


def decode(files: ImageFiles, shape: tuple[int, int, int], root: Path) -> tuple[Samples, list[BadImage]]:
    """Decode all files into one uint8 tensor (n, channels, height, width), leaving out the broken ones."""
    pixels = np.empty((len(files.paths), *shape), dtype=np.uint8)
    position = {path: number for number, path in enumerate(files.paths)}

    def read_into_place(path: Path) -> None:
        pixels[position[path]] = read_pixels(path, shape)  # no second copy of the whole set

    bad = [result for result in in_threads(read_into_place, files.paths) if isinstance(result, BadImage)]
    labels = np.array(files.labels, dtype=np.int64)
    samples = Samples(torch.from_numpy(pixels), torch.from_numpy(labels), files.names(root))
    if bad:
        samples = samples.take(np.setdiff1d(np.arange(len(pixels)), [position[image.path] for image in bad]))
    return samples, bad


def without(files: ImageFiles, bad: list[BadImage]) -> ImageFiles:
    """Return the files without the bad ones."""
    gone = {image.path for image in bad}
    return files.take([number for number, path in enumerate(files.paths) if path not in gone])


def bad_notes(root: Path, bad: list[BadImage], total: int, skip_bad: bool) -> list[Note]:
    """Say how many images were left out; raise DataError when none may be."""
    if bad and not skip_bad:
        raise unreadable_images(root, bad, total)
    return [Note("data.unreadable-left-out", count=len(bad), files=listed_bad(root, bad))] if bad else []


def unreadable_images(root: Path, bad: list[BadImage], total: int) -> DataError:
    """Return the error that names the first unreadable images."""
    return DataError("unreadable-images", path=root, count=len(bad), total=total, files=listed_bad(root, bad))


def listed_bad(root: Path, bad: list[BadImage], most: int = 5) -> Note:
    """Return the first few bad images with their reasons."""
    shown = Joined(
        "reasons",
        (Note("data.file-and-reason", path=image.path.relative_to(root), reason=image.reason) for image in bad[:most]),
    )
    return shown if len(bad) <= most else Note("words.and-more", listed=shown, count=len(bad) - most)


# ── larger than memory ───────────────────────────────────────────────────────────────────────────────────────


class ImageFolderDataset(Dataset[tuple[Tensor, int]]):
    """Image files decoded as they are asked for: (uint8 tensor of `shape`, class number)."""

    def __init__(self, files: ImageFiles, shape: tuple[int, int, int]) -> None:
        self.paths, self.labels, self.shape = files.paths, files.labels, shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        ((pixels, label),) = self.__getitems__([index])
        return torch.from_numpy(np.array(pixels, order="C")), label

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Return the images at `indices` for `stack_images`, laid out as they were decoded, not to be written to."""
        return [(read_shape(self.paths[index], self.shape), self.labels[index]) for index in indices]


def stack_images(samples: list[tuple[np.ndarray, int]]) -> list[Tensor]:
    """Return a batch of images (n, channels, height, width) and their classes (n,).

    NumPy parts pixels into channels ten times as fast as torch, and as fast as either copies. In a worker they lie in
    shared memory at once.
    """
    shape = (len(samples), *samples[0][0].shape)
    if get_worker_info() is None:
        images = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        images = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    for place, (pixels, _) in zip(images.numpy(), samples, strict=True):
        place[...] = pixels
    return [images, torch.tensor([label for _, label in samples])]


def open_streamed_folder(
    root: Path, splits: dict[str, ImageFiles], target: TargetSpec, shape: tuple[int, int, int],
    bad: list[BadImage], notes: list[Note], normalize: NormalizeName, skip_bad: bool, workers: int,
) -> Data:  # fmt: skip
    """Make data whose images are read from disk every time; the normalisation is learnt from a sample of them."""
    total = sum(len(files.paths) for files in splits.values()) + len(bad)
    if skip_bad:  # only decoding tells; without --skip-bad a broken image stops the epoch that meets it, by name
        paths = [path for files in splits.values() for path in files.paths]
        results = in_threads(lambda path: read_pixels(path, shape).size, paths)
        bad = bad + [result for result in results if isinstance(result, BadImage)]
        splits = {split: without(files, bad) for split, files in splits.items()}
    notes = [*notes, *bad_notes(root, bad, total, skip_bad)]
    for split, files in splits.items():
        if not files.paths:
            raise DataError("empty-split", data=root.name, split=split)
    train = splits["train"]
    check_more_than_one_class(root.name, torch.tensor(train.labels), target)
    features, note = learn_from_sample(train, shape, normalize, root)
    examples, _ = decode(train.take(list(range(min(EXAMPLES, len(train.paths))))), shape, root)
    digest = names_fingerprint(root, [splits[split] for split in ("train", "test") if split in splits])
    if "validation" in splits:
        digest = f"{digest}-{names_fingerprint(root, [splits['validation']])}"
    streams = {split: stream(root, files, features, target, workers) for split, files in splits.items()}
    return Data(
        name=root.name, train=streams["train"], validation=streams.get("validation"), test=streams.get("test"),
        features=features, target=target, fingerprint=digest, notes=(*notes, note, *normalization_notes(features)),
        examples=examples.inputs,
    )  # fmt: skip


def learn_from_sample(
    files: ImageFiles, shape: tuple[int, int, int], normalize: NormalizeName, root: Path
) -> tuple[FeatureSpec, Note]:
    """Learn the normalisation from evenly spaced training images."""
    chosen = evenly_spaced(len(files.paths), SAMPLE_FOR_NORMALIZATION)
    samples, bad = decode(files.take(chosen), shape, root)
    if bad:
        raise unreadable_images(root, bad, len(files.paths))
    note = Note("data.images-streamed", count=len(chosen), total=len(files.paths))
    return FeatureSpec("image", shape, "uint8", learn_normalization(samples.inputs, "image", normalize)), note


def stream(root: Path, files: ImageFiles, features: FeatureSpec, target: TargetSpec, workers: int) -> StreamedSplit:
    """Return a split that reads these files."""
    channels, height, width = features.shape
    dataset = ImageFolderDataset(files, (channels, height, width))
    prepare = PrepareBatch(target, features)
    return StreamedSplit(
        dataset,
        prepare,
        workers,
        collate=stack_images,
        is_random=False,
        around=no_image_warnings,
        names=files.names(root),
    )


def names_fingerprint(root: Path, splits: Sequence[ImageFiles]) -> str:
    """Return a SHA-256 over the relative paths and sizes of all files: reading all their bytes would take too long."""
    digest = hashlib.sha256()
    for files in splits:
        for path, name in zip(files.paths, files.names(root), strict=True):
            digest.update(f"{name}\0{path.stat().st_size}\n".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


IMAGES: SourceKind = SourceKind(
    "data.kinds.folder", lambda source: isinstance(source, (str, Path)) and Path(source).is_dir(), open_image_folder
)
