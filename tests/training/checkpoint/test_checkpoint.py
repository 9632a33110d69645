"""Promise 3: a checkpoint is there whole or not at all, and what resumes from it ends with the same bits."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import math
import random
import re
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

import rushlight
from rushlight import files
from rushlight.errors import RunError, RushlightError, UsageError, WeightsError
from rushlight.models import build_model
from rushlight.options import check_options
from rushlight.report import Report
from rushlight.runs.checkpoint_files import SUMS, checksums, list_checkpoints
from rushlight.runs.history import read_history, read_losses
from rushlight.training.checkpoint import saver
from rushlight.training.checkpoint.checkpoint import (
    best_checkpoint,
    latest_checkpoint,
    pack,
    read_checkpoint,
    read_model_state,
    state_digest,
    take_snapshot,
    unpack,
    write_snapshot,
)
from rushlight.training.checkpoint.randomness import random_streams
from rushlight.training.loop import epochs
from rushlight.training.objective.schedule import Schedule
from rushlight.training.setup.prepare import start_training

# ── nested state ─────────────────────────────────────────────────────────────────────────────────────────────


def through_the_disk(value: Any) -> Any:
    """What comes back of a value that was written as JSON and safetensors and read again."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(value, "value", tensors), allow_nan=False)
    return unpack(json.loads(text), safetensors.torch.load(safetensors.torch.save(tensors)))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


@given(value=NESTED)
@settings(max_examples=100, deadline=None)
def test_every_nested_value_comes_back_as_it_was(value: Any) -> None:
    assert is_same(through_the_disk(value), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5), torch.zeros(0, 4), torch.rand(3, 4).t(), torch.tensor([True, False]),
        torch.arange(5, dtype=torch.int8), torch.rand(3).bfloat16(), torch.rand(3).double(), torch.tensor([math.nan, -0.0]),
    ],
)  # fmt: skip
def test_every_tensor_comes_back_with_dtype_shape_and_bits(tensor: Tensor) -> None:
    again = through_the_disk({"a": [tensor, {0: tensor}]})["a"][1][0]
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert torch.equal(again.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))


def test_a_packed_tensor_is_a_copy() -> None:
    tensors: dict[str, Tensor] = {}
    original = torch.zeros(2)
    pack({"x": original}, "a", tensors)
    original += 1
    assert tensors["a/x"].tolist() == [0.0, 0.0]


def test_what_is_no_data_is_refused_by_its_place() -> None:
    with pytest.raises(UsageError, match="state/hook is a function, which a checkpoint cannot hold"):
        pack({"hook": is_same}, "state", {})


@pytest.mark.parametrize(
    "value", [np.array(["a", None], object), np.array("2020-01-01", "M8[D]"), np.str_("a"), {1, 2}]
)
def test_what_neither_json_nor_safetensors_has_is_refused(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        pack({"x": value}, "state", {})
    assert caught.value.key == "not-checkpointable"
    assert caught.value.values["name"] == "state/x"


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.uint32).reshape(2, 3).T, np.array(2.5), np.zeros((0, 3), np.int16), np.float32(0.1),
        np.float64(0.1), np.int64(-7), np.bool_(True), np.array([math.nan]),
    ],
)  # fmt: skip
def test_numpys_arrays_and_numbers_come_back_with_type_and_bits(value: Any) -> None:
    again = through_the_disk([value])[0]
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    assert again.shape == value.shape
    assert again.tobytes() == value.tobytes()


def test_keys_that_read_alike_do_not_share_a_tensor() -> None:
    value = {
        1: torch.tensor(1),
        "1": torch.tensor(2),
        (1, "a"): torch.tensor(3),
        "b/c": torch.tensor(4),
        "b": {"c": torch.tensor(5)},
    }
    again = through_the_disk(value)
    assert list(again) == list(value)
    assert [int(again[key]) for key in (1, "1", (1, "a"), "b/c")] == [1, 2, 3, 4]
    assert int(again["b"]["c"]) == 5


