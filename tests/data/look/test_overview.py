"""What `describe_data` counts and finds, and the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rushlight.cli.overview import show_data
from rushlight.data.look.overview import contact_sheet, describe_data, write_contact_sheet
from rushlight.data.sources.arrays.arrays import open_arrays
from rushlight.data.sources.images.folder import open_image_folder
from rushlight.data.sources.tables.tables import open_table
from rushlight.errors import DataError

GENERATOR = np.random.default_rng(0)


def test_images_in_memory_are_counted_and_duplicates_are_found() -> None:
    train, test = (GENERATOR.integers(1, 255, (count, 4, 5), dtype=np.uint8) for count in (10, 4))
    train[0, 0, 0], train[1, 0, 0] = 0, 255
    test[1], test[3] = train[7], train[2]
    described = describe_data(open_arrays((train, np.arange(10) % 2), (test, [0, 1, 1, 1]), name="x"))
    assert described["shape"] == [1, 4, 5]
    assert described["splits"]["train"]["counts"] == {"0": 5, "1": 5}
    assert described["splits"]["test"]["counts"] == {"0": 1, "1": 3}
    assert (described["splits"]["train"]["min"], described["splits"]["train"]["max"]) == (0, 255)
    assert described["duplicates"] == {"count": 2, "of": 4, "pairs": [[7, 1], [2, 3]], "how": "the same values"}
    assert described["mean"] == pytest.approx([train.mean() / 255])
    json.dumps(described, allow_nan=False)


def test_ranges_of_floats_are_those_before_the_normalisation() -> None:
    x = GENERATOR.normal(50, 10, (40, 3)).astype(np.float32)
    y = GENERATOR.normal(1e6, 1e5, 40)
    described = describe_data(open_arrays((x, y), (x[:3], y[:3]), name="x"))
    train = described["splits"]["train"]
    assert (train["min"], train["max"]) == pytest.approx((x.min(), x.max()), rel=1e-4)
    assert train["target"]["mean"] == pytest.approx([y.mean()], rel=1e-4)
    assert train["counts"] is None
    assert described["duplicates"]["count"] == 3


def test_tables_tell_missing_values_by_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,day,y\n" + "1,red,2024-01-01,u\n,blue,2024-01-02,v\n3,,2024-01-05,u\n5,red,,v\n" * 3)
    described = describe_data(open_table(path, target="y"), table=path)
    a, b, day = described["columns"]
    assert (a["missing"], a["min"], a["max"], a["mean"]) == (3, 1, 5, 3)
    assert (b["missing"], b["different"], b["most_common"][0]) == (3, 2, ("red", 6))
    assert (day["kind"], day["missing"], day["different"]) == ("date", 3, 3)
    json.dumps(described, allow_nan=False)


def test_a_tables_values_are_printed_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{i / 7},{'red' if i % 4 else 'blue'},{i % 2}\n" for i in range(1, 41)))
    show_data(str(path), {"target": "y"}, None, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "red (30), blue (10)" in said
    assert "0.1429 to 5.714" in said


def write_folder(root: Path, count: int = 5) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (number * 200, index * 9, 0)).save(root / name / f"{index}.png")
    return root


def test_streamed_images_are_described_as_those_in_memory(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", 2)
    kept, streamed = (describe_data(open_image_folder(tmp_path, memory_limit=limit)) for limit in (1 << 30, 10))
    assert streamed["splits"]["train"].pop("storage") == "streamed"
    assert kept["splits"]["train"].pop("storage") == "resident"
    assert streamed["splits"]["train"] == kept["splits"]["train"]
    assert streamed["duplicates"]["count"] == kept["duplicates"]["count"] == 4
    assert streamed["duplicates"]["pairs"] == kept["duplicates"]["pairs"] == [[0, 0], [1, 1], [5, 2], [6, 3]]


def test_no_test_split_means_no_duplicates() -> None:
    described = describe_data(open_arrays((np.eye(4), [0, 1, 0, 1]), name="x", test_fraction=0.0))
    assert described["splits"]["test"] is None
    assert described["duplicates"] is None


def test_multilabel_counts_every_label() -> None:
    y = np.array([[0, 1, 1], [1, 1, 0]] * 3)
    described = describe_data(open_arrays((np.eye(6), y), name="x", test_fraction=0.0))
    assert described["splits"]["train"]["counts"] == {"0": 3, "1": 6, "2": 3}


# ── the contact sheet ────────────────────────────────────────────────────────────────────────────────────────


def test_a_contact_sheet_enlarges_pixel_by_pixel() -> None:
    inputs = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    inputs[0, 0, 0, 0] = 255
    sheet = np.asarray(contact_sheet(inputs, torch.tensor([0, 1]), ("a", "b"), columns=3))
    first = sheet[2 : 2 + 64, 152 : 152 + 64]
    assert (first[:16, :16] == 255).all()
    assert (first[16:] == 0).all()
    assert (first[:, 16:] == 0).all()


@pytest.mark.parametrize("limit", [1 << 30, 10])
def test_a_contact_sheet_is_written_for_kept_and_streamed_images(tmp_path: Path, limit: int) -> None:
    data = open_image_folder(write_folder(tmp_path / "图 片"), memory_limit=limit)
    write_contact_sheet(data, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert pixels[20, 200].tolist()[0] == 0
    assert pixels[20 + 66, 200].tolist()[0] == 200
    assert [path.name for path in tmp_path.glob("*.part")] == []


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sheets_of_any_images_and_any_task_are_drawn(tmp_path: Path, channels: int, dtype: type) -> None:
    x = GENERATOR.integers(0, 255, (30, channels, 9, 7)).astype(dtype)
    for y in (np.arange(30) % 25, GENERATOR.normal(size=30), np.eye(3, dtype=int)[np.arange(30) % 3]):
        write_contact_sheet(open_arrays((x, y), name="x"), tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.height == (20 * 65 + 22 if y.dtype == np.int64 and y.ndim == 1 else 67)


def test_long_and_chinese_class_names_are_drawn() -> None:
    inputs = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    sheet = np.asarray(
        contact_sheet(inputs, torch.tensor([0, 1]), ("a very long class name that does not fit", "猫咪"))
    )
    for row in (0, 1):
        label = sheet[2 + row * 58 : 2 + row * 58 + 28, :150]
        assert (label < 128).any()
        assert (label[:, 145:] == 255).all()


def test_a_table_has_no_contact_sheet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        write_contact_sheet(open_arrays((np.eye(4), [0, 1, 0, 1]), name="x"), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
