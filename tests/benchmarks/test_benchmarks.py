"""The benchmarks run: each for real, on tiny data, and its JSON has what was asked. Their figures are nobody's business here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.measure import ProcessFailed, interleave, ratio, run_apart, spread
from benchmarks.output import markdown
from benchmarks.peers import CONTENDERS
from benchmarks.training import epochs_for, main
from benchmarks.workloads import WORKLOADS, open_work, save_arrays
from tests.processes import run_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PEERS = [name for name, contender in CONTENDERS.items() if contender.package is not None]


def run(name: str, out: Path, *options: str) -> dict[str, Any]:
    """Run a benchmark as a user does, as quickly as it can, and return its JSON."""
    done = run_python(["-m", f"benchmarks.{name}", "--quick", "--out", out, *options], cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr, done.stderr
    assert (out / f"{name}.md").read_text("utf-8") in done.stdout
    content: dict[str, Any] = json.loads((out / f"{name}.json").read_text("utf-8"))
    assert content["machine"]["torch"] == torch.__version__
    assert content["rounds"] == 1
    return content


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_training_compares_loops_on_the_same_work(tmp_path: Path) -> None:
    found = run("training", tmp_path, "--workloads", "small", "--contenders", "plain,by-hand,floor,exact")
    trainings = {name: rounds[0] for name, rounds in found["workloads"]["small"].items()}
    assert list(trainings) == ["plain", "by-hand", "floor", "exact"]
    assert all(training["step_seconds"] > 0 for training in trainings.values())
    assert trainings["floor"]["step_seconds"] < trainings["plain"]["step_seconds"]
    assert trainings["floor"]["accuracies"] == [None, None]
    plain, exact = trainings["plain"], trainings["exact"]
    assert exact["process_seconds"] > sum(exact["epoch_seconds"])
    assert len(exact["losses"]) == 2
    assert exact["losses"][-1] == pytest.approx(plain["losses"][-1], rel=0.02)  # another order of the samples
    assert {target["against"] for target in found["targets"]} == {"plain", "by-hand"}
    assert is_png(tmp_path / "training-steps.png")
    assert is_png(tmp_path / "training-process.png")


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_is_installed_learns_what_the_plain_loop_learns(peer: str, tmp_path: Path) -> None:
    if not CONTENDERS[peer].is_installed:
        pytest.skip(f"{CONTENDERS[peer].package} is not installed")
    found = run("training", tmp_path, "--workloads", "small", "--contenders", f"plain,{peer}")["workloads"]["small"]
    assert found[peer][0]["losses"][-1] == pytest.approx(found["plain"][0]["losses"][-1], rel=0.02)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_fits_its_network(name: str, tmp_path: Path) -> None:
    workload, path = WORKLOADS[name], tmp_path / "data.npz"
    save_arrays(path, workload.arrays(True), samples=200)
    work = open_work(workload, path)
    assert len(work.inputs) == 200
    assert work.steps == math.ceil(200 / workload.batch_size)
    outputs = workload.model()(work.prepared(work.inputs[:4]))
    assert outputs.shape[0] == 4
    assert outputs.shape[1] >= work.classes
    inputs, targets = next(iter(work.loaders()[1]))  # the tutorial's loader gives what the loop by hand takes
    size = len(inputs)
    assert torch.equal(inputs, work.prepared(work.test_inputs[:size]))
    assert torch.equal(targets, work.test_targets[:size])
    assert torch.equal(next(workload.model().parameters()), next(workload.model().parameters()))


def test_overhead_is_measured_against_the_bare_step(tmp_path: Path) -> None:
    found = run("overhead", tmp_path, "--workloads", "small", "--seconds", "0")
    assert set(found["workloads"]["small"]) == {"bare", "quiet", "everything"}
    assert set(found["overhead"]["small"]) == {"quiet", "everything"}
    steps = {rounds[0]["steps"] for rounds in found["workloads"]["small"].values()}
    assert len(steps) == 1  # all take as many
    assert is_png(tmp_path / "overhead.png")


def test_overhead_measures_the_streamed_path(tmp_path: Path) -> None:
    found = run("overhead", tmp_path, "--workloads", "streamed", "--seconds", "0")
    assert set(found["workloads"]["streamed"]) == {"loader-0", "rushlight-0", "loader-2", "rushlight-2"}
    assert set(found["overhead"]["streamed"]) == {"rushlight-0", "rushlight-2"}


def test_start_finds_the_first_step(tmp_path: Path) -> None:
    found = run("start", tmp_path, "--contenders", "rushlight,help,torch,first-step")
    starts = {name: rounds[0] for name, rounds in found["starts"].items()}
    assert set(starts) == {"rushlight", "help", "torch", "first-step"}
    assert starts["rushlight"]["result"]["seconds"] < starts["torch"]["result"]["seconds"]
    assert 0 < starts["first-step"]["result"]["seconds_after_torch"] < starts["first-step"]["seconds"]
    assert starts["rushlight"]["peak_bytes"] < starts["torch"]["peak_bytes"]
    assert len(found["targets"]) == 3
    assert is_png(tmp_path / "start.png")


def test_scaling_grows_data_and_model(tmp_path: Path) -> None:
    found = run("scaling", tmp_path, "--rows", "3", "--parameters", "3", "--contenders", "exact")
    for column in ("rows", "parameters"):
        (size,) = found[column]
        assert size[column] == 1000
        assert set(size["contenders"]) == {"exact"}
        assert is_png(tmp_path / f"scaling-{column}.png")


def test_resuming_and_stalls_are_measured(tmp_path: Path) -> None:
    found = run("resume", tmp_path, "--steps", "2")
    assert set(found["resume"]) == {"100"}
    assert all(rounds[0]["seconds"] > rounds[0]["seconds_after_torch"] > 0 for rounds in found["resume"].values())
    ((stalls,),) = found["stalls"].values()
    assert stalls["state_bytes"] > 10**4 * 4 * 2.5  # AdamW keeps two numbers beside each parameter
    assert len(stalls["copy_seconds"]) >= 2
    assert len(stalls["lost_seconds"]) >= 2
    assert is_png(tmp_path / "resume-steps.png")
    assert is_png(tmp_path / "resume-stalls.png")


def test_a_wrong_name_is_answered_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--workloads", "mpl"])
    assert "there is no mpl; there are mlp, small" in capsys.readouterr().err


# ── how it is measured ───────────────────────────────────────────────────────────────────────────────────────


def test_contenders_take_turns_and_one_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def measure(name: str) -> int:
        seen.append(name)
        if name == "b" and len(seen) > 3:
            raise ProcessFailed("it broke")
        return len(seen)

    assert interleave(["a", "b", "c"], 3, measure) == {"a": [1, 6, 7], "c": [3, 5, 8]}
    assert seen == ["a", "b", "c", "b", "c", "a", "a", "c"]
    assert "b is left out: it broke" in capsys.readouterr().err


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ProcessFailed, match="ValueError: no good"):
        run_apart(["-c", "raise ValueError('no good')"], is_module=False)


def test_a_terminal_is_a_terminal_and_a_file_is_none() -> None:
    code = "import sys; from benchmarks.measure import hand_back; hand_back({'is_terminal': sys.stdout.isatty()})"
    for on_terminal in (True, False):
        finished = run_apart(["-c", code], is_module=False, on_terminal=on_terminal)
        assert finished.result == {"is_terminal": on_terminal}
        assert finished.peak_bytes is not None
        assert finished.peak_bytes < 100 * 2**20  # its own, not that of this process, which has loaded torch


def test_medians_and_ratios() -> None:
    assert (spread([3.0, 1.0, 2.0]).median, spread([3.0, 1.0]).least, spread([3.0, 1.0]).most) == (2.0, 1.0, 3.0)
    assert ratio([1.0, 20.0, 3.0], [2.0, 10.0, 6.0]) == 0.5  # round by round
    assert epochs_for(10, [3.0, 1.0, 1.0]) == 10
    assert epochs_for(10, [6.0, 5.0]) == 0  # it lasted long enough


def test_a_table_is_markdown() -> None:
    assert markdown(["", "ms"], [["one", "1"], ["two", "22"]]).splitlines() == [
        "|     | ms |",
        "|-----|---:|",
        "| one |  1 |",
        "| two | 22 |",
    ]


def test_serving_is_measured_at_every_number_of_connections(tmp_path: Path) -> None:
    found = run("serving", tmp_path, "--models", "mlp")["models"]["mlp"]
    assert set(found) == {"bare", "rushlight, binary", "rushlight, JSON"}
    for contender in ("rushlight, binary", "rushlight, JSON"):
        for connections in ("1", "16", "64"):
            assert found[contender][0][connections]["requests"] > 0
            assert found[contender][0][connections]["failed"] == 0