# ── optimizers and schedulers ────────────────────────────────────────────────────────────────────────────────

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "Adam": {"amsgrad": True}, "AdamW": {}, "RMSprop": {"momentum": 0.9},
    "Adagrad": {}, "Adadelta": {}, "Adamax": {}, "NAdam": {}, "RAdam": {}, "ASGD": {}, "Rprop": {}, "Adafactor": {},
}  # fmt: skip


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for number in range(first, first + count):
        x = torch.rand(8, 4, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_from_its_packed_state_as_if_nothing_had_been(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    steps(model, optimizer, 0, 7)
    other = copy.deepcopy(model)
    again = getattr(torch.optim, name)(other.parameters(), **OPTIMIZERS[name])
    again.load_state_dict(through_the_disk(optimizer.state_dict()))
    steps(model, optimizer, 7, 5)
    steps(other, again, 7, 5)
    assert state_digest(model) == state_digest(other)


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 8, 8]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=30),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 20),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.5)], [4]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_on_from_its_packed_state(name: str) -> None:
    def made() -> tuple[torch.optim.Optimizer, Schedule]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        return optimizer, Schedule(optimizer, SCHEDULERS[name](optimizer), None)

    def move(optimizer: torch.optim.Optimizer, schedule: Schedule) -> float:
        optimizer.step()
        schedule.after_step(1)
        schedule.after_epoch(Report(None, 1.0, 0), 1, 1)
        return float(optimizer.param_groups[0]["lr"])

    optimizer, schedule = made()
    for _ in range(5):
        move(optimizer, schedule)
    other_optimizer, other = made()
    other_optimizer.load_state_dict(through_the_disk(optimizer.state_dict()))
    other.load_state_dict(through_the_disk(schedule.state_dict()))
    rates = [move(optimizer, schedule) for _ in range(6)]
    assert [move(other_optimizer, other) for _ in range(6)] == rates
    assert len(set(rates)) > 1


# ── interrupted and resumed ──────────────────────────────────────────────────────────────────────────────────

WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mlp with dropout, AdamW, cosine": (
        "mlp", {"hidden": (12,), "dropout": 0.3}, {"optimizer": "AdamW", "schedule": "cosine", "warmup": 5},
    ),
    "cnn with BatchNorm, SGD with momentum, onecycle": (
        "cnn", {"channels": (4, 4)},
        {"optimizer": "SGD", "lr": 0.05, "optimizer_arguments": {"momentum": 0.9}, "schedule": "onecycle"},
    ),
    "accumulated and clipped, Adafactor": (
        "mlp", {"hidden": (12,)}, {"optimizer": "Adafactor", "accumulate": 3, "clip_norm": 0.5, "batch_size": 30},
    ),
}  # fmt: skip


def network(way: str, interrupt_at: int | None = None) -> nn.Module:
    """A network whose forward pass number `interrupt_at` in training brings a Ctrl-C."""
    name, arguments, _ = WAYS[way]
    model = build_model(name, (1, 8, 8), 10, arguments, seed=1)
    passes = iter(range(1, 10**9))

    def hook(module: nn.Module, inputs: Any) -> None:
        if module.training and next(passes) == interrupt_at:
            signal.raise_signal(signal.SIGINT)

    model.register_forward_pre_hook(hook)
    return model


def options(way: str, folder: Path) -> dict[str, Any]:
    return {
        "batch_size": 100,
        **WAYS[way][2],
        "epochs": 3,
        "runs": folder,
        "quiet": True,
        "numerics": "exact",
        "name": "it",
    }


def told(run: Path) -> list[dict[str, Any]]:
    """The history less times, and less what was said of interruptions."""
    return [
        {key: value for key, value in line.items() if key not in ("time", "seconds")}
        for line in read_history(run)
        if line.get("event") not in ("interrupted", "resumed")
    ]


def assert_same_runs(one: Path, other: Path) -> None:
    assert read_losses(one).tobytes() == read_losses(other).tobytes()
    assert told(one) == told(other)
    assert json.loads((one / "report.json").read_text()) == json.loads((other / "report.json").read_text())


