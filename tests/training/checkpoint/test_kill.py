"""Kill -9 in the middle of an epoch: what was saved on the way is enough to end with the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.processes import Process, kill_in_mid_epoch, run_python

import rushlight
from rushlight.runs import lock_run

TRAIN = """
import sys
import torch
import rushlight
import rushlight.training.step.runner as runner
import rushlight.training.checkpoint.saver as saver

torch.set_num_threads(1)
saver.CHECKPOINT_SECONDS, saver.CHECKPOINT_SHARE = 0.02, 1.0
slow = float(sys.argv[3])
step_seed = runner.step_seed


def slowly(*arguments):
    import time
    time.sleep(slow)
    return step_seed(*arguments)


runner.step_seed = slowly
rushlight.train("mlp", "digits", epochs=2, name=sys.argv[2], runs=sys.argv[1], quiet=True, seed=5, batch_size=32,
                model_arguments={"hidden": (16,), "dropout": 0.2})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
def test_a_run_killed_in_mid_epoch_and_resumed_ends_with_the_bits_of_one_never_killed(tmp_path: Path) -> None:
    command = ["-c", TRAIN, tmp_path]
    run_python([*command, "whole", "0"]).check_returncode()
    folder = tmp_path / "killed"
    kill_in_mid_epoch(Process([*command, "killed", "0.02"]), folder, 45)
    resumed = rushlight.resume("killed", runs=tmp_path, quiet=True)
    whole = rushlight.open_run("whole", runs=tmp_path)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert (folder / "losses.f32").read_bytes() == (tmp_path / "whole" / "losses.f32").read_bytes()
    with lock_run(folder):  # the killed process does not hold it, nor does the resumed one any more
        pass
