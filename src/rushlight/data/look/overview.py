"""What data holds, to be looked at before training: counts, ranges, gaps, duplicates, and a sheet of images.

Everything is told of the samples as they came, before any normalisation.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rushlight import files
from rushlight.data.feed import ResidentSplit, Split, StreamedSplit
from rushlight.data.sources import ImageFolderDataset, describe_columns
from rushlight.data.spec import FeatureSpec, TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError
from rushlight.texts import Note

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SHOWN_PAIRS = 10
SHOWN_COLUMNS = 16  # more features than this have one mean and one range in common
SAMPLED = 2048  # samples of a streamed split that are read for ranges and counts
CELL = 64  # the side, in pixels, that small images are enlarged to about
MOST_ROWS = 20
LABEL_WIDTH = 150
BEHIND = "#d8d8d8"  # tells where a white image ends
FIRST_CJK = 0x2E80  # the first code point of the CJK scripts (Unicode block CJK Radicals Supplement)
CJK_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "simsun.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "DroidSansFallbackFull.ttf",
)  # fmt: skip


def describe_data(data: Data, *, table: Path | None = None) -> dict[str, Any]:
    """Return what the data holds, ready for JSON. `table` is the training file, where it is a table.

    Keys: `name`, `fingerprint`, `notes`; `kind`, `shape`, `dtype`, `task` (None where batches are not (inputs, targets));
    `splits`: for "train", "validation" and "test" None or {`samples`, `storage`, `read` (samples looked at), `counts` (by class, or
    None), `target` (min, max, mean by column of a regression, or None), `min`, `max` (of the inputs)};
    `mean`, `std`: by channel or column where learnt, else None;
    `columns`: for a table, each column's `name`, `kind`, `missing`, `different`, and its range or most common values;
    `duplicates`: {`count` of test samples that are in the training split too, `of`, `pairs` of [train, test] indices,
    the first few, `how`}, or None where this was not looked for.
    """
    features, target = data.features, data.target
    normalization = None if features is None else features.normalization
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
        "columns": describe_columns(table, features.columns) if table and features and features.columns else None,
        "duplicates": find_duplicates(data.train, data.test),
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
    }  # fmt: skip


# ── one split ────────────────────────────────────────────────────────────────────────────────────────────────


def describe_split(split: Split, features: FeatureSpec | None, target: TargetSpec | None) -> dict[str, Any]:
    """Return samples, storage, class counts and ranges of one split; a streamed one is read in part."""
    described: dict[str, Any] = {"samples": split.samples, "storage": split.kind}
    if features is None or target is None:
        return described | {"read": 0, "counts": None, "target": None, "min": None, "max": None}
    inputs, targets = raw_samples(split, features, target)
    labels = all_labels(split, targets)
    return described | {
        "read": len(inputs),
        "counts": count_classes(labels, target),
        "target": describe_quantities(targets) if target.task == "regression" else None,
        "min": float(inputs.min()),
        "max": float(inputs.max()),
    }


def raw_samples(split: Split, features: FeatureSpec, target: TargetSpec) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as they came: all of a resident split, the first few thousand of another."""
    if isinstance(split, ResidentSplit):
        inputs, targets = split.inputs, split.targets
        is_prepared = inputs.dtype == torch.float32
    elif isinstance(split, StreamedSplit) and isinstance(split.dataset, ImageFolderDataset):
        inputs, targets = read_some(split.dataset)
        is_prepared = False
    else:
        batches = first_batches(split)
        inputs, targets = (
            torch.cat([batch[0] for batch in batches]),
            torch.cat([batch[1] for batch in batches]),
        )
        is_prepared = inputs.dtype == torch.float32
    return (undo(inputs, features) if is_prepared else inputs), target.in_units(
        targets.float()
    ) if target.mean else targets


