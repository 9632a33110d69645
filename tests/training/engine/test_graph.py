"""What a CUDA graph is captured from, executed on the processor: the exact step's results, and no waiting for a number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rushlight.training.engine import graph
from rushlight.training.engine.package import layouts
from rushlight.training.engine.verification import tensors_of
from rushlight.training.objective import make_objective
from rushlight.training.step import Parts, exact_step

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item"}


class Watched(TorchDispatchMode):
    """Notes the operators that read a number back, which a card that is being captured refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITING:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


class Generator:
    """Has the methods of a card's generator, and draws from the processor's."""

    def clone_state(self) -> Generator:
        return self

    def graphsafe_get_state(self) -> Generator:
        return self

    def graphsafe_set_state(self, state: Generator) -> None:
        pass


def parts_of(name: str, settings: dict[str, Any], clip_norm: float | None = None, precision: str = "float32") -> Parts:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 5),
    )
    made = getattr(torch.optim, name)(
        [{"params": list(model[:2].parameters()), "lr": 3e-3}, {"params": list(model[5:].parameters())}],
        lr=1e-2,
        **settings,
    )
    return Parts(model, make_objective(nn.CrossEntropyLoss(), True), made, clip_norm, precision)


def batches(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8 * count, 2, 6, 6, generator=generator), torch.arange(8 * count) % 5


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "dampening": 0.2, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    ("AdamW", {"weight_decay": 0.1}),
    ("AdamW", {"maximize": True, "eps": 1e-3}),
]


@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_captured_steps_compute_what_exact_ones_do_and_read_no_number(
    name: str, settings: dict[str, Any], clip_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3
    monkeypatch.setattr(graph, "step_generator", lambda device: Generator())
    parts = parts_of(name, settings, clip_norm)
    first = tuple(each[:8] for each in batches(1))
    exact_step(parts)([first])  # the optimizer has its tensors from here on
    reference = Parts(*copy.deepcopy((parts.model, parts.objective, parts.optimizer)), clip_norm)
    x, y = batches(count)
    steps = graph.CapturedSteps(parts, graph.PLAIN, count, layouts((x, y)), compiles=False)
    for place, given in zip(steps.batch, (x, y), strict=True):
        place.copy_(given)
    rates = [[3e-3, 1e-2], [2e-3, 5e-3], [1e-3, 2e-3]]
    steps.numbers.copy_(torch.tensor(steps.numbers_of(rates)))
    with Watched() as watched:
        steps.execute()
    losses = []
    for step, of_step in enumerate(rates):
        for group, rate in zip(reference.optimizer.param_groups, of_step, strict=True):
            group["lr"] = rate
        rows = slice(8 * step, 8 * step + 8)
        losses.append(exact_step(reference)([(x[rows], y[rows])])[0])
    assert watched.waits == []
    torch.testing.assert_close(steps.losses, torch.stack(losses), rtol=1e-5, atol=1e-6)
    for key, expected in tensors_of(reference).items():
        if not key.endswith("(step)"):
            torch.testing.assert_close(
                tensors_of(parts)[key], expected, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_a_step_in_bfloat16_reads_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "step_generator", lambda device: Generator())
    parts = parts_of("AdamW", {}, 1.0, "bfloat16")
    exact_step(parts)([tuple(each[:8] for each in batches(1))])
    steps = graph.CapturedSteps(parts, graph.PLAIN, 2, layouts(batches(2)), compiles=False)
    for place, given in zip(steps.batch, batches(2), strict=True):
        place.copy_(given)
    with Watched() as watched:
        steps.execute()
    assert watched.waits == []
    assert torch.isfinite(steps.losses).all()
