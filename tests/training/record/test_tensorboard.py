"""TensorBoard's event files, on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rushlight
from rushlight.training.record.tensorboard import scalars


def test_event_files_hold_the_losses_and_the_test_figures_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = rushlight.train(
        "mlp", "digits", epochs=3, model_arguments={"hidden": (8,)}, tensorboard=True, runs=tmp_path, quiet=True
    )
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    tests = [line for line in run.history if line["kind"] == "epoch"]
    found = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    assert [step for step, _ in found] == [line["step"] for line in tests]
    assert [value for _, value in found] == pytest.approx([line["test"]["accuracy"] for line in tests])


def test_what_was_logged_is_there_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = rushlight.epochs("linear", "digits", epochs=2, tensorboard=True, runs=tmp_path, quiet=True)
    for epoch in training:
        epoch.log(mine=epoch.number / 4, said="well", picture=np.eye(4))
    events = EventAccumulator(str(training.run.folder / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("mine")] == [(23, 0.25), (46, 0.5)]
    assert [event.step for event in events.Images("picture")] == [23, 46]
    assert "said/text_summary" in events.Tags()["tensors"]


def test_figures_are_drawn_under_the_split_that_they_are_of() -> None:
    figures = {"loss": 0.5, "accuracy": 0.75, "n": 100}
    line = {"kind": "epoch", "train_loss": 0.25, "validation": figures, "test": None}
    assert scalars(line) == {"train/epoch_loss": 0.25, "validation/loss": 0.5, "validation/accuracy": 0.75}
    assert scalars({"kind": "event", "event": "finished", "test": figures}) == {"test/loss": 0.5, "test/accuracy": 0.75}
    assert scalars({"kind": "event", "event": "finished"}) == {}


def test_no_event_files_are_written_unasked(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, model_arguments={"hidden": (8,)}, runs=tmp_path, quiet=True)
    assert not (run.folder / "tensorboard").exists()
