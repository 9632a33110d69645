"""The example is run as a reader runs it: as a script, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[1] / "examples" / "guide.py"


def test_the_guide_walks_from_device_to_numpy_and_both_ways_agree(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"}
    walk = subprocess.run(
        [sys.executable, str(GUIDE), "--data", "digits", "--samples", "600", "--keep", str(tmp_path / "my walk")],
        cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert walk.returncode == 0, walk.stderr
    headings = [line.strip("─ ") for line in walk.stdout.splitlines() if line.startswith("──")]
    assert headings == [
        "device", "network", "loss and optimizer", "data", "train", "test", "save and load", "NumPy",
        "a loop of your own", "a table",
    ]  # fmt: skip
    said = " ".join(walk.stdout.split())
    for mistake in (
        'layer "linear_relu_stack.0" (Linear) expects 6 features, the batch has 64 (1×8×8 flattened).',
        "The network ends in ReLU",
        "are not parameters of the model",
        "this file holds more than weights",
    ):
        assert mistake in said
    assert walk.stdout.rstrip().endswith("The two ways agree wherever they must.")
    assert (tmp_path / "my walk" / "bundle" / "model.json").is_file()


def test_the_guide_says_plainly_that_there_is_no_such_data(tmp_path: Path) -> None:
    walk = subprocess.run(
        [sys.executable, str(GUIDE), "--data", "digit"], cwd=tmp_path, capture_output=True, encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"}, timeout=120, check=False,
    )  # fmt: skip
    assert walk.returncode == 1
    assert 'Did you mean "digits"?' in walk.stderr
    assert "Traceback" not in walk.stderr