@pytest.mark.parametrize("way", WAYS)
def test_a_run_interrupted_twice_in_mid_epoch_ends_as_one_never_interrupted(way: str, tmp_path: Path) -> None:
    whole = network(way)
    rushlight.train(whole, "digits", **options(way, tmp_path / "whole"))
    steps_an_epoch = next(
        line["steps_per_epoch"] for line in told(tmp_path / "whole" / "it") if line["kind"] == "start"
    )
    passes = WAYS[way][2].get("accumulate", 1)
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(way, 3 * passes), "digits", **options(way, tmp_path / "cut"))
    run = tmp_path / "cut" / "it"
    assert [folder.name for folder in list_checkpoints(run)] == ["00000003-mid-epoch"]
    with pytest.raises(KeyboardInterrupt):
        rushlight.resume("it", network(way, (steps_an_epoch - 3) * passes), runs=tmp_path / "cut", quiet=True)
    assert list_checkpoints(run)[-1].name == f"{steps_an_epoch:08d}-mid-epoch"  # at the very last step, before the test
    assert not any(line["kind"] == "epoch" for line in told(run))
    model = network(way)
    rushlight.resume("it", model, runs=tmp_path / "cut", quiet=True)
    assert_same_runs(run, tmp_path / "whole" / "it")
    assert state_digest(model) == state_digest(whole)


