"""State by name, and state outside: what a resumed run goes on with, and what it says of what it does not have."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import rushlight
from rushlight.errors import RunError, UsageError
from rushlight.runs.checkpoint_files import STATE, SUMS, checksums, list_checkpoints
from rushlight.training.setup.outside import outside_state

X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
PAIRS = (X.numpy(), X.roll(1, 1).numpy())
SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 16, "quiet": True}


def begun(runs: Path, model: nn.Module, data: Any, stop_after: int = 2, **options: Any) -> rushlight.Run:
    """Train for `stop_after` epochs of four, and leave the run so."""
    training = rushlight.epochs(model, data, name="cut", runs=runs, **SMALL, **options)
    for epoch in training:
        if epoch.number == stop_after:
            break
    training.close()
    return training.run


# ── an optimizer's state by name ─────────────────────────────────────────────────────────────────────────────


def build(order: int, groups: str = "weights and biases") -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model, and its optimizer with groups whose parameters stand in this order (a set gives any)."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    named = list(model.named_parameters())[::order]
    named = [pair for pair in named if groups != "without the last" or not pair[0].startswith("3.")]
    first = [
        pair for pair in named if (pair[1].dim() > 1 or (groups == "a bias among the weights" and pair[0] == "0.bias"))
    ]
    second = [pair for pair in named if all(pair[1] is not other for _, other in first)]
    plain = groups != "by name"
    listed = [{"params": [pair[1] if plain else pair for pair in group]} for group in (first, second)]
    listed[0]["weight_decay"] = 0.1
    return model, torch.optim.Adam(listed, lr=1e-2)


@pytest.mark.parametrize("groups", ["weights and biases", "by name"])
def test_groups_listed_in_another_order_end_with_the_same_bits(groups: str, tmp_path: Path) -> None:
    model, optimizer = build(1, groups)
    whole = rushlight.train(model, PAIRS, optimizer=optimizer, runs=tmp_path, **SMALL)
    model, optimizer = build(1, groups)
    begun(tmp_path, model, PAIRS, optimizer=optimizer)
    model, optimizer = build(-1, groups)
    resumed = rushlight.resume("cut", model, PAIRS, optimizer=optimizer, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.summary()["inexact"] == []
    for name, parameter in model.named_parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape, name


@pytest.mark.parametrize("groups", ["a bias among the weights", "without the last"])
def test_a_group_of_other_parameters_is_refused_by_name(groups: str, tmp_path: Path) -> None:
    model, optimizer = build(1)
    run = begun(tmp_path, model, PAIRS, optimizer=optimizer)
    model, optimizer = build(1, groups)
    with pytest.raises(RunError) as caught:
        rushlight.resume("cut", model, PAIRS, optimizer=optimizer, runs=tmp_path, quiet=True)
    assert caught.value.key == "optimizer-group-differs"
    assert ("0.bias" if groups == "a bias among the weights" else "3.weight") in caught.value.problem
    assert len(list_checkpoints(run.folder)) == 2


def test_parameters_of_another_shape_are_refused(tmp_path: Path) -> None:
    def made(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 8))
        return model, torch.optim.Adam(model.parameters(), lr=1e-2)

    model, optimizer = made(6)
    begun(tmp_path, model, PAIRS, optimizer=optimizer)
    model, optimizer = made(7)
    with pytest.raises(RunError) as caught:
        rushlight.resume("cut", model, PAIRS, optimizer=optimizer, runs=tmp_path, quiet=True, inexact=True)
    assert caught.value.key == "state-does-not-fit"


def test_a_checkpoint_of_an_earlier_release_goes_by_positions(tmp_path: Path) -> None:
    model, optimizer = build(1)
    whole = rushlight.train(model, PAIRS, optimizer=optimizer, runs=tmp_path, **SMALL)
    model, optimizer = build(1)
    folder = list_checkpoints(begun(tmp_path, model, PAIRS, optimizer=optimizer).folder)[-1]
    content = json.loads((folder / STATE).read_bytes())
    del content["optimizer_names"]
    (folder / STATE).write_text(json.dumps(content))
    (folder / SUMS).write_bytes(checksums(folder))
    model, optimizer = build(1)
    resumed = rushlight.resume("cut", model, PAIRS, optimizer=optimizer, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


# ── state outside ────────────────────────────────────────────────────────────────────────────────────────────


class Inputs(Dataset[dict[str, Tensor]]):
    """Batches that only an objective understands."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": X[index]}


