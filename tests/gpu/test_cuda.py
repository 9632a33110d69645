"""Training on an NVIDIA card: the plain loop's bits, faster modes near them, resuming, memory, what is said."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.plain_loop import plain_loop, plain_objective
from tests.training.test_parity import OPTIMIZERS, digits, made, network
from torch import Tensor, nn

import rushlight
from rushlight.cli import main
from rushlight.device import choose_device, device_name
from rushlight.errors import RunError, UsageError
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.training.checkpoint.checkpoint import read_content, state_digest, unpack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card")]
CARD = torch.device("cuda")


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Have torch choose kernels that compute the same each time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


def modes(run: rushlight.Run) -> list[str]:
    """Return the names of the execution modes of a run, in order."""
    path = run.folder / "ways.json"
    return [mode["name"] for mode in json.loads(path.read_text())["ways"]] if path.exists() else []


def told(run: rushlight.Run) -> str:
    """Return all that a run's files tell in words."""
    return "".join(path.read_text() for path in run.folder.glob("*.jsonl"))


# ── right ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_card_is_chosen_by_itself_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_device("auto") == (CARD, ())
    with pytest.raises(SystemExit):
        main(["env", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["device_name"] == device_name(CARD)
    assert found["card_memory_bytes"] > found["card_memory_available_bytes"] > 0
    assert found["compute_capability"].count(".") == 1


@pytest.mark.parametrize("kind", ["mlp", "dropout", "batchnorm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_exact_training_on_a_card_equals_the_plain_loop_there(kind: str, optimizer: str, tmp_path: Path) -> None:
    mine = network(kind)
    reference = copy.deepcopy(mine).to(CARD)
    tensors = [tensor.to(CARD) for tensor in digits()]
    result = plain_loop(
        reference, made(optimizer, reference), nn.CrossEntropyLoss(), *tensors, epochs=2, batch_size=64, seed=7
    )
    arguments = dict(OPTIMIZERS[optimizer])
    run = rushlight.train(
        mine, "digits", optimizer=optimizer.split()[0], lr=arguments.pop("lr"), optimizer_arguments=arguments,
        epochs=2, normalize="unit", numerics="exact", seed=7, device="cuda", runs=tmp_path, quiet=True,
    )  # fmt: skip
    np.testing.assert_array_equal(run.losses, np.array(result.losses, dtype=np.float32))
    assert state_digest(mine) == state_digest(reference)
    accuracies = [line["test"]["accuracy"] for line in run.history if line["kind"] == "epoch"]
    assert accuracies == pytest.approx(result.accuracies, abs=1e-12)


def test_a_class_for_each_pixel_on_a_card_equals_the_plain_loop_there(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, 6, 6, generator=generator)
    y = torch.where(x[:, 1] < -1, 255, (x[:, 0] > 0).long())
    torch.manual_seed(0)
    mine, loss = nn.Conv2d(3, 2, 3, padding=1), nn.CrossEntropyLoss(ignore_index=255)
    reference = copy.deepcopy(mine).to(CARD)
    torch.use_deterministic_algorithms(False)  # torch has no deterministic kernel for this loss
    losses = plain_objective(
        reference, torch.optim.AdamW(reference.parameters(), lr=1e-2), lambda net, batch: loss(net(batch[0]), batch[1]),
        x.to(CARD), y.to(CARD), 2, 16, seed=7,
    )  # fmt: skip
    run = rushlight.train(
        mine, ((x, y), (x, y)), optimizer="AdamW", lr=1e-2, loss=loss, kind="array", normalize="none", numerics="exact", seed=7,
        epochs=2, batch_size=16, device="cuda", runs=tmp_path, quiet=True,
    )  # fmt: skip
    np.testing.assert_allclose(run.losses, np.array(losses, dtype=np.float32), rtol=1e-5)


def test_a_run_that_was_left_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 4, "numerics": "exact", "device": "cuda", "seed": 5, "quiet": True}
    whole = rushlight.train(network("dropout"), "digits", runs=tmp_path / "whole", **options)
    for epoch in rushlight.epochs(network("dropout"), "digits", runs=tmp_path / "cut", **options):
        if epoch.number == 2:
            break
    folder = next((tmp_path / "cut").iterdir())
    with pytest.raises(RunError, match="device"):
        rushlight.resume(folder, model=network("dropout"), device="cpu", quiet=True)
    run = rushlight.resume(folder, model=network("dropout"), device="cuda", quiet=True)
    np.testing.assert_array_equal(run.losses, whole.losses)
    assert run.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_run_from_the_card_goes_on_on_the_processor_where_other_bits_are_allowed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 6, "device": "cuda", "quiet": True, "optimizer": "Adam", "lr": 1e-3}
    for epoch in rushlight.epochs(network("dropout"), "digits", runs=tmp_path, **options):
        if epoch.number == 3:
            break
    folder = next(tmp_path.iterdir())
    run = rushlight.resume(folder, model=network("dropout"), device="cpu", inexact=True, quiet=True)
    assert len([line for line in run.history if line["kind"] == "epoch"]) == 6
    assert np.isfinite(run.losses).all()


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "rushlight", "train", "mlp", "digits", "--device", "cuda", "--numerics", "exact",
        "--epochs", "60", "--batch-size", "16", "--quiet", "--runs",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uncut = subprocess.Popen([*command, str(whole)])
    killed = subprocess.Popen([*command, str(cut)])
    deadline = time.monotonic() + 60
    while not (cut.is_dir() and any(list_checkpoints(folder) for folder in cut.iterdir())):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (folder,) = cut.iterdir()
    subprocess.run([sys.executable, "-m", "rushlight", "resume", str(folder), "--quiet"], check=True)
    assert uncut.wait() == 0
    one, other = (rushlight.open_run(next(runs.iterdir())) for runs in (whole, cut))
    np.testing.assert_array_equal(one.losses, other.losses)
    assert one.summary()["state_sha256"] == other.summary()["state_sha256"]


def test_samples_lie_on_the_card_and_results_come_back_as_arrays(tmp_path: Path) -> None:
    seen: list[torch.device] = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.device)
            return super().forward(x)

    torch.manual_seed(0)
    model = Watched(nn.Flatten(), nn.Linear(64, 10))
    run = rushlight.train(model, "digits", epochs=1, numerics="exact", device="cuda", runs=tmp_path, quiet=True)
    assert {device.type for device in seen[5:]} == {"cuda"}
    images = digits()[2][:5, 0].mul(255).byte().numpy()
    predicted = run.predict(images)
    assert np.asarray(predicted).shape == (5, 10)
    assert run.test().accuracy == pytest.approx(run.report.accuracy, abs=1e-6)
    run.save(tmp_path / "model.safetensors")
    torch.manual_seed(0)
    loaded = rushlight.load(tmp_path / "model.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert all(
        torch.equal(one, other.cpu()) for one, other in zip(loaded.parameters(), model.parameters(), strict=True)
    )


def test_pictures_that_are_read_as_needed_train_as_on_the_processor(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(96):
        folder = tmp_path / "pictures" / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (24, 24, 3)) + (0 if number % 2 else 100)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    found = []
    for device, workers in (("cpu", 0), ("cuda", 0), ("cuda", 2)):
        run = rushlight.train(
            copy.deepcopy(model), tmp_path / "pictures", epochs=3, batch_size=16, optimizer="SGD", lr=0.1, seed=1,
            workers=workers, device=device, runs=tmp_path / "runs", quiet=True,
        )  # fmt: skip
        found.append(run.losses)
    np.testing.assert_allclose(found[1], found[0], rtol=2e-3)
    np.testing.assert_array_equal(found[1], found[2])


# ── fast ─────────────────────────────────────────────────────────────────────────────────────────────────────

FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("mlp", {"optimizer": "SGD", "lr": 1e-2}),
    "momentum": ("mlp", {"optimizer": "SGD", "lr": 1e-2, "optimizer_arguments": {"momentum": 0.9, "nesterov": True}}),
    "Adam with dropout": ("dropout", {"optimizer": "Adam", "lr": 1e-3}),
    "clipped, scheduled by step": (
        "dropout", {"optimizer": "AdamW", "lr": 1e-3, "clip_norm": 0.5, "schedule": "cosine", "warmup": 10},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAST)
def test_a_graph_is_adopted_and_stays_near_the_exact_steps(name: str, tmp_path: Path) -> None:
    kind, options = FAST[name]
    both = []
    for numerics in ("exact", "fast"):
        run = rushlight.train(
            network(kind), "digits", epochs=16, batch_size=32, seed=3, numerics=numerics, device="cuda", runs=tmp_path,
            quiet=True, **options,
        )  # fmt: skip
        both.append(run)
    exact, fast = both
    assert "graph" in modes(fast), told(fast)
    np.testing.assert_allclose(fast.losses[:200], exact.losses[:200], rtol=2e-2, atol=2e-3)
    assert abs(fast.losses[-40:].mean() - exact.losses[-40:].mean()) < 0.05


def test_convolutions_whose_graph_rounds_otherwise_stay_exact_and_it_is_told(tmp_path: Path) -> None:
    """Where only kernels for channels last compute in TF32, the graph's loss is further from float64 than may be."""
    both = []
    for numerics in ("exact", "fast"):
        run = rushlight.train(
            network("batchnorm"), "digits", epochs=16, batch_size=32, seed=3, numerics=numerics, optimizer="AdamW", lr=1e-3,
            device="cuda", runs=tmp_path, quiet=True,
        )  # fmt: skip
        both.append(run)
    exact, fast = both
    if "graph" not in modes(fast):
        assert "disagrees with the exact one" in told(fast)
        np.testing.assert_array_equal(fast.losses, exact.losses)
    np.testing.assert_allclose(fast.losses[:200], exact.losses[:200], rtol=2e-2, atol=2e-3)


def test_a_graph_in_bfloat16_learns(tmp_path: Path) -> None:
    run = rushlight.train(
        network("batchnorm"), "digits", epochs=16, batch_size=32, precision="bfloat16", lr=1e-2, device="cuda",
        runs=tmp_path, quiet=True,
    )  # fmt: skip
    assert "graph" in modes(run), told(run)
    assert run.report.accuracy > 0.9


class Asking(nn.Module):
    """A network that asks the card for a number in each pass, so that it cannot be captured; it drops units out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y if float(x.sum()) > 0 else -y


def test_what_cannot_be_captured_trains_exactly_and_is_told(tmp_path: Path) -> None:
    both = []
    for numerics in ("exact", "fast"):
        options: dict[str, Any] = {
            "epochs": 12,
            "batch_size": 32,
            "numerics": numerics,
            "optimizer": "Adam",
            "lr": 1e-3,
        }
        both.append(rushlight.train(Asking(), "digits", device="cuda", runs=tmp_path, quiet=True, **options))
    exact, fast = both
    assert "graph" not in modes(fast)
    assert "captur" in told(fast), told(fast)
    np.testing.assert_allclose(fast.losses, exact.losses, rtol=1e-5)


def test_steps_wait_for_the_card_only_by_the_clock(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    waits = 0
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        steps = 0
        for epoch in rushlight.epochs(
            network("dropout"), "digits", epochs=40, batch_size=16, device="cuda", runs=tmp_path, quiet=True
        ):
            if epoch.number == 15:  # the first thousand steps are verified and done by now
                torch.cuda.set_sync_debug_mode("warn")
                found.clear()
                steps = epoch.step
        torch.cuda.set_sync_debug_mode("default")
        steps = epoch.step - steps
        waits = sum("synchroniz" in str(each.message) for each in found)
    assert waits < steps / 2, (waits, steps)


def test_a_run_with_a_graph_goes_on_with_a_graph(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 24, "batch_size": 32, "device": "cuda", "seed": 5, "quiet": True}
    for epoch in rushlight.epochs(network("dropout"), "digits", runs=tmp_path, **options):
        if epoch.number == 16:
            break
    (folder,) = tmp_path.iterdir()
    before = rushlight.open_run(folder)
    assert "graph" in modes(before), told(before)
    run = rushlight.resume(folder, model=network("dropout"), quiet=True)
    assert modes(run)[-1] == "graph"
    assert run.report.accuracy > 0.9


# ── precision ────────────────────────────────────────────────────────────────────────────────────────────────


class Loud(nn.Module):
    """A network whose gradients are too large for float16 at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x * 40)
        return y


