"""A name in a file is imported or fetched only where this account trained that run here, or the user names it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rushlight
from rushlight.cli import main
from rushlight.data import DATASETS
from rushlight.errors import RunError
from rushlight.models import find_source, load_model_class
from rushlight.training.setup import trust

SOURCE = """import pathlib
from torch import nn

pathlib.Path({ran!r}).touch()


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""
SMALL: dict[str, Any] = {"epochs": 1, "schedule": "constant", "quiet": True, "compile": "never"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network by name, whose layers are those of the source above."""
    runs = tmp_path_factory.mktemp("trained")
    return rushlight.train("mlp", "digits", model_arguments={"hidden": (8,)}, name="nice", runs=runs, **SMALL).folder


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the run as if it had been downloaded; imports leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    shutil.copytree(trained, tmp_path / "runs" / "nice")
    shutil.copytree(trained, tmp_path / "runs" / "other")
    return tmp_path


def write_source(path: Path, ran: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(ran=str(ran)))


def rewrite(run: Path, **changed: Any) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**recipe, **changed}))


def named(reference: str) -> dict[str, Any]:
    return {"import": reference, "name": "Net", "arguments": {}, "seed": 0, "source_sha256": None}


PLACES = {  # where the code lies, and how a recipe names it
    "in the run": ("runs/nice/payload.py", "runs/nice/payload.py:Net"),
    "a module in the run": ("runs/nice/payload.py", "runs.nice.payload:Net"),
    "in its checkpoints": ("runs/nice/checkpoints/x.py", "runs.nice.checkpoints.x:Net"),
    "a package": ("runs/nice/__init__.py", "runs.nice:Net"),
    "in a sibling": ("runs/other/payload.py", "runs/other/payload.py:Net"),
    "a module in a sibling": ("runs/other/payload.py", "runs.other.payload:Net"),
    "beside the runs": ("payload.py", "payload.py:Net"),
    "a module beside the runs": ("payload.py", "payload:Net"),
    "absolute": ("elsewhere/payload.py", "{here}/elsewhere/payload.py:Net"),
    "by a link": ("elsewhere/payload.py", "link.py:Net"),
}
COMMANDS: dict[str, Callable[[], object]] = {
    "test": lambda: main(["test", "nice"]),
    "predict": lambda: main(["predict", "nice", "x.npy"]),
    "save": lambda: main(["save", "nice", "out.pth"]),
    "resume": lambda: main(["resume", "nice", "--epochs", "2"]),
    "model": lambda: rushlight.open_run("nice").model,
}


@pytest.mark.parametrize("where", PLACES)
def test_code_that_a_foreign_recipe_names_is_not_executed(
    where: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = place / "ran"
    path, reference = PLACES[where]
    write_source(place / path, ran)
    (place / "link.py").symlink_to(place / path)
    rewrite(place / "runs" / "nice", model=named(reference.format(here=place)))
    (place / "x.npy").write_bytes((place / "runs" / "nice" / "losses.f32").read_bytes())
    if where.startswith("a "):  # an unfinished run, too
        shutil.rmtree(place / "runs" / "nice" / "model")
    for command, use in COMMANDS.items():
        with pytest.raises((SystemExit, RunError)) as refused:
            use()
        said = capsys.readouterr().err + str(refused.value)
        assert not ran.exists(), command
        assert "is not imported" in " ".join(said.split()), command
        assert "--model " in said, command


def test_no_installed_module_is_imported_for_a_recipe(place: Path) -> None:
    rewrite(place / "runs" / "nice", model=named("this:Net"))
    sys.modules.pop("this", None)
    with pytest.raises(RunError, match="is not imported"):
        _ = rushlight.open_run("nice").model
    assert "this" not in sys.modules


@pytest.mark.parametrize("reference", ["a_trusted_net.py:Net", "a_trusted_net:Net"])
def test_what_this_account_trained_here_is_imported_again(reference: str, place: Path) -> None:
    write_source(place / "a_trusted_net.py", place / "ran")
    (place / "before").mkdir()
    (place / "before" / "a_trusted_net.py").write_text("another file of this name\n")
    sys.path.insert(0, str(place / "before"))
    run = rushlight.train(reference, "digits", runs="runs", name="own", **SMALL)
    assert rushlight.open_run("own").test() == run.report
    assert len(rushlight.resume("own", epochs=2, quiet=True).history) > len(run.history) - 1
    _ = rushlight.open_run("own").model  # its recipe has two epochs now


def test_changed_source_is_imported_only_where_it_is_named(place: Path) -> None:
    write_source(place / "net.py", place / "ran")
    run = rushlight.train("net.py:Net", "digits", runs="runs", name="own", **SMALL)
    with (place / "net.py").open("a") as file:
        file.write("\n# and more\n")
    with pytest.raises(RunError, match=r"(?s)not as it was when the run was trained.*--model net\.py:Net"):
        rushlight.open_run("own").test()
    assert rushlight.open_run("own", "net.py:Net").test() == run.report
    with pytest.raises(RunError, match="--inexact"):
        rushlight.resume("own", epochs=2, quiet=True)
    again = rushlight.resume("own", "net.py:Net", epochs=2, inexact=True, quiet=True)
    assert again.report is not None
    _ = rushlight.open_run("own").model  # the source that was named is the run's from then on


def test_the_same_source_in_another_place_is_another_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(place / "net.py", place / "ran")
    rushlight.train("net.py:Net", "digits", runs="runs", name="own", **SMALL)
    shutil.copytree(place, place.parent / "copy")
    (place / "ran").unlink()
    monkeypatch.chdir(place.parent / "copy")
    with pytest.raises(RunError, match="is not imported"):
        _ = rushlight.open_run("own").model
    assert not (place / "ran").exists()


def test_a_run_of_a_live_model_is_resumed_with_its_class_named(place: Path) -> None:
    write_source(place / "a_live_net.py", place / "ran")
    Net = load_model_class("a_live_net.py:Net")

    rushlight.train(Net(), "digits", runs="runs", name="live", **SMALL)
    with pytest.raises(RunError, match=r"--model net\.py:Net"):
        _ = rushlight.open_run("live").model
    assert rushlight.open_run("live", "a_live_net.py:Net").test() is not None
    rushlight.resume("live", "a_live_net.py:Net", epochs=2, quiet=True)


@pytest.mark.skipif(os.name == "nt", reason="no modes")
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_record_that_others_may_write_is_not_believed(is_folder: bool, place: Path) -> None:
    write_source(place / "net.py", place / "ran")
    rushlight.train("net.py:Net", "digits", runs="runs", name="own", **SMALL)
    path = trust.record().parent if is_folder else trust.record()
    mode = path.stat().st_mode
    path.chmod(mode | 0o022)
    try:
        with pytest.raises(RunError, match="is not imported"):
            _ = rushlight.open_run("own").model
    finally:
        path.chmod(mode)


def test_a_state_folder_that_cannot_be_written_costs_only_the_record(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").touch()
    monkeypatch.setattr(trust, "record", lambda: place / "file" / "rushlight" / "trained-here")
    write_source(place / "net.py", place / "ran")
    run = rushlight.train("net.py:Net", "digits", runs="runs", name="own", **SMALL)
    with pytest.raises(RunError, match="no record"):
        _ = rushlight.open_run("own").model
    assert rushlight.open_run("own", "net.py:Net").test() == run.report


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.layout != "shipped"])
@pytest.mark.parametrize("split", ["source", "validation", "test"])
def test_data_that_a_foreign_recipe_names_is_not_fetched(
    split: str, name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was begun")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("RUSHLIGHT_DATA", str(place / "data"))
    rewrite(place / "runs" / "nice", data={"name": "digits", "source": "digits", "options": {}, split: name})
    for use in (lambda: rushlight.open_run("nice").test(), lambda: rushlight.resume("nice", epochs=2, quiet=True)):
        with pytest.raises(RunError, match=f"rushlight data {name}"):
            use()


def test_a_source_is_found_without_executing_the_packages_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / "a_package" / "inner"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py", package / "net.py"):
        path.write_text("raise AssertionError('executed')\n")
    assert find_source("a_package.inner.net:Net") == (package / "net.py").resolve()
    assert find_source("a_package.inner:Net") == (package / "__init__.py").resolve()
    for reference in (
        "a_package.none:Net",
        "a_package.inner.net.more:Net",
        "sys:Net",
        ":Net",
        "..a:Net",
        "a\0b.py:Net",
    ):
        assert find_source(reference) is None
    assert str(tmp_path) == sys.path[-1]  # last: a file of the user's shadows no library
