"""The real programs in examples/: each is trained on a slice, interrupted, resumed to the same bits, tested, saved, loaded."""

from __future__ import annotations

import importlib.util
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.processes import Process

import rushlight

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "guide")
NEEDED = {"hugging_face": "transformers", "graphs": "torch_geometric"}
MOST_LINES = 60
KILLED = """
import sys
import time
from pathlib import Path
sys.path.insert(0, {examples!r})
import rushlight, {name}
model, data, options = {name}.program(Path("."), small=True)
def tell(event):
    print(event.kind, flush=True)
    time.sleep(0.1)  # some are over within that
rushlight.train(model, data, name="killed", runs="runs", quiet=True, on_event=tell, **options)
"""


def opened(name: str) -> ModuleType:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(module: ModuleType, folder: Path, **more: Any) -> rushlight.Run:
    model, data, options = module.program(folder, small=True)
    return rushlight.train(model, data, runs=folder / "runs", quiet=True, **options, **more)


def resume(module: ModuleType, folder: Path, run: str, runs: str = "runs") -> rushlight.Run:
    model, data, options = module.program(folder, small=True)
    live = {
        name: options[name]
        for name in ("loss", "objective", "step", "optimizer", "keep", "metrics", "test_data", "val_data")
        if name in options and not isinstance(options[name], str)
    }
    metrics = live.get("metrics", [])
    if all(isinstance(metric, str) for metric in metrics):
        live.pop("metrics", None)
    data = None if isinstance(data, str) else data
    return rushlight.resume(run, model, data, runs=folder / runs, quiet=True, **live)


def stop(event: rushlight.Event) -> None:
    if event.kind == "epoch":
        raise KeyError("stop")


def same(one: rushlight.Run, other: rushlight.Run) -> None:
    assert one.losses.tolist() == other.losses.tolist()
    assert one.summary()["state_sha256"] == other.summary()["state_sha256"]
    assert not one.summary()["inexact"]


def test_there_are_eight_programs_of_less_than_sixty_lines() -> None:
    lines = {name: len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) for name in PROGRAMS}
    assert len(lines) == 8
    assert {name: count for name, count in lines.items() if count >= MOST_LINES} == {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_trained_interrupted_resumed_to_the_same_bits_and_used(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = opened(name)
    whole = train(module, tmp_path, numerics="exact")
    with pytest.raises(KeyError, match="stop"):
        train(module, tmp_path, numerics="exact", name="part", on_event=stop)
    same(resume(module, tmp_path, "part"), whole)
    module.use(whole, tmp_path)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_was_killed_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    module = opened(name)
    whole = train(module, tmp_path, numerics="exact")
    script = KILLED.format(examples=str(EXAMPLES), name=name).replace("quiet=True", "quiet=True, numerics='exact'")
    process = Process(["-c", script], cwd=tmp_path)
    said = process.streams[0]
    while process.poll() is None and not (said.exists() and "epoch" in said.read_text("utf-8").split()):
        time.sleep(0.01)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    same(resume(module, tmp_path, "killed"), whole)
