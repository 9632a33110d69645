"""The one stream of events: who follows it, what a function of the user's may do, and what is logged of an epoch."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.processes import run_python
from torch import Tensor, nn

import rushlight
from rushlight.errors import UsageError
from rushlight.events import Event, Events
from rushlight.runs import list_runs, read_values
from rushlight.training.engine import modes
from rushlight.training.engine.modes import Mode
from rushlight.training.record import ledger

SMALL: dict[str, Any] = {"epochs": 3, "quiet": True, "optimizer": "SGD", "lr": 0.1}


def history_of(run: rushlight.Run) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in ("time", "seconds", "run")} for line in run.history
    ]


def test_a_function_of_the_users_gets_every_event_as_plain_values(tmp_path: Path) -> None:
    seen: list[Event] = []
    run = rushlight.train("linear", "digits", on_event=seen.append, runs=tmp_path, early_stopping=9, **SMALL)
    kinds = [event.kind for event in seen]
    assert kinds[:2] == ["start", "announcement"]
    assert kinds[-1] == "event"
    assert (kinds.count("epoch"), kinds.count("progress") >= 1, kinds.count("evaluating") >= 1) == (3, True, True)
    for event in seen:
        assert json.loads(json.dumps(event.data)) == event.data
    lines = [line for line in run.history if line["kind"] != "steps"]
    told = [event for event in seen if event.kind in ("start", "epoch", "event")]
    without = [{key: value for key, value in event.data.items() if key != "is_best"} for event in told]
    assert [
        {"kind": event.kind, **data, "time": event.time} for event, data in zip(told, without, strict=True)
    ] == lines


def test_steps_are_told_at_the_pace_at_which_losses_are_read(tmp_path: Path) -> None:
    seen: list[Event] = []
    run = rushlight.train(
        "linear", "digits", on_event=seen.append, batch_size=1, runs=tmp_path, **{**SMALL, "epochs": 1}
    )
    seconds = run.summary()["seconds"]
    assert len(run.losses) == 1437
    assert len([event for event in seen if event.kind == "progress"]) <= seconds / 0.1 + 2


@pytest.mark.parametrize("kind", ["start", "progress", "evaluating", "epoch", "event"])
def test_a_function_that_raises_ends_the_run_with_its_own_traceback_and_resume_ends_with_the_same_bits(
    kind: str, tmp_path: Path
) -> None:
    whole = rushlight.train("linear", "digits", name="whole", runs=tmp_path, **SMALL)
    count = 0

    def broken(event: Event) -> None:
        nonlocal count
        count += event.kind == kind
        if count == (2 if kind in ("evaluating", "progress", "epoch") else 1):
            count = 99
            try:
                {}["my key"]
            except KeyError as error:
                raise ZeroDivisionError("my own") from error

    with pytest.raises(ZeroDivisionError, match="my own") as caught:
        rushlight.train("linear", "digits", name="it", on_event=broken, runs=tmp_path, **SMALL)
    said = "".join(traceback.format_exception(caught.value))
    assert 'raise ZeroDivisionError("my own") from error' in said
    assert "KeyError: 'my key'" in said
    assert "Interrupted" not in said
    (summary,) = [found for found in list_runs(tmp_path) if found.name == "it"]
    assert summary.status == ("finished" if kind == "event" else "failed")
    if kind != "event":  # the last one: the run is finished by then
        resumed = rushlight.resume("it", runs=tmp_path, quiet=True)
        assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
        assert resumed.losses.tobytes() == whole.losses.tobytes()
        assert history_of(resumed) == history_of(whole)
        assert resumed.report == whole.report


def test_after_a_function_has_raised_it_is_not_called_again() -> None:
    calls = []

    def broken(event: Event) -> None:
        calls.append(event.kind)
        sys.exit(3)

    followed: list[Event] = []
    events = Events(followed.append, on_event=broken)
    events.message("one")
    events.warning("two")
    assert (calls, [event.data["text"] for event in followed]) == (["message"], ["one", "two"])
    assert isinstance(events.error, SystemExit)


# ── what is logged ───────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_text_and_images_are_logged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures: dict[str, Any] = {
        "grey": rng.integers(0, 256, (5, 7), dtype=np.uint8), "floats": torch.rand(3, 5, 7), "pil": Image.new("CMYK", (7, 5)),
        "one": rng.random((5, 7, 1)), "a/b": rng.integers(0, 256, (5, 7, 4), dtype=np.uint8), "mask": np.eye(5, 7) > 0,
    }  # fmt: skip
    training = rushlight.epochs("linear", "digits", runs=tmp_path, **{**SMALL, "epochs": 1})
    for epoch in training:
        epoch.log(number=0.5, whole=np.int64(3), tensor=torch.tensor(2.5), nothing=float("nan"), text="说")
        epoch.log(**pictures)
        epoch.log(grey=pictures["grey"])
    first, second, third = read_values(training.run.folder)
    assert {key: first[key] for key in ("epoch", "step")} == {"epoch": 1, "step": 23}
    assert first["values"] == {"number": 0.5, "whole": 3, "tensor": 2.5, "nothing": None, "text": "说"}
    for name, entry in second["values"].items():
        assert (entry["width"], entry["height"]) == (7, 5), name
        with Image.open(training.run.folder / entry["media"]) as image:
            assert (image.format, image.size) == ("PNG", (7, 5))
    with Image.open(training.run.folder / second["values"]["floats"]["media"]) as image:
        assert np.abs(np.asarray(image) / 255 - pictures["floats"].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert second["values"]["a/b"]["media"] == "media/00000023-a-b.png"
    assert third["values"]["grey"]["media"] == "media/00000023-grey-2.png"


@pytest.mark.parametrize(
    "value",
    ["x" * 1001, None, [None], {"a": 1}, np.zeros((2, 3, 5)), np.zeros(4), np.full((2, 2), 1.5), np.array([["a"]]), np.zeros((0, 4))],
    ids=["long text", "None", "list", "dict", "five channels", "vector", "out of range", "letters", "empty"],
)  # fmt: skip
def test_what_cannot_be_logged_is_refused_before_anything_is_written(value: Any, tmp_path: Path) -> None:
    training = rushlight.epochs("linear", "digits", runs=tmp_path, **{**SMALL, "epochs": 1})
    epoch = next(training)
    with pytest.raises(UsageError, match=r"epoch\.log writes numbers") as caught:
        epoch.log(fine=np.zeros((2, 2)), bad=value)
    assert caught.value.key == "value-not-loggable"
    assert read_values(training.run.folder) == []
    assert not (training.run.folder / "media").exists()
    training.close()


LOOP = """
import os, sys
import numpy as np
import rushlight
runs, kill = sys.argv[1], int(sys.argv[2])
for epoch in rushlight.epochs("linear", "digits", epochs=4, optimizer="SGD", lr=0.1, runs=runs, name="it", resume=True, quiet=True):
    epoch.log(loss=epoch.train_loss, picture=np.full((2, 2), epoch.number, np.uint8))
    if epoch.number == kill:
        os._exit(9)
