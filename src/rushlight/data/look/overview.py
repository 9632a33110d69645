"""What data holds, before training: counts, ranges, gaps, duplicates, and a contact sheet of images.

All figures are of the samples as they came, before any normalisation.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight import files
from rushlight.data.feed import ResidentSplit, Split, StreamedSplit
from rushlight.data.order import evenly_spaced
from rushlight.data.sources import ImageFolderDataset, describe_columns, streamed_rows
from rushlight.data.spec import FeatureSpec, TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError
from rushlight.fonts import LATIN_FONT, font_of
from rushlight.texts import Note, visible

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SHOWN_PAIRS = 10
SHOWN_COLUMNS = 16  # more features than this have one mean and one range in common
SAMPLED = 2048  # samples of a streamed split that are read for ranges and counts
CELL = 64  # the side, in pixels, that small images are enlarged to about
MOST_ROWS = 20
LABEL_WIDTH = 150
MOST_OF_A_LABEL = 60  # characters
MOST_OF_AN_IMAGE = 4 << 30  # bytes of a file
BEHIND = "#d8d8d8"  # tells where a white image ends


def describe_data(data: Data, *, table: Path | None = None) -> dict[str, Any]:
    """Return what the data holds, ready for JSON. `table` is the training file, where it is a table.

    Keys: `name`, `fingerprint`, `notes`; `kind`, `shape`, `dtype`, `task` (None where batches are not (inputs, targets));
    `splits`: for "train", "validation" and "test" None or {`samples`, `storage`, `read` (samples read for it), `counts` (by class, or
    None), `target` (min, max, mean by column of a regression, or None), `min`, `max` (of the inputs)};
    `mean`, `std`: by channel or column where learnt, else None;
    `columns`: for a table, each column's `name`, `kind`, `missing`, `different`, and its range or most common values; where its
    rows are read as they are needed, of the training rows, and `different` is None for numbers;
    `duplicates`: {`count` of test samples that are in the training split too, `of`, `pairs` of [train, test] indices,
    the first few, `how`}, or None where none were searched for.
    """
    features, target = data.features, data.target
    normalization = None if features is None else features.normalization
    columns, rows = None, streamed_rows(data.train)
    if rows is not None:
        columns = rows.described
    elif table and features and features.columns:
        columns = describe_columns(table, features.columns)
    return {
        "name": data.name,
        "kind": None if features is None else features.kind,
        "shape": None if features is None else list(features.shape),
        "dtype": None if features is None else features.dtype,
        "task": None if target is None else target.task,
        "splits": {
            name: None if split is None else describe_split(split, features, target)
            for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
        },
        "mean": list(normalization.mean) if normalization and len(normalization.mean) <= SHOWN_COLUMNS else None,
        "std": list(normalization.std) if normalization and len(normalization.std) <= SHOWN_COLUMNS else None,
        "columns": columns,
        "duplicates": find_duplicates(data.train, data.test),
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
    }  # fmt: skip


# ── one split ────────────────────────────────────────────────────────────────────────────────────────────────


def describe_split(split: Split, features: FeatureSpec | None, target: TargetSpec | None) -> dict[str, Any]:
    """Return samples, storage, class counts and ranges of one split; of a streamed one, some samples are read."""
    described: dict[str, Any] = {"samples": split.samples, "storage": split.kind}
    if features is None or target is None:
        return described | {"read": 0, "counts": None, "target": None, "min": None, "max": None}
    inputs, targets = raw_samples(split, features, target)
    folder, rows = image_folder(split), streamed_rows(split)
    labels = targets if folder is None else torch.tensor(folder.labels)  # all of them, without reading an image
    counts = count_classes(labels, target)
    if rows is not None and rows.class_counts is not None:
        counts = dict(zip(target.classes, rows.class_counts.tolist(), strict=True))
    quantities = None
    if target.task == "regression":  # by column, or over all places
        values = targets.double() if target.layout == "rows" else targets.double().reshape(-1, 1)
        found = {"min": values.amin(0), "max": values.amax(0), "mean": values.mean(0)}
        quantities = {name: each.tolist() for name, each in found.items()}
    return described | {
        "read": len(inputs),
        "counts": counts,
        "target": quantities,
        "min": None if features.tokens else float(inputs.min()),
        "max": None if features.tokens else float(inputs.max()),
    }


def image_folder(split: Split | None) -> ImageFolderDataset | None:
    """Return the folder of images that a streamed split reads; None for any other split."""
    if isinstance(split, StreamedSplit) and isinstance(split.dataset, ImageFolderDataset):
        return split.dataset
    return None


def raw_samples(split: Split, features: FeatureSpec, target: TargetSpec) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as they came: all of a resident split, the first few thousand of another."""
    if isinstance(split, ResidentSplit):
        inputs, targets = split.inputs, split.targets
    elif folder := image_folder(split):  # evenly spaced, since the files are sorted by class
        assert isinstance(split, StreamedSplit)
        inputs, targets = split.collate(folder.__getitems__(evenly_spaced(len(folder), SAMPLED)))
    else:
        batches: list[Any] = []
        for batch in split.in_order(64):
            batches.append(batch)
            if sum(len(batch[0]) for batch in batches) >= SAMPLED:
                break
        if not batches:
            raise DataError("empty-split", data=Note("words.the-data"), split=Note("training.start.streamed"))
        inputs, targets = (torch.cat([batch[place] for batch in batches]) for place in (0, 1))
    if inputs.dtype == torch.float32:
        inputs = features.normalization.undo(inputs, features.channel_dim)
    return inputs, target.in_units(targets)


