"""Folders of images: layouts, modes, sizes, broken files, and streaming. All files are real ones, made here."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.sources.images.folder import ImageFolderDataset, open_image_folder
from rushlight.data.sources.images.pixels import FORMATS, read_headers
from rushlight.data.sources.images.pixels import read_image as read_pixels_of
from rushlight.data.spec import FeatureSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError

PLENTY = 1 << 30
GREY = FeatureSpec("image", (1, 8, 8), "uint8")
RGB = FeatureSpec("image", (3, 8, 8), "uint8")


def read_image(source: Any, features: FeatureSpec) -> torch.Tensor:
    return torch.from_numpy(read_pixels_of(source, features))


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 10, 200)[: len(mode)]).save(path)
    return path


def write_classes(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5, mode: str = "L") -> Path:
    for number, name in enumerate(classes):
        for index in range(count):
            write_image(root / name / f"{index}.png", number * 100 + index, mode=mode)
    return root


def resident(data: Data) -> tuple[ResidentSplit, ResidentSplit]:
    assert isinstance(data.train, ResidentSplit)
    assert isinstance(data.test, ResidentSplit)
    return data.train, data.test


# ── layouts ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("test_folder", ["test", "val", "valid", "validation", "Test"])
def test_train_and_test_folders_become_the_splits(tmp_path: Path, test_folder: str) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / test_folder, count=2)
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    train, test = resident(data)
    assert data.target is not None
    assert data.target.classes == ("cat", "dog")
    assert (train.samples, test.samples) == (10, 4)
    assert train.inputs.dtype == torch.uint8
    assert sorted(train.inputs[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert train.targets.tolist() == [0] * 5 + [1] * 5
    assert any(f'Tested on "{test_folder}"' in note for note in data.notes)


@pytest.mark.parametrize("memory_limit", [PLENTY, 10])
@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_beside_test_is_the_validation_split(tmp_path: Path, name: str, memory_limit: int) -> None:
    for folder, count in (("train", 4), ("test", 1)):
        write_classes(tmp_path / folder, count=count)
    before = open_image_folder(tmp_path, memory_limit=memory_limit)
    write_classes(tmp_path / name, count=3)
    data = open_image_folder(tmp_path, memory_limit=memory_limit, val_fraction=0.5)
    assert {split: part.samples for split, part in data.splits.items()} == {"train": 8, "validation": 6, "test": 2}
    assert any(f'Validated on "{name}"' in note for note in data.notes)
    assert data.features == before.features
    assert data.fingerprint.startswith(f"{before.fingerprint}-")  # a run begun before it still knows its data


def test_other_folders_of_splits_are_not_used_and_named(tmp_path: Path) -> None:
    for folder in ("train", "test", "testing", "val", "valid"):
        write_classes(tmp_path / folder, count=1)
    assert any(
        'Not used: "testing", "valid"' in note for note in open_image_folder(tmp_path, memory_limit=PLENTY).notes
    )


def test_one_level_is_cut_by_seed_with_every_class_in_both(tmp_path: Path) -> None:
    write_classes(tmp_path, count=10)
    train, test = resident(open_image_folder(tmp_path, memory_limit=PLENTY, seed=3))
    assert test.targets.tolist() == [0, 0, 1, 1]
    assert train.targets.tolist() == [0] * 8 + [1] * 8
    together = torch.cat([train.inputs, test.inputs])[:, 0, 0, 0]
    assert sorted(together.tolist()) == [*range(10), *range(100, 110)]
    again = resident(open_image_folder(tmp_path, memory_limit=PLENTY, seed=3))[1]
    assert torch.equal(again.inputs, test.inputs)
    other = resident(open_image_folder(tmp_path, memory_limit=PLENTY, seed=4))[1]
    assert not torch.equal(other.inputs, test.inputs)


def test_a_train_folder_alone_is_cut_too(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=5)
    assert resident(open_image_folder(tmp_path, memory_limit=PLENTY))[1].samples == 2


def test_a_test_folder_without_classes_is_passed_over_aloud(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=5)
    write_image(tmp_path / "test" / "1.png")
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    assert resident(data)[1].samples == 2
    assert any('"test" has no class folders' in note for note in data.notes)


def test_no_test_fraction_means_no_test_split(tmp_path: Path) -> None:
    data = open_image_folder(write_classes(tmp_path), memory_limit=PLENTY, test_fraction=0.0)
    assert data.test is None
    assert data.train.samples == 10


def test_spaces_and_chinese_and_nested_folders_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "我的 图片"
    write_image(root / "猫 咪" / "深 处" / "图 一.PNG", 3)
    write_image(root / "猫 咪" / "b.png", 4)
    write_image(root / "狗" / "a.png", 5)
    write_image(root / "狗" / "b.png", 6)
    data = open_image_folder(root, memory_limit=PLENTY)
    train, test = resident(data)
    assert data.target is not None
    assert data.target.classes == ("狗", "猫 咪")  # by code point
    assert (train.samples, test.samples) == (2, 2)


def test_other_files_are_counted_and_passed_over(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / ".DS_Store").write_text("x")
    (tmp_path / "cat" / "._1.png").write_text("x")
    write_image(tmp_path / "loose.png")
    (tmp_path / "empty").mkdir()
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    said = " ".join(data.notes)
    assert "3 files" in said
    assert "1 images lie" in said
    assert '"empty" has no images' in said
    assert data.train.samples == 8


@pytest.mark.parametrize(
    "name", [".thumbnails", ".ipynb_checkpoints", "@eaDir", "#recycle", "__MACOSX", "System Volume Information"]
)
@pytest.mark.parametrize("place", ["", "cat", "cat/deep"])
def test_copies_that_systems_keep_are_neither_samples_nor_classes_and_are_named(
    tmp_path: Path, name: str, place: str
) -> None:
    write_classes(tmp_path)
    write_image(tmp_path / place / name / "inner" / "copy.png")
    data = open_image_folder(tmp_path, memory_limit=PLENTY, test_fraction=0.0)
    assert data.target is not None
    assert data.target.classes == ("cat", "dog")
    assert data.train.samples == 10
    assert any(f'1 images in folders that systems keep for themselves ("{name}")' in note for note in data.notes)


def test_a_class_may_be_called_as_people_call_things(tmp_path: Path) -> None:
    names = ("#1", "@home", "_other", "thumbs")
    data = open_image_folder(write_classes(tmp_path, names), memory_limit=PLENTY)
    assert data.target is not None
    assert data.target.classes == names
    assert not any("keep for themselves" in note for note in data.notes)


@pytest.mark.parametrize(
    ("names", "is_said"), [(("1", "2", "10"), True), (("01", "02", "10"), False), (("b", "a"), False)]
)
def test_classes_that_are_numbers_are_in_the_order_of_text_and_a_note_says_so(
    tmp_path: Path, names: tuple[str, ...], is_said: bool
) -> None:
    data = open_image_folder(write_classes(tmp_path, names), memory_limit=PLENTY)
    assert data.target is not None
    assert data.target.classes == tuple(sorted(names))
    assert any('not of numbers: "1", "10", "2"' in note for note in data.notes) == is_said


def test_a_class_in_test_only_is_an_error_and_in_train_only_a_note(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "cow", "dog"))
    write_classes(tmp_path / "test", ("cat", "dog"))
    assert any(
        '"test" has no images of "cow"' in note for note in open_image_folder(tmp_path, memory_limit=PLENTY).notes
    )
    write_classes(tmp_path / "test", ("Cat2",))
    with pytest.raises(DataError) as caught:
        open_image_folder(tmp_path, memory_limit=PLENTY)
    assert caught.value.key == "class-in-test-only"
    assert "Cat2" in caught.value.problem


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda root: None, "no-classes"),
        (lambda root: write_image(root / "a.png"), "no-classes"),
        (lambda root: write_classes(root / "test"), "no-train-folder"),
        (lambda root: write_classes(root, ("only",)), "one-class"),
        (lambda root: root.rmdir(), "no-image-folder"),
    ],
)
def test_folders_without_anything_to_learn_are_explained(tmp_path: Path, make, key: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(DataError) as caught:
        open_image_folder(root, memory_limit=PLENTY)
    assert caught.value.key == key


# ── pixels ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_every_format_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (8, 8), (200, 100, 50)).save(path)
    pixels = read_image(path, RGB)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert (pixels[:, 4, 4].int() - torch.tensor([200, 100, 50])).abs().max() <= 4


def test_the_first_frame_of_a_gif_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif", RGB)[:, 0, 0].tolist() == [255, 0, 0]


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name, GREY)[0].numpy(), values >> 8)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "half.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "clear.png", RGB).unique().tolist() == [255]
    assert read_image(tmp_path / "half.png", RGB).unique().tolist() == [127]
    assert read_image(tmp_path / "grey.png", GREY).unique().tolist() == [255]


def test_palettes_with_and_without_transparency_are_converted(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "plain.png", RGB)[:, 0, 0].tolist() == [10, 20, 30]
    assert read_image(tmp_path / "clear.png", RGB)[:, 0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg", RGB)[:, 4, 4].tolist()
    assert red > 230 > 60 > max(green, blue)


def test_one_bit_images_become_black_and_white(tmp_path: Path) -> None:
    Image.new("1", (8, 8), 1).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", GREY).unique().tolist() == [255]


def test_exif_turns_an_image_upright_and_its_size_with_it(tmp_path: Path) -> None:
    image = Image.new("L", (12, 8), 0)
    image.paste(255, (0, 0, 12, 2))  # the stored top is white; orientation 6 turns it to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        for index in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{index}.png", exif=exif)
    train, _ = resident(open_image_folder(tmp_path, memory_limit=PLENTY))
    assert train.inputs.shape[1:] == (1, 12, 8)
    assert (train.inputs[0, 0, :, 7] == 255).all()
    assert (train.inputs[0, 0, :, 0] == 0).all()


def test_resizing_averages_what_it_shrinks_away(tmp_path: Path) -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(checkers.astype(np.uint8)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", GREY).int()
    assert (pixels - 127).abs().max() <= 20  # without antialiasing they would be 0 or 255


def test_training_and_predicting_read_the_same_pixels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        for index in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            noise = generator.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{index}.png")
    data = open_image_folder(tmp_path, memory_limit=PLENTY, test_fraction=0.0)
    assert isinstance(data.train, ResidentSplit)
    assert data.features is not None
    paths = sorted(tmp_path.rglob("*.png"))
    for path, kept in zip(paths, data.train.inputs, strict=True):
        assert torch.equal(read_image(path, data.features), kept)
        with Image.open(path) as image:
            assert torch.equal(read_image(image, data.features), kept)


# ── one shape ────────────────────────────────────────────────────────────────────────────────────────────────


def test_grey_stays_grey_and_one_coloured_image_makes_all_rgb(tmp_path: Path) -> None:
    write_classes(tmp_path)
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    assert data.features is not None
    assert data.features.shape == (1, 8, 8)
    write_image(tmp_path / "cat" / "colour.png", 9, mode="RGB")
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    assert data.features is not None
    assert data.features.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(28, 20)] * 4, (1, 20, 28)),
        ([(10, 10), (20, 30), (20, 40), (31, 40)], (1, 35, 20)),
        ([(400, 200)] * 4, (1, 64, 128)),
        ([(1, 1)] * 4, (1, 1, 1)),
    ],
)
def test_the_size_is_the_common_one_or_the_median_capped(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int, int]
) -> None:
    for index, size in enumerate(sizes):
        write_image(tmp_path / "ab"[index % 2] / f"{index}.png", index, size)
    data = open_image_folder(tmp_path, memory_limit=PLENTY)
    assert data.features is not None
    assert data.features.shape == expected
    assert any(f"{expected[1]}×{expected[2]}" in note for note in data.notes)


def test_image_size_overrides_and_is_height_then_width(tmp_path: Path) -> None:
    data = open_image_folder(write_classes(tmp_path), memory_limit=PLENTY, image_size=(6, 9))
    assert data.features is not None
    assert data.features.shape == (1, 6, 9)
    with pytest.raises(UsageError, match="0×9"):
        open_image_folder(tmp_path, memory_limit=PLENTY, image_size=(0, 9))


# ── broken files ─────────────────────────────────────────────────────────────────────────────────────────────


def break_three(root: Path) -> Path:
    write_classes(root, count=6)
    (root / "cat" / "zero.png").write_bytes(b"")
    (root / "dog" / "text file.jpg").write_text("this is no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = root / "dog" / "cut.png"
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes()[:1500])
    return root


@pytest.mark.parametrize("memory_limit", [PLENTY, 10])
def test_unreadable_images_are_named_and_skipped_only_on_demand(tmp_path: Path, memory_limit: int) -> None:
    break_three(tmp_path)
    with pytest.raises(DataError) as caught:
        open_image_folder(tmp_path, memory_limit=memory_limit, image_size=(8, 8))
    assert caught.value.key == "unreadable-images"
    assert "zero.png (the file is empty)" in caught.value.problem
    assert "text file.jpg" in caught.value.problem
    assert "--skip-bad" in caught.value.advice
    data = open_image_folder(tmp_path, memory_limit=memory_limit, image_size=(8, 8), skip_bad=True)
    assert any("3 unreadable images were left out" in note and "cut.png" in note for note in data.notes)
    assert data.test is not None
    assert (data.train.samples or 0) + (data.test.samples or 0) == 12


def test_the_count_of_unreadable_images_includes_the_truncated(tmp_path: Path) -> None:
    break_three(tmp_path)
    with pytest.raises(DataError, match="3 of 15 images"):
        open_image_folder(tmp_path, memory_limit=PLENTY, image_size=(8, 8))


def test_a_folder_of_broken_images_only_is_an_error_even_with_skip_bad(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no")
    with pytest.raises(DataError) as caught:
        open_image_folder(tmp_path, memory_limit=PLENTY, skip_bad=True)
    assert caught.value.key == "unreadable-images"


def test_a_decompression_bomb_is_an_error_and_no_crash(tmp_path: Path) -> None:
    for side, said in ((30_000, "far more than"), (10_000, "10,000×10,000")):  # of the smaller Pillow only warns
        image = bytearray(write_image(tmp_path / "bomb.png").read_bytes())
        image[16:24] = struct.pack(">II", side, side)  # the size in the IHDR chunk, then the chunk's checksum
        image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
        (tmp_path / "bomb.png").write_bytes(image)
        with pytest.raises(DataError, match=said):
            read_image(tmp_path / "bomb.png", GREY)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_predicting_from_an_unreadable_file_says_which(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a b.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a b\.png"):
        read_image(path, GREY)


def test_float_pixels_have_no_white_and_are_refused(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="32-bit floats"):
        read_image(tmp_path / "a.tif", GREY)


# ── larger than memory ───────────────────────────────────────────────────────────────────────────────────────


def test_what_does_not_fit_is_streamed_with_the_same_samples_and_normalisation(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=6, mode="RGB")
    write_classes(tmp_path / "test", count=2, mode="RGB")
    kept = open_image_folder(tmp_path, memory_limit=PLENTY)
    streamed = open_image_folder(tmp_path, memory_limit=100)
    assert isinstance(streamed.train, StreamedSplit)
    assert isinstance(streamed.train.dataset, ImageFolderDataset)
    pixels, label = streamed.train.dataset[7]
    assert (pixels.dtype, pixels.shape, label) == (torch.uint8, (3, 8, 8), 1)
    assert streamed.features == kept.features
    for epoch in (1, 2):
        ours = list(streamed.train.batches(5, seed=1, epoch=epoch))
        theirs = list(kept.train.batches(5, seed=1, epoch=epoch))
        assert len(ours) == len(theirs) == 3
        for (x, y), (x_kept, y_kept) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x_kept)
            assert torch.equal(y, y_kept)
    assert any("learnt from 12 of 12" in note for note in streamed.notes)


def test_the_streamed_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    write_classes(tmp_path)
    first = open_image_folder(tmp_path, memory_limit=10).fingerprint
    assert open_image_folder(tmp_path, memory_limit=10).fingerprint == first
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "renamed.png")
    assert open_image_folder(tmp_path, memory_limit=10).fingerprint != first


def test_a_truncated_streamed_image_stops_the_epoch_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path, count=4)
    data = open_image_folder(tmp_path, memory_limit=10, test_fraction=0.0)
    (tmp_path / "dog" / "2.png").write_bytes((tmp_path / "dog" / "2.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"2\.png"):
        list(data.train.in_order(4))


def test_a_file_of_another_format_named_as_an_image_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "图 1.png"
    spec = FeatureSpec("image", (3, 4, 4), "uint8")
    for formats in ("PPM", "EPS"):
        Image.new("RGB", (4, 4)).save(path, format=formats)
        headers, bad = read_headers([path])
        assert not headers
        assert [image.reason for image in bad] == ["it is no image that Pillow can read"]
        with pytest.raises(DataError, match="no image that Pillow can read"):
            read_image(path, spec)


@pytest.mark.parametrize("name", [*FORMATS, "MPO"])
def test_every_format_that_is_opened_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    Image.new("RGB", (4, 4), "white").save(path, format=name)
    assert read_image(path, FeatureSpec("image", (3, 4, 4), "uint8")).min() > 250