"""


def test_values_and_media_survive_kills_and_are_those_of_a_run_that_was_never_killed(tmp_path: Path) -> None:
    def loop(name: str, kill: int) -> int:
        return run_python(["-c", LOOP, tmp_path / name, kill]).returncode

    assert [loop("killed", 2), loop("killed", 3), loop("killed", 0), loop("whole", 0)] == [9, 9, 0, 0]
    killed, whole = (read_values(tmp_path / name / "it") for name in ("killed", "whole"))
    assert [{**line, "time": 0} for line in killed] == [{**line, "time": 0} for line in whole]
    assert [line["epoch"] for line in whole] == [1, 2, 3, 4]
    for number, line in enumerate(killed, start=1):
        with Image.open(tmp_path / "killed" / "it" / line["values"]["picture"]["media"]) as image:
            assert np.asarray(image).tolist() == [[number, number]] * 2
    assert len(list((tmp_path / "killed" / "it" / "media").iterdir())) == 4


# ── in the order of steps ────────────────────────────────────────────────────────────────────────────────────


class NowAndThen(nn.Module):
    """A loss that is not finite now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        self.count += torch.is_grad_enabled()
        return nn.functional.cross_entropy(outputs, targets) * (math.nan if self.count % 13 == 12 else 1.0)


def skipping() -> dict[str, Any]:
    return {"loss": NowAndThen(), "on_nan": "skip"}


def changing_mode() -> dict[str, Any]:
    return {"numerics": "fast", "batch_size": 30}


@pytest.mark.parametrize(("options", "event"), [(skipping, "skipped"), (changing_mode, "way")])
def test_history_is_in_the_order_of_steps_however_seldom_losses_are_read(
    options: Callable[[], dict[str, Any]], event: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = [Mode(11, "eager", "fused", fused=True), Mode(17, "exact", "no more")]
    monkeypatch.setattr(modes, "read_modes", lambda path: list(recorded))
    monkeypatch.setattr(ledger, "SHORTEST_LINE", 3)
    histories = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(ledger, "READ_EVERY", seconds)
        run = rushlight.train("linear", "digits", runs=tmp_path, **{**SMALL, "epochs": 2, **options()})
        histories.append(history_of(run))
    assert histories[0] == histories[1]
    steps = [line["step"] for line in histories[0] if line["kind"] in ("steps", "event")]
    assert event in {line.get("event") for line in histories[0]}
    assert steps == sorted(steps)


def test_a_learning_rate_in_a_tensor_is_recorded_as_it_was_at_its_step(tmp_path: Path) -> None:
    found = []
    for rate in (0.01, torch.tensor(0.01)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=False)
        schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.001, 0.02, step_size_up=7, cycle_momentum=False)
        options = {"optimizer": optimizer, "schedule": schedule, "numerics": "exact", "batch_size": 8}
        run = rushlight.train(model, "digits", runs=tmp_path, epochs=1, quiet=True, **options)
        found.append([line["learning_rate"] for line in run.history if "learning_rate" in line])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert len(set(found[0])) > 1