def count_classes(labels: Tensor, target: TargetSpec) -> dict[str, int] | None:
    """Return {class name: how many samples, or places}; for multilabel, how many samples have each label."""
    if target.task == "regression":
        return None
    if target.task == "multilabel":
        counts = (labels > 0.5).sum(0)
    else:
        counts = torch.bincount(labels[labels >= 0].long(), minlength=len(target.classes))
    return dict(zip(target.classes, counts.tolist(), strict=True))


# ── the same sample in train and test ────────────────────────────────────────────────────────────────────────


def find_duplicates(train: Split, test: Split | None, most: int = SHOWN_PAIRS) -> dict[str, Any] | None:
    """Find test samples whose inputs are in the training split, bit for bit; None where that cannot be looked for.

    "pairs" are the first `most` of [train, test] indices.
    """
    train_digests: Sequence[bytes | None]
    if isinstance(train, ResidentSplit) and isinstance(test, ResidentSplit):
        train_digests, test_digests = row_digests(train.inputs), row_digests(test.inputs)
        how = Note("data.same-values")
    elif (first := image_folder(train)) and (second := image_folder(test)):
        train_digests, test_digests = file_digests(first.paths, second.paths)
        how = Note("data.same-file-content")
    else:
        return None
    first_at = {digest: index for index, digest in reversed(list(enumerate(train_digests)))}
    pairs = [[first_at[digest], index] for index, digest in enumerate(test_digests) if digest in first_at]
    return {"count": len(pairs), "of": len(test_digests), "pairs": pairs[:most], "how": how}


def row_digests(inputs: Tensor) -> list[bytes]:
    """Return a 128-bit digest of every sample; minus zero counts as zero."""
    rows = np.ascontiguousarray((inputs + 0 if inputs.is_floating_point() else inputs).flatten(1).numpy())
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def file_digests(train: Sequence[Path], test: Sequence[Path]) -> tuple[list[bytes], list[bytes]]:
    """Return a digest of every file; a file whose size only one split has is not read: its path stands for it."""
    sizes = {path.stat().st_size for path in train} & {path.stat().st_size for path in test}
    first, second = (
        [
            hashlib.blake2b(files.read_bytes(path, MOST_OF_AN_IMAGE), digest_size=16).digest()
            if path.stat().st_size in sizes
            else bytes(path)
            for path in paths
        ]
        for paths in (train, test)
    )
    return first, second