def test_float16_scales_its_loss_tells_of_steps_left_out_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "epochs": 4, "precision": "float16", "device": "cuda", "optimizer": "SGD", "lr": 1e-4, "seed": 2, "quiet": True
    }  # fmt: skip
    whole = rushlight.train(Loud(), "digits", runs=tmp_path / "whole", **options)
    assert "too large for float16" in told(whole)
    assert np.isfinite(whole.losses).all()
    for epoch in rushlight.epochs(Loud(), "digits", runs=tmp_path / "cut", **options):
        if epoch.number == 2:
            break
    (folder,) = (tmp_path / "cut").iterdir()
    content = read_content(list_checkpoints(folder)[-1])
    assert unpack(content["scaler"], {})["scale"] < 2.0**16
    run = rushlight.resume(folder, model=Loud(), quiet=True)
    np.testing.assert_array_equal(run.losses, whole.losses)


def test_tf32_is_chosen_for_the_training_alone(tmp_path: Path) -> None:
    seen = []
    for _ in rushlight.epochs(
        network("mlp"), "digits", epochs=2, precision="tf32", device="cuda", runs=tmp_path, quiet=True
    ):
        seen.append(torch.get_float32_matmul_precision())
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UsageError, match="tf32 is for NVIDIA cards"):
        rushlight.train(network("mlp"), "digits", precision="tf32", device="cpu", runs=tmp_path, quiet=True)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────


class Wide(nn.Module):
    """A network that holds about a mebibyte for each sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 1 << 17), nn.Linear(1 << 17, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x.flatten(1))))
        return y


def test_out_of_memory_is_done_in_smaller_pieces(tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (500 << 20)) / total)
    try:
        run = rushlight.train(
            Wide(),
            "digits",
            epochs=2,
            batch_size=512,
            optimizer="SGD",
            lr=1e-3,
            device="cuda",
            runs=tmp_path,
            quiet=True,
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "micro-batch" in told(run)
    assert np.isfinite(run.losses).all()
    assert run.report.accuracy > 0.3


def test_a_card_whose_memory_others_hold_is_named_with_the_way_out() -> None:
    code = (
        "import torch; torch.cuda.set_per_process_memory_fraction(1e-9)\n"
        "from rushlight.device import choose_device\n"
        "device, notes = choose_device()\n"
        "print(device, *notes)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("cpu ")
    assert "nvidia-smi shows which" in told


def test_a_card_that_is_hidden_is_refused_with_what_there_is() -> None:
    command = [sys.executable, "-m", "rushlight", "train", "mlp", "digits", "--device", "cuda"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    refused = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert refused.returncode != 0
    assert '"cuda" is not available to this torch' in refused.stderr
