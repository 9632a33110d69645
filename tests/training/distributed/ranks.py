"""The trainings of the tests of several processes, as a program: `ranks.py CASE FOLDER [VERB] [NAME=VALUE …]`.

Run by itself it trains in one process; with a launcher's environment, together with the others.
"""

from __future__ import annotations

import ast
import json
import os
import random
import resource
import signal
import socket
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.processes import Process
from torch import Tensor, nn
from torch.utils.data import Dataset

import rushlight
from rushlight.data import Data, ResidentSplit, Split, TargetSpec
from rushlight.training.distributed import joined_world, world
from rushlight.training.evaluation import evaluate
from rushlight.training.interrupt import SharedInterrupt
from rushlight.training.objective import Objective, choose_metrics, make_objective, own_objective
from rushlight.training.setup.shared import hold_once

PATIENCE = 240.0  # seconds after which processes hang


def start(size: int, *arguments: object, env: dict[str, object] | None = None) -> list[Process]:
    """Start this program in `size` processes, as a launcher would; of one, without a launcher."""
    if size == 1:
        return [Process([__file__, *arguments])]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(env or {})}
    return [Process([__file__, *arguments], env={**common, "RANK": rank}) for rank in range(size)]


def ends(processes: list[Process]) -> list[tuple[int, str, str]]:
    """Return exit code, standard output and standard error of each, by rank; none may hang."""
    try:
        found = [(process.wait(PATIENCE), *process.communicate()) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return found


def together(size: int, *arguments: object) -> list[tuple[int, str, str]]:
    """Train in `size` processes to the end; all of them must end well."""
    found = ends(start(size, *arguments))
    for code, out, err in found:
        assert code == 0, f"{out}\n{err}"
    return found


# ── what is trained ──────────────────────────────────────────────────────────────────────────────────────────


class Draws(nn.Module):
    """Draws from a generator that is every process's own."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.draw, self.layer = draw, nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + 1e-3 * float(self.draw())


class Sometimes(nn.Module):
    """Has a branch that only some samples take, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, chosen = self.first(inputs), inputs[:, 0] > 1.9
        return outputs.index_add(0, chosen.nonzero()[:, 0], self.second(inputs[chosen])) if chosen.any() else outputs


class Remembers(nn.Module):
    """Has a buffer that training changes and its outputs depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * inputs.detach().mean(0))
        return self.layer(inputs + self.seen)


class Counted(nn.Module):
    """Has a buffer that every call changes, in an evaluation too, and its outputs depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        outputs: Tensor = self.layer(inputs) / (1 + self.calls / 100)
        return outputs


class Moving(nn.Module):
    """A loss with a buffer that every batch changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss + self.mean


class Rows(Dataset[Any]):
    """Rows that are changed at random as they are read."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.inputs[index]) + 0.01 * torch.randn(6), int(self.targets[index])


def rows(count: int = 61, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of three classes, which can be told apart with some mistakes: (count, 6) float32 and (count,) int64."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 3, count)
    inputs = generator.normal(size=(count, 6)) + np.eye(6)[targets] * 2
    return inputs.astype(np.float32), targets


def network(*extra: nn.Module) -> nn.Sequential:
    """Return a small network for these rows."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 16), *extra, nn.ReLU(), nn.Linear(16, 3))


def tied() -> nn.Sequential:
    """Return a network with two layers that share their weights."""
    model = network(nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model[4].weight = model[2].weight
    return model


class Blocks(nn.Module):
    """Blocks in a ModuleList, with dropout, statistics, tied first and last weights, a state besides; one row count is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 7, bias=False), nn.Linear(7, 3)
        block = nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.2))
        self.blocks = nn.ModuleList([block, nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7), nn.Dropout(0.3))])
        self.back, self.frozen = nn.Linear(6, 7, bias=False), nn.Linear(3, 3)
        self.back.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(1))

    def get_extra_state(self) -> object:
        return {"kept": 3}

    def set_extra_state(self, state: object) -> None:
        assert state == {"kept": 3}

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs) * self.scale
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.frozen(self.last(hidden + self.back(inputs)))


