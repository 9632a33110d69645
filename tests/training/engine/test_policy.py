"""Faster execution modes: they compute what the exact one does, are dropped where they do not, and are followed at a resume."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rushlight
from rushlight.data.feed.batch import ALIGNMENT, equal_parts
from rushlight.errors import RunError
from rushlight.options import check_options
from rushlight.runs.history import read_history, read_losses
from rushlight.runs.sessions import list_sessions
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.engine import compile_job, compiler, execution, modes, package, verification
from rushlight.training.engine import fast as policy
from rushlight.training.engine.capture import CannotCompile, capture, no_numbers, pieces_of
from rushlight.training.engine.compiler import Compilation, start_compiling
from rushlight.training.engine.execution import eager_step
from rushlight.training.engine.fingerprint import constants_of, settings_of, source_of
from rushlight.training.engine.lower_matmul import add_products
from rushlight.training.engine.modes import Mode, read_modes
from rushlight.training.engine.package import CompiledSteps, Package
from rushlight.training.engine.verification import assign, copies, tensors_of
from rushlight.training.loop import step_parts
from rushlight.training.objective.losses import make_objective
from rushlight.training.setup.prepare import start_training
from rushlight.training.step import runner
from rushlight.training.step.exact import Parts, exact_step

HAS_COMPILER = compiler.why_not_here() is None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason=f"{compiler.why_not_here()}")
SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 32, "quiet": True}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of compiled steps."""
    monkeypatch.setenv("RUSHLIGHT_COMPILED", str(tmp_path / "compiled"))
    return tmp_path / "compiled"


