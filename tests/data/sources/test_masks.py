"""Folders of images with masks, and a U-Net by name: a class for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rushlight
from rushlight.data import DataOptions, open_source
from rushlight.data.feed.resident import ResidentSplit
from rushlight.errors import DataError, ModelError
from rushlight.models import build_model


def folder(
    root: Path,
    count: int = 20,
    *,
    mode: str = "L",
    numbers: tuple[int, ...] = (0, 1, 2),
    size: tuple[int, int] = (16, 12),
) -> Path:
    """Write images (width, height) with a bright block each, and masks that have its number there."""
    generator = np.random.default_rng(count)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        mask = np.full((size[1], size[0]), numbers[0], np.uint8)
        mask[2:8, 3:9] = numbers[1 + number % (len(numbers) - 1)]
        pixels = generator.integers(0, 50, (size[1], size[0], 3)).astype(np.uint8)
        pixels[mask != numbers[0]] += np.uint8(50 + 60 * (number % (len(numbers) - 1)))
        Image.fromarray(pixels).save(root / "images" / f"{number:02d}.jpg", quality=95)
        image = Image.fromarray(mask)
        if mode == "P":
            image = image.convert("P")
            image.putdata(mask.flatten().tolist())
            image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        elif mode != "L":
            image = image.convert(mode)
        image.save(root / "masks" / f"{number:02d}.png")
    return root


def opened(path: Path, **options: Any) -> tuple[rushlight.data.Data, ResidentSplit]:
    data = open_source(path, options=DataOptions(**options))
    assert isinstance(data.train, ResidentSplit)
    return data, data.train


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_class_numbers_whether_grey_or_by_palette(mode: str, tmp_path: Path) -> None:
    data, train = opened(folder(tmp_path / "scenes", mode=mode))
    assert (train.samples, data.test.samples if data.test else None) == (16, 4)
    assert train.inputs.shape == (16, 3, 12, 16)
    assert train.targets.shape == (16, 12, 16)
    assert set(train.targets.unique().tolist()) == {0, 1, 2}
    assert data.target is not None
    assert (data.target.classes, data.target.layout) == (("0", "1", "2"), "dense")
    assert data.features is not None
    assert data.features.kind == "image"
    assert train.names is not None
    assert train.names[0].startswith("images/")


def test_folders_in_capitals_hold_masks_too_and_no_classes_called_images_and_masks(tmp_path: Path) -> None:
    for name in ("Train", "VAL", "Test"):
        split = folder(tmp_path / "scenes" / name, 4)
        for part in ("images", "masks"):
            (split / part).rename(split / part.title())
    data, train = opened(tmp_path / "scenes")
    assert data.target is not None
    assert data.target.classes == ("0", "1", "2")
    assert [split.samples for split in (train, data.validation, data.test) if split is not None] == [4, 4, 4]


def test_255_is_no_class_beside_others_and_a_class_beside_0_alone(tmp_path: Path) -> None:
    data, train = opened(folder(tmp_path / "many", numbers=(0, 1, 255)))
    assert set(train.targets.unique().tolist()) == {0, 1, -100}
    assert data.target is not None
    assert data.target.classes == ("0", "1")
    assert any("have no class" in note for note in data.notes)
    binary, train = opened(folder(tmp_path / "two", numbers=(0, 255)))
    assert set(train.targets.unique().tolist()) == {0, 1}
    assert binary.target is not None
    assert binary.target.classes == ("0", "255")
    named, _ = opened(tmp_path / "two", classes=("nothing", "cat"))
    assert named.target is not None
    assert named.target.classes == ("nothing", "cat")


def test_masks_are_resized_to_the_nearest_with_their_images(tmp_path: Path) -> None:
    _, train = opened(folder(tmp_path / "scenes"), image_size=(6, 8))
    assert train.inputs.shape[2:] == train.targets.shape[1:] == (6, 8)
    assert set(train.targets.unique().tolist()) == {0, 1, 2}


def test_splits_may_have_folders_of_their_own(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("val", 5), ("test", 4)):
        folder(tmp_path / "scenes" / name, count)
    data, train = opened(tmp_path / "scenes")
    assert data.validation is not None
    assert data.test is not None
    assert (train.samples, data.validation.samples, data.test.samples) == (9, 5, 4)


def test_without_a_folder_to_test_on_the_other_one_is_tested_as_with_classes(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("val", 5)):
        folder(tmp_path / "scenes" / name, count)
    data, train = opened(tmp_path / "scenes")
    assert data.test is not None
    assert (train.samples, data.validation, data.test.samples) == (9, None, 5)
    assert 'Tested on "val".' in data.notes


def test_what_is_wrong_with_masks_is_told(tmp_path: Path) -> None:
    lacking = folder(tmp_path / "lacking")
    (lacking / "masks" / "03.png").unlink()
    with pytest.raises(DataError, match=r"03\.jpg has no mask"):
        opened(lacking)
    with pytest.raises(DataError, match="it has colours"):
        opened(folder(tmp_path / "coloured", mode="RGB"))
    with pytest.raises(DataError, match="1 "):
        opened(folder(tmp_path / "few"), classes=("only",))
    empty = tmp_path / "empty"
    for name in ("images", "masks"):
        (empty / name).mkdir(parents=True)
    with pytest.raises(DataError, match="has no images"):
        opened(empty)


def test_other_masks_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    scenes, two = folder(tmp_path / "scenes"), folder(tmp_path / "two", numbers=(0, 255))
    with pytest.raises(DataError, match="255"):
        open_source(scenes, two)
    assert open_source(scenes, folder(tmp_path / "fewer", numbers=(0, 1))).test is not None


@pytest.mark.parametrize("size", [(32, 32), (17, 23), (5, 5), (1, 9)])
def test_a_u_net_gives_scores_for_every_pixel_of_any_size(size: tuple[int, int]) -> None:
    model = build_model("unet", (2, *size), 4, {"width": 4, "depth": 2}, seed=0)
    model.eval()
    assert model(torch.rand(3, 2, *size)).shape == (3, 4, *size)
    again = build_model("unet", (2, *size), 4, {"width": 4, "depth": 2}, seed=0)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)
    with pytest.raises(ModelError):
        build_model("unet", (8,), 4, {}, seed=0)


def test_the_command_line_trains_a_u_net_on_a_folder_of_masks(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rushlight.cli.app import app

    scenes = folder(tmp_path / "scenes", 40)
    command = f"train unet {scenes} --model-arg width=8 --epochs 6 --lr 0.01 --batch-size 8 --metric iou --best iou --quiet --runs {tmp_path}/runs"
    assert CliRunner().invoke(app, command.split()).exit_code == 0
    run = rushlight.open_run("latest", runs=tmp_path / "runs")
    report = run.report
    assert report is not None
    assert report.places == 8 * 12 * 16
    assert report.iou is not None
    assert report.iou > 0.5
    tested = run.test(folder(tmp_path / "later", 6))
    assert tested.places == 6 * 12 * 16
    assert run.predict(str(scenes / "images" / "00.jpg")).labels.shape == (1, 12, 16)
    again = rushlight.resume(run.folder, epochs=7, schedule="constant", runs=tmp_path / "runs", quiet=True)
    assert not again.summary()["inexact"]
    told = CliRunner().invoke(app, ["predict", str(run.folder), str(scenes / "images" / "00.jpg")])
    assert told.exit_code == 0
    assert "00.jpg  0" in told.stdout
    assert CliRunner().invoke(app, ["data", str(scenes), "--sheet", str(tmp_path / "sheet.png")]).exit_code == 0


@pytest.mark.parametrize(
    ("numbers", "size", "reason"), [(2_000_000_000, (16, 12), "65,535"), (1, (9500, 9500), "pixels")]
)
def test_a_mask_cannot_bring_so_many_classes_or_pixels_that_they_fill_the_memory(
    numbers: int, size: tuple[int, int], reason: str, tmp_path: Path
) -> None:
    path = folder(tmp_path / "scenes", count=4)
    (path / "masks" / "01.png").unlink()
    image = Image.fromarray(np.full((1, 1), numbers, np.int32)).resize(size, Image.Resampling.NEAREST)
    (image if numbers > 1 else image.convert("1")).save(path / "masks" / "01.tif", compression="tiff_deflate")
    with pytest.raises(DataError, match=reason):
        opened(path)