# ── the contact sheet ────────────────────────────────────────────────────────────────────────────────────────


def write_contact_sheet(data: Data, path: Path) -> None:
    """Write a PNG with one row of training images per class; DataError when the data are no images."""
    features, target = data.features, data.target
    if features is None or target is None or features.kind != "image":
        raise DataError("no-images-to-show", data=data.name)
    if path.suffix.lower() != ".png" or not path.resolve().parent.is_dir():
        raise UsageError("sheet-path", path=path)
    inputs, targets = raw_samples(data.train, features, target)
    is_single = target.task in ("classification", "binary") and target.layout == "rows"
    labels = targets.flatten().long() if is_single else torch.zeros(len(inputs), dtype=torch.int64)
    classes = target.classes if is_single else ("",)
    sheet = contact_sheet(as_pixels(inputs), labels, classes)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    files.write_named(path, content.getvalue())


def as_pixels(inputs: Tensor) -> Tensor:
    """Return images as uint8: floats are stretched from their lowest to their highest value."""
    if inputs.dtype == torch.uint8:
        return inputs
    low, high = inputs.min(), inputs.max()
    return ((inputs - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)


def contact_sheet(inputs: Tensor, labels: Tensor, classes: Sequence[str], *, columns: int = 10) -> Image.Image:
    """Draw `columns` images of each class in a row behind its name and count; at most 20 classes.

    `inputs` is uint8 (n, channels, height, width), `labels` int64 (n,). Small images are enlarged by a whole factor,
    pixel by pixel; large ones are shrunk.
    """
    from PIL import Image, ImageDraw

    rows = min(len(classes), MOST_ROWS)
    longest = max(inputs.shape[2:])
    factor: float = CELL // longest if longest <= CELL else min(1.0, 2 * CELL / longest)
    width, height = (max(round(side * factor), 1) for side in (inputs.shape[3], inputs.shape[2]))
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR
    gap, more = 2, 20 if len(classes) > MOST_ROWS else 0
    size = (LABEL_WIDTH + columns * (width + gap) + gap, rows * (height + gap) + gap + more)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((LABEL_WIDTH, 0, size[0], size[1] - more - 1), fill=BEHIND)
    for row in range(rows):
        members = (labels == row).nonzero().flatten().tolist()
        top = gap + row * (height + gap)
        name = visible(classes[row], MOST_OF_A_LABEL) if font_of(classes[row]) else f"{row}"
        write_label(draw, top + height // 2, name, len(members))
        for column, place in enumerate(evenly_spaced(len(members), columns)):
            image = as_image(inputs[members[place]]).resize((width, height), resampling)
            sheet.paste(image, (LABEL_WIDTH + gap + column * (width + gap), top))
    if more:
        draw.text((8, size[1] - more), f"{MOST_ROWS} / {len(classes)}", fill="black", font=load_font("", 13))
    return sheet


def as_image(pixels: Tensor) -> Image.Image:
    """Return uint8 (channels, height, width) as an RGB image; transparency is laid over white."""
    from PIL import Image

    channels = pixels.shape[0]
    values = pixels[:3] if channels >= 3 else pixels[:1].expand(3, -1, -1)
    image = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    if channels == 4:
        mask = Image.fromarray(np.ascontiguousarray(pixels[3].numpy()))
        image = Image.composite(image, Image.new("RGB", image.size, "white"), mask)
    return image


def write_label(draw: ImageDraw.ImageDraw, middle: int, name: str, count: int) -> None:
    """Write a class's name, cut to fit, and its count under it."""
    font = load_font(name, 14)
    while draw.textlength(name, font=font) > LABEL_WIDTH - 12:
        name = name.removesuffix("…")[:-1] + "…"
    draw.text((8, middle - 16), name, fill="black", font=font)
    draw.text((8, middle + 2), f"{count:,}", fill="#707070", font=load_font("", 12))


def load_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that has the letters of a text, if any is installed."""
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(font_of(text) or LATIN_FONT), size)