@pytest.fixture
def eager_to_look(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify every mode, however little is left to do; nothing is compiled unless asked for."""
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setattr(policy, "LEAST_GAIN", 0.0)


def network(*, dropout: float = 0.0, width: int = 12) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10),
    )


def images(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 10)
    )


def pooled_images() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
        nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """Reads a digit's rows as a sequence, by torch's own attention."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.layer(x.squeeze(1)).mean(1)))


def trained(tmp_path: Path, name: str, make: Callable[[], nn.Module] = network, **options: Any) -> rushlight.Run:
    return rushlight.train(make(), "digits", runs=tmp_path, name=name, **{**SMALL, **options})


def digest(run: rushlight.Run) -> str:
    return state_digest(run.model)


# ── steps as one graph ───────────────────────────────────────────────────────────────────────────────────────

OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "maximize": True}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [OPTIMIZERS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in OPTIMIZERS[1:-1]), OPTIMIZERS[-1]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("clip_norm", [pytest.param(None, marks=pytest.mark.slow), 0.1])
def test_captured_steps_compute_what_steps_taken_one_by_one_do(
    kind: type[torch.optim.Optimizer], arguments: dict[str, Any], clip_norm: float | None
) -> None:
    model, count = network(dropout=0.3), 3
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), kind(model.parameters(), **arguments), clip_norm)
    step, generator = exact_step(parts), torch.default_generator
    inputs, targets = torch.rand(count * 32, 1, 8, 8), torch.randint(0, 10, (count * 32,))
    step([(inputs[:32], targets[:32])])
    pieces = pieces_of(parts)
    graph, noise = capture(pieces, inputs, targets, count)
    assert len(noise) == count
    numbers, drawn = no_numbers(pieces, count), []
    for place in range(count):
        numbers[place, 0] = torch.tensor(pieces.rule.numbers(parts.optimizer.param_groups[0], place + 2))
        generator.manual_seed(place)
        drawn.append(noise[place].draw())
    written = [tensor.clone() for tensor in pieces.written()]
    with torch.no_grad():
        losses, outputs = graph(*written, numbers, inputs, targets, *drawn)
    expected = []
    for place in range(count):
        generator.manual_seed(place)
        rows = slice(place * 32, (place + 1) * 32)
        loss, last = step([(inputs[rows], targets[rows])])
        expected.append(loss)
    torch.testing.assert_close(losses, torch.stack(expected))
    torch.testing.assert_close(outputs, last)
    for found, wanted in zip(written, pieces.written(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_forward_pass_that_draws_in_a_way_of_its_own_is_not_captured() -> None:
    class Permuting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x[torch.randperm(len(x))])

    model = Permuting()
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(CannotCompile, match="randperm"):
        capture(pieces_of(parts), torch.rand(8, 4), torch.zeros(8, dtype=torch.int64), 1)


@pytest.mark.parametrize(
    ("arguments", "count", "updates"),
    [({}, 1, 2), ({"maximize": True}, 1, 0), ({"momentum": 0.9}, 1, 0), ({"weight_decay": 0.1}, 1, 0), ({}, 2, 0)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about its own parts
def test_updates_of_plain_sgd_become_products_in_place_and_stay_the_same(
    arguments: dict[str, Any], count: int, updates: int
) -> None:
    model = network()
    parts = Parts(
        model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1, **arguments)
    )
    inputs, targets = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    exact_step(parts)([(inputs, targets)])
    pieces = pieces_of(parts)
    graph, _ = capture(pieces, inputs, targets, count)
    numbers = torch.full_like(no_numbers(pieces, count), 0.1)
    outcomes = []
    for change in (lambda graph: 0, add_products):
        found = change(graph)
        written = [tensor.clone() for tensor in pieces.written()]
        with torch.no_grad():
            outcomes.append([*graph(*written, numbers, inputs, targets), *written])
    assert found == graph.code.count("rushlight.add_product_") == updates
    for plain, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(plain, other)


def shared() -> nn.Module:
    """A layer that is used twice, and one that is not."""
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(8, 3))


class LowRank(nn.Module):
    """Weights that are a product, whose gradients are products with the other weight."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.rand(8, 2)), nn.Parameter(torch.rand(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ (self.left @ self.right)


class Asking(nn.Module):
    """A learnt query that goes through a layer: the layer's gradient is a product with the query."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.layer = nn.Parameter(torch.rand(3, 8)), nn.Linear(8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.layer(self.query).t()


@pytest.mark.parametrize(("make", "updates"), [(shared, 1), (LowRank, 0), (Asking, 0)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_product_is_taken_in_place_for_a_sum_of_two_or_of_what_is_updated_itself(
    make: Callable[[], nn.Module], updates: int
) -> None:
    torch.manual_seed(3)
    model = make()
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.5))
    inputs, targets = torch.rand(16, 8), torch.randint(0, 3, (16,))
    exact_step(parts)([(inputs, targets)])
    pieces = pieces_of(parts)
    graph, _ = capture(pieces, inputs, targets, 1)
    assert add_products(graph) == updates
    written, numbers = [tensor.clone() for tensor in pieces.written()], torch.full_like(no_numbers(pieces, 1), 0.5)
    with torch.no_grad():
        graph(*written, numbers, inputs, targets)
    exact_step(parts)([(inputs, targets)])
    for plain, other in zip(pieces.written(), written, strict=True):
        torch.testing.assert_close(plain, other)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_machine_code_adds_products_in_place_and_its_compiling_leaves_the_garbage_of_its_parent_alone(
    cache: Path, tmp_path: Path
) -> None:
    """Files in the garbage would close what has their numbers now: the process that compiles closes all that it is born with."""

    class Left:
        def __init__(self) -> None:
            self.itself = self  # only the collector finds it

        def __del__(self) -> None:
            with (tmp_path / "collected").open("a") as file:
                file.write(f"{os.getpid()}\n")

    model = network(width=24)
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1))
    batch = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    exact_step(parts)([batch])
    pieces, usual = pieces_of(parts), gc.get_threshold()
    gc.set_threshold(50_000)  # not before the fork; what that imports is more
    try:
        Left()
        package = start_compiling(pieces, batch, 1, "key").result(waits=True)
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    assert (tmp_path / "collected").read_text().split() == [str(os.getpid())]

    assert isinstance(package, Package)
    assert b"aoti_torch_cpu_addmm_out" in package.path.read_bytes()
    before, group = copies(tensors_of(parts)), parts.optimizer.param_groups[0]
    for rate in (0.1, 0.3):  # no learning rate is built in
        outcomes = []
        for take in (
            lambda: CompiledSteps(pieces, package).take(batch, [[group["lr"]]], [0])[0][0],
            lambda: exact_step(parts)([batch])[0],
        ):
            assign(tensors_of(parts), before)
            group["lr"] = rate
            loss = take()
            outcomes.append({"loss": loss, **copies(tensors_of(parts))})
        torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_attention_takes_the_faster_modes_too(dropout: float, tmp_path: Path, eager_to_look: None) -> None:
    run = trained(tmp_path, "run", lambda: Attention(dropout), optimizer="AdamW")
    assert {mode.name for mode in read_modes(run.folder / "ways.json")} == {"eager"}
    model, batch = Attention(dropout), (torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,)))
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1))
    exact_step(parts)([batch])
    pieces = pieces_of(parts)
    graph, noise = capture(pieces, *batch, 1)
    assert (len(noise) > 0) == (dropout > 0)
    torch.default_generator.manual_seed(5)
    drawn, written = [each.draw() for each in noise], [tensor.clone() for tensor in pieces.written()]
    numbers = torch.tensor([[pieces.rule.numbers(parts.optimizer.param_groups[0], 2)]], dtype=torch.float64)
    with torch.no_grad():
        losses, _ = graph(*written, numbers, *batch, *drawn)
    torch.default_generator.manual_seed(5)
    loss, _ = exact_step(parts)([batch])
    torch.testing.assert_close(losses[0], loss)


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 2**31), st.floats(-6, 6), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_rounding_is_forgiven_and_an_error_of_a_thousandth_is_not(seed: int, scale: float, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(size, generator=generator, dtype=torch.float64) * 10**scale
    exact = wanted.float()
    jittered = (wanted * (1 + 2.0**-24 * torch.randn(size, generator=generator, dtype=torch.float64))).float()
    norm = verification.norm(wanted)
    assert verification.is_near(jittered, exact, wanted, norm)
    assert not verification.is_near(exact * 1.001, exact, wanted, norm)
    assert not verification.is_near(torch.full_like(exact, float("nan")), exact, wanted, norm)


def test_what_is_forgiven_does_not_grow_with_a_buffer_and_equal_infinities_agree() -> None:
    def outcome(weight: float) -> verification.StepsOutcome:
        mask = torch.full((4,), -torch.inf)
        tensors = {"w": torch.tensor([weight]), "mask (buffer)": mask, "count (buffer)": torch.tensor([1e9])}
        return verification.StepsOutcome(torch.ones(1), tensors)

    assert verification.disagreement(outcome(1.0), outcome(1.0), outcome(1.0)) is None
    assert verification.disagreement(outcome(1.001), outcome(1.0), outcome(1.0)) == "w"


def test_random_numbers_for_the_reference_are_those_of_float32() -> None:
    for draw in (lambda x: nn.functional.dropout(x, 0.4), torch.rand_like, torch.randn_like):
        torch.manual_seed(7)
        single = draw(torch.ones(50))
        torch.manual_seed(7)
        with verification.DrawnInFloat32():
            double = draw(torch.ones(50, dtype=torch.float64))
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), single)


