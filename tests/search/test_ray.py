"""Searches whose trials Ray trains: no trial is lost or told twice, whoever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.search.test_kills import holder, wait_until

import rushlight
from rushlight.cluster import connected
from rushlight.errors import TrainingError, UsageError
from rushlight.runs import read_history
from rushlight.search import cluster
from rushlight.search.study import JOURNAL

TUNE = ["tune", "mlp", "digits", "--trials", "3", "--epochs", "9", "--seeds", "0", "--name", "s", "--batch-size", "50"]
TUNE += ["--numerics", "exact", "--hidden", "64"]


def search(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the search in a folder."""
    with (folder / "out").open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", "rushlight", *TUNE, *more], cwd=folder, stdout=out, stderr=out)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray (the extra ray)")
def test_trials_on_ray_are_told_once_where_an_actor_the_study_or_all_is_killed_and_have_the_bits_of_others(
    tmp_path: Path,
) -> None:
    run = tmp_path / "runs" / "s-000"
    study = search(tmp_path, "--ray", "--jobs", "2")
    first = wait_until(lambda: holder(run))
    os.kill(first, signal.SIGKILL)  # the actor
    second = wait_until(lambda: (pid := holder(run)) not in (None, first) and pid)
    study.kill()
    study.wait()
    wait_until(lambda: not Path(f"/proc/{second}").exists())  # Ray ends with the study
    study = search(tmp_path, "--ray", "--jobs", "2")
    third = wait_until(lambda: (pid := holder(run)) not in (None, first, second) and pid)
    study.send_signal(signal.SIGINT)
    assert study.wait(120) == 130, (tmp_path / "out").read_text("utf-8")
    assert not Path(f"/proc/{third}").exists()
    assert search(tmp_path, "--ray", "--jobs", "2").wait(300) == 0, (tmp_path / "out").read_text("utf-8")
    lines = (tmp_path / "runs" / "s" / JOURNAL).read_bytes().splitlines()
    told = Counter(
        entry["trial_id"]
        for line in lines
        for entry in json.loads(line)["entries"]
        if entry["op_code"] == 6 and entry["state"] in (1, 2, 3)
    )
    assert told == {0: 1, 1: 1, 2: 1}
    choices = json.loads((tmp_path / "runs" / "s" / "result.json").read_bytes())["trials"][0]["choices"]
    plain = rushlight.train(
        "mlp", "digits", epochs=9, numerics="exact", compile="never", val_fraction=0.1, lr=choices["lr"], batch_size=50,
        optimizer_arguments={"weight_decay": choices["weight_decay"]}, schedule="cosine",
        model_arguments={"hidden": (64,), "dropout": 0.0},
        runs=tmp_path / "plain", quiet=True,
    )  # fmt: skip
    digests = [
        [line["state_sha256"] for line in read_history(each) if "state_sha256" in line] for each in (run, plain.folder)
    ]
    assert digests[0] == digests[1] != []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray (the extra ray)")
def test_an_actor_that_cannot_begin_or_read_a_job_ends_the_study_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutFolder(cluster.TrialActor):  # as on a machine that does not share the working folder
        def __init__(self, folder: str) -> None:
            super().__init__(f"{folder}/not-shared")

    class WithoutModule(cluster.TrialActor):  # as where the job's code is not installed
        def exchange(self, value: object) -> object:
            raise ModuleNotFoundError("No module named 'net'")

    monkeypatch.chdir(tmp_path)
    with connected("local", 2):
        for kind, reason in ((WithoutFolder, "not-shared"), (WithoutModule, "No module named 'net'")):
            monkeypatch.setattr(cluster, "TrialActor", kind)
            with pytest.raises(TrainingError, match=f"Ray could not train the run: .*{reason}"):
                rushlight.tune(
                    "mlp", "digits", trials=1, epochs=1, seeds=0, ray="local", name=kind.__name__, quiet=True
                )


def test_an_address_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ray=head is no address"):
        rushlight.tune("mlp", "digits", ray="head", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
