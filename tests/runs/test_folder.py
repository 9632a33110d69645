from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushlight.errors import RunError, StorageError
from rushlight.runs import find_run, lock_run, new_run, read_recipe, read_report
from rushlight.runs.folder import create_run, slug

NOON = datetime(2026, 11, 23, 3, 31)


def make_run(runs: Path, name: str, started: float = 0.0) -> Path:
    folder = create_run(runs, "mlp", "digits", name)
    (folder / "recipe.json").write_text(json.dumps({"model": {"name": "mlp"}, "data": {"name": "digits"}, "epochs": 2}))
    (folder / "history.jsonl").write_text(json.dumps({"kind": "start", "time": started, "run": name}) + "\n")
    return folder


def test_a_run_folder_is_named_by_time_model_and_data(tmp_path: Path) -> None:
    folder = create_run(tmp_path / "my runs 数据", "nets/my.py:Big_Net", "Fashion-MNIST", now=NOON)
    assert re.fullmatch(r"20261123-0331-big-net-fashion-mnist-[0-9a-z]{2}", folder.name)
    assert folder.is_dir()


def test_runs_of_the_same_minute_get_different_folders(tmp_path: Path) -> None:
    assert len({create_run(tmp_path, "mlp", "digits", now=NOON) for _ in range(100)}) == 100


def test_making_a_run_leaves_the_random_streams_of_training_alone(tmp_path: Path) -> None:
    import random

    random.seed(0)
    before = random.getstate()
    create_run(tmp_path, "mlp", "digits")
    assert random.getstate() == before


@given(st.text(max_size=80))
def test_every_slug_is_a_file_name_on_every_system(text: str) -> None:
    assert not set(slug(text)) & set('<>:"/\\|?* ._')
    assert len(slug(text)) <= 40


def test_a_taken_name_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    make_run(tmp_path, "first")
    with pytest.raises(RunError, match='already a run called "first"'):
        create_run(tmp_path, "mlp", "digits", "first")
    assert (tmp_path / "first" / "recipe.json").exists()


@pytest.mark.parametrize(
    "left",
    [[], ["run.lock"], ["run.lock", "holder.json", "environment.json"], ["run.lock", "recipe.json.0a1b2c3d.part"]],
)
def test_a_folder_in_which_a_run_was_never_begun_is_taken_over(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "first").mkdir()
    for name in left:
        (tmp_path / "first" / name).write_text("")
    with new_run(tmp_path, "mlp", "digits", "first") as folder:
        assert folder == tmp_path / "first"


@pytest.mark.parametrize("kept", ["recipe.json", "history.jsonl", "notes.txt", "thesis.part", "checkpoints"])
def test_a_folder_with_anything_else_in_it_is_not_taken_over(tmp_path: Path, kept: str) -> None:
    (tmp_path / "first").mkdir()
    for name in ("run.lock", "environment.json", kept):
        (tmp_path / "first" / name).write_text("mine")
    with pytest.raises(RunError, match='already a run called "first"'), new_run(tmp_path, "mlp", "digits", "first"):
        pass
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(
        ["run.lock", "environment.json", kept]
    )


def test_neither_a_file_nor_a_link_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").write_text("")
    names = ["file"]
    if os.name != "nt":
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        names.append("link")
    for name in names:
        with pytest.raises(RunError, match="already a run"):
            create_run(tmp_path, "mlp", "digits", name)


def test_a_folder_that_another_process_is_about_to_begin_in_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with lock_run(tmp_path / "first"):
        with pytest.raises(RunError, match="in use by process"), new_run(tmp_path, "mlp", "digits", "first"):
            pass
        assert (tmp_path / "first" / "holder.json").exists()


def test_of_two_that_take_the_same_name_the_later_one_does_not_begin_over_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(runs: Path, model: str, data: str, name: str | None) -> Path:
        folder = create_run(runs, model, data, name)
        (folder / "recipe.json").write_text("{}")  # meanwhile another one took the folder, began, and has ended
        return folder

    monkeypatch.setattr("rushlight.runs.folder.create_run", slow)
    with pytest.raises(RunError, match="already a run"), new_run(tmp_path, "mlp", "digits", "first"):
        pass
    assert (tmp_path / "first" / "recipe.json").read_text() == "{}"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "a\\b", "..", ".hidden", "a.", "a ", "con", "NUL.txt", "a:b", "a\nb", "latest", "x.part",
     "a?", "é" * 101],
)  # fmt: skip
def test_a_name_that_some_system_does_not_take_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot be called"):
        create_run(tmp_path, "mlp", "digits", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fashion-first-try", "试验一", "two words", "v1.2"])
def test_other_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    assert create_run(tmp_path, "mlp", "digits", name) == tmp_path / name


def test_a_file_where_the_runs_should_be_is_explained_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="--runs"):
        create_run(tmp_path / "runs", "mlp", "digits")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_explained_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="--runs"):
        create_run(tmp_path / "runs", "mlp", "digits")


def test_a_run_is_found_by_path_name_fragment_and_as_the_latest(tmp_path: Path) -> None:
    old = make_run(tmp_path, "zebra-20", started=100.0)
    new = make_run(tmp_path, "apple-20", started=200.0)
    assert find_run(tmp_path, str(old)) == old
    assert find_run(tmp_path, "zebra-20") == old
    assert find_run(tmp_path, "zeb") == old
    assert find_run(tmp_path, "latest") == new
    with pytest.raises(RunError, match='"20" fits 2 runs'):
        find_run(tmp_path, "20")


def test_a_whole_name_wins_over_longer_ones_that_contain_it(tmp_path: Path) -> None:
    short = make_run(tmp_path, "net")
    make_run(tmp_path, "net-2")
    assert find_run(tmp_path, "net") == short


def test_a_mistyped_run_gets_the_nearest_name(tmp_path: Path) -> None:
    make_run(tmp_path, "fashion-first")
    with pytest.raises(RunError, match='Did you mean "fashion-first"'):
        find_run(tmp_path, "fashion-frist")


@pytest.mark.parametrize("run", ["latest", "some-run", ""])
def test_without_any_runs_the_error_says_how_to_make_one(tmp_path: Path, run: str) -> None:
    with pytest.raises(RunError, match="rushlight train"):
        find_run(tmp_path / "runs", run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(RunError, match="not a run's"):
        find_run(tmp_path / "runs", str(tmp_path / "pictures"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'"text"'])
def test_a_damaged_recipe_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(RunError, match=r"recipe\.json: this file of the run is damaged"):
        read_recipe(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"report\.json: this file of the run is missing"):
        read_report(tmp_path)
