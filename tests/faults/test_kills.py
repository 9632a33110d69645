"""The campaign of kills would find something: each kind of difference is reported. (`.ci/run` has a short one of it.)"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from faults.compare import differences

import rushlight
from rushlight.runs.checkpoint_files import SUMS, TENSORS, checksums
from rushlight.training.checkpoint.checkpoint import latest_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks what it kills"),
]

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "epochs": 2, "batch_size": 240, "model_arguments": {"hidden": (8,), "dropout": 0.2}, "name": "run", "quiet": True,
}  # fmt: skip


# ── a comparison that cannot fail would be worth nothing ─────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rushlight.train("mlp", "digits", runs=tmp_path_factory.mktemp("reference"), **OPTIONS).folder


def test_the_same_training_once_more_is_no_difference(reference: Path, tmp_path: Path) -> None:
    again = rushlight.train("mlp", "digits", runs=tmp_path, **OPTIONS)
    assert differences(reference, again.folder) == []


def test_another_seed_is_a_difference_in_everything(reference: Path, tmp_path: Path) -> None:
    other = rushlight.train("mlp", "digits", runs=tmp_path, seed=1, **OPTIONS)
    found = " ".join(differences(reference, other.folder))
    for word in (
        "model/1.weight",
        "optimizer/state",
        "losses.f32",
        "history.jsonl",
        "weights.safetensors",
        "predictions.npz",
        "report",
    ):
        assert word in found


def flip_a_loss(run: Path) -> None:
    content = bytearray((run / "losses.f32").read_bytes())
    content[9] ^= 1
    (run / "losses.f32").write_bytes(content)


def leave_out_a_line(run: Path) -> None:
    lines = (run / "history.jsonl").read_bytes().splitlines(keepends=True)
    (run / "history.jsonl").write_bytes(b"".join(lines[:1] + lines[2:]))


def change_a_rate(run: Path) -> None:
    text = (run / "history.jsonl").read_text()
    assert '"learning_rate":' in text
    (run / "history.jsonl").write_text(text.replace('"learning_rate":', '"learning_rate":1', 1))


def change_the_weights(run: Path) -> None:
    path = run / "model" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_the_report(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps({**report, "loss": report["loss"] + 1e-12}))


def change_the_random_stream(run: Path) -> None:
    change_tensor(run, lambda name: name.startswith("random/torch"))


def change_an_average(run: Path) -> None:
    change_tensor(run, lambda name: name.endswith("exp_avg_sq"))


def change_tensor(run: Path, is_it: Callable[[str], bool]) -> None:
    """Change one bit in a checkpoint's tensor, as a state not restored would: its checksums are right."""
    folder = latest_checkpoint(run)
    tensors = safetensors.torch.load_file(folder / TENSORS)
    name = next(filter(is_it, sorted(tensors)))
    tensors[name].view(-1).view(torch.uint8)[0] ^= 1
    safetensors.torch.save_file(tensors, folder / TENSORS)
    (folder / SUMS).write_bytes(checksums(folder))


def leave_something_over(run: Path) -> None:
    (run / "checkpoints" / "00000003.0a1b2c3d.part").mkdir()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (flip_a_loss, "losses.f32 differs: first at step 3"),
        (leave_out_a_line, "history.jsonl"),
        (change_a_rate, "line 2 of history.jsonl"),
        (change_the_weights, "model/weights.safetensors differs"),
        (change_the_report, "report.json differs"),
        (change_the_random_stream, "random/torch in the checkpoint differs"),
        (change_an_average, "exp_avg_sq in the checkpoint differs"),
        (leave_something_over, "is left over"),
    ],
)
def test_one_changed_thing_is_reported_by_name(
    change: Callable[[Path], None], word: str, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    change(run)
    found = differences(reference, run)
    assert any(word in text for text in found), found


BROKEN = """
import os, sys
from pathlib import Path
from dataclasses import replace
import faults.kills as kills
from faults.points import CHECKPOINT, Moment
from rushlight.training.checkpoint.saver import Saver

def no_random_streams():
    from rushlight.training import loop
    loop.begin_random_streams = lambda training: training.state.pop("random", None)

def no_cut():
    from rushlight.runs import history
    history.History.restore = lambda self, *arguments: None

def no_resume():
    import rushlight
    rushlight.resume = lambda *arguments, **options: 1 / 0

drawn = kills.draw_case
library = kills.References(Path(sys.argv[1]), lambda text: None)
drawn(0, CASE, library)  # trains what is compared with, once
kills.References = lambda work, say: library

def killed_at_the_second_epochs_checkpoint(seed, number, library):  # its losses are written, its checkpoint is not
    case = drawn(seed, number, library)
    return replace(case, moments=(Moment(CHECKPOINT, case.reference.boundaries[1]),), interval=(30.0, 0.01))

def save_and_wait(self, *arguments):  # so that no earlier checkpoint is still being written then
    save_epoch(self, *arguments)
    self.finish()

save_epoch, Saver.save_epoch = Saver.save_epoch, save_and_wait
kills.draw_case = killed_at_the_second_epochs_checkpoint
for breakage in (no_random_streams, no_cut, no_resume):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    breakage()
    outcome = kills.campaign(1, 0, Path(sys.argv[1], breakage.__name__), lambda text: None, only=CASE)
    print(breakage.__name__, [text for text in outcome.failures if text.startswith("case")], flush=True)
    os._exit(0)
"""
CASE = 4


def test_a_resume_that_forgets_something_fails_and_is_named_with_its_command(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    script = BROKEN.replace("CASE", str(CASE))
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    lines = process.stdout.splitlines()
    assert len(lines) == 3, process.stderr
    for line, word in zip(lines, ("random/", "losses.f32 differs", "ZeroDivisionError"), strict=True):
        assert word in line
        assert f"python -m faults --seed 0 --case {CASE}" in line
    assert (tmp_path / "no_cut" / f"case-{CASE:05d}" / "run").is_dir()  # kept, to be looked into
