"""Fine-tuning: weights to begin with, frozen parameters, parameter groups, a number of steps, models from functions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import rushlight
from rushlight.errors import ModelError, RunError, UsageError, WeightsError
from rushlight.options import check_options
from rushlight.runs import read_recipe

X = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
QUIET: dict[str, Any] = {
    "quiet": True,
    "batch_size": 16,
    "numerics": "exact",
    "normalize": "none",
    "schedule": "constant",
}

NET = """
import torch
from torch import nn

def net(width=4, outputs=2):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, outputs))

def no_net():
    return 3
"""


class Net(nn.Module):
    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


def made(outputs: int = 2, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(outputs)


def same(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> nn.Module:
    """Train as the plain loop does, in the run's own order, for a number of steps."""
    model.train()
    for step in range(steps):
        epoch, place = 1 + step // 7, step % 7
        order = torch.randperm(100, generator=torch.Generator().manual_seed(1_000_003 * epoch))[
            16 * place : 16 * place + 16
        ]
        optimizer.zero_grad()
        functional.cross_entropy(model(X[order]), Y[order]).backward()
        optimizer.step()
    return model


def test_groups_by_pattern_are_torchs_own_parameter_groups(tmp_path: Path) -> None:
    ours, theirs = made(), made()
    groups = {"*.bias": {"weight_decay": 0.0}, "backbone": {"lr": 0.01}}
    run = rushlight.train(
        ours, (X, Y), optimizer="AdamW", lr=0.1, groups=groups, epochs=2, runs=tmp_path, test_fraction=0.0, **QUIET
    )
    named = dict(theirs.named_parameters())
    biases = [named[name] for name in named if name.endswith("bias")]
    backbone = [named[name] for name in named if name.startswith("backbone") and not name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [{"params": [theirs.head.weight]}, {"params": biases, "weight_decay": 0.0}, {"params": backbone, "lr": 0.01}],
        lr=0.1,
    )
    same(ours, plain(theirs, optimizer, 14))
    assert read_recipe(run.folder)["groups"] == groups


def test_frozen_parameters_and_their_statistics_stay_as_they_are(tmp_path: Path) -> None:
    model, before = made(), made()
    run = rushlight.train(model, (X, Y), freeze=["backbone"], epochs=2, lr=0.1, runs=tmp_path, **QUIET)
    same(model.backbone, before.backbone)
    assert not torch.equal(model.head.weight, before.head.weight)
    assert any("4 frozen parameters (66 numbers)" in note for note in run.notes)
    with pytest.raises(UsageError, match='"backbon" of freeze matches no parameter'):
        rushlight.train(made(), (X, Y), freeze=["backbon"], runs=tmp_path, **QUIET)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_loaded_where_names_and_shapes_fit_and_the_rest_is_told(prefix: str, tmp_path: Path) -> None:
    other = made(outputs=5, seed=1)
    save_file({prefix + name: value for name, value in other.state_dict().items()}, tmp_path / "other.safetensors")
    model = made()
    head = copy.deepcopy(model.head)
    options: dict[str, Any] = {"freeze": ["backbone", "head"], "runs": tmp_path, "lr": 0.0, **QUIET}
    with pytest.raises(UsageError, match="no parameters that train"):
        rushlight.train(model, (X, Y), weights=tmp_path / "other.safetensors", **options)
    same(model.backbone, other.backbone)
    same(model.head, head)
    run = rushlight.train(made(), (X, Y), weights=tmp_path / "other.safetensors", epochs=1, runs=tmp_path, **QUIET)
    (told,) = [note for note in run.notes if "other.safetensors" in note]
    assert "7 of 9 tensors fit" in told
    assert f"Left out: {prefix}head.bias, {prefix}head.weight." in told
    assert "As they were before: head.weight, head.bias." in told
    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="missing from the file"):
        rushlight.train(made(), (X, Y), weights=tmp_path / "none.safetensors", runs=tmp_path, **QUIET)


