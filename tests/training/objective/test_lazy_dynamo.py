"""Optimizers that leave torch's compiler alone until somebody compiles, and do what torch's own do, bit for bit."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.objective.lazy_dynamo import make_optimizer

NAMES = sorted(
    name for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind not in (Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
)  # fmt: skip

TRAINING = """
import sys
import warnings
import torch
from torch import nn
import rushlight
from rushlight.training.engine.verification import Verification
from rushlight.training.objective.lazy_dynamo import make_optimizer
from rushlight.training.objective.optimizers import named_optimizer

def check(what):
    assert "torch._dynamo" not in sys.modules, what

check("importing")
for name in sys.argv[2:]:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer(getattr(torch.optim, name), [parameter], {})
    parameter.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    check(name)

warnings.simplefilter("ignore")
given = {"runs": sys.argv[1], "quiet": True}
runs = {}
for name in ("AdamW", "SGD"):
    runs[name] = rushlight.train("mlp", "digits", epochs=1, optimizer=name, **given)
    check(f"training with {name}")
more = {"clip_norm": 1.0, "accumulate": 2, "on_nan": "skip", "schedule": "constant"}
rushlight.resume(rushlight.train("mlp", "digits", epochs=1, **more, **given).folder, epochs=2, quiet=True)
check("clipping, accumulating, skipping and resuming")

looks = []
compare = Verification.compare
Verification.compare = lambda *given: looks.append(1) or compare(*given)
for name in ("AdamW", "SGD"):
    looks.clear()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    rushlight.train(model, "digits", epochs=12, optimizer=name, compile="never", **given)
    assert looks, name
    check(f"verifying a faster mode with {name}")
"""

COMPILING = """
@torch.compile(backend="eager")
def tell():
    return torch.compiler.is_compiling()

assert tell() and not torch.compiler.is_compiling()
for name, run in runs.items():
    model = run.model.eval()
    inputs = torch.rand(5, 1, 8, 8)
    expected = model(inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(inputs), expected)
    assert "torch._dynamo" in sys.modules

    plain, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(plain.state_dict())
    ours, theirs = named_optimizer(name, plain, {"lr": 0.1}), getattr(torch.optim, name)(other.parameters(), lr=0.1)
    for trained, optimizer in ((plain, ours), (other, theirs)):
        def step(optimizer=optimizer):
            optimizer.step()
        update = torch.compile(step, backend="aot_eager")
        for _ in range(2):
            optimizer.zero_grad()
            trained(torch.ones(4, 3)).square().sum().backward()
            update()
    assert all(map(torch.equal, plain.parameters(), other.parameters()))
"""


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False)
    )  # Muon takes matrices only


def trained(make: Callable[[list[nn.Parameter]], Optimizer], steps: int = 4) -> tuple[nn.Module, Optimizer]:
    """Train for a few steps, with the optimizer's state put away and taken back on the way."""
    model = network()
    optimizer = make(list(model.parameters()))
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x, y = torch.randn(16, 6, generator=generator), torch.randint(0, 5, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return model, optimizer


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from tensors_in(part)


# ── the start ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_no_part_of_training_imports_the_compiler_and_compiling_afterwards_works(tmp_path: Path) -> None:
    done = subprocess.run(  # anew: what tests fork from has the compiler already
        [sys.executable, "-c", TRAINING + COMPILING, str(tmp_path), *NAMES], capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ── the same as torch's ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_takes_the_steps_of_torchs_own_bit_for_bit(name: str) -> None:
    kind = getattr(torch.optim, name)
    model, made = trained(lambda parameters: make_optimizer(kind, parameters, {}))
    plain, own = trained(lambda parameters: kind(parameters))
    assert type(made) is kind
    assert state_digest(model) == state_digest(plain) != state_digest(network())
    found, expected = list(tensors_in(made.state_dict())), list(tensors_in(own.state_dict()))
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_gradients_flow_through_a_step_that_is_differentiable() -> None:
    weight = torch.ones(3, requires_grad=True)
    made = make_optimizer(torch.optim.SGD, [weight * 2], {"lr": 0.1, "differentiable": True})  # type: ignore[list-item]
    (updated,) = made.param_groups[0]["params"]
    updated.grad = weight.detach().clone()
    made.step()
    updated.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 2.0, 2.0]


def test_gradients_are_on_again_after_a_step_even_one_that_fails() -> None:
    model = network()
    made = make_optimizer(torch.optim.SGD, list(model.parameters()), {})
    modes = []

    def closure() -> float:
        modes.append(torch.is_grad_enabled())
        if len(modes) > 1:
            raise RuntimeError
        return 1.5

    assert made.step(closure) == 1.5
    with pytest.raises(RuntimeError):
        made.step(closure)
    assert modes == [True, True]  # torch turns them on for a closure
    assert torch.is_grad_enabled()


def test_hooks_on_one_optimizer_and_on_all_are_called() -> None:
    made = make_optimizer(torch.optim.SGD, list(network().parameters()), {})
    called: list[Any] = []
    made.register_step_pre_hook(lambda optimizer, *_: called.append(optimizer))
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: called.append(optimizer))
    made.step()
    handle.remove()
    assert called == [made, made]


def test_a_scheduler_of_torchs_and_more_parameters_are_taken() -> None:
    made = make_optimizer(torch.optim.SGD, list(network().parameters()), {"lr": 1.0})
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5)
    made.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 4.0})
    made.step()
    scheduler.step()
    assert made.param_groups[0]["lr"] == 0.5
    assert len(made.param_groups) == 2


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_is_an_optimizer_as_torch_makes_it(again: Callable[[Optimizer], Optimizer]) -> None:
    copied = again(make_optimizer(torch.optim.SGD, [nn.Parameter(torch.ones(2))], {"lr": 0.5}))
    (parameter,) = copied.param_groups[0]["params"]
    parameter.grad = torch.ones(2)
    copied.step()
    assert parameter.tolist() == [0.5, 0.5]
    assert "step" not in vars(copied)


def test_an_optimizers_state_is_freed_with_it_without_waiting_for_the_collector() -> None:
    _, made = trained(lambda parameters: make_optimizer(torch.optim.AdamW, parameters, {}))
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


def test_other_optimizers_of_the_process_stay_as_torch_makes_them() -> None:
    before = {name: dict(vars(getattr(torch.optim, name))) for name in NAMES}
    for name in NAMES:
        getattr(torch.optim, name)(list(network().parameters()))  # this alone makes torch wrap the class's step
        before[name] = dict(vars(getattr(torch.optim, name)))
        make_optimizer(getattr(torch.optim, name), list(network().parameters()), {})
    assert before == {name: dict(vars(getattr(torch.optim, name))) for name in NAMES}


def test_methods_that_are_decorated_in_another_way_are_left_as_they_are() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.steps = getattr(self, "steps", 0) + 1
            return super().step(closure)

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.zeroed = True
            super().zero_grad(set_to_none)

    model, made = trained(lambda parameters: make_optimizer(Own, parameters, {}))
    assert isinstance(made, Own)
    assert (made.steps, made.zeroed) == (4, True)
    assert not {"step", "zero_grad"} & vars(made).keys()
    assert state_digest(model) == state_digest(trained(torch.optim.SGD)[0])


def test_what_an_optimizer_refuses_it_still_refuses() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate"):
        make_optimizer(torch.optim.SGD, list(network().parameters()), {"lr": -1.0})
    with pytest.raises(ValueError, match="empty parameter list"):
        make_optimizer(torch.optim.SGD, [], {})