class Average:
    """An exponential average of the loss, which weighs the next one."""

    def __init__(self) -> None:
        self.value = torch.tensor(1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


Made = tuple[nn.Module, Any, list[Any]]  # the model, the objective, what has to be kept


def second_optimizer() -> Made:
    torch.manual_seed(0)
    model, critic = nn.Linear(8, 8), nn.Linear(8, 8)
    its_own = torch.optim.Adam(critic.parameters(), lr=0.05)

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        loss = F.mse_loss(critic(batch["x"]), batch["x"])
        its_own.zero_grad()
        loss.backward()
        its_own.step()
        return F.mse_loss(model(batch["x"]), critic(batch["x"]).detach())

    return model, objective, [critic, its_own]


def noise(generator: Any, draw: Any) -> Made:
    torch.manual_seed(0)

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(model(batch["x"]) * draw(generator), batch["x"])

    return nn.Linear(8, 8), objective, [generator]


def average() -> Made:
    torch.manual_seed(0)
    mean = Average()

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        loss = F.mse_loss(model(batch["x"]), batch["x"])
        mean.value = 0.9 * mean.value + 0.1 * loss.detach()
        return loss / mean.value

    return nn.Linear(8, 8), objective, [mean]


OUTSIDE: dict[str, Any] = {
    "a second optimizer and its module": second_optimizer,
    "torch's generator": lambda: noise(torch.Generator().manual_seed(1), lambda g: torch.rand((), generator=g)),
    "NumPy's generator": lambda: noise(np.random.default_rng(1), lambda g: float(g.random())),
    "NumPy's random state": lambda: noise(np.random.RandomState(1), lambda g: float(g.rand())),
    "Python's generator": lambda: noise(random.Random(1), lambda g: g.random()),
    "an object of one's own": average,
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_is_kept_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    model, objective, keep = OUTSIDE[kind]()
    whole = rushlight.train(model, Inputs(), objective=objective, keep=keep, runs=tmp_path, **SMALL)
    assert not any("no checkpoint holds" in note for note in whole.notes)
    model, objective, keep = OUTSIDE[kind]()
    begun(tmp_path, model, Inputs(), objective=objective, keep=keep)
    model, objective, keep = OUTSIDE[kind]()
    resumed = rushlight.resume("cut", model, Inputs(), objective=objective, keep=keep, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.summary()["inexact"] == []


def test_torchs_objects_that_are_not_kept_are_named_and_a_resumed_run_records_it(tmp_path: Path) -> None:
    model, objective, keep = second_optimizer()
    run = begun(tmp_path, model, Inputs(), objective=objective)
    (note,) = [note for note in run.notes if "no checkpoint holds" in note]
    assert all(type(thing).__name__ in note for thing in keep)
    model, objective, keep = second_optimizer()
    resumed = rushlight.resume("cut", model, Inputs(), objective=objective, runs=tmp_path, quiet=True)
    (said,) = resumed.summary()["inexact"]
    assert all(type(thing).__name__ in said for thing in keep)
    assert resumed.bundle.provenance["inexact"] == [said]


@pytest.mark.parametrize("kind", [kind for kind in OUTSIDE if OUTSIDE[kind] is not second_optimizer])
def test_what_the_users_own_objects_hold_needs_no_keep(kind: str, tmp_path: Path) -> None:
    model, objective, _ = OUTSIDE[kind]()
    whole = rushlight.train(model, Inputs(), objective=objective, runs=tmp_path, **SMALL)
    model, objective, _ = OUTSIDE[kind]()
    run = begun(tmp_path, model, Inputs(), objective=objective)
    assert not any("no checkpoint holds" in note for note in run.notes)
    model, objective, _ = OUTSIDE[kind]()
    resumed = rushlight.resume("cut", model, Inputs(), objective=objective, runs=tmp_path, quiet=True)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.summary()["inexact"] == []


def test_kept_objects_are_asked_for_and_others_are_refused(tmp_path: Path) -> None:
    model, objective, keep = second_optimizer()
    run = begun(tmp_path, model, Inputs(), objective=objective, keep=keep)
    assert list(run.recipe.keep) == ["Linear", "Adam"]
    for given, key in (({}, "live-parts"), ({"keep": keep[::-1]}, "kept-differ"), ({"keep": keep[:1]}, "kept-differ")):
        with pytest.raises(RunError) as caught:
            rushlight.resume("cut", model, Inputs(), objective=objective, runs=tmp_path, quiet=True, **given)
        assert caught.value.key == key


@pytest.mark.parametrize("keep", [[object()], [torch.optim.Adam], 3, [nn.Linear(1, 1), "text"]])
def test_what_has_no_state_cannot_be_kept(keep: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rushlight.train(nn.Linear(8, 8), PAIRS, keep=keep, runs=tmp_path, **SMALL)
    assert caught.value.key == ("keep-no-list" if keep == 3 else "not-keepable")
    assert not list(tmp_path.iterdir())


# ── where it is noticed ──────────────────────────────────────────────────────────────────────────────────────

HIDDEN = torch.optim.Adam(nn.Linear(2, 2).parameters())


class Trainer:
    """An objective that is an object, or a method of one."""

    def __init__(self, model: nn.Module, things: dict[str, Any]) -> None:
        self.model, self.things = model, things

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch["x"]).mean()

    __call__ = loss


def reached(function: Any, *known: Any, model: nn.Module | None = None) -> str:
    return outside_state((function, None), model or nn.Linear(2, 2), known)


def test_state_is_noticed_wherever_a_function_has_it_from() -> None:
    other = torch.optim.SGD(nn.Linear(2, 2).parameters())

    def helper() -> None:
        other.step()

    def of_closure(model: nn.Module, batch: Any) -> None:
        other.step()

    def through_a_helper(model: nn.Module, batch: Any) -> None:
        helper()

    def of_default(model: nn.Module, batch: Any, optimizer: Any = other) -> None:
        optimizer.step()

    def of_global(model: nn.Module, batch: Any) -> None:
        HIDDEN.step()

    model = nn.Linear(2, 2)
    for function in (of_closure, through_a_helper, of_default, functools.partial(of_default, optimizer=other)):
        assert reached(function) == "SGD"
        assert reached(function, other) == ""
    assert reached(of_global) == "Adam"
    assert reached(Trainer(model, {"d": [other]}), model=model) == "SGD"
    assert reached(Trainer(model, {"d": [other]}).loss, model=model) == "SGD"


def test_a_module_is_noticed_where_it_may_change() -> None:
    def using(module: nn.Module) -> str:
        return reached(lambda model, batch: module(batch))

    assert using(nn.Linear(2, 2)) == "Linear"
    assert using(nn.Linear(2, 2).eval()) == ""
    assert using(nn.Linear(2, 2).requires_grad_(False)) == ""
    assert using(nn.BatchNorm1d(2).requires_grad_(False)) == "BatchNorm1d"
    assert using(nn.CrossEntropyLoss(weight=torch.ones(2))) == ""
    inner = nn.Linear(2, 2)
    assert reached(lambda model, batch: inner(batch), model=nn.Sequential(inner)) == ""


def test_what_every_objective_uses_is_not_state() -> None:
    loss, device = nn.MSELoss(), torch.device("cpu")

    def plain(model: nn.Module, batch: Any) -> Any:
        return loss(model(batch["x"].to(device)), F.relu(batch["x"])) + np.float32(0) + len(PAIRS)

    assert reached(plain) == ""
    assert reached("mse") == ""
