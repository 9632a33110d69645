"""What a run keeps for the board: probabilities of samples, health of layers, figures of the machine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rushlight
from rushlight.events import Event
from rushlight.training.record.layers import LAYERS, Observer
from rushlight.training.record.machine import MACHINE, machine_lines
from rushlight.training.record.samples import PROBABILITIES, SAMPLES, keep_samples


def lines_of(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


def keep(folder: Path, epoch: int, probability: list[float]) -> None:
    truth = torch.zeros(len(probability), dtype=torch.int64)
    keep_samples(folder, "test", epoch, 10, ["cat", "dog"], truth, torch.tensor(probability))


def rows(folder: Path, samples: int) -> np.ndarray:
    return np.fromfile(folder / PROBABILITIES, "<f2").reshape(-1, samples)


def test_a_run_keeps_the_probability_of_every_test_samples_true_class_for_each_epoch(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=3, quiet=True, runs=tmp_path)
    found, described = rows(run.folder, 360), json.loads((run.folder / SAMPLES).read_text())
    last = np.load(run.folder / "predictions.npz")
    assert found.shape == (3, 360)
    assert (described["split"], described["samples"], described["truth"]) == ("test", 360, last["truth"].tolist())
    right = last["predicted"] == last["truth"]
    assert np.array_equal(found[-1][right], last["confidence"][right].astype("<f2"))
    assert (found[-1][~right] <= last["confidence"][~right].astype("<f2")).all()
    assert {entry["name"] for line in lines_of(run.folder / LAYERS) for entry in line["layers"]} >= {"1", "2", "5"}


def test_an_epoch_that_is_trained_again_overwrites_its_row_and_a_missing_one_is_unknown(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        keep(tmp_path, epoch, [epoch / 10, 0.5])
    keep(tmp_path, 2, [0.75, 0.25])
    assert rows(tmp_path, 2).tolist() == [[np.float16(0.1), 0.5], [0.75, 0.25]]
    with (tmp_path / PROBABILITIES).open("ab") as file:
        file.write(b"to")
    keep(tmp_path, 5, [1.0, 0.0])
    assert np.isnan(rows(tmp_path, 2)[2:4]).all()
    assert rows(tmp_path, 2)[4].tolist() == [1.0, 0.0]


def test_more_samples_than_a_stated_number_of_bytes_leave_nothing(tmp_path: Path) -> None:
    keep_samples(tmp_path, "test", 1, 1 << 30, ["cat"], torch.zeros(8, dtype=torch.int64), torch.zeros(8))
    assert not list(tmp_path.iterdir())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def observed(model: nn.Module, folder: Path, batch: Tensor) -> Tensor:
    with Observer(model, folder).observing(1, 10):
        found: Tensor = model(batch)
        model(batch * 2)  # the next batch is not read
    return found


def test_a_layer_that_never_fires_is_told_by_its_share_of_dead_units(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(-100)
    observed(model, tmp_path, torch.randn(16, 4))
    (line,) = lines_of(tmp_path / LAYERS)
    layers = {entry["name"]: entry for entry in line["layers"]}
    assert layers["3"]["dead"] == layers["3"]["zero"] == 1.0
    assert layers["1"]["dead"] < 1
    assert layers["2"]["weight"] == pytest.approx(
        float(torch.cat([p.detach().flatten() for p in model[2].parameters()]).norm())
    )


def test_observing_changes_no_bit_and_leaves_no_hook(tmp_path: Path) -> None:
    model, batch = network(), torch.randn(16, 4)
    assert torch.equal(observed(model, tmp_path, batch), model(batch))
    assert not any(part._forward_hooks for part in model.modules())
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()  # takes another path with hooks
    assert Observer(layer, tmp_path).layers == []


def test_an_evaluation_that_is_left_leaves_no_hook_and_no_line(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt), Observer(model, tmp_path).observing(1, 10):
        raise KeyboardInterrupt
    assert not any(part._forward_hooks for part in model.modules())
    assert not (tmp_path / LAYERS).exists()


def test_observing_takes_four_thousandths_of_the_time_at_most(tmp_path: Path) -> None:
    model = network()
    observer = Observer(model, tmp_path)
    for step in range(50):
        with observer.observing(1, step):
            model(torch.randn(16, 4))
    assert len(lines_of(tmp_path / LAYERS)) == 1


def test_the_machine_has_a_line_every_ten_seconds(tmp_path: Path) -> None:
    write = machine_lines(tmp_path)
    for step in range(3):
        write(Event("progress", {"epoch": 2, "step": step, "steps": 100}))
    (line,) = lines_of(tmp_path / MACHINE)
    assert (line["epoch"], line["step"]) == (2, 100)
    assert line["values"]["machine/free"] > 0


def test_the_gradients_told_are_those_of_a_plain_backward_pass(tmp_path: Path) -> None:
    model, inputs, targets = network(), torch.randn(16, 4), torch.randint(2, (16,))
    model[0].requires_grad_(False)
    loss = nn.CrossEntropyLoss()
    with Observer(model, tmp_path, lambda: loss(model(inputs), targets)).observing(1, 10):
        model(inputs)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss(model(inputs), targets).backward()
    told = {entry["name"]: entry.get("gradient") for entry in lines_of(tmp_path / LAYERS)[0]["layers"]}
    plain = {name: torch.cat([p.grad.flatten() for p in model[int(name)].parameters()]).norm().item() for name in "24"}
    assert told == {"0": None, "1": None, "3": None, **{name: pytest.approx(norm) for name, norm in plain.items()}}


class Counting(nn.Sequential):
    """Counts its calls, which change what it learns."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = super().forward(inputs) / (1 + self.calls / 100)
        return found


def as_it_is(model: nn.Module) -> None:
    pass


def with_hook(model: nn.Module) -> None:
    calls = itertools.count()
    model.register_forward_hook(lambda module, given, outputs: outputs / (1 + next(calls) / 100))


def with_own_forward(model: nn.Module) -> None:
    calls, forward = itertools.count(), model.forward
    model.forward = lambda inputs: forward(inputs) / (1 + next(calls) / 100)


@pytest.mark.parametrize(
    ("kind", "change"),
    [(nn.Sequential, as_it_is), (Counting, as_it_is), (nn.Sequential, with_hook), (nn.Sequential, with_own_forward)],
)
def test_telling_gradients_changes_no_bit_of_a_training(
    kind: type[nn.Sequential], change: Callable[[nn.Module], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls no code of the user's, which may count its calls."""
    digests = []
    for told in (True, False):
        if not told:
            monkeypatch.setattr("rushlight.training.loop.first_loss", lambda training, parts: None)
        torch.manual_seed(0)
        model = kind(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
        change(model)
        run = rushlight.train(model, "digits", epochs=2, numerics="exact", runs=tmp_path / str(told), quiet=True)
        digests.append((run.folder / "losses.f32").read_bytes())
        entries = [entry for line in lines_of(run.folder / LAYERS) for entry in line["layers"]]
        assert any("gradient" in entry for entry in entries) == (told and (kind, change) == (nn.Sequential, as_it_is))
        digests.append(b"".join(value.numpy().tobytes() for value in run.model.state_dict().values()))
    assert digests[:2] == digests[2:]
