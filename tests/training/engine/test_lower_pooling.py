"""What is changed in the graphs of models with convolutions: max pooling becomes comparisons, and layouts are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.engine.test_policy import pooled_images
from tests.training.step.test_pooling import samples_of
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from rushlight.training.engine.capture import capture, no_numbers, pieces_of
from rushlight.training.engine.lower_pooling import compare_maxima, keep_layouts
from rushlight.training.engine.package import with_channels_last
from rushlight.training.objective.losses import make_objective
from rushlight.training.step.exact import Parts, exact_step


def pooling_graph(samples: Tensor, gradient: Tensor, **pooling: Any) -> GraphModule:
    """Max pooling and its backward as a graph of (samples, gradient)."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def pool_both_ways(samples: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        leaf = samples.detach().requires_grad_()
        pooled = functional.max_pool2d(leaf, **pooling)
        return pooled.detach(), torch.autograd.grad(pooled, leaf, gradient)[0]

    return make_fx(pool_both_ways, tracing_mode="fake")(samples, gradient)


def channels_last(images: Tensor) -> Tensor:
    return with_channels_last((images,))[0]


@pytest.mark.slow
@given(
    st.integers(0, 2**16), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4),
    st.integers(0, 9), st.integers(0, 9), st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_max_pooling_as_comparisons_has_the_bits_of_torchs_kernel(
    seed: int,
    count: int,
    channels: int,
    height: int,
    width: int,
    more: int,
    beside: int,
    dtype: torch.dtype,
) -> None:
    samples = channels_last(samples_of(seed, (count, channels, height + more, width + beside), special=True).to(dtype))
    size = (height, width)
    pooled = functional.max_pool2d(samples, size)
    gradient = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    graph = pooling_graph(samples, gradient, kernel_size=size)
    expected = graph(samples, gradient)
    compare_maxima(graph)
    assert "max_pool" not in graph.code
    for found, wanted in zip(graph(samples, gradient), expected, strict=True):
        same = (found == wanted) & (found.signbit() == wanted.signbit())
        assert bool((same | (found.isnan() & wanted.isnan())).all())


@pytest.mark.parametrize(
    ("pooling", "is_left"),
    [
        ({"kernel_size": 3, "stride": 2}, True),
        ({"kernel_size": 2, "padding": 1}, True),
        ({"kernel_size": 2, "stride": 2, "dilation": 2}, True),
        ({"kernel_size": 2, "ceil_mode": True}, True),  # 9 is odd
        ({"kernel_size": 3, "ceil_mode": True}, False),
        ({"kernel_size": 8}, True),  # 64 comparisons
        ({"kernel_size": [2]}, True),
    ],
)
def test_pooling_whose_cells_overlap_or_stand_over_the_edge_is_left_to_the_compiler(
    pooling: dict[str, Any], is_left: bool
) -> None:
    samples = channels_last(samples_of(1, (2, 3, 9, 9), special=True))
    gradient = torch.ones_like(functional.max_pool2d(samples, **pooling))
    graph = pooling_graph(samples, gradient, **pooling)
    expected = graph(samples, gradient)
    compare_maxima(graph)
    assert ("max_pool" in graph.code) == is_left
    for found, wanted in zip(graph(samples, gradient), expected, strict=True):
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())


def test_images_that_lie_otherwise_and_places_that_somebody_wants_are_left_alone() -> None:
    samples = samples_of(1, (2, 3, 8, 8), special=True)
    graph = pooling_graph(samples, torch.ones(2, 3, 4, 4), kernel_size=2)
    compare_maxima(graph)
    assert "max_pool2d_with_indices_backward" in graph.code
    wanted = capture_of(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Unpooled(), nn.Flatten(), nn.Linear(256, 10)), samples
    )
    compare_maxima(wanted)
    assert "max_pool2d_with_indices" in wanted.code


class Unpooled(nn.Module):
    """Uses where the maxima came from."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2)


def capture_of(model: nn.Module, samples: Tensor) -> GraphModule:
    """A step of a model as a graph, with images channels last."""
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), torch.optim.SGD(model.parameters(), lr=0.1))
    targets = torch.zeros(len(samples), dtype=torch.int64)
    exact_step(parts)([(samples, targets)])
    return capture(pieces_of(parts), channels_last(samples), targets, 1)[0]


def captured(precision: str = "float32") -> tuple[GraphModule, Any, Parts]:
    """A step of `pooled_images` as a graph, with images channels last."""
    model = pooled_images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = Parts(model, make_objective(nn.CrossEntropyLoss()), optimizer, precision=precision)
    batch = torch.rand(4, 1, 8, 8), torch.arange(4)
    exact_step(parts)([batch])
    samples, targets = with_channels_last(batch)
    graph, noise = capture(pieces_of(parts), samples, targets, 1)
    return graph, noise, parts


def test_random_numbers_of_a_layout_that_is_another_are_drawn_in_the_order_of_the_exact_step() -> None:
    _, (noise,), _ = captured()
    assert noise.shape == (4, 8, 4, 4)
    assert noise.strides == torch.empty(noise.shape).stride()


def test_images_with_one_channel_that_are_cast_keep_their_layout() -> None:
    plain, _, _ = captured()
    keep_layouts(plain)
    assert "as_strided" not in plain.code  # they are the graph's own input
    cast, _, _ = captured("bfloat16")
    keep_layouts(cast)
    assert cast.code.count("as_strided.default") == 1  # for the convolution and its backward
    assert cast.code.count("[64, 1, 8, 1]") == 1


def test_a_graph_in_bfloat16_with_its_layouts_said_takes_the_step_of_the_eager_one() -> None:
    graph, noise, parts = captured("bfloat16")
    keep_layouts(graph)
    compare_maxima(graph)
    assert graph.code.count("max_pool2d_with_indices.default") == 1  # the other one's cells overlap
    assert [each.dtype for each in noise] == ["bfloat16"]
    plain = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    pieces, (samples, targets) = pieces_of(parts), with_channels_last(plain)
    written, numbers = [tensor.clone() for tensor in pieces.written()], torch.full_like(no_numbers(pieces, 1), 0.1)
    torch.default_generator.manual_seed(5)
    drawn = [each.draw() for each in noise]
    with torch.no_grad():
        losses, _ = graph(*written, numbers, samples, targets, *drawn)
    torch.default_generator.manual_seed(5)
    loss, _ = exact_step(parts)([plain])
    torch.testing.assert_close(losses[0], loss.float(), rtol=0.01, atol=0.0)
    for found, wanted in zip(written, pieces.written(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)