def test_a_fine_tuned_run_is_resumed_to_the_same_bits_without_its_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    save_file(made(seed=1).state_dict(), path)
    options: dict[str, Any] = {"groups": {"head": {"lr": 0.2}}, "freeze": ["backbone.0"], "lr": 0.05, "runs": tmp_path}
    whole = rushlight.train(made(), (X, Y), weights=path, epochs=4, **options, **QUIET)
    part = rushlight.train(made(), (X, Y), weights=path, epochs=2, name="part", **options, **QUIET)
    path.unlink()
    part = rushlight.resume("part", made(), (X, Y), epochs=4, runs=tmp_path, quiet=True)
    same(part.model, whole.model)
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert not part.summary()["inexact"]


def test_a_run_without_a_checkpoint_wants_the_weights_it_was_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    save_file(made(seed=1).state_dict(), path)
    epochs = rushlight.epochs(made(), (X, Y), weights=path, name="begun", runs=tmp_path, **QUIET)
    epochs.abandon(KeyboardInterrupt())
    save_file(made(seed=2).state_dict(), path)
    with pytest.raises(RunError, match="the weights that it begins with"):
        rushlight.resume("begun", made(), (X, Y), runs=tmp_path, quiet=True)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_max_steps_end_a_run_in_the_midst_of_an_epoch(numerics: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {**QUIET, "numerics": numerics, "lr": 0.1, "optimizer": "SGD", "runs": tmp_path}
    ours, data = made(), (X, Y)
    run = rushlight.train(ours, data, max_steps=10, test_fraction=0.0, **options)  # of 7 an epoch
    theirs = made()
    plain(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), 10)
    if numerics == "exact":
        same(ours, theirs)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)
    assert (run.summary()["steps"], run.summary()["epochs"], len(run.losses)) == (10, 2, 10)


def test_a_run_of_max_steps_is_resumed_to_the_same_bits_and_takes_no_epochs(tmp_path: Path) -> None:
    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch":
            raise KeyError("stop")

    whole = rushlight.train(made(), (X, Y), max_steps=8, lr=0.1, runs=tmp_path, **QUIET)
    with pytest.raises(KeyError, match="stop"):
        rushlight.train(made(), (X, Y), max_steps=8, lr=0.1, runs=tmp_path, name="part", on_event=stop, **QUIET)
    with pytest.raises(UsageError, match="epochs"):
        rushlight.resume("part", made(), (X, Y), epochs=9, runs=tmp_path, quiet=True)
    part = rushlight.resume("part", made(), (X, Y), runs=tmp_path, quiet=True)
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert part.losses.tolist() == whole.losses.tolist()


def test_cosine_is_planned_over_max_steps_also_without_epochs(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(X, Y, strict=True))

    options: dict[str, Any] = {
        **QUIET,
        "schedule": "cosine",
        "lr": 0.1,
        "optimizer": "SGD",
        "runs": tmp_path,
        "batch_size": 64,
    }
    run = rushlight.train(made(), Stream(), max_steps=9, **options)
    assert run.summary()["steps"] == 9
    rates = [line["learning_rate"] for line in run.history if line["kind"] == "epoch"]
    assert rates[-1] == pytest.approx(0.1 * (1 + torch.cos(torch.tensor(torch.pi * 8 / 9))) / 2)


