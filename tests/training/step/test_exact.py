"""One optimizer step: gradient accumulation, clipping, bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rushlight.data.feed.batch import Batch
from rushlight.data.sources.named.named import open_named
from rushlight.training.objective.losses import make_objective
from rushlight.training.step.exact import Parts, backward, can_run_engine, exact_step

WEIGHTS = torch.tensor([1.0, 4.0, 0.5, 2.0, 1.0, 3.0, 0.1, 1.0, 1.0, 2.0], dtype=torch.float64)


def digits(n: int) -> tuple[Tensor, Tensor]:
    arrays = open_named("digits")
    return torch.from_numpy(arrays.train_inputs[:n]).double().flatten(1) / 255, torch.from_numpy(
        arrays.train_targets[:n]
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)).double()


def losses() -> dict[str, nn.Module]:
    return {
        "plain": nn.CrossEntropyLoss(),
        "weighted": nn.CrossEntropyLoss(weight=WEIGHTS),
        "one class ignored": nn.CrossEntropyLoss(ignore_index=1),
        "weighted, one class ignored, smoothed": nn.CrossEntropyLoss(
            weight=WEIGHTS, ignore_index=1, label_smoothing=0.1
        ),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
    }


def batches(n: int, size: int) -> list[Batch]:
    inputs, labels = digits(n)
    return [(inputs[first : first + size], labels[first : first + size]) for first in range(0, n, size)]


def train(loss: nn.Module, given_batches: list[Batch], accumulate: int, **parts: Any) -> tuple[nn.Module, list[float]]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step = exact_step(Parts(model, make_objective(loss), optimizer, **parts))
    return model, [float(step(window)[0]) for window in grouped(given_batches, accumulate)]


def grouped(given_batches: list[Batch], accumulate: int) -> list[list[Batch]]:
    """The micro-batches of each step; the last may have fewer."""
    return [given_batches[first : first + accumulate] for first in range(0, len(given_batches), accumulate)]


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


# ── accumulation ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", losses())
@given(n=st.integers(2, 60), size=st.integers(1, 9), accumulate=st.integers(1, 7))
@settings(max_examples=12, deadline=None)
def test_accumulated_micro_batches_equal_the_big_batch(kind: str, n: int, size: int, accumulate: int) -> None:
    loss = losses()[kind]
    if "ignored" in kind:
        inputs, labels = digits(n)
        labels[:: size * accumulate] = 2  # every window has one sample that counts, not every micro-batch does
        micro = [(inputs[i : i + size], labels[i : i + size]) for i in range(0, n, size)]
    else:
        micro = batches(n, size)
    big = [
        (torch.cat([x for x, _ in window]), torch.cat([y for _, y in window])) for window in grouped(micro, accumulate)
    ]
    mine, my_losses = train(loss, micro, accumulate)
    theirs, their_losses = train(loss, big, 1)
    assert_equal_models(mine, theirs)
    assert my_losses == pytest.approx(their_losses, rel=1e-10)


# ── clipping ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("norm", [1e-3, 0.05, 1e6])
def test_clipping_is_torchs_on_the_whole_windows_gradient(norm: float, accumulate: int) -> None:
    mine, _ = train(nn.CrossEntropyLoss(), batches(45, 5), accumulate, clip_norm=norm)
    theirs = network()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    for x, y in batches(45, 5 * accumulate):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), norm)
        optimizer.step()
    assert_equal_models(mine, theirs)


def test_parameters_that_the_optimizer_leaves_alone_do_not_count_for_clipping() -> None:
    """Their gradients are never cleared, so they would grow until nothing else moved."""
    model = network()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    step = exact_step(Parts(model, make_objective(nn.CrossEntropyLoss()), optimizer, clip_norm=0.01))
    alone = copy.deepcopy(model)
    alone[0].requires_grad_(False)
    alone_step = exact_step(
        Parts(
            alone, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(alone[2].parameters(), lr=0.1), clip_norm=0.01
        )
    )
    for batch in batches(60, 5):
        step([batch])
        alone_step([batch])
    assert_equal_models(model, alone)


def test_parameters_that_join_the_optimizer_later_are_clipped_too() -> None:
    models = [network(), network()]
    optimizers = [torch.optim.SGD(model[2].parameters(), lr=0.1) for model in models]
    step = exact_step(Parts(models[0], make_objective(nn.CrossEntropyLoss()), optimizers[0], clip_norm=0.01))
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.add_param_group({"params": list(model[0].parameters())})
    for x, y in batches(30, 5):
        step([(x, y)])
        optimizers[1].zero_grad()
        nn.functional.cross_entropy(models[1](x), y).backward()
        nn.utils.clip_grad_norm_(models[1].parameters(), 0.01)
        optimizers[1].step()
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


# ── what a step gives back ───────────────────────────────────────────────────────────────────────────────────


def test_a_step_gives_the_loss_before_the_update_without_its_graph() -> None:
    model = network()
    (batch,) = batches(20, 20)
    expected = nn.functional.cross_entropy(model(batch[0]), batch[1]).detach()
    step = exact_step(Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1)))
    loss, outputs = step([batch])
    assert torch.equal(loss, expected)
    assert not loss.requires_grad
    assert outputs is not None
    assert outputs.shape == (20, 10)


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_their_update_in_float32() -> None:
    model = network().float()
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = exact_step(Parts(model, make_objective(nn.CrossEntropyLoss()), optimizer, precision="bfloat16"))
    x, y = digits(20)
    first = float(step([(x.float(), y)])[0])
    for _ in range(30):
        last, _ = step([(x.float(), y)])
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    assert float(last) < first


@pytest.mark.parametrize("is_known", [True, False], ids=["engine", "ordinary"])
def test_gradients_are_those_of_loss_backward_hooks_and_errors_included(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_run_engine()
    if not is_known:
        monkeypatch.setattr("rushlight.training.step.exact.can_run_engine", lambda: False)
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.rand(5, 3)
    called: list[str] = []
    model[0].weight.register_hook(lambda gradient: called.append("hook"))
    model[2].register_full_backward_hook(lambda *arguments: called.append("module"))
    gradients = []
    for take in (lambda loss: loss.backward(), backward):
        model.zero_grad()
        take(model(inputs).square().sum())
        take(model(inputs).mean())  # added to what is there
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *gradients))
    assert called == ["module", "hook"] * 4
    with pytest.raises(RuntimeError, match="scalar"):
        backward(model(inputs))
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(model(inputs).sum().detach())
    with pytest.raises(RuntimeError, match="real scalar"):
        backward(torch.fft.fft(nn.Parameter(torch.ones(3))).sum())
    backward(nn.Parameter(torch.ones(1)).sum(0, keepdim=True))


def test_whoever_looks_at_calls_of_backward_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    plain = torch.autograd.backward
    monkeypatch.setattr(
        torch.autograd, "backward", lambda *given, **named: seen.append("patched") or plain(*given, **named)
    )
    backward(nn.Parameter(torch.ones(3)).sum())
    monkeypatch.undo()

    class Looking(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            seen.append(getattr(function, "__name__", ""))
            return function(*given, **(named or {}))

    loss = nn.Parameter(torch.ones(3)).sum()
    with Looking():
        backward(loss)
    assert seen[0] == "patched"
    assert "backward" in seen[1:]


def test_an_engine_that_is_called_in_another_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def run_backward(self, tensors: object) -> None: ...

    can_run_engine.cache_clear()
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Other())
    try:
        assert not can_run_engine()
    finally:
        can_run_engine.cache_clear()
