from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import run_python

from rushlight import files
from rushlight.errors import RunError, StorageError
from rushlight.runs import list_runs, lock_run
from rushlight.runs.delete import delete_run, find_run_to_delete, strangers

links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def make_run(runs: Path, name: str) -> Path:
    folder = runs / name
    (folder / "checkpoints" / "00000010").mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"model": {"name": "mlp"}, "data": {"name": "digits"}, "epochs": 3}))
    (folder / "checkpoints" / "00000010" / "state.safetensors").write_bytes(bytes(1000))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("first-mlp", "second-mlp", "third-cnn"):
        make_run(tmp_path / "runs", name)
    return tmp_path / "runs"


def names(runs: Path) -> list[str]:
    return sorted(run.name for run in list_runs(runs))


def test_a_deleted_run_is_gone_from_the_disk_and_the_list(runs: Path) -> None:
    assert len(names(runs)) == 3
    freed, left = delete_run(find_run_to_delete(runs, "first-mlp"))
    assert freed >= 1000
    assert left is None
    assert sorted(path.name for path in runs.iterdir()) == ["second-mlp", "third-cnn"]
    assert names(runs) == ["second-mlp", "third-cnn"]


def test_a_run_is_deleted_by_its_path_too(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delete_run(find_run_to_delete(runs / "elsewhere", str(runs / "first-mlp")))
    assert names(runs) == ["second-mlp", "third-cnn"]
    monkeypatch.chdir(runs)
    delete_run(find_run_to_delete(Path(), "second-mlp/checkpoints/.."))
    assert names(runs) == ["third-cnn"]


@pytest.mark.parametrize(
    ("run", "key"),
    [
        ("latest", "delete-whole-name"),
        ("cnn", "delete-whole-name"),
        ("mlp", "run-ambiguous"),
        ("zebra", "run-unknown"),
        ("", "run-unknown"),
        (".", "not-a-run"),
        ("..", "not-a-run"),
        ("third-cnn/checkpoints", "run-unknown"),
    ],
)
def test_anything_but_a_whole_name_deletes_nothing(
    runs: Path, run: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    with pytest.raises(RunError) as caught:
        find_run_to_delete(runs, run)
    assert caught.value.key == key
    assert len(names(runs)) == 3


def test_the_error_for_a_part_of_a_name_has_the_whole_one_to_type(runs: Path) -> None:
    with pytest.raises(RunError, match=r"rushlight runs --delete .*third-cnn"):
        find_run_to_delete(runs, "third")


@links
def test_a_link_to_a_run_deletes_neither_the_link_nor_the_run(runs: Path, tmp_path: Path) -> None:
    target = make_run(tmp_path / "elsewhere", "fourth")
    (runs / "fourth").symlink_to(target)
    for name in ("fourth", str(runs / "fourth"), f"{runs / 'fourth'}/"):
        with pytest.raises(RunError, match=f"is a link to {target}"):
            find_run_to_delete(runs, name)
    assert (runs / "fourth").is_symlink()
    assert (target / "recipe.json").exists()


@links
def test_a_link_inside_a_run_goes_and_what_it_leads_to_stays(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"picture")
    (runs / "first-mlp" / "photos").symlink_to(tmp_path / "photos")
    delete_run(find_run_to_delete(runs, "first-mlp"))
    assert not (runs / "first-mlp").exists()
    assert (tmp_path / "photos" / "one.png").read_bytes() == b"picture"


@links
def test_runs_in_a_linked_folder_can_be_deleted(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs)
    delete_run(find_run_to_delete(tmp_path / "link", "first-mlp"))
    assert names(runs) == ["second-mlp", "third-cnn"]


def test_a_folder_that_holds_runs_is_never_deleted_even_if_it_looks_like_one(runs: Path) -> None:
    for name in ("recipe.json", "history.jsonl"):
        (runs / name).write_text("{}")
    with pytest.raises(RunError, match="has other runs in it, first-mlp for one"):
        find_run_to_delete(runs, str(runs))


def test_a_folder_with_a_recipe_of_somebody_elses_is_no_run_to_delete(tmp_path: Path) -> None:
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "recipe.json").write_text('{"eggs": 3}')
    with pytest.raises(RunError, match="does not look like a run"):
        find_run_to_delete(tmp_path, "kitchen")


def test_a_run_is_not_deleted_from_within(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs / "first-mlp" / "checkpoints")
    with pytest.raises(RunError) as caught:
        find_run_to_delete(Path("runs"), "..")
    assert caught.value.key == "delete-from-inside"


def test_a_damaged_run_can_be_deleted(runs: Path) -> None:
    (runs / "first-mlp" / "recipe.json").write_bytes(b"\xff")
    delete_run(find_run_to_delete(runs, "first-mlp"))
    assert names(runs) == ["second-mlp", "third-cnn"]


def test_what_rushlight_did_not_write_is_named(runs: Path) -> None:
    folder = runs / "first-mlp"
    for name in ("notes.txt", "loss.png", "run.lock", "sessions.jsonl", "x.0a1b2c3d.part"):
        (folder / name).write_bytes(b"")
    assert strangers(folder) == ["notes.txt"]


@pytest.mark.slow
def test_a_run_with_everything_switched_on_has_nothing_in_it_that_is_not_ours(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import rushlight, sys; rushlight.train('mlp', 'digits', epochs=2, name='all', runs=sys.argv[1], quiet=True, "
        "tensorboard=True, profile=True, keep_epochs=True, early_stopping=1, model_arguments={'hidden': (4,)})"
    )
    run_python(["-c", code, tmp_path]).check_returncode()
    assert (tmp_path / "all" / "model").is_dir()
    assert strangers(tmp_path / "all") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
@pytest.mark.parametrize("next_start", ["listing", "locking"])
def test_what_a_killed_deletion_left_is_deleted_by_whoever_comes_next(runs: Path, next_start: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from rushlight import files\n"
        "from rushlight.runs import delete_run\n"
        "files.disk.delete_tree = lambda path: os.kill(os.getpid(), 9)\n"
        "delete_run(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs / "first-mlp")], check=False)
    assert done.returncode == -9
    (left,) = runs.glob("*.part")
    assert (left / "checkpoints").is_dir()
    if next_start == "listing":
        assert names(runs) == ["second-mlp", "third-cnn"]
    else:
        with lock_run(runs / "second-mlp"):
            pass
    assert not left.exists()


def test_sweeping_leaves_alone_what_another_process_is_writing_and_what_is_somebodys_own(runs: Path) -> None:
    kept = ("bundle.0a1b2c3d.part", "first.deleted", "film.deleted.part", "first.deleted.0a1b2c3d")
    for name in kept:
        (runs / name).mkdir()
    (runs / "index.json.0a1b2c3d.part").write_bytes(b"")
    names(runs)
    assert all((runs / name).exists() for name in (*kept, "index.json.0a1b2c3d.part"))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[int]:
    """A process that holds the run's lock; its number."""
    code = (
        "import sys, time; from pathlib import Path; from rushlight.runs import lock_run\n"
        "with lock_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_run_in_use_is_refused_and_its_holder_named_before_and_after_the_question(runs: Path) -> None:
    folder = find_run_to_delete(runs, "first-mlp")
    with held(folder) as pid:
        with pytest.raises(RunError, match=f"in use by process {pid} on "):
            find_run_to_delete(runs, "first-mlp")
        with pytest.raises(RunError, match=f"in use by process {pid} on "):
            delete_run(folder)
        assert (folder / "recipe.json").exists()
    delete_run(find_run_to_delete(runs, "first-mlp"))  # killed, it holds nothing
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_disk_that_refuses_leaves_the_run_whole(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(files.Disk):
        def rename(self, source: Path, target: Path) -> None:
            if source.name == "first-mlp":
                raise PermissionError(13, "Permission denied")
            super().rename(source, target)

    monkeypatch.setattr(files, "disk", Refusing())
    folder = find_run_to_delete(runs, "first-mlp")
    with pytest.raises(StorageError, match="may not write here"):
        delete_run(folder)
    assert sorted(path.name for path in folder.iterdir() if path.name != "run.lock") == ["checkpoints", "recipe.json"]
    with lock_run(folder):
        pass


def test_what_cannot_be_deleted_is_told_and_no_half_run_is_listed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeping(files.Disk):
        def delete_tree(self, path: Path) -> None:
            (path / "recipe.json").unlink(missing_ok=True)

    monkeypatch.setattr(files, "disk", Keeping())
    freed, left = delete_run(find_run_to_delete(runs, "first-mlp"))
    assert left is not None
    assert (left / "checkpoints").is_dir()
    assert 0 < freed < 1000
    assert names(runs) == ["second-mlp", "third-cnn"]
