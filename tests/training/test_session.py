"""Whose a training is: one thread's of one process; and how it is recorded that it did not end well."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import rushlight
from rushlight.errors import TrainingError
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.sessions import list_sessions
from rushlight.training import finish, session
from rushlight.training.checkpoint import read_model_state

SMALL: dict[str, Any] = {"epochs": 2, "quiet": True, "optimizer": "SGD", "lr": 0.1}


def failure_of(work: Callable[[], object]) -> str:
    """Return the key of the error that work in another thread ends with; "" for none."""
    keys = [""]

    def run() -> None:
        try:
            work()
        except TrainingError as error:
            keys[0] = error.key

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return keys[0]


def test_a_second_training_in_another_thread_is_refused_before_it_draws_or_writes_anything(tmp_path: Path) -> None:
    options = {**SMALL, "model_arguments": {"hidden": (8,), "dropout": 0.3}, "numerics": "exact"}
    alone = rushlight.train("mlp", "digits", runs=tmp_path, name="alone", **options)
    found = []
    for _ in rushlight.epochs("mlp", "digits", runs=tmp_path, name="first", **options):
        found.append(failure_of(lambda: rushlight.train("mlp", "digits", runs=tmp_path, name="second", **options)))
    assert found == ["trains-in-another-thread"] * 2
    assert not (tmp_path / "second").exists()
    first = rushlight.open_run("first", runs=tmp_path)
    assert first.summary()["state_sha256"] == alone.summary()["state_sha256"]
    assert failure_of(lambda: rushlight.train("mlp", "digits", runs=tmp_path, name="second", **options)) == ""


def test_while_a_thread_trains_another_is_refused(tmp_path: Path) -> None:
    inside, seen = threading.Event(), threading.Event()

    def wait(event: Any) -> None:
        if event.kind == "epoch":
            inside.set()
            seen.wait(20)

    first = threading.Thread(
        target=lambda: rushlight.train("linear", "digits", runs=tmp_path, on_event=wait, **SMALL), daemon=True
    )
    first.start()
    assert inside.wait(30)
    with pytest.raises(TrainingError, match="Another thread of this process"):
        rushlight.train("linear", "digits", runs=tmp_path, **SMALL)
    seen.set()
    first.join()


def test_one_thread_may_train_within_a_training(tmp_path: Path) -> None:
    outer = rushlight.epochs("linear", "digits", runs=tmp_path, name="outer", **SMALL)
    for epoch in outer:
        rushlight.train("linear", "digits", runs=tmp_path, name=f"inner-{epoch.number}", **SMALL)
    assert outer.run.summary()["epochs"] == 2


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Return what work in a forked process returns; it leaves there without any clean-up of this one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def is_refused(key: str, work: Callable[[], object]) -> bool:
    """Tell whether work is refused with this error."""
    try:
        work()
    except TrainingError as error:
        return error.key == key
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_neither_finishes_nor_goes_on_with_its_parents_run(tmp_path: Path) -> None:
    iterator = rushlight.epochs("linear", "digits", runs=tmp_path, name="it", **SMALL)
    next(iterator)
    assert in_a_fork(lambda: is_refused("run-of-parent-process", lambda: next(iterator)))

    def leave() -> bool:
        session.close_all()  # as Python's end does
        iterator.close()
        iterator.__del__()
        return True

    assert in_a_fork(leave)
    assert not (tmp_path / "it" / "model").exists()
    assert [each["end"] for each in list_sessions(tmp_path / "it", is_running=True)] == ["running"]
    iterator.close()
    assert (tmp_path / "it" / "model").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_after_a_training_with_threads_is_told_so_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_parallel", {os.getpid()})

    def train(threads: int) -> Callable[[], object]:
        torch.set_num_threads(threads)
        return lambda: rushlight.train("linear", "digits", runs=tmp_path, **SMALL)

    assert in_a_fork(lambda: is_refused("forked-after-training", train(2)))
    assert in_a_fork(lambda: bool(train(1)()))


# ── an end that fails ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_whose_ending_fails_is_recorded_as_failed_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no bundle today")

    with monkeypatch.context() as patch:
        patch.setattr(finish, "save_bundle", fail)
        with pytest.raises(RuntimeError, match="no bundle today"):
            rushlight.train("linear", "digits", runs=tmp_path, name="it", **SMALL)
    last = list_sessions(tmp_path / "it")[-1]
    assert (last["end"], last["message"]) == ("failed", "RuntimeError: no bundle today")
    assert rushlight.resume("it", runs=tmp_path, quiet=True).report is not None


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_the_weights_of_a_checkpoint_are_read_in_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    runs = tmp_path / "caf\udce9"
    try:
        runs.mkdir()
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    run = rushlight.train("linear", "digits", runs=runs, name="it", **SMALL)
    found = read_model_state(list_checkpoints(run.folder)[-1])
    assert found.keys() == run.model.state_dict().keys()
    assert all(torch.equal(found[name], each) for name, each in run.model.state_dict().items())


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_a_class_folder_whose_name_is_no_utf_8_is_trained_and_saved(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    try:
        for name in ("caf\udce9", "tea"):
            folder = tmp_path / "images" / name
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = Image.fromarray(generator.integers(0, 255, (6, 6), dtype=np.uint8))
                with (folder / f"\udcff{number}.png").open("wb") as file:
                    pixels.save(file, "png")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    run = rushlight.train("linear", tmp_path / "images", runs=tmp_path, name="it", **SMALL)
    assert run.bundle.target is not None
    assert run.bundle.target.classes == ("caf\udce9", "tea")
    assert run.report is not None


class Annealed(nn.Module):
    """A network with an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        self.calls += self.training
        logits: Tensor = self.net(x) / (1 + 0.01 * self.calls)
        return logits

    def get_extra_state(self) -> dict[str, Any]:
        """Return plain values and a tensor."""
        return {"calls": self.calls, "list": [1, 2.5, None, "x"], 3: torch.tensor([self.calls])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the count."""
        self.calls, self.loaded = state["calls"], state


def test_a_bundle_holds_an_extra_state_that_is_a_dict(tmp_path: Path) -> None:
    run = rushlight.train(Annealed(), "digits", runs=tmp_path, name="it", **SMALL)
    calls = 2 * 23
    for folder in (run.folder / "model", run.save(tmp_path / "again")):
        model = rushlight.load(folder, Annealed())
        assert model.calls == calls
        assert model.loaded == {"calls": calls, "list": [1, 2.5, None, "x"], 3: torch.tensor([calls])}  # type: ignore[comparison-overlap]
    assert rushlight.open_run("it", Annealed(), runs=tmp_path).test() == run.report