def blocks() -> nn.Module:
    """Return a model of blocks, part of it frozen; its BatchNorm has fixed statistics, which do not depend on processes."""
    torch.manual_seed(5)
    model = Blocks()
    model.frozen.requires_grad_(False)
    model.blocks[0][1].eval()  # type: ignore[index]
    return model


def partly(data: Any) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return a case whose optimizer has some of the parameters that have gradients; its gradients are clipped."""
    model = blocks().double()
    optimizer = torch.optim.SGD([*model.last.parameters(), model.scale], lr=0.1)  # type: ignore[union-attr, list-item]
    return model, data, {"optimizer": optimizer, "epochs": 2, "batch_size": 9, "clip_norm": 0.05}


def large() -> nn.Module:
    """Return a model of 170 MB."""
    wide = [nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(40)]
    return nn.Sequential(nn.Linear(6, 1024), *wide, nn.Linear(1024, 3))


def limit_memory(model: nn.Module, times: float) -> None:
    """Limit the data of this process to what it has without the model, and so many times the model."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    (has,) = (
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (int(has - size + times * size),) * 2)


class StopsAfter:
    """Tells this process to stop when its model has trained on as many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, model: nn.Module, inputs: Any) -> None:
        self.left -= model.training
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


def in_numbers(dtype: Any) -> Any:
    """Return training and test rows of another dtype."""
    return tuple((inputs.astype(dtype), targets) for inputs, targets in (rows(60), rows(23, 1)))


def in_float64(model: nn.Module, batch: Any) -> dict[str, Any]:
    """The loss in float64, and a number to log."""
    outputs = model(batch[0].double())
    loss = nn.functional.cross_entropy(outputs, batch[1])
    return {"loss": loss, "outputs": outputs, "right": (outputs.argmax(1) == batch[1]).double().mean()}


def weighed(model: nn.Module, batch: Any) -> dict[str, Any]:
    """A loss that is a mean over some of the samples alone: those of class 1 and 2, perhaps none."""
    kept = batch[1] > 0
    outputs = model(batch[0].double())
    losses = nn.functional.cross_entropy(outputs, batch[1], reduction="none")[kept]
    return {"loss": losses.sum() / kept.sum(), "weight": float(kept.sum())}


def case(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, data and options of a case."""
    sgd: dict[str, Any] = {
        "optimizer": "SGD",
        "lr": 0.1,
        "optimizer_arguments": {"momentum": 0.9},
        "epochs": 2,
        "batch_size": 8,
    }
    pair = (rows(), rows(23, 1))
    cases: dict[str, Any] = {
        "plain": lambda: (network(), pair, sgd),
        "adamw": lambda: (network(), pair, {"epochs": 2, "batch_size": 12, "lr": 0.01, "clip_norm": 0.5}),
        "float64": lambda: (network().double(), pair, {**sgd, "objective": in_float64}),
        "weighed": lambda: (network().double(), pair, {**sgd, "objective": weighed}),
        "accumulate": lambda: (network().double(), pair, {**sgd, "objective": in_float64, "accumulate": 3}),
        "classes": lambda: (network(), pair, {**sgd, "loss_arguments": {"weight": [1.0, 2.0, 0.5], "ignore_index": 1}, "loss": "CrossEntropyLoss"}),
        "sum": lambda: (network(), pair, {**sgd, "lr": 0.01, "loss_arguments": {"reduction": "sum"}, "loss": "CrossEntropyLoss"}),
        "dropout": lambda: (network(nn.Dropout(0.4)).double(), pair, {**sgd, "objective": in_float64}),
        "sometimes": lambda: (Sometimes(), pair, sgd),
        "tied": lambda: (tied(), pair, sgd),
        "divided": lambda: (blocks().double(), in_numbers(np.float64), {**sgd, "batch_size": 9, "optimizer": "AdamW", "optimizer_arguments": {}, "lr": 0.01, "clip_norm": 0.5, "accumulate": 2}),
        "partly": lambda: partly(in_numbers(np.float64)),
        "large": lambda: (large(), pair, {"epochs": 1, "batch_size": 32, "lr": 1e-4}),
        "remembers": lambda: (Remembers(), pair, sgd),
        "streamed": lambda: (network(), (Rows(*rows()), Rows(*rows(23, 1))), sgd),
        "norm": lambda: (network(nn.BatchNorm1d(16)), (rows(60), rows(23, 1)), {**sgd, "batch_size": 12}),
        "stopping": lambda: (network(), pair, {**sgd, "lr": 0.3, "epochs": 12, "early_stopping": 2, "val_data": rows(40, 2)}),
        "ema": lambda: (network(), pair, {**sgd, "ema": 0.9}),
        "images": lambda: ("mlp", "digits", {"epochs": 1, "batch_size": 100, "augment": "strong", "model_arguments": {"hidden": (16,)}}),
        "nan": lambda: (network(), pair, {**sgd, "lr": 1e30}),
        "skip": lambda: (network(), pair, {**sgd, "objective": blows_up, "on_nan": "skip"}),
        "torch-draws": lambda: (Draws(lambda: torch.rand(())), pair, sgd),
        "python-draws": lambda: (Draws(random.random), pair, sgd),
        "fails-in-one": lambda: (network(), pair, {**sgd, "objective": fails_in_one}),
        "stands-still": lambda: (network(), pair, {**sgd, "objective": stands_still}),
        "loader": lambda: (network(), torch.utils.data.DataLoader(Stream(), batch_size=8), sgd),
    }  # fmt: skip
    found: tuple[Any, Any, dict[str, Any]] = cases[name]()
    return found


