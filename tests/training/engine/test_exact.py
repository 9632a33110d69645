"""The exact engine stands alone: everything else of its package may go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.training.plain_loop import plain_loop
from tests.training.test_parity import digits, made, network
from torch import nn

import rushlight
from rushlight.runs.history import read_losses
from rushlight.training.checkpoint.checkpoint import state_digest

ALONE = """
import importlib.abc, json, sys
import pytest
import torch

KEPT = {"rushlight.training.engine", "rushlight.training.engine.protocol", "rushlight.training.engine.exact"}


class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("rushlight.training.engine") and name not in KEPT:
            raise ModuleNotFoundError(f"deleted for this test: {name}", name=name)


sys.meta_path.insert(0, Missing())
import rushlight

from tests.training.test_parity import network

for options in ({"numerics": "exact"}, {"numerics": "fast"}):
    model = network("dropout")
    try:
        run = rushlight.train(model, "digits", optimizer="SGD", lr=1e-3, epochs=2, normalize="unit", seed=7,
                              runs=sys.argv[1], name=options["numerics"], quiet=True, **options)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
    else:
        print(json.dumps({"sha256": run.summary()["state_sha256"]}))
loaded = {name for name in sys.modules if name.startswith("rushlight.training.engine")}
assert loaded == KEPT, loaded
"""


@pytest.mark.slow
def test_with_everything_else_of_the_engine_deleted_exact_training_equals_the_plain_loop(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(Path(rushlight.__file__).parents[1]), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exact, fast = map(json.loads, done.stdout.splitlines())
    reference = network("dropout")
    result = plain_loop(
        reference, made("SGD", reference), nn.CrossEntropyLoss(), *digits(), epochs=2, batch_size=64, seed=7
    )
    assert exact["sha256"] == state_digest(reference)
    np.testing.assert_array_equal(read_losses(tmp_path / "exact"), np.array(result.losses, dtype=np.float32))
    assert fast["missing"].startswith("rushlight.training.engine.")  # so the others were deleted indeed