def read_some(dataset: ImageFolderDataset, most: int = SAMPLED) -> tuple[Tensor, Tensor]:
    """Read evenly spaced samples: the files are sorted by class."""
    chosen = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int).tolist()
    samples = [dataset[index] for index in chosen]
    return torch.stack([pixels for pixels, _ in samples]), torch.tensor([label for _, label in samples])


def first_batches(split: Split) -> list[Any]:
    """Read batches until there are enough samples to describe."""
    batches: list[Any] = []
    for batch in split.in_order(64):
        batches.append(batch)
        if sum(len(batch[0]) for batch in batches) >= SAMPLED:
            break
    if not batches:
        raise DataError("empty-split", data="the data", split="streamed")
    return batches


def undo(prepared: Tensor, features: FeatureSpec) -> Tensor:
    """Return inputs as they were before `features.prepare`, up to rounding."""
    normalization = features.normalization
    raw = prepared
    if normalization.mean:
        mean, std = normalization.constants(prepared, features.channel_dim)
        raw = raw * std + mean
    return raw * normalization.divisor


def all_labels(split: Split, targets: Tensor) -> Tensor:
    """Return every label where the dataset knows them without reading the samples, else those that were read."""
    if isinstance(split, StreamedSplit) and isinstance(split.dataset, ImageFolderDataset):
        return torch.tensor(split.dataset.labels)
    return targets


def count_classes(labels: Tensor, target: TargetSpec) -> dict[str, int] | None:
    """Return {class name: how many samples}; for multilabel, how many samples have each label."""
    if target.task == "regression":
        return None
    if target.task == "multilabel":
        counts = (labels > 0.5).sum(0)
    else:
        counts = torch.bincount(labels.flatten().long(), minlength=len(target.classes))
    return dict(zip(target.classes, counts.tolist(), strict=True))


def describe_quantities(targets: Tensor) -> dict[str, list[float]]:
    """Return min, max and mean of regression targets, by column."""
    values = targets.double()
    return {"min": values.amin(0).tolist(), "max": values.amax(0).tolist(), "mean": values.mean(0).tolist()}


# ── the same sample in train and test ────────────────────────────────────────────────────────────────────────


def find_duplicates(train: Split, test: Split | None) -> dict[str, Any] | None:
    """Find test samples whose inputs are in the training split, bit for bit; None where that cannot be looked for."""
    if isinstance(train, ResidentSplit) and isinstance(test, ResidentSplit):
        return match(row_digests(train.inputs), row_digests(test.inputs), Note("data.same-values"))
    if (
        isinstance(train, StreamedSplit)
        and isinstance(test, StreamedSplit)
        and isinstance(train.dataset, ImageFolderDataset)
        and isinstance(test.dataset, ImageFolderDataset)
    ):
        sizes = {path.stat().st_size for path in train.dataset.paths} & {
            path.stat().st_size for path in test.dataset.paths
        }
        first, second = (file_digests(dataset.paths, sizes) for dataset in (train.dataset, test.dataset))
        return match(first, second, Note("data.same-file-content"))
    return None


def match(train: Sequence[bytes | None], test: Sequence[bytes | None], how: str) -> dict[str, Any]:
    """Count the test digests that are among the training ones, and show the first few pairs."""
    first_at = {digest: index for index, digest in reversed(list(enumerate(train)))}
    pairs = [
        [first_at[digest], index] for index, digest in enumerate(test) if digest is not None and digest in first_at
    ]
    return {"count": len(pairs), "of": len(test), "pairs": pairs[:SHOWN_PAIRS], "how": how}


def row_digests(inputs: Tensor) -> list[bytes]:
    """Return a 128-bit digest of every sample; minus zero counts as zero."""
    rows = np.ascontiguousarray((inputs + 0 if inputs.is_floating_point() else inputs).flatten(1).numpy())
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def file_digests(paths: Sequence[Path], sizes: set[int]) -> list[bytes | None]:
    """Return a digest of every file whose size occurs in both splits; the others cannot be duplicates."""
    return [
        hashlib.blake2b(path.read_bytes(), digest_size=16).digest() if path.stat().st_size in sizes else None
        for path in paths
    ]