# ── the eager mode ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [network, images])
def test_verifying_faster_modes_changes_nothing(
    make: Callable[..., nn.Module], tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "LEAST_GAIN", float("inf"))
    fast, exact = (trained(tmp_path, name, lambda: make(dropout=0.2), numerics=name) for name in ("fast", "exact"))
    assert digest(fast) == digest(exact)
    assert (fast.folder / "losses.f32").read_bytes() == (exact.folder / "losses.f32").read_bytes()
    assert not (fast.folder / "ways.json").exists()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_faster_mode_that_agrees_is_used_recorded_and_told(
    optimizer: str, tmp_path: Path, eager_to_look: None
) -> None:
    fast, exact = (
        trained(tmp_path, name, images, numerics=name, optimizer=optimizer, lr=0.01) for name in ("fast", "exact")
    )
    (mode,) = read_modes(fast.folder / "ways.json")
    assert (mode.step, mode.name, mode.fused, mode.channels_last) == (2, "eager", True, True)
    (event,) = [line for line in read_history(fast.folder) if line.get("event") == "way"]
    assert event["step"] == 2
    assert event["message"] == mode.message
    assert "with the fused update and with channels last" in mode.message
    assert fast.report is not None
    assert exact.report is not None
    assert fast.report.loss == pytest.approx(exact.report.loss, abs=0.05)


def test_a_layout_that_would_draw_another_dropout_is_not_used(tmp_path: Path, eager_to_look: None) -> None:
    run = trained(tmp_path, "run", lambda: images(dropout=0.2), epochs=1, optimizer="AdamW")
    (mode,) = read_modes(run.folder / "ways.json")
    assert (mode.fused, mode.channels_last) == (True, False)


