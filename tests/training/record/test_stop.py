"""A request to stop does what Ctrl-C does: the state is saved, and a resumed run has the bits of one that never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

import rushlight
from rushlight.events import Event, Events
from rushlight.runs import STOP, ask_to_stop, read_losses
from rushlight.training.record import stop
from rushlight.training.record.stop import stop_on_request

OPTIONS = {"data": "digits", "epochs": 4, "quiet": True, "numerics": "exact"}


def test_a_request_to_stop_is_answered_and_the_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "EVERY", 0.0)  # seconds; these epochs are shorter
    whole = rushlight.train("mlp", runs=tmp_path / "whole", **OPTIONS)  # type: ignore[arg-type]
    runs = tmp_path / "runs"

    def ask(event: Event) -> None:
        if event.kind == "epoch":
            ask_to_stop(next(runs.iterdir()))

    with pytest.raises(KeyboardInterrupt):
        rushlight.train("mlp", runs=runs, on_event=ask, **OPTIONS)  # type: ignore[arg-type]
    (folder,) = runs.iterdir()
    assert not (folder / STOP).exists()
    ask_to_stop(folder)  # of another time: the next session does not stop for it
    resumed = rushlight.resume(folder, quiet=True)
    assert resumed.report == whole.report
    assert read_losses(folder) == read_losses(whole.folder)


def test_a_request_is_noticed_within_a_second_of_progress_and_deleted(tmp_path: Path) -> None:
    events = Events()
    follow = stop_on_request(tmp_path, events)
    ask_to_stop(tmp_path)
    follow(Event("steps", {}))
    assert not events.is_stopping
    follow(Event("progress", {}))
    assert events.is_stopping
    assert not (tmp_path / STOP).exists()