# ── the contact sheet ────────────────────────────────────────────────────────────────────────────────────────


def write_contact_sheet(data: Data, path: Path, *, columns: int = 10) -> None:
    """Write a PNG with one row of training images per class; DataError when the data are no images."""
    features, target = data.features, data.target
    if features is None or target is None or features.kind != "image":
        raise DataError("no-images-to-show", data=data.name)
    if path.suffix.lower() != ".png" or not path.resolve().parent.is_dir():
        raise UsageError("sheet-path", path=path)
    inputs, targets = raw_samples(data.train, features, target)
    is_single = target.task in ("classification", "binary")
    labels = targets.flatten().long() if is_single else torch.zeros(len(inputs), dtype=torch.int64)
    classes = target.classes if is_single else ("",)
    sheet = contact_sheet(as_pixels(inputs), labels, classes, columns=columns)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    files.write_bytes(path, content.getvalue())


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

    rows = list(range(min(len(classes), MOST_ROWS)))
    width, height = cell_size(inputs.shape[3], inputs.shape[2])
    gap, more = 2, 20 if len(classes) > MOST_ROWS else 0
    size = (LABEL_WIDTH + columns * (width + gap) + gap, len(rows) * (height + gap) + gap + more)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((LABEL_WIDTH, 0, size[0], size[1] - more - 1), fill=BEHIND)
    for row in rows:
        members = (labels == row).nonzero().flatten()
        top = gap + row * (height + gap)
        write_label(draw, top + height // 2, classes[row], row, len(members))
        for column, index in enumerate(spread(members.tolist(), columns)):
            image = as_image(inputs[index]).resize((width, height), resampling(inputs.shape[3], width))
            sheet.paste(image, (LABEL_WIDTH + gap + column * (width + gap), top))
    if more:
        draw.text((8, size[1] - more), f"{MOST_ROWS} of {len(classes)} classes", fill="black", font=font_for("", 13))
    return sheet


def cell_size(width: int, height: int) -> tuple[int, int]:
    """Return the size an image is drawn at: a whole multiple where it is small, twice the cell at most."""
    longest = max(width, height)
    factor: float = CELL // longest if longest <= CELL else min(1.0, 2 * CELL / longest)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def resampling(width: int, drawn: int) -> Any:
    """Return the filter: pixels stay pixels when enlarged, and are averaged when shrunk."""
    from PIL import Image

    return Image.Resampling.NEAREST if drawn >= width else Image.Resampling.BILINEAR


def spread(members: list[int], count: int) -> list[int]:
    """Return up to `count` members, evenly spaced: neighbours in a folder often show the same thing."""
    if len(members) <= count:
        return members
    return [members[number] for number in np.linspace(0, len(members) - 1, count).round().astype(int).tolist()]


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


def write_label(draw: ImageDraw.ImageDraw, middle: int, name: str, number: int, count: int) -> None:
    """Write a class's name, cut to fit, and its count under it; its number where no font has the name's letters."""
    font = font_for(name, 14)
    if font is None:
        name, font = f"class {number}", font_for("", 14)
    while draw.textlength(name, font=font) > LABEL_WIDTH - 12:
        name = name.removesuffix("…")[:-1] + "…"
    draw.text((8, middle - 16), name, fill="black", font=font)
    draw.text((8, middle + 2), f"{count:,}", fill="#707070", font=font_for("", 12))


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font for a text: matplotlib's DejaVu Sans, or, for Chinese and its neighbours, one of the system's."""
    from PIL import ImageFont

    is_cjk = any(ord(character) >= FIRST_CJK for character in text)
    for name in CJK_FONTS if is_cjk else (str(dejavu_path()),):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def dejavu_path() -> Path:
    """Return the font file that comes with matplotlib, without importing it: Pillow's own font has few accents."""
    spec = find_spec("matplotlib")
    folder = Path(next(iter(spec.submodule_search_locations or ("",)))) if spec else Path()
    return folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
