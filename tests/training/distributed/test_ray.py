"""A run whose processes Ray starts: the bits of one whose processes this machine starts, whatever happens to any of them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes import run_python

import rushlight
from rushlight.cli.help import Command
from rushlight.cluster import threads_each
from rushlight.errors import UsageError
from rushlight.runs import read_losses
from rushlight.runs.sessions import read_sessions

PATIENCE = 300.0  # seconds after which a command hangs; Ray alone takes up to a minute to start
RECIPE = ("mlp", "digits", "--epochs", "8", "--batch-size", "50", "--processes", "2", "--name", "run")

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray (the extra ray)")


def started(verb: str, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command in a group of its own, as a terminal does."""
    with (folder / "out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "rushlight", verb, *arguments, "--runs", str(folder / "runs")],
            stdout=out, stderr=out, cwd=folder, start_new_session=True,
        )  # fmt: skip


def wait_for_steps(run: Path, steps: int) -> None:
    """Wait until a run has done so many steps."""
    until = time.monotonic() + PATIENCE
    while not (run / "losses.f32").exists() or len(read_losses(run)) < steps:
        assert time.monotonic() < until
        time.sleep(0.05)


def end_of(run: Path) -> tuple[bytes, str]:
    """Return a run's losses and the digest of its last weights."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return (run / "losses.f32").read_bytes(), next(line["state_sha256"] for line in lines if "state_sha256" in line)


def ray_processes(folder: Path) -> list[str]:
    """Return Ray's processes that work for a folder: their working folder is in it."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            place, words = (each / "cwd").readlink(), (each / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if place.is_relative_to(folder) and b"ray" in words:
            found.append(f"{each.name} {words[:80]!r}")
    return found


def wait_for_the_end_of_ray(folder: Path) -> None:
    """Wait until none of Ray's processes that work for a folder is left."""
    until = time.monotonic() + 60
    while left := ray_processes(folder):
        assert time.monotonic() < until, left
        time.sleep(0.2)


@with_ray
@pytest.mark.slow
def test_a_killed_process_and_ctrl_c_under_ray_end_with_the_bits_of_processes_without_it(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert started("train", tmp_path / "plain", *RECIPE).wait(PATIENCE) == 0
    run = tmp_path / "runs" / "run"
    command = started("train", tmp_path, *RECIPE, "--ray")
    try:
        wait_for_steps(run, 40)
        os.kill(int(read_sessions(run)[0]["pid"]), signal.SIGKILL)
        wait_for_steps(run, 150)
        os.killpg(command.pid, signal.SIGINT)  # as a terminal sends it: to all of the group
        assert command.wait(PATIENCE) == 130
        told = (tmp_path / "out").read_text("utf-8")
        assert "rushlight resume" in told
        assert [line["event"] for line in read_sessions(run)] == ["started", "resumed", "interrupted"], told
        wait_for_the_end_of_ray(tmp_path)
    finally:
        command.kill()
    assert started("resume", tmp_path, "run", "--processes", "2", "--ray").wait(PATIENCE) == 0
    assert end_of(run) == end_of(tmp_path / "plain" / "runs" / "run")
    assert not list((tmp_path / "runs").glob(".ray-*"))
    wait_for_the_end_of_ray(tmp_path)


@with_ray
@pytest.mark.slow
def test_each_process_sees_the_cards_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(
        "import os, pathlib\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "        pathlib.Path(f'rank-{os.environ[\"RANK\"]}').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')  # Ray goes by what it is told; there is no card
    recipe = ("net.py:Net", "digits", "--epochs", "1", "--device", "cpu", "--processes", "2", "--ray")
    assert started("train", tmp_path, *recipe, "--gpus-per-process", "1").wait(PATIENCE) == 0
    assert sorted((tmp_path / f"rank-{rank}").read_text() for rank in range(2)) == ["0", "1"]
    wait_for_the_end_of_ray(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_error_has_the_line_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'pip install "ray\[train\]"'):
        rushlight.train("mlp", "digits", processes=2, ray="local", runs=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_ray_without_a_number_of_processes_or_with_an_odd_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reserved by Ray"):
        rushlight.train("mlp", "digits", processes=2, gpus_per_process=1, runs=tmp_path, quiet=True)
    with pytest.raises(UsageError, match="how many was not said"):
        rushlight.train("mlp", "digits", ray="local", runs=tmp_path, quiet=True)
    for address in ("ray://head:10001", "head", 6379):
        with pytest.raises(UsageError, match=r"is no address of a Ray cluster"):
            rushlight.train("mlp", "digits", processes=2, ray=address, runs=tmp_path, quiet=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["--ray", "mlp", "digits"], "local"),
        (["mlp", "digits", "--ray"], "local"),
        (["--ray", "auto", "mlp"], "auto"),
        (["mlp", "--ray", "head:6379"], "head:6379"),
        (["mlp", "--ray=head"], "head"),
        (["mlp"], None),
    ],
)
def test_the_flag_takes_an_address_after_it_and_nothing_else(given: list[str], address: str | None) -> None:
    import typer

    from rushlight.cli.app import app

    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    assert isinstance(command, Command)
    assert command.make_context("train", given).params["ray"] == address


@pytest.mark.parametrize(
    ("cores", "processes", "threads"),
    [([2], 2, 1), ([8], 2, 4), ([8], 3, 2), ([4, 4], 3, 2), ([5, 3], 2, 3), ([16, 1], 2, 8), ([1], 8, 1), ([], 2, 1)],
)
def test_processes_have_as_many_cores_as_all_of_them_can_have(cores: list[int], processes: int, threads: int) -> None:
    assert threads_each(cores, processes) == threads


def test_neither_the_package_nor_its_command_line_imports_ray() -> None:
    code = "import sys, rushlight.training, rushlight.cli.app; sys.exit('ray' in sys.modules)"
    assert run_python(["-c", code]).returncode == 0