def test_a_finished_run_goes_on_to_more_epochs_as_if_they_had_been_planned(tmp_path: Path) -> None:
    given_options = {
        "lr": 0.01,
        "runs": tmp_path,
        "quiet": True,
        "numerics": "exact",
        "model_arguments": {"hidden": (8,)},
    }
    rushlight.train("mlp", "digits", epochs=1, name="short", **given_options)
    longer = rushlight.train("mlp", "digits", epochs=3, name="long", **given_options)
    resumed = rushlight.resume("short", epochs=3, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == longer.summary()["state_sha256"]
    assert resumed.losses.tobytes() == longer.losses.tobytes()
    report = (longer.folder / "report.json").read_bytes()
    again = rushlight.resume("long", runs=tmp_path, quiet=True)  # nothing is left to do
    assert again.summary()["state_sha256"] == longer.summary()["state_sha256"]
    assert (again.folder / "report.json").read_bytes() == report


def test_a_run_with_an_objective_of_ones_own_is_resumed_with_it(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    way = "mlp with dropout, AdamW, cosine"
    chosen = {**options(way, tmp_path), "objective": objective}
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(way, 3), "digits", **chosen)
    with pytest.raises(RunError) as caught:
        rushlight.resume("it", network(way), runs=tmp_path, quiet=True)
    assert caught.value.key == "live-parts"
    resumed = rushlight.resume("it", network(way), objective=objective, runs=tmp_path, quiet=True)
    whole = rushlight.train(network(way), "digits", **{**chosen, "name": "whole"})
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_live_parts_are_asked_for_and_other_data_is_refused(tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, dict[str, Any]]:
        model = build_model("linear", (1, 8, 8), 10, {}, seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, {"optimizer": optimizer, "schedule": lr_scheduler.StepLR(optimizer, 1)}

    model, parts = made()
    generator = np.random.default_rng(0)
    data = generator.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 10
    training = rushlight.epochs(model, data, epochs=2, runs=tmp_path, quiet=True, name="it", **parts)
    next(training)
    training.close()
    for arguments, needed, key in (
        ((), {}, "live-data"),
        ((None, data), parts, "live-model"),
        ((model, data), {}, "live-parts"),
        ((model, (data[0] // 2, data[1])), parts, "not-exact"),
    ):
        with pytest.raises(RunError) as caught:
            rushlight.resume("it", *arguments, runs=tmp_path, quiet=True, **needed)
        assert caught.value.key == key
    model, parts = made()
    resumed = rushlight.resume("it", model, data, runs=tmp_path, quiet=True, **parts)
    model, parts = made()
    whole = rushlight.train(model, data, epochs=2, runs=tmp_path, quiet=True, **parts)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()


class Whim(nn.Module):
    """A layer that Python's, NumPy's or torch's own generators switch off at times; in tests too."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.draw() < 0.3 else x * (1 + self.draw())


class Remembering(nn.Module):
    """A layer whose buffers change in training and stand in no state_dict; one has no shape at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12), persistent=False)
        self.register_buffer("last", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.last = x.detach().amax(0)
        return x - self.mean if self.last is None else x - self.mean + 0.1 * self.last


WHIMS: dict[str, Any] = {
    "random": lambda: Whim(random.random),
    "numpy": lambda: Whim(np.random.rand),
    "torch": lambda: Whim(lambda: float(torch.rand(()))),
    "buffers": Remembering,
}


@pytest.mark.parametrize("interrupt_at", [7, 10], ids=["in training", "in the test"])
@pytest.mark.parametrize("whim", WHIMS)
def test_every_random_stream_and_buffer_goes_on_where_it_was(
    whim: str, interrupt_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(interrupt_at: int = 0) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), WHIMS[whim](), nn.Linear(12, 10))
        passes = iter(range(1, 10**9))

        def hook(*_: Any) -> None:
            if next(passes) == interrupt_at:
                signal.raise_signal(signal.SIGINT)

        model.register_forward_pre_hook(hook)
        return model

    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number)

    chosen: dict[str, Any] = {"epochs": 2, "batch_size": 200, "lr": 0.01, "quiet": True, "runs": tmp_path}
    whole = rushlight.train(network(), "digits", name="whole", **chosen)
    seed(1)
    # passes in an epoch: the shapes' check, 8 steps, one test
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(interrupt_at), "digits", name="cut", **chosen)
    monkeypatch.setattr(
        "rushlight.training.setup.prepare.announce", lambda *_: seed(2)
    )  # as importing rich does, which draws
    resumed = rushlight.resume("cut", network(), runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()
    assert told(resumed.folder)[1:] == told(whole.folder)[1:]  # the first names the run


class Balanced(nn.Module):
    """A loss over what it usually is, which it follows in buffers; one of them stands in no state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("usual", torch.ones(()))
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        if torch.is_grad_enabled():
            self.usual.mul_(0.9).add_(loss.detach(), alpha=0.1)
            self.count.add_(1)
        return loss / self.usual * (1 + 1 / (1 + self.count))


def test_a_loss_that_learns_goes_on_where_it_was(tmp_path: Path) -> None:
    way = "mlp with dropout, AdamW, cosine"
    whole = rushlight.train(network(way), "digits", loss=Balanced(), **options(way, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(way, 20), "digits", loss=Balanced(), **options(way, tmp_path / "cut"))
    resumed = rushlight.resume("it", network(way), loss=Balanced(), runs=tmp_path / "cut", quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert_same_runs(resumed.folder, whole.folder)


def test_a_checkpoint_from_before_losses_were_saved_is_still_read(tmp_path: Path) -> None:
    way = "mlp with dropout, AdamW, cosine"
    whole = rushlight.train(network(way), "digits", **options(way, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(network(way, 3), "digits", **options(way, tmp_path / "cut"))
    newest = latest_checkpoint(tmp_path / "cut" / "it")
    later = ("loss", "loss_buffers")
    rewrite(newest, lambda content: {name: part for name, part in content.items() if name not in later})
    resumed = rushlight.resume("it", network(way), runs=tmp_path / "cut", quiet=True)
    assert_same_runs(resumed.folder, whole.folder)


def test_a_state_on_disk_is_left_alone_when_it_is_saved_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        training = start_training(
            "linear", "digits", check_options({"epochs": 1, "quiet": True, "runs": tmp_path}), stack
        )
        list(epochs(training))
        (folder,) = list_checkpoints(training.folder)
        before = {path.name: path.stat().st_ino for path in folder.iterdir()}
        assert write_snapshot(training.folder, take_snapshot(training)) == folder
        assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
        (folder / "state.json").write_text("{", encoding="utf-8")
        assert write_snapshot(training.folder, take_snapshot(training)) == folder  # damaged: written anew
        read_checkpoint(folder)


def test_checkpoints_are_ordered_by_steps_and_an_open_epoch_before_the_closed_one(tmp_path: Path) -> None:
    names = ["00000009", "00000010-mid-epoch", "00000010", "00000011-mid-epoch", "123456789"]
    for name in [*names, "best.json", "00000012.0123abcd.part", "-mid-epoch"]:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == names


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    with ExitStack() as stack:
        training = start_training(
            "linear", "digits", check_options({"epochs": 1, "quiet": True, "runs": tmp_path}), stack
        )
        left = training.folder / "checkpoints" / "00000003.0123abcd.part"
        left.mkdir(parents=True)
        (left / "state.safetensors").write_bytes(b"half")
        list(epochs(training))
        assert not left.exists()


def test_a_checkpoint_that_cannot_be_deleted_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "delete_folder", lambda path: False)  # as Windows does with an open file
    monkeypatch.setattr("rushlight.training.checkpoint.saver.CHECKPOINT_SHARE", math.inf)
    chosen = {"epochs": 4, "batch_size": 800, "quiet": True, "runs": tmp_path, "keep_epochs": True}
    with ExitStack() as stack:
        training = start_training("linear", "digits", check_options(chosen), stack)
        assert len(list(epochs(training))) == 4
        assert len(list_checkpoints(training.folder)) == 4


class ReadOnlyHistory(files.Disk):
    """A disk that lets nobody write to the history."""

    def open(self, path: Path, mode: str) -> IO[bytes]:
        if path.name == "history.jsonl" and mode != "rb":
            raise OSError(errno.EACCES, "read-only", str(path))
        return super().open(path, mode)


@pytest.mark.skipif(files.TO_SYNC != "rb", reason="Windows syncs for who may write")
def test_a_history_that_cannot_be_written_keeps_no_checkpoint_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"epochs": 3, "batch_size": 200, "quiet": True, "runs": tmp_path, "keep_epochs": True, "name": "it"}
    whole = rushlight.train("linear", "digits", **{**chosen, "name": "whole"})
    with ExitStack() as stack:
        training = start_training("linear", "digits", check_options(chosen), stack)
        training.history.write({"kind": "start", "epochs": 3, "steps_per_epoch": 8})
        loop = epochs(training)
        next(loop)
        monkeypatch.setattr(files, "disk", ReadOnlyHistory())
        assert len(list(loop)) == 2
    assert [folder.name for folder in list_checkpoints(tmp_path / "it")] == ["00000008", "00000016", "00000024"]
    assert len([line for line in read_history(tmp_path / "it") if line["kind"] == "epoch"]) < 3
    monkeypatch.setattr(files, "disk", files.Disk())
    resumed = rushlight.resume("it", runs=tmp_path, quiet=True)
    assert resumed.losses.tobytes() == whole.losses.tobytes()
    assert [line for line in told(resumed.folder) if line["kind"] == "epoch"] == [
        line for line in told(whole.folder) if line["kind"] == "epoch"
    ]


def test_where_no_thread_can_be_started_checkpoints_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: threading.Thread) -> None:  # as where memory has run out for its stack
        raise RuntimeError("can't start new thread")

    chosen = {"epochs": 2, "batch_size": 800, "quiet": True, "runs": tmp_path, "keep_epochs": True}
    with ExitStack() as stack:
        training = start_training("linear", "digits", check_options(chosen), stack)
        monkeypatch.setattr(threading.Thread, "start", no_room)
        assert len(list(epochs(training))) == 2
    assert [folder.name for folder in list_checkpoints(training.folder)] == ["00000002", "00000004"]


class WithExtra(nn.Module):
    """A network whose state_dict holds something of its own."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.extra = extra

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{1, 2}, torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex128)])
def test_what_a_checkpoint_cannot_hold_is_said_before_the_first_step(extra: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model/_extra_state is a .*, which a checkpoint cannot hold") as caught:
        rushlight.train(WithExtra(extra), "digits", epochs=1, quiet=True, runs=tmp_path, name="it")
    assert caught.value.key == "not-checkpointable"
    assert len(read_losses(tmp_path / "it")) == 0


class ByArray(lr_scheduler.LRScheduler):
    """A scheduler that keeps its rates in a NumPy array, and changes them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates = np.array([0.5, 0.25, 0.125], np.float32)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        self.rates = np.roll(self.rates, 1) * np.float32(0.9)
        return [float(self.rates[0])]


def test_a_scheduler_with_a_numpy_array_in_its_state_goes_on_from_it(tmp_path: Path) -> None:
    def parts(interrupt_at: int) -> tuple[nn.Module, dict[str, Any]]:
        model = network("mlp with dropout, AdamW, cosine", interrupt_at)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return model, {"optimizer": optimizer, "schedule": ByArray(optimizer)}

    chosen: dict[str, Any] = {"epochs": 4, "batch_size": 500, "quiet": True, "runs": tmp_path}
    model, live = parts(0)
    whole = rushlight.train(model, "digits", name="whole", **chosen, **live)
    model, live = parts(8)
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(model, "digits", name="cut", **chosen, **live)
    model, live = parts(0)
    resumed = rushlight.resume("cut", model, runs=tmp_path, quiet=True, **live)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def failing_on(model: nn.Module, error: BaseException) -> None:
    """Let the model's first pass of a test after training fail."""
    has_trained = False

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal has_trained
        has_trained = has_trained or torch.is_grad_enabled()
        if has_trained and not module.training and not torch.is_grad_enabled():
            raise error

    model.register_forward_pre_hook(hook)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), OSError("torn file"), SystemExit(3)])