class Stream(torch.utils.data.IterableDataset[Any]):
    """Rows one after another."""

    def __iter__(self) -> Any:
        return ((torch.from_numpy(row), int(target)) for row, target in zip(*rows(), strict=True))


def blows_up(model: nn.Module, batch: Any) -> Tensor:
    """A loss that is not finite where a certain sample is among a process's own."""
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return loss * float("inf") if bool((batch[0][:, 0] > 3.5).any()) else loss


def fails_in_one(model: nn.Module, batch: Any) -> Tensor:
    """A loss that fails in the process that has a certain sample."""
    if model.training and bool((batch[0][:, 0] > 3.5).any()):
        raise ValueError("this sample is too much")
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def stands_still(model: nn.Module, batch: Any) -> Tensor:
    """A loss that takes its time in the process that has a certain sample, longer than the others wait."""
    if model.training and bool((batch[0][:, 0] > 3.5).any()):
        time.sleep(8)
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Counts:
    """A metric that gathers batches, whose figure depends on their order."""

    def reset(self) -> None:
        self.found = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.found = 0.7 * self.found + float(outputs.sum())

    def compute(self) -> float:
        return self.found


def evaluations() -> dict[str, tuple[nn.Module, Split, Objective, TargetSpec]]:
    """Return models to evaluate, and what on: a class, quantities, and places of both; three that depend on earlier ones."""
    inputs, targets = map(torch.from_numpy, rows(301))
    classes = TargetSpec("classification", ("a", "b", "c"))
    quantity, dense = TargetSpec("regression", width=2), {"layout": "dense"}
    metrics = choose_metrics([Counts(), lambda outputs, targets: float((outputs.argmax(1) == targets).sum())], None)
    objective = replace(make_objective(nn.CrossEntropyLoss()), metrics=metrics)

    def split(targets: Tensor) -> Split:
        return ResidentSplit(inputs, targets, lambda raw: raw)

    torch.manual_seed(3)
    places, squares = nn.Sequential(nn.Linear(6, 15), nn.Unflatten(1, (3, 5))), make_objective(nn.MSELoss())
    of_places = torch.randint(0, 3, (301, 5), generator=torch.Generator().manual_seed(1))
    return {
        "classes": (network(nn.BatchNorm1d(16)), split(targets), objective, classes),
        "told": (network(), split(targets), own_objective(in_float32), classes),
        "quantities": (nn.Linear(6, 2), split(inputs[:, :2] * 3), squares, quantity),
        "places": (places, split(of_places), make_objective(nn.CrossEntropyLoss()), replace(classes, **dense)),
        "quantities at places": (nn.Unflatten(1, (2, 3)), split(inputs.view(-1, 2, 3) ** 2), squares, replace(quantity, **dense)),
        "draws": (Draws(lambda: torch.rand(())), split(targets), objective, classes),
        "counted": (Counted(), split(targets), objective, classes),
        "moving": (network(), split(targets), make_objective(Moving()), classes),
    }  # fmt: skip


