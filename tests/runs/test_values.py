"""What the user logged, on disk."""

from __future__ import annotations

from pathlib import Path

from rushlight.runs.values import VALUES, append_values, keep_values, read_values


def test_going_back_keeps_the_epochs_before_and_deletes_the_images_of_those_after(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for epoch in (1, 2, 3):
        (tmp_path / "media" / f"{epoch}.png").write_bytes(b"")
        append_values(tmp_path, {"epoch": epoch, "values": {"x": epoch, "p": {"media": f"media/{epoch}.png"}}})
    keep_values(tmp_path, 2)
    assert [line["epoch"] for line in read_values(tmp_path)] == [1, 2]
    assert sorted(path.name for path in (tmp_path / "media").iterdir()) == ["1.png", "2.png"]
    before = (tmp_path / VALUES).stat().st_mtime_ns
    keep_values(tmp_path, 2)
    assert (tmp_path / VALUES).stat().st_mtime_ns == before


def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next(tmp_path: Path) -> None:
    append_values(tmp_path, {"epoch": 1, "values": {"x": 0.5}})
    with (tmp_path / VALUES).open("ab") as file:
        file.write(b'{"epoch": 2, "val')
    assert [line["epoch"] for line in read_values(tmp_path)] == [1]
    append_values(tmp_path, {"epoch": 2, "values": {"x": 1}})
    assert [line["epoch"] for line in read_values(tmp_path)] == [1, 2]


def test_a_run_in_which_nothing_was_logged_has_no_file(tmp_path: Path) -> None:
    keep_values(tmp_path, 0)
    assert read_values(tmp_path) == []
    assert not list(tmp_path.iterdir())