def test_a_function_that_returns_a_module_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    from typer.testing import CliRunner

    from rushlight.cli.app import app

    command = "train zoo.py:net digits8 --target y --epochs 1 --quiet --json --model-arg width=5 --model-arg outputs=2"
    lines = ["y," + ",".join(f"x{i}" for i in range(8))]
    lines += [",".join(map(str, [int(y), *x.tolist()])) for x, y in zip(X, Y, strict=True)]
    Path("digits8.csv").write_text("\n".join(lines))
    groups = ["--group", "2:lr=0.5,weight_decay=0", "--freeze", "0", "--max-steps", "3"]
    found = CliRunner().invoke(app, [*command.replace("digits8", "digits8.csv").split(), *groups])
    summary = json.loads(found.stdout)
    assert summary["steps"] == 3
    run = rushlight.open_run(summary["folder"])
    assert run.model[0].out_features == 5
    assert read_recipe(run.folder)["groups"] == {"2": {"lr": 0.5, "weight_decay": 0}}
    assert read_recipe(run.folder)["freeze"] == ["0"]
    with pytest.raises(ModelError, match=r"returned a int, not an nn\.Module"):
        rushlight.train("zoo.py:no_net", (X, Y), runs=tmp_path, **QUIET)
    with pytest.raises(ModelError, match="width"):
        rushlight.train("zoo.py:net", (X, Y), model_arguments={"size": 3}, runs=tmp_path, **QUIET)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": {"tail": {"lr": 1.0}}}, '"tail" of groups matches no parameter'),
        ({"groups": {"head": {"rate": 1.0}}}, '"rate"'),
        ({"groups": {"head": 0.1}}, "wants settings by pattern"),
        ({"freeze": "head"}, "wants a list of patterns"),
        ({"groups": {"head": {}}, "optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, "groups"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        rushlight.train(made(), (X, Y), runs=tmp_path, **{**QUIET, **options})
    assert not list(tmp_path.iterdir())


def test_options_hold_what_the_recipe_keeps() -> None:
    assert check_options({"groups": {"a": {"betas": (0.9, 0.99)}}}).groups == {"a": {"betas": (0.9, 0.99)}}


# ── a last layer that fits, and parameters that train later ──────────────────────────────────────────────────

ZOO = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.fc = nn.Linear(6, outputs)
    def forward(self, x):
        return self.fc(self.backbone(x))

class Tied(Flat):
    def __init__(self, outputs):
        super().__init__(outputs)
        self.again = nn.Linear(6, outputs)
        self.again.weight = self.fc.weight

class Scaled(Flat):
    def forward(self, x):
        return super().forward(x) * 2

def net(outputs=1000):
    return Flat(outputs)

def tied():
    return Tied(5)

def scaled():
    return Scaled(5)

def pixels():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 21, 1, bias=False))
"""


def test_a_ready_made_network_gets_a_last_layer_that_fits_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(ZOO)
    model = f"{tmp_path / 'zoo.py'}:net"
    options: dict[str, Any] = {"runs": tmp_path, "epochs": 2, "lr": 0.01, **QUIET}
    torch.manual_seed(5)
    file = tmp_path / "ready.safetensors"
    save_file({f"backbone.{name}": each for name, each in made().backbone.state_dict().items()}
              | {"fc.weight": torch.randn(1000, 6), "fc.bias": torch.zeros(1000)}, file)  # fmt: skip
    run = rushlight.train(model, (X, Y), weights=file, freeze=["backbone"], **options)
    assert any('"fc" (Linear) had 1000 outputs; the data needs 2' in note for note in run.notes)
    assert any("5 of 7 tensors" in note or "Left out: fc.bias, fc.weight" in note for note in run.notes)
    assert run.model.fc.out_features == 2
    assert read_recipe(run.folder)["model"]["head"] == {"name": "fc", "found": 1000, "outputs": 2}
    same(run.model.backbone, made().backbone)
    part = rushlight.train(model, (X, Y), weights=file, freeze=["backbone"], name="part", **{**options, "epochs": 1})
    part = rushlight.resume("part", data=(X, Y), epochs=2, runs=tmp_path, quiet=True)
    same(part.model, run.model)
    assert read_recipe(part.folder)["model"] == read_recipe(run.folder)["model"]  # the weights' file too
    reopened = rushlight.open_run(run.name, runs=tmp_path)
    same(reopened.model, run.model)
    assert len(rushlight.train(model, (X, X[:, :3]), **options).predict(X[:2]).values[0]) == 3  # type: ignore[index]
    asked = rushlight.train(model, (X, Y), model_arguments={"outputs": 4}, **options)
    assert asked.model.fc.out_features == 4  # as its argument says, with two classes that nobody has
    images, masks = torch.rand(20, 1, 4, 4), torch.randint(0, 3, (20, 4, 4))
    run = rushlight.train(f"{tmp_path / 'zoo.py'}:pixels", (images, masks), **options)
    assert (run.model[2].out_channels, run.model[2].bias) == (3, None)
    for name in ("tied", "scaled"):  # not plain: today's error, or classes that nobody has
        kept = rushlight.train(f"{tmp_path / 'zoo.py'}:{name}", (X, Y), **options)
        assert kept.model.fc.out_features == 5
        with pytest.raises(ModelError):
            rushlight.train(f"{tmp_path / 'zoo.py'}:{name}", (X, X[:, :3]), **options)
    with pytest.raises(ModelError):  # a live model, or a class, is the user's own network
        rushlight.train(made(5), (X, X[:, :3]), **options)


def unfrozen_by_hand(model: Net, optimizer: torch.optim.Optimizer, after: int, epochs: int) -> None:
    """Train by the plain loop; the backbone trains after so many epochs."""
    for epoch in range(epochs):
        model.train()
        model.backbone.requires_grad_(epoch >= after)
        model.backbone[1].train(epoch >= after)
        order = torch.randperm(100, generator=torch.Generator().manual_seed(1_000_003 * (epoch + 1)))
        for rows in order.split(16):
            optimizer.zero_grad()
            functional.cross_entropy(model(X[rows]), Y[rows]).backward()
            optimizer.step()


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_parameters_that_train_later_do_so_as_in_the_plain_loop_also_after_a_resume(stops: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **QUIET, "freeze": ["backbone"], "unfreeze_after": 2, "epochs": 4, "optimizer": "AdamW", "lr": 0.01, "ema": None,
        "test_fraction": 0.0, "runs": tmp_path,
    }  # fmt: skip

    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == stops:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        rushlight.train(made(), (X, Y), name="part", on_event=stop, **options)
    ours, theirs = made(), made()
    part = rushlight.resume("part", ours, (X, Y), runs=tmp_path, quiet=True)
    unfrozen_by_hand(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01), 2, 4)
    same(ours, theirs)
    assert read_recipe(part.folder)["unfreeze_after"] == 2
    assert all(each.requires_grad for each in ours.parameters())


def test_faster_executions_are_left_where_more_parameters_train_and_an_average_has_them_all(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **QUIET, "freeze": ["backbone"], "unfreeze_after": 40, "epochs": 60, "optimizer": "AdamW", "lr": 0.01,
        "test_fraction": 0.0, "runs": tmp_path, "compile": "never",
    }  # fmt: skip
    models = made(), made()
    for model, numerics in zip(models, ("fast", "exact"), strict=True):
        model.backbone[
            0
        ].bias = None  # whose gradient is 0 before a BatchNorm, but for rounding, which Adam makes large
        rushlight.train(model, (X, Y), **{**options, "numerics": numerics})
    torch.testing.assert_close(models[0](X), models[1](X), rtol=1e-3, atol=1e-4)
    ours, theirs = made(), made()
    rushlight.train(ours, (X, Y), **{**options, "optimizer": "SGD", "epochs": 2, "unfreeze_after": 1, "ema": 0.01})
    unfrozen_by_hand(theirs, torch.optim.SGD(theirs.parameters(), lr=0.01), 1, 2)
    torch.testing.assert_close(ours.backbone[0].weight, theirs.backbone[0].weight, rtol=0.05, atol=0.01)
    assert not torch.equal(ours.backbone[0].weight, made().backbone[0].weight)


def test_unfreezing_what_is_not_frozen_or_not_held_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are 2 epochs"):
        rushlight.train(made(), (X, Y), freeze=["backbone"], unfreeze_after=2, epochs=2, runs=tmp_path, **QUIET)
    with pytest.raises(UsageError, match="none are frozen"):
        rushlight.train(made(), (X, Y), unfreeze_after=1, runs=tmp_path, **QUIET)
    model = made()
    head = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="which it does not have"):
        rushlight.train(model, (X, Y), optimizer=head, freeze=["backbone"], unfreeze_after=1, runs=tmp_path, **QUIET)