def test_a_wrong_mode_is_dropped_and_has_changed_nothing(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, looks = execution.eager_step, []

    def wrong(parts: Parts, fused: bool, channels_last: bool) -> Any:
        step = right(parts, fused, channels_last)
        looks.append((fused, channels_last))

        def bent(window: Any) -> Any:
            return step([(inputs * 1.001, targets) for inputs, targets in window])

        return bent

    monkeypatch.setattr(execution, "eager_step", wrong)
    fast, exact = (trained(tmp_path, name, images, numerics=name) for name in ("fast", "exact"))
    assert looks == [(True, True)] * policy.TRIES + [(True, False)] * policy.TRIES
    assert digest(fast) == digest(exact)


def test_a_mode_that_goes_wrong_later_is_left_and_told(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(execution, "VERIFY_AGAIN", 10)
    right, made = execution.eager_step, []

    def fading(parts: Parts, fused: bool, channels_last: bool) -> Any:
        step, number = right(parts, fused, channels_last), len(made)
        made.append(step)
        return step if number < 2 else lambda window: step([(inputs * 1.01, targets) for inputs, targets in window])

    monkeypatch.setattr(execution, "eager_step", fading)
    run = trained(tmp_path, "run", optimizer="AdamW", lr=0.01, quiet=False)
    last = read_modes(run.folder / "ways.json")[-1]
    assert last.name == "exact"
    assert "disagrees with the exact one" in last.message
    assert "disagrees with the exact one" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_is_looked_into_or_changes_itself_is_executed_exactly(tmp_path: Path, eager_to_look: None) -> None:
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    class Shaking(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * random.uniform(0.9, 1.1))

    def hooked() -> nn.Module:
        model = network()
        model.register_forward_hook(lambda *arguments: None)
        return model

    for number, make in enumerate((hooked, lambda: Counting(*network()), lambda: Shaking(*network()))):
        run = trained(tmp_path, f"run-{number}", make, epochs=1)
        assert not (run.folder / "ways.json").exists()


def test_a_model_that_is_changed_between_epochs_is_executed_exactly_from_there_on(
    tmp_path: Path, eager_to_look: None
) -> None:
    model = network(dropout=0.2)
    training = rushlight.epochs(model, "digits", runs=tmp_path, name="run", **SMALL)
    for epoch in training:
        if epoch.number == 2:
            model[4].p = 0.5  # type: ignore[union-attr]
    assert [mode.name for mode in read_modes(tmp_path / "run" / "ways.json")] == ["eager", "exact"]
    assert "changed the model's settings" in read_modes(tmp_path / "run" / "ways.json")[-1].message


def test_a_layer_that_is_frozen_between_epochs_stays_as_it_is(tmp_path: Path, eager_to_look: None) -> None:
    model, kept = network(), Tensor()
    for epoch in rushlight.epochs(model, "digits", runs=tmp_path, name="run", **SMALL):
        if epoch.number == 2:
            model[1].requires_grad_(False)
            model.zero_grad()
            kept = model[1].weight.detach().clone()  # type: ignore[union-attr, operator]
    assert torch.equal(model[1].weight, kept)  # type: ignore[arg-type]
    last = read_modes(tmp_path / "run" / "ways.json")[-1]
    assert (last.name, "which parameters are trained" in last.message) == ("exact", True)


def test_whoever_hooks_the_optimizers_steps_is_called_once_for_each(tmp_path: Path, eager_to_look: None) -> None:
    model, calls = network(), []
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    run = rushlight.train(model, "digits", runs=tmp_path, name="run", optimizer=optimizer, **SMALL)
    assert len(calls) == run.summary()["steps"]
    assert not (run.folder / "ways.json").exists()


def test_a_live_scheduler_is_no_foreign_hook(tmp_path: Path, eager_to_look: None) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    run = rushlight.train(model, "digits", runs=tmp_path, name="run", optimizer=optimizer, schedule=schedule, **SMALL)
    assert read_modes(run.folder / "ways.json")[-1].name == "eager"


def epochs_of(run: rushlight.Run) -> list[Any]:
    lines = read_history(run.folder)
    return [
        (line["step"], line.get("train_loss", line.get("loss")), line.get("test"))
        for line in lines
        if "loss" in line or "test" in line
    ]


class WritesIntoItsBatch(nn.Module):
    """A model that is not gentle with what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(dropout=0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs.sub_(0.5))


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 8}, {"batch_size": 100}, {"schedule": "cosine"}])
def test_steps_that_are_taken_in_a_row_are_those_taken_one_by_one(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch, numerics: str, options: dict[str, Any]
) -> None:
    rows: list[int] = []
    plain = runner.StepRunner.run

    def counted(self: runner.StepRunner, execute: Any, steps: Any, *rest: Any) -> Any:
        rows.append(len(steps))
        return plain(self, execute, steps, *rest)

    monkeypatch.setattr(runner.StepRunner, "run", counted)
    runs = []
    for name, seconds in (("single", 0.0), ("rows", 1e9)):
        monkeypatch.setattr(runner, "ROW_SECONDS", seconds)
        rows.clear()
        make = WritesIntoItsBatch if numerics == "exact" else lambda: network(dropout=0.3)
        runs.append(
            trained(tmp_path, name, make, optimizer="SGD", numerics=numerics, epochs=3, compile="never", **options)
        )
        is_aligned = options.get("batch_size") != 100  # 8 bytes a target: the second batch would begin elsewhere
        assert (max(rows) > 8) == (name == "rows" and is_aligned)
        assert name == "rows" or max(rows) == 1
    single, in_rows = runs
    assert digest(in_rows) == digest(single)
    assert in_rows.losses.tobytes() == single.losses.tobytes()
    assert epochs_of(in_rows) == epochs_of(single)


def test_batches_cut_from_one_lie_in_memory_as_batches_of_their_own() -> None:
    inputs, targets = torch.rand(4 * 10, 3), torch.arange(4 * 10)
    parts = equal_parts((inputs, targets), 4)
    assert torch.equal(torch.cat([x for x, _ in parts]), inputs)
    assert torch.equal(torch.cat([y for _, y in parts]), targets)
    assert not any(tensor.data_ptr() % ALIGNMENT or tensor._is_view() for part in parts for tensor in part)


def test_a_recurrent_layer_is_not_taken_for_one_that_changes_itself(tmp_path: Path, eager_to_look: None) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rows, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rows(x[:, 0])[1][0])

    run = trained(tmp_path, "run", Rows, epochs=1)
    assert read_modes(run.folder / "ways.json")[-1].name == "eager"


def test_a_loss_or_a_generator_that_goes_on_with_each_call_is_executed_exactly(
    tmp_path: Path, eager_to_look: None
) -> None:
    class Moving(nn.CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().forward(outputs, targets)
            self.mean.mul_(0.9).add_(loss.detach(), alpha=0.1)
            return loss

    class Shaking(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self.__dict__.setdefault("generator", torch.Generator().manual_seed(0))
            return super().forward(x + 0.01 * torch.randn(x.shape, generator=self.generator))

    for number, (make, loss) in enumerate(((network, Moving()), (lambda: Shaking(*network()), nn.CrossEntropyLoss()))):
        run = trained(tmp_path, f"run-{number}", make, epochs=1, loss=loss)
        assert not (run.folder / "ways.json").exists()


def test_the_fused_update_is_still_used_after_a_state_was_loaded() -> None:
    model, seen = network(), []
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.register_step_pre_hook(lambda given, *_: seen.append(given.param_groups[0]["fused"]))
    step = eager_step(Parts(model, make_objective(nn.CrossEntropyLoss()), optimizer), fused=True, channels_last=False)
    batch = torch.rand(8, 1, 8, 8), torch.randint(0, 10, (8,))
    step([batch])
    optimizer.load_state_dict(optimizer.state_dict())
    step([batch])
    assert seen == [True, True]
    assert not optimizer.param_groups[0]["fused"]


def followed(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """Let every new run follow the modes of this one."""
    recorded, read = read_modes(run / "ways.json"), modes.read_modes
    monkeypatch.setattr(modes, "read_modes", lambda path: read(path) or recorded)


def cut_short(tmp_path: Path, name: str, epochs: int, make: Callable[[], nn.Module], **options: Any) -> Path:
    """Train some epochs of a run, and leave it as an interruption would."""
    training = rushlight.epochs(make(), "digits", runs=tmp_path, name=name, **{**SMALL, **options})
    for _ in range(epochs):
        next(training)
    training.abandon(KeyboardInterrupt())
    return tmp_path / name


def test_a_resumed_run_follows_the_modes_that_are_recorded(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "VERIFY_AGAIN", 60)
    whole = trained(tmp_path, "whole", images, optimizer="Adam", lr=0.01)
    recorded = read_modes(whole.folder / "ways.json")
    assert len(recorded) > 3  # it was looked at again
    followed(monkeypatch, whole.folder)
    folder = cut_short(tmp_path, "cut", 2, images, optimizer="Adam", lr=0.01)
    (folder / "ways.json").write_text("damaged")  # the checkpoint has what was recorded until then
    resumed = rushlight.resume(folder, images(), optimizer=None, quiet=True)
    assert digest(resumed) == digest(whole)
    assert (resumed.folder / "losses.f32").read_bytes() == (whole.folder / "losses.f32").read_bytes()


class Growing(nn.Module):
    """A network with a buffer that grows in its first steps, and then no more."""

    grown: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("grown", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        if self.training and len(self.grown) < 9:
            self.grown = torch.cat([self.grown, x.mean().reshape(1)])
        logits: Tensor = self.net(x) + self.grown.sum()
        return logits


def test_an_obstacle_that_an_earlier_process_observed_is_not_forgotten(tmp_path: Path, eager_to_look: None) -> None:
    whole = trained(tmp_path, "whole", Growing)
    resumed = rushlight.resume(cut_short(tmp_path, "cut", 1, Growing), Growing(), quiet=True)
    assert read_modes(resumed.folder / "ways.json") == []
    assert resumed.losses.tolist() == whole.losses.tolist()
    last = list_sessions(resumed.folder)[-1]
    assert "changes its own attributes when it is called" in last["notices"][0]


class Ready:
    """Takes the steps that machine code would take."""

    draws = False

    def __init__(self, pieces: Any, package: Any) -> None:
        self.pieces, self.parts, self.step, self.key = pieces, pieces.parts, exact_step(pieces.parts), package.key
        self.constants = constants_of(pieces.parts.optimizer)

    is_current = CompiledSteps.is_current

    def takes(self, batch: Any) -> bool:
        return True

    def find(self) -> None:
        pass

    def take(self, batch: Any, rates: Any, *rest: Any) -> Any:
        verification.set_rates(self.parts, rates[-1])
        return self.step([batch])


TAKES: Any = ([[32, 1, 8, 8], [64, 64, 8, 1], "torch.float32"], [[32], [1], "torch.int64"])


def use(monkeypatch: pytest.MonkeyPatch, steps: type) -> None:
    """Let these be the compiled steps that the cache has for every training."""
    found = Package("key", 1, (), TAKES)
    monkeypatch.setattr(compile_job, "CompiledSteps", steps)
    monkeypatch.setattr(compile_job, "find_package", lambda key: found)
    monkeypatch.setattr(compile_job.CompileJob, "key", lambda self, takes, count: "key")
    monkeypatch.setattr(compile_job.CompileJob, "count_together", lambda self, batch, joins: 1)


def test_a_resumed_run_takes_a_step_before_it_looks_for_compiled_ones(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought: list[Any] = []
    monkeypatch.setattr(compile_job, "find_package", lambda key: sought.append(key))
    options: dict[str, Any] = {"optimizer": "SGD", "lr": 0.05}
    folder = cut_short(tmp_path, "cut", 2, network, **options)
    assert [mode.name for mode in read_modes(folder / "ways.json")] == ["eager"]
    sought.clear()
    assert rushlight.resume(folder, network(), quiet=True).report is not None
    assert len(sought) == 1


def test_a_mode_that_is_left_in_its_first_step_is_told_by_whoever_follows_it(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Ready)
    whole = trained(tmp_path, "whole", optimizer="SGD", lr=0.05)
    places = [(mode.step, mode.name) for mode in read_modes(whole.folder / "ways.json")]
    assert places[:3] == [(2, "eager"), (2, "exact"), (3, "compiled")]
    followed(monkeypatch, whole.folder)
    again = trained(tmp_path, "again", optimizer="SGD", lr=0.05)
    told = [
        [(line["step"], line["message"]) for line in read_history(run.folder) if line.get("event") == "way"]
        for run in (whole, again)
    ]
    assert [step for step, _ in told[0]] == [2, 3]
    assert told[0] == told[1]


def test_an_optimizer_whose_settings_change_leaves_the_compiled_steps_that_have_them_built_in(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Ready)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in rushlight.epochs(model, "digits", runs=tmp_path, name="run", optimizer=optimizer, **SMALL):
        if epoch.number == 2:
            assert read_modes(tmp_path / "run" / "ways.json")[-1].name == "compiled"
            optimizer.param_groups[0]["weight_decay"] = 0.1
    last = read_modes(tmp_path / "run" / "ways.json")[-1]
    assert (last.step, last.name, "optimizer's settings" in last.message) == (90, "exact", True)


def test_a_batch_laid_out_in_another_way_is_never_given_to_machine_code(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Picky(Ready):
        def takes(self, batch: Any) -> bool:
            return package.layouts(batch) == list(TAKES)

        def take(self, batch: Any, rates: Any, *rest: Any) -> Any:
            assert self.takes(batch)
            return super().take(batch, rates, *rest)

    use(monkeypatch, Picky)

    def stretched(samples: Any) -> Any:
        """Every other batch has wider images, as texts that are padded batch by batch are of other lengths."""
        inputs, labels = (torch.stack(parts) for parts in zip(*samples, strict=True))
        return (nn.functional.pad(inputs, (0, int(labels[0]) % 2)), labels)

    generator = torch.Generator().manual_seed(0)
    dataset = torch.utils.data.TensorDataset(
        torch.rand(640, 1, 8, 8, generator=generator), torch.randint(0, 10, (640,), generator=generator)
    )
    loader = torch.utils.data.DataLoader(dataset, 32, collate_fn=stretched)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), *network())
    run = rushlight.train(model, loader, runs=tmp_path, name="run", optimizer="SGD", lr=0.05, epochs=3, quiet=True)
    assert "compiled" in [mode.name for mode in read_modes(run.folder / "ways.json")]


# ── the compiled mode ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@needs_compiler
def test_compiled_steps_train_like_exact_ones_start_warm_and_are_followed_when_resumed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setattr(execution, "VERIFY_AGAIN", 60)
    options: dict[str, Any] = {"optimizer": "SGD", "lr": 0.05, "schedule": "cosine", "compile": "first"}

    def make() -> nn.Module:
        return network(dropout=0.2)

    cold = trained(tmp_path, "cold", make, **options)
    names = [mode.name for mode in read_modes(cold.folder / "ways.json")]
    assert "compiled" in names
    assert names[-1] == "compiled"
    exact = trained(tmp_path, "exact", make, numerics="exact", **options)
    assert cold.report is not None
    assert exact.report is not None
    assert cold.report.loss == pytest.approx(exact.report.loss, rel=1e-3)
    torch.testing.assert_close(read_losses(cold.folder), read_losses(exact.folder), rtol=1e-3, atol=1e-4)
    assert [line["samples"] for line in read_history(cold.folder) if line["kind"] == "steps"] == [
        line["samples"] for line in read_history(exact.folder) if line["kind"] == "steps"
    ]

    monkeypatch.setattr(compile_job, "start_compiling", lambda *arguments: pytest.fail("it is in the cache"))
    followed(monkeypatch, cold.folder)
    folder = cut_short(tmp_path, "cut", 2, make, **options)
    resumed = rushlight.resume(folder, make(), quiet=True)
    assert digest(resumed) == digest(cold)
    assert (resumed.folder / "losses.f32").read_bytes() == (cold.folder / "losses.f32").read_bytes()

    lost = cut_short(tmp_path, "lost", 2, make, **options)
    shutil.rmtree(cache)
    monkeypatch.undo()
    monkeypatch.setenv("RUSHLIGHT_COMPILED", str(cache))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RunError) as caught:
        rushlight.resume(lost, make(), quiet=True)
    assert caught.value.key == "not-exact"
    assert "no-such-compiler" in caught.value.problem


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about its own parts
def test_compiled_convolutions_train_like_exact_ones_and_are_followed_when_resumed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")  # with it, torch's compiler checks more of what it is told
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setattr(policy, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(execution, "VERIFY_AGAIN", 60)
    options: dict[str, Any] = {"optimizer": "SGD", "lr": 0.05, "compile": "first"}
    fast = trained(tmp_path, "fast", pooled_images, **options)
    exact = trained(tmp_path, "exact", pooled_images, numerics="exact", **options)
    recorded = read_modes(fast.folder / "ways.json")
    assert [mode.name for mode in recorded].count("compiled") > 1  # it was looked at again
    assert recorded[-1].name == "compiled"
    assert recorded[-1].takes[0][1] == [64, 1, 8, 1]  # channels last
    torch.testing.assert_close(read_losses(fast.folder), read_losses(exact.folder), rtol=1e-2, atol=1e-3)

    followed(monkeypatch, fast.folder)
    folder = cut_short(tmp_path, "cut", 1, pooled_images, **options)
    resumed = rushlight.resume(folder, pooled_images(), quiet=True)
    assert digest(resumed) == digest(fast)
    assert (resumed.folder / "losses.f32").read_bytes() == (fast.folder / "losses.f32").read_bytes()
    assert any(line.get("way") == "compiled" for line in read_history(resumed.folder))


def code_that(tmp_path: Path, does: str) -> Path:
    """A library that does something as soon as it is loaded; `does` is C++."""
    source, code = tmp_path / "code.cpp", tmp_path / "code.so"
    source.write_text(
        f"#include <cstdio>\n#include <cstdlib>\n#include <unistd.h>\nstruct Does {{ Does() {{ {does} }} }} does;\n"
    )
    subprocess.run([os.environ.get("CXX", "g++"), "-shared", "-fPIC", source, "-o", code], check=True)
    return code


def start_compiling_to(code: Path, monkeypatch: pytest.MonkeyPatch) -> Compilation:
    """Begin to compile a network's steps; what comes out is this code."""
    monkeypatch.setattr(compiler, "compile_graph", lambda *arguments: code)
    model, batch = network(), (torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,)))
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1))
    exact_step(parts)([batch])
    return start_compiling(pieces_of(parts), batch, 1, "key")


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_machine_code_that_ends_its_process_is_found_out_in_another_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = start_compiling_to(code_that(tmp_path, "std::abort();"), monkeypatch).result(waits=True)
    assert isinstance(said, str)
    assert "failed in the process that tried it (-6" in said
    assert package.find_package("key") is None


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_tries_machine_code_ends_with_the_training(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = tmp_path / "began"
    does = (
        f'FILE *file = std::fopen("{began}", "w"); std::fprintf(file, "%d", getpid()); std::fclose(file); sleep(600);'
    )
    compilation = start_compiling_to(code_that(tmp_path, does), monkeypatch)
    ends = time.monotonic() + 60
    while not (began.exists() and began.read_text()):
        assert time.monotonic() < ends, "it was not tried"
        time.sleep(0.02)
    compilation.stop()
    while is_alive(int(began.read_text())):
        assert time.monotonic() < ends, "it outlived the training"
        time.sleep(0.02)


def test_what_compiling_is_taken_to_cost_grows_with_the_layers_that_have_parameters() -> None:
    assert compile_job.compile_seconds(nn.Sequential(nn.Flatten(), nn.ReLU())) == compile_job.COMPILE_SECONDS
    assert compile_job.compile_seconds(network()) == compile_job.COMPILE_SECONDS + 3 * compile_job.LAYER_SECONDS


def test_the_time_that_a_look_takes_is_not_taken_for_the_pace_of_the_steps(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, looks = verification.reference, []

    def slow(*arguments: Any) -> Any:
        time.sleep(1.5 * compile_job.DECIDE_AFTER)
        looks.append(arguments)
        return reference(*arguments)

    monkeypatch.setattr(verification, "reference", slow)
    monkeypatch.setattr(compile_job, "start_compiling", lambda *arguments: pytest.fail("a second is left, not minutes"))
    trained(tmp_path, "run", epochs=12, optimizer="AdamW", lr=0.01)
    assert looks


def test_steps_of_a_run_of_unknown_length_are_compiled_once_it_has_lasted_as_long_as_that_takes_to_pay(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_job, "steps_left", lambda training: math.inf)
    with ExitStack() as stack:
        options = check_options({"runs": tmp_path, "name": "a", "quiet": True})
        training = start_training(network(), "digits", options, stack)
        job = compile_job.CompileJob(training, step_parts(training))
        training.state["step"] = 100
        paid = []
        for factor in (0.9, 1.1):
            seconds = factor * compile_job.compile_seconds(network()) / compile_job.EXPECTED_GAIN
            job.began = time.perf_counter() - seconds
            paid.append(job.will_pay())
    assert paid == [False, True]
    assert not job.is_over


def test_without_a_compiler_training_goes_on_and_says_so_in_one_line(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = trained(tmp_path, "run", compile="first", quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("The steps are not compiled") == 1
    assert run.report is not None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"numerics": "exact"}, "exact numerics were asked for"),
        ({"optimizer": "RMSprop", "lr": 0.01}, "RMSprop has no rule for it, as it is set"),
        ({"loss": nn.functional.cross_entropy}, "its loss is a function"),
        ({"batch_size": 2000}, "an epoch has no whole batch"),
    ],
    ids=["exact", "optimizer", "loss", "batch"],
)
def test_whoever_asks_for_compiled_steps_is_told_why_there_are_none(
    options: dict[str, Any],
    reason: str,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setattr(compile_job, "DECIDE_AFTER", 0.0)
    trained(tmp_path, "asked", compile="first", epochs=1, quiet=False, **options)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"The steps are not compiled: {reason}. Training goes on as it is.") == 1
    trained(tmp_path, "not-asked", epochs=1, quiet=False, **options)
    assert "not compiled" not in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("samples", "together"), [(8 * 16, 8), (8 * 16 - 1, 1)])
