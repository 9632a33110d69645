"""Max pooling the faster way: the same numbers, indices and gradients, to the last bit, and out of the way of all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import rushlight
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.objective.losses import make_objective
from rushlight.training.step import pooling
from rushlight.training.step.exact import Parts, exact_step
from rushlight.training.step.pooling import FasterMaxPool


@pytest.fixture(autouse=True)
def small_samples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "FEWEST_NUMBERS", 0)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the faster way was gone."""
    calls: list[int] = []
    plain = pooling.by_channels
    pooling.are_bits_the_same()

    def counted(*args: Any) -> Any:
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(pooling, "by_channels", counted)
    return calls


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32)


def samples_of(seed: int, shape: tuple[int, ...], special: bool = False) -> Tensor:
    """Samples with many ties; `special`: with zeros of both signs, infinities and what is no number."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randint(-3, 4, shape, generator=generator).float()
    if special:
        samples *= torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
        for value in (float("nan"), float("inf"), float("-inf")):
            samples[torch.rand(shape, generator=generator) < 0.05] = value
    return samples


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**16), st.integers(1, 3), st.integers(8, 40), st.integers(4, 15), st.integers(4, 15),
    st.sampled_from([1, 2, 3, (2, 1), (1, 3)]), st.sampled_from([None, 1, 2, (2, 1)]), st.sampled_from([0, 1]),
    st.sampled_from([1, 2]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_numbers_and_gradients_have_the_same_bits(
    seed: int, n: int, channels: int, height: int, width: int, kernel: Any, stride: Any, padding: int, dilation: int,
    ceil_mode: bool, special: bool,
) -> None:  # fmt: skip
    spread = [dilation * (size - 1) + 1 for size in ((kernel, kernel) if isinstance(kernel, int) else kernel)]
    assume(spread[0] <= height and spread[1] <= width)
    smallest = kernel if isinstance(kernel, int) else min(kernel)
    pool = nn.MaxPool2d(kernel, stride, min(padding, smallest // 2), dilation, ceil_mode=ceil_mode)
    found = []
    for mode in (None, FasterMaxPool()):
        samples = samples_of(seed, (n, channels, height, width), special).requires_grad_()
        if mode is None:
            pooled = pool(samples)
        else:
            with mode:
                pooled = pool(samples)
        pooled.backward(torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)))
        assert samples.grad is not None
        found.append((bits(pooled.detach()), pooled.stride(), bits(samples.grad), samples.grad.stride()))
    plain, faster = found
    assert torch.equal(plain[0], faster[0])
    assert torch.equal(plain[2], faster[2])
    assert (plain[1], plain[3]) == (faster[1], faster[3])


def test_every_way_to_ask_for_pooling_is_answered(used: list[int]) -> None:
    samples = samples_of(0, (2, 16, 8, 8))
    expected = functional.max_pool2d(samples, 2)
    with FasterMaxPool():
        asked = [
            nn.MaxPool2d(2)(samples), functional.max_pool2d(samples, (2, 2), stride=2), torch.max_pool2d(samples, [2, 2]),
            functional.max_pool2d(samples, kernel_size=2), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))(samples + 10) - 10,
        ]  # fmt: skip
    assert len(used) == len(asked)
    assert all(torch.equal(each, expected) for each in asked)


def test_what_it_is_not_for_is_left_to_torch(used: list[int]) -> None:
    samples = samples_of(0, (2, 16, 8, 8))
    others = [samples.contiguous(memory_format=torch.channels_last), samples.double(), samples[:, :4], samples[0]]
    expected = [functional.max_pool2d(each, 2) for each in others]
    with FasterMaxPool():
        assert all(
            torch.equal(functional.max_pool2d(each, 2), value) for each, value in zip(others, expected, strict=True)
        )
        _, indices = functional.max_pool2d(samples, 2, return_indices=True)
        assert indices.dtype == torch.int64
        nn.MaxPool2d(2, return_indices=True)(samples)
        with pytest.raises(TypeError):
            functional.max_pool2d(samples)
        with pytest.raises(RuntimeError, match="pad should be at most half"):
            functional.max_pool2d(samples, 2, padding=2)
    assert len(used) == 1  # the last one, which raises what torch raises


def test_a_stride_of_zero_is_refused_and_none_at_all_is_the_kernels_size() -> None:
    samples = samples_of(0, (2, 16, 8, 8))
    with FasterMaxPool():
        with pytest.raises(RuntimeError, match="stride should not be zero"):
            functional.max_pool2d(samples, 2, stride=0)
        pooled = [torch.max_pool2d(samples, 2, []), functional.max_pool2d(samples, 2, None)]
    assert all(torch.equal(each, functional.max_pool2d(samples, 2)) for each in pooled)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, for forward derivatives
def test_transforms_and_second_derivatives_go_through() -> None:
    samples = samples_of(1, (3, 2, 16, 6, 6)) + torch.rand(3, 2, 16, 6, 6)

    def total(each: Tensor) -> Tensor:
        return functional.max_pool2d(each, 2).pow(3).sum()

    def found() -> list[Tensor]:
        each = samples[0].clone().requires_grad_()
        (first,) = torch.autograd.grad(total(each), each, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), each)
        tangent = torch.ones_like(samples[0])
        return [
            second, torch.func.grad(total)(samples[0]), torch.func.vmap(total)(samples),
            torch.func.jvp(total, (samples[0],), (tangent,))[1],
        ]  # fmt: skip

    expected = found()
    with FasterMaxPool():
        assert all(map(torch.equal, expected, found()))


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def test_an_exact_step_is_the_plain_loops(used: list[int]) -> None:
    loss, batch = nn.CrossEntropyLoss(), (torch.rand(32, 1, 8, 8), torch.randint(0, 10, (32,)))
    digests = []
    for is_plain in (True, False):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = exact_step(Parts(model, make_objective(loss), optimizer))
        for number in range(5):
            torch.manual_seed(number)
            if is_plain:
                optimizer.zero_grad()
                loss(model(batch[0]), batch[1]).backward()
                optimizer.step()
            else:
                step([batch])
        digests.append(state_digest(model))
    assert digests[0] == digests[1]
    assert len(used) == 10


def test_training_and_testing_use_the_faster_pooling_and_end_with_the_same_bits(
    tmp_path: Path, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 64, "quiet": True, "numerics": "exact", "runs": tmp_path}
    faster = rushlight.train(network(), "digits", name="faster", **options)
    assert len(used) > 2 * 2 * 23  # also in the tests
    monkeypatch.setattr(pooling, "are_bits_the_same", lambda: False)
    used.clear()
    plain = rushlight.train(network(), "digits", name="plain", **options)
    assert not used
    assert state_digest(faster.model) == state_digest(plain.model)
    assert faster.losses.tobytes() == plain.losses.tobytes()
    assert faster.report == plain.report