def test_an_epoch_whose_test_fails_is_kept_and_tested_when_resumed(error: BaseException, tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))

    chosen: dict[str, Any] = {"epochs": 1, "quiet": True, "runs": tmp_path, "batch_size": 500}
    whole = rushlight.train(network(), "digits", name="whole", **chosen)
    model = network()
    failing_on(model, error)
    with pytest.raises((RushlightError, type(error))):
        rushlight.train(model, "digits", name="it", **chosen)
    assert [folder.name for folder in list_checkpoints(tmp_path / "it")] == ["00000003-mid-epoch"]
    resumed = rushlight.resume("it", network(), runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.report == whole.report
    assert len(resumed.losses) == 3


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, whose last two checkpoints are kept."""
    chosen = {"epochs": 3, "batch_size": 300, "quiet": True, "numerics": "exact", "name": "it"}
    runs = tmp_path_factory.mktemp("damage")
    return rushlight.train("mlp", "digits", model_arguments={"hidden": (4,)}, runs=runs, **chosen).folder


@given(data=st.data(), bit=st.integers(0, 7), name=st.sampled_from(["state.safetensors", "state.json"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    finished: Path, data: st.DataObject, bit: int, name: str
) -> None:
    newest = list_checkpoints(finished)[-1]
    file = newest / name
    original = file.read_bytes()
    flipped = bytearray(original)
    flipped[data.draw(st.integers(0, len(original) - 1))] ^= 1 << bit
    try:
        file.write_bytes(bytes(flipped))
        with pytest.raises(WeightsError) as caught:
            read_checkpoint(newest)
        assert caught.value.key == "damaged-checkpoint"
        assert str(newest) in caught.value.problem
        assert latest_checkpoint(finished) == list_checkpoints(finished)[-2]
    finally:
        file.write_bytes(original)
    assert latest_checkpoint(finished) == newest


def damaged_copy(finished: Path, folder: Path) -> Path:
    shutil.copytree(finished, folder / "it")
    newest = list_checkpoints(folder / "it")[-1]
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "state.safetensors").write_bytes(bytes(content))
    return folder / "it"


def test_resuming_names_a_damaged_checkpoint_and_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = damaged_copy(finished, tmp_path)
    damaged = list_checkpoints(run)[-1]
    resumed = rushlight.resume("it", runs=tmp_path)
    assert f"{damaged.name} is damaged and was not used" in " ".join(capsys.readouterr().out.split())
    assert resumed.summary()["state_sha256"] == rushlight.open_run(finished).summary()["state_sha256"]
    assert_same_runs(run, finished)
    assert latest_checkpoint(run).name == damaged.name  # written anew


def test_a_run_without_any_whole_checkpoint_cannot_be_resumed(finished: Path, tmp_path: Path) -> None:
    run = damaged_copy(finished, tmp_path)
    for folder in list_checkpoints(run):
        (folder / "state.json").unlink()
    with pytest.raises(RunError) as caught:
        rushlight.resume("it", runs=tmp_path, quiet=True)
    assert caught.value.key == "no-checkpoint"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what a checkpoint's state.json says, and leave the checkpoint whole: its checksums are right."""
    content = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_text(json.dumps(change(content)))
    names = ("state.json", "state.safetensors")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums), newline="\n")


