"""Nobody reads the screen any more: work goes on to its end, and only what is nothing but words stops."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import run_python

from rushlight.runs import list_runs, read_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="pipes break in another way on Windows"),
]

# `python -m rushlight` without the pictures that a run ends with, which take it longer than the training
QUICKLY = (
    "from rushlight.training import finish; finish.write_plots = lambda folder, report: None; "
    "from rushlight.cli import main; main()"
)
RUSHLIGHT = [sys.executable, "-c", QUICKLY]
TRAIN = ("train", "mlp", "digits", "--hidden", "16", "--epochs", "3", "--name", "it")


def unread(folder: Path, *arguments: str, both: bool = False) -> tuple[int, str]:
    """Run a command whose standard output nobody reads (with `both`, nor its standard error); its exit code and errors."""
    start = RUSHLIGHT if arguments[0] == "train" else [sys.executable, "-m", "rushlight"]
    reader, writer = os.pipe()
    os.close(reader)  # a real pipe that is closed already: every write to it fails
    try:
        done = subprocess.run(
            [*start, *arguments], stdout=writer, stderr=writer if both else subprocess.PIPE,
            cwd=folder, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the run whose words are read."""
    done = run_python(["-m", "rushlight", *TRAIN, "--json"], cwd=tmp_path_factory.mktemp("read"))
    return str(json.loads(done.stdout)["state_sha256"])


def digest_of(folder: Path) -> str:
    """The weights that a finished run ended with."""
    (found,) = list_runs(folder / "runs")
    assert found.status == "finished"
    assert (found.folder / "model" / "model.json").is_file()
    last = (found.folder / "history.jsonl").read_text().splitlines()[-1]
    return str(json.loads(last)["state_sha256"])


@pytest.mark.parametrize(("more", "both"), [((), False), (("--json",), True)])
def test_training_goes_on_to_its_end(tmp_path: Path, digest: str, more: tuple[str, ...], both: bool) -> None:
    assert unread(tmp_path, *TRAIN, *more, both=both)[0] == 0
    assert digest_of(tmp_path) == digest


def test_a_reader_that_leaves_after_the_first_line_does_not_cut_resuming_short(tmp_path: Path, digest: str) -> None:
    code = (
        "import os, rushlight\n"
        "for epoch in rushlight.epochs('mlp', 'digits', model_arguments={'hidden': (16,)}, epochs=3, name='it', quiet=True):\n"
        "    os.kill(os.getpid(), 9)"
    )
    killed = run_python(["-c", code], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    shell = f"set -o pipefail; {shlex.join(RUSHLIGHT)} resume it | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert digest_of(tmp_path) == digest


@pytest.mark.parametrize("redirection", ["2>&- >&-", ">/dev/full"])
def test_standard_streams_that_are_closed_or_full_do_not_end_training(
    tmp_path: Path, digest: str, redirection: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    shell = f"{shlex.join([*RUSHLIGHT, *TRAIN])} {redirection}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert digest_of(tmp_path) == digest


def test_a_result_that_could_not_be_written_is_an_error_and_the_run_is_finished(tmp_path: Path, digest: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    shell = f"{shlex.join([*RUSHLIGHT, *TRAIN])} --json --quiet > /dev/full"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert digest_of(tmp_path) == digest


@pytest.mark.parametrize("command", [("runs", "--json"), ("data",)])
def test_a_command_that_only_prints_stops_without_a_word(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "runs").mkdir()
    _, said = unread(tmp_path, *command)
    assert said == ""


def test_the_exit_code_tells_of_an_error_that_nobody_reads(tmp_path: Path) -> None:
    assert unread(tmp_path, "resume", "it", both=True)[0] == 2


def test_a_run_killed_before_its_recipe_was_written_leaves_its_name_free(tmp_path: Path, digest: str) -> None:
    code = (
        "import os, rushlight, rushlight.files as files\n"
        "write_json = files.write_json\n"
        "def write(path, content):\n"
        "    os.kill(os.getpid(), 9) if path.name == 'recipe.json' else write_json(path, content)\n"
        "files.write_json = write\n"
        "rushlight.train('mlp', 'digits', name='it', quiet=True)"
    )
    killed = run_python(["-c", code], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "runs" / "it").iterdir())
    assert left == ["environment.json", "holder.json", "run.lock"]
    run_python(["-m", "rushlight", *TRAIN, "--quiet"], cwd=tmp_path).check_returncode()
    assert digest_of(tmp_path) == digest
    assert read_environment(tmp_path / "runs" / "it")["command"][1:] == [*TRAIN, "--quiet"]
