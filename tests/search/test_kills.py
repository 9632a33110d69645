"""Processes of searches that are really killed: no trial is lost or told twice, and each ends as it would have."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.processes import Process, run_python

import rushlight
from rushlight.runs import list_sessions
from rushlight.search.study import JOURNAL

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks what it kills")]

TUNE = ["-m", "rushlight", "tune", "mlp", "digits", "--trials", "3", "--epochs", "20", "--seeds", "0", "--name", "s"]
TUNE += ["--numerics", "exact", "--hidden", "64", "--jobs", "2"]


def test_a_short_campaign_of_kills_finds_nothing(tmp_path: Path) -> None:
    done = run_python(["-m", "faults", "--studies", "3", "--json"], env={"TMPDIR": tmp_path}, timeout=600)
    (outcome,) = json.loads(done.stdout)["campaigns"]
    assert outcome["tried"] == 3, done.stderr
    assert outcome["failures"] == []


def wait_until(found: Callable[[], Any]) -> Any:
    """Return what is found, once it is."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come")


def holder(run: Path) -> int | None:
    """The process that trains a run which has a checkpoint."""
    if not any((run / "checkpoints").glob("0*/SHA256SUMS")):
        return None
    try:
        return int(json.loads((run / "holder.json").read_bytes())["pid"])
    except (OSError, ValueError):
        return None


def test_a_trial_whose_process_is_killed_goes_on_and_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    study = Process(TUNE, tmp_path)
    run = tmp_path / "runs" / "s-000"
    first = wait_until(lambda: holder(run))
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: (pid := holder(run)) not in (None, first) and pid)
    study.send_signal(signal.SIGINT)
    study.wait(120)
    assert study.returncode in (130, -signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    done = run_python(TUNE, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "s"
    entries = [entry for line in (folder / JOURNAL).read_bytes().splitlines() for entry in json.loads(line)["entries"]]
    told = Counter(entry["trial_id"] for entry in entries if entry["op_code"] == 6 and entry["state"] in (1, 2, 3))
    assert told == {0: 1, 1: 1, 2: 1}
    assert len(list_sessions(run)) >= 2
    trial = json.loads((folder / "result.json").read_bytes())["trials"][0]
    assert trial["status"] == "complete"
    recipe = rushlight.open_run(run).recipe
    plain = rushlight.train(
        "mlp", "digits", epochs=20, numerics="exact", compile="never", val_fraction=0.1, lr=trial["choices"]["lr"],
        optimizer_arguments={"weight_decay": trial["choices"]["weight_decay"]}, schedule="cosine", model_arguments={"hidden": (64,), "dropout": 0.0},
        batch_size=recipe.batch_size, runs=tmp_path / "plain", quiet=True,
    )  # fmt: skip
    assert plain.summary()["state_sha256"] == rushlight.open_run(run).summary()["state_sha256"]