def test_no_more_steps_are_taken_in_a_call_than_an_epoch_has(samples: int, together: int, tmp_path: Path) -> None:
    data = (torch.rand(samples, 4), torch.arange(samples) % 3)
    test = (torch.rand(9, 4), torch.arange(9) % 3)
    with ExitStack() as stack:
        options = check_options({"batch_size": 16, "optimizer": "SGD", "lr": 0.1, "runs": tmp_path, "quiet": True})
        training = start_training(nn.Linear(4, 3), (data, test), options, stack)
        job = compile_job.CompileJob(training, step_parts(training))
        feed = training.data.train.batches(16, seed=0, epoch=1)
        assert job.count_together(feed.take(), feed.joins) == together


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("bend", "gain", "reason"),
    [
        (0.001, policy.LEAST_GAIN, "what they computed was not near enough (1.weight)"),
        (0.0, math.inf, "that was only "),
    ],
    ids=["wrong", "slow"],
)
def test_wrong_or_slow_machine_code_is_dropped_and_has_changed_nothing(
    bend: float, gain: float, reason: str,
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(policy, "FEWEST_STEPS", 2)
    monkeypatch.setattr(policy, "LEAST_GAIN", gain)
    taken: list[float] = []

    class Bent:
        """Takes the step, and may move one weight a little too far: what an error in a gradient does."""

        def __init__(self, pieces: Any, package: Any) -> None:
            self.parts, self.parameter = pieces.parts, pieces.trained[0].parameter
            self.step, self.key = exact_step(pieces.parts), package.key

        def take(self, batch: Any, rates: Any, *rest: Any) -> Any:
            before = self.parameter.detach().clone()
            verification.set_rates(self.parts, rates[0])
            loss, outputs = self.step([batch])
            with torch.no_grad():
                self.parameter += bend * (self.parameter - before)
            taken.append(float(loss))
            return loss, outputs

    use(monkeypatch, Bent)
    options: dict[str, Any] = {"optimizer": "SGD", "lr": 1e-4, "epochs": 1}
    monkeypatch.setattr(policy, "has_fused_update", lambda optimizer: False)
    fast = trained(tmp_path, "fast", compile="first", quiet=False, **options)
    assert f"The steps are not compiled: {reason}" in " ".join(capsys.readouterr().out.split())
    exact = trained(tmp_path, "exact", numerics="exact", **options)
    if bend:  # at its own rate, where the update is lost in rounding, and at one that shows it
        assert len(taken) == 2 * policy.TRIES
    assert digest(fast) == digest(exact)


BESIDE = """
import sys
import torch
import rushlight
from rushlight.training.engine import compile_job, fast

fast.FEWEST_STEPS = compile_job.DECIDE_AFTER = 0
compile_job.compile_seconds = lambda model: 0
start = compile_job.start_compiling


def told(*arguments):
    compilation = start(*arguments)
    print(compilation.pid, flush=True)
    return compilation


compile_job.start_compiling = told
rushlight.train("mlp", "digits", epochs=100000, name="run", runs=sys.argv[1], quiet=True, optimizer="SGD")
"""


@pytest.mark.slow
@needs_compiler
def test_the_process_that_compiles_dies_with_the_training_and_does_not_hold_its_lock(tmp_path: Path) -> None:
    environment = {**os.environ, "RUSHLIGHT_COMPILED": str(tmp_path / "compiled")}
    command = [sys.executable, "-c", BESIDE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        beside = int(process.stdout.readline())
        os.kill(beside, 0)
        process.kill()
        process.wait()
        with rushlight_lock(tmp_path / "run"):
            pass
        ends = time.monotonic() + 20
        while is_alive(beside):
            assert time.monotonic() < ends, "it outlived the training"
            time.sleep(0.02)


def rushlight_lock(folder: Path) -> Any:
    from rushlight.runs import lock_run

    return lock_run(folder)


def is_alive(process: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class AtWork:
    """A process that compiles until it has been looked at a few times, and makes nothing."""

    def __init__(self, looks: int, threads: int) -> None:
        self.looks, self.threads, self.is_stopped = looks, threads, False

    def result(self, waits: bool = False) -> str | None:
        self.looks -= 1
        return None if self.looks else "it made nothing"

    def stop(self) -> None:
        self.is_stopped = True


class Counting(nn.Linear):
    """Counts torch's threads in training and in testing: outside, since a model that changes itself is executed exactly."""

    def forward(self, samples: Tensor) -> Tensor:
        THREADS[self.training].append(torch.get_num_threads())
        return super().forward(samples)


THREADS: dict[bool, list[int]] = {True: [], False: []}


def counting() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), Counting(64, 10))


def compile_at_once(monkeypatch: pytest.MonkeyPatch, looks: int) -> list[AtWork]:
    """Let a process begin to compile in the second step of every training, which has two threads; return those begun."""
    begun: list[AtWork] = []

    def start(*arguments: Any) -> AtWork:
        begun.append(AtWork(looks, torch.get_num_threads()))
        return begun[-1]

    torch.set_num_threads(2)  # the fixture of all tests puts it back
    monkeypatch.setattr(policy, "usable_cores", lambda: 2)
    monkeypatch.setattr(compile_job, "DECIDE_AFTER", 0.0)
    monkeypatch.setattr(runner, "MOST_IN_A_ROW", 1)  # a look before each step
    monkeypatch.setattr(compile_job, "compile_seconds", lambda model: 0.0)
    monkeypatch.setattr(compile_job, "why_not_here", lambda: None)
    monkeypatch.setattr(compile_job, "start_compiling", start)
    for counted in THREADS.values():
        counted.clear()
    return begun


@pytest.mark.slow
def test_steps_leave_a_thread_to_the_process_that_compiles_and_do_so_again_when_they_are_followed(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_at_once(monkeypatch, looks=70)
    whole = trained(tmp_path, "whole", counting, optimizer="SGD", lr=0.05)
    spared = [(mode.step, mode.spared) for mode in read_modes(whole.folder / "ways.json")]
    (begin, one), (end, none) = spared[-2:]
    assert (one, none) == (1, 0)
    assert end - begin == 69  # 70 questions, two of them at the end of an epoch, which has 45 steps
    assert THREADS[True].count(1) == end - begin
    assert set(THREADS[False]) == {2}  # the test has them all
    assert torch.get_num_threads() == 2

    for counted in THREADS.values():
        counted.clear()
    monkeypatch.setattr(compile_job, "why_not_here", lambda: "there is no compiler")  # nobody compiles while following
    followed(monkeypatch, whole.folder)
    folder = cut_short(tmp_path, "cut", 1, counting, optimizer="SGD", lr=0.05)
    assert torch.get_num_threads() == 2
    resumed = rushlight.resume(folder, counting(), quiet=True)
    assert digest(resumed) == digest(whole)
    assert THREADS[True].count(1) == end - begin


@pytest.mark.slow
@pytest.mark.parametrize("at", [40, 80])  # the checkpoint that is resumed is after an epoch, between the two
def test_a_run_that_was_killed_beside_a_process_that_compiled_has_all_threads_again(
    at: int, tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(compile_job, "why_not_here", lambda: "there is no compiler")
    folder = cut_short(tmp_path, "cut", 1, counting, optimizer="SGD", lr=0.05)
    (eager,) = read_modes(folder / "ways.json")
    spared = replace(eager, step=at, message="", spared=1)
    (folder / "ways.json").write_text(json.dumps({"ways": [mode.to_json() for mode in (eager, spared)]}))
    begun = compile_at_once(monkeypatch, looks=5)
    resumed = rushlight.resume(folder, counting(), quiet=True)
    assert [each.threads for each in begun] == [2]  # what is compiled is for all of them
    found = [(mode.step, mode.spared) for mode in read_modes(resumed.folder / "ways.json")][1:]
    assert [spared for _, spared in found] == [1, 0, 1, 0]
    given_back, taken_again = found[1][0], found[2][0]
    assert (given_back, taken_again) == ((45, 46) if at == 40 else (80, 80))  # in a first step nothing is looked for


@pytest.mark.slow
def test_who_changes_a_model_beside_a_process_that_compiles_has_all_threads_again(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = compile_at_once(monkeypatch, looks=1000)
    model = counting()
    for epoch in rushlight.epochs(model, "digits", runs=tmp_path, name="run", optimizer="SGD", lr=0.05, **SMALL):
        if epoch.number == 1:
            assert THREADS[True][-1] == 1
            THREADS[True].clear()
            model[1].bias.requires_grad_(False)  # type: ignore[index,union-attr]
    assert [each.is_stopped for each in begun] == [True]
    assert set(THREADS[True]) == {2}


def test_nothing_is_compiled_for_the_last_steps_and_a_note_says_so(
    tmp_path: Path, eager_to_look: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = compile_at_once(monkeypatch, looks=1000)
    monkeypatch.setattr(policy, "FEWEST_STEPS", 60)
    notes: list[str] = []
    monkeypatch.setattr(compile_job, "write_notice", lambda folder, step, message: notes.append(message))
    trained(tmp_path, "run", counting, optimizer="SGD", lr=0.05)
    assert [each.is_stopped for each in begun] == [True]
    assert set(THREADS[True][-59:]) == {2}
    assert notes == ["The steps were not compiled: that was not done when 60 steps were left."]


def test_settings_and_code_tell_models_apart_that_compute_something_else() -> None:
    relu, layers = nn.ReLU(), [nn.Linear(4, 4), nn.Linear(4, 4)]
    both, one = nn.Sequential(layers[0], relu, layers[1], relu), nn.Sequential(layers[0], relu, layers[1])
    assert settings_of(both) != settings_of(one)
    made: list[nn.Module] = []
    for factor in (2, 2, 3):  # typed into a console: there is no source to read
        names: dict[str, Any] = {"nn": nn, "__name__": "console"}
        exec(f"class Net(nn.Module):\n def forward(self, x): return x * {factor} if x in {{'a', 'b'}} else x", names)
        made.append(names["Net"]())
    codes = [source_of(each) for each in made]
    assert codes[0] == codes[1]
    assert codes[0] != codes[2]
    assert source_of(nn.Linear(2, 2)) == source_of(nn.ReLU())  # torch's own are known by its version


def test_a_mode_is_the_same_before_and_after_it_was_written() -> None:
    mode = Mode(8, "compiled", takes=[[[32, 4], (4, 1), "torch.float32"]])
    assert Mode(**mode.to_json()) == Mode(**json.loads(json.dumps(mode.to_json())))


def test_a_torn_or_foreign_record_of_modes_is_no_record(tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"ways": [{"step": 1}]}', '{"ways": [{"walk": 1}]}'):
        (tmp_path / "ways.json").write_text(content)
        assert read_modes(tmp_path / "ways.json") == []
    mode = replace(modes.EXACT, step=7)
    (tmp_path / "ways.json").write_text(json.dumps({"ways": [vars(mode)]}))
    assert read_modes(tmp_path / "ways.json") == [Mode(7, "exact")]