@pytest.mark.parametrize("chosen", [None, "newest"])
def test_a_newer_rushlights_checkpoint_is_neither_passed_over_nor_called_damaged(
    finished: Path, tmp_path: Path, chosen: str | None
) -> None:
    shutil.copytree(finished, tmp_path / "it")
    newest = list_checkpoints(tmp_path / "it")[-1]
    rewrite(newest, lambda content: {**content, "format": 5})
    before = {path: path.read_bytes() for path in (tmp_path / "it").rglob("*") if path.is_file()}
    options = {} if chosen is None else {"checkpoint": newest.name}
    with pytest.raises(WeightsError) as caught:
        rushlight.resume("it", runs=tmp_path, quiet=True, **options)
    assert caught.value.key == "newer-checkpoint"
    assert "written by a newer Rushlight" in caught.value.problem
    assert "pip install --upgrade rushlight" in caught.value.advice
    assert {path: path.read_bytes() for path in (tmp_path / "it").rglob("*") if path.is_file()} == before


def test_a_newer_rushlights_checkpoint_that_was_asked_to_be_left_is_left(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "it")
    older, newest = list_checkpoints(tmp_path / "it")
    rewrite(newest, lambda content: {**content, "format": 5})
    resumed = rushlight.resume("it", runs=tmp_path, quiet=True, checkpoint=older.name)
    assert resumed.summary()["state_sha256"] == rushlight.open_run(finished).summary()["state_sha256"]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_two_newest_checkpoints_and_the_best_are_kept_and_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "CHECKPOINT_SHARE", math.inf)  # at every epoch's end, however short it is
    model = build_model("linear", (1, 8, 8), 10, {}, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 2 else 0.0)
    chosen = {
        "epochs": 6,
        "batch_size": 500,
        "runs": tmp_path,
        "quiet": True,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    digests = []
    with ExitStack() as stack:
        training = start_training(model, "digits", check_options(chosen), stack)
        for _ in epochs(training):
            digests.append(state_digest(model))
    best = training.state["best"]["epoch"]
    assert best < 5
    assert [int(folder.name) for folder in list_checkpoints(training.folder)] == [3 * best, 15, 18]
    assert best_checkpoint(training.folder) == list_checkpoints(training.folder)[0]
    assert best_checkpoint(training.folder, training.state) == list_checkpoints(training.folder)[0]
    assert {path.name for path in (training.folder / "checkpoints").iterdir()} == {
        folder.name for folder in list_checkpoints(training.folder)
    }  # which is the best stands in the states, not in a file beside them
    model.load_state_dict(read_model_state(list_checkpoints(training.folder)[0]))
    assert state_digest(model) == digests[best - 1]
    assert not list(training.folder.rglob("*.part"))


def test_a_checkpoint_holds_no_code() -> None:
    """Nothing but safetensors and JSON: no pickle could be read even if there were one."""
    source = Path(rushlight.__file__).parent
    for path in [*(source / "training").glob("*.py"), *(source / "runs").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!safetensors\.)torch\.load\(", text)
        assert "pickle" not in text


@pytest.mark.parametrize(
    ("written", "changed"),
    [('"MT19937"', '"another"'), ('"has_gauss", 0', '"has_gauss", "x"'), ('"pos", ', '"post", '), ("[3, {", "[4, {")],
)
def test_random_states_that_are_none_of_the_generators_are_refused_and_change_nothing(
    written: str, changed: str, tmp_path: Path
) -> None:
    run = rushlight.train("linear", "digits", epochs=1, schedule="constant", runs=tmp_path, name="it", quiet=True)
    folder = latest_checkpoint(run.folder)
    content = json.dumps(json.loads((folder / "state.json").read_text()))
    assert written in content
    (folder / "state.json").write_text(content.replace(written, changed))
    (folder / SUMS).write_bytes(checksums(folder))
    before = random_streams()
    with pytest.raises(RunError) as caught:
        rushlight.resume("it", runs=tmp_path, epochs=2, quiet=True)
    assert caught.value.key == "state-does-not-fit"
    assert np.array_equal(before["numpy"]["state"]["key"], random_streams()["numpy"]["state"]["key"])