def evaluate_all(folder: Path) -> None:
    """Evaluate, alone or together, and write the reports and each sample's outcome."""
    together = joined_world()
    interrupt = SharedInterrupt(None, together) if together.is_shared else None
    for name, (model, split, objective, target) in evaluations().items():
        report, outcome = evaluate(model, split, objective, target, 8, together=interrupt)
        if together.is_first:
            found = [
                "" if outcome is None else getattr(outcome, each).tolist()
                for each in ("truth", "predicted", "confidence")
            ]
            (folder / name).write_text(json.dumps([asdict(report), found]))


def hold_all(folder: Path) -> None:
    """Hold samples once for all processes, change some in the first one, and write what each has."""
    together = joined_world()
    numbers = torch.arange(1 << 18).view(-1, 4)
    data = Data("numbers", ResidentSplit(numbers.clone(), numbers[:, 0].clone(), lambda raw: raw), None, None, None, "")
    hold_once(data, together)
    assert isinstance(data.train, ResidentSplit)
    are_equal = torch.equal(data.train.inputs, numbers) and torch.equal(data.train.targets, numbers[:, 0])
    together.gather(None)
    if together.is_first:
        data.train.inputs[1] = -1
    together.gather(None)
    is_mapped = "memfd:rushlight" in Path("/proc/self/maps").read_text()
    (folder / str(together.rank)).write_text(json.dumps([are_equal, is_mapped, data.train.inputs[1].tolist()]))


def in_float32(model: nn.Module, batch: Any) -> dict[str, Any]:
    """A loss of some samples, and numbers to log."""
    outputs = model(batch[0])
    loss = nn.functional.cross_entropy(outputs, batch[1])
    return {
        "loss": loss,
        "outputs": outputs,
        "weight": float(batch[1].sum()),
        "norm": outputs.norm(),
        "plain": float(outputs[0, 0]),
    }


def main(name: str, folder: str, verb: str = "train", *settings: str) -> None:
    """Train or resume a case as the run `folder`."""
    torch.set_num_threads(1)
    if verb in ("evaluate", "hold"):
        (evaluate_all if verb == "evaluate" else hold_all)(Path(folder))
        return
    world.STEP_SECONDS = 3.0 if name == "stands-still" else 60.0
    model, data, options = case(name)
    given = {key: ast.literal_eval(value) for key, value in (setting.split("=") for setting in settings)}
    path = Path(folder)
    if (left := given.pop("stop_after", None)) is not None and os.environ.get("RANK", "0") == "0":
        model.register_forward_pre_hook(StopsAfter(left))
    if (times := given.pop("room", None)) is not None:
        limit_memory(model, times)
    if verb == "train":
        rushlight.train(model, data, name=path.name, runs=path.parent, quiet=True, **{**options, **given})
    else:
        live = {key: options[key] for key in ("objective", "val_data") if key in options}
        live |= {"loss": options["loss"]} if not isinstance(options.get("loss", ""), str) else {}
        rushlight.resume(path.name, None if isinstance(model, str) else model, None if isinstance(data, str) else data,
                         runs=path.parent, quiet=True, **{**live, **given})  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
