"""Images in a captured graph: their layout is kept, and max pooling becomes comparisons.

Images come with channels last, in which convolutions are fastest. torch's compiler forgets the layout of images with one
channel, which are channels last and first at once; the convolution then lays out all its gradients anew.

Its rule for max pooling keeps the place of each maximum as a whole number, which the processor handles one at a time. As
comparisons of real numbers, forward and backward are a few instructions on a vector of channels, in one loop with the
BatchNorm and the activation around them. That is for cells that do not overlap; other pooling is left to the compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from rushlight.training.engine.lower_matmul import owner_of

aten = torch.ops.aten
POOL, POOL_BACKWARD = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
CONVOLUTIONS = {aten.convolution.default: 0, aten.convolution_backward.default: 1}  # and which argument the images are
LARGEST_CELL = 16  # numbers: each is compared in turn


def keep_layouts(graph: GraphModule) -> None:
    """State the layout of images with one channel wherever a convolution reads a result."""
    stated: dict[Node, Node] = {}
    for node in list(graph.graph.nodes):
        place = CONVOLUTIONS.get(node.target)
        images = None if place is None else node.args[place]
        if images is None or images.op == "placeholder" or owner_of(images) is not images:
            continue  # the compiler keeps the strides of its inputs, and of views of them
        found = images.meta["val"]
        if not is_channels_last(images) or found.shape[1] != 1:
            continue
        if images not in stated:
            with graph.graph.inserting_after(images):
                layout = (images, list(found.shape), list(found.stride()))
                stated[images] = graph.graph.call_function(aten.as_strided.default, layout)
            stated[images].meta.update(images.meta)
        node.update_arg(place, stated[images])
    graph.recompile()


def compare_maxima(graph: GraphModule) -> None:
    """Make max pooling of channels-last images comparisons, where its cells do not overlap."""
    for node in [node for node in graph.graph.nodes if node.target is POOL and is_channels_last(node.args[0])]:
        results = {user.args[1]: user for user in node.users}
        backwards = list(results[1].users) if 1 in results else []
        if not is_disjoint(node) or any(user.target is not POOL_BACKWARD for user in backwards):
            continue
        samples, size = node.args[:2]
        shape = samples.meta["val"].shape
        maxima, places = inserted(graph.graph, node, functools.partial(largest, size=size), samples)
        results[0].replace_all_uses_with(maxima)
        for user in backwards:
            spread_out = functools.partial(spread_gradient, size=size, shape=shape)
            gradient = inserted(graph.graph, user, spread_out, user.args[0], places)
            user.replace_all_uses_with(gradient)
            graph.graph.erase_node(user)
        for unused in (*results.values(), node):
            graph.graph.erase_node(unused)
    graph.recompile()


def is_channels_last(node: Any) -> bool:
    """Tell whether a node's result are images that lie channels last."""
    tensor = node.meta["val"]
    return bool(tensor.dim() == 4 and tensor.stride(1) == 1)


def is_disjoint(node: Node) -> bool:
    """Tell whether the cells of max pooling adjoin without overlap, none of them over the edge."""
    samples, size, *given = list[Any](node.args)
    stride, padding, dilation, rounds_up = given + [[], [0, 0], [1, 1], False][len(given) :]  # defaults are left out
    if len(size) != 2:
        return False
    (height, width), tensor = size, samples.meta["val"]
    return bool(
        (stride or size) == size
        and padding == [0, 0]
        and dilation == [1, 1]
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and height * width <= LARGEST_CELL
        and not (rounds_up and (tensor.shape[2] % height or tensor.shape[3] % width))
    )


def largest(samples: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Return the maxima (n, channels, rows, columns) of cells, and their places: the first ones.

    NaN counts as the largest, and the last NaN of a cell wins, as in torch's kernel.
    """
    height, width = size
    rows, columns = samples.shape[2] // height, samples.shape[3] // width
    best = samples[:, :, : rows * height : height, : columns * width : width]
    place = torch.zeros_like(best, dtype=torch.float32)
    for number in range(1, height * width):
        down, right = divmod(number, width)
        other = samples[:, :, down : rows * height : height, right : columns * width : width]
        is_larger = (other > best) | (other != other)  # NaN
        best = torch.where(is_larger, other, best)
        place = torch.where(is_larger, torch.full_like(place, number), place)
    return best, place


def spread_gradient(gradient: Tensor, place: Tensor, size: list[int], shape: torch.Size) -> Tensor:
    """Return the samples' gradient, of `shape`: that of each maximum at its place, 0 elsewhere."""
    height, width = size
    samples, channels, rows, columns = place.shape
    inside = (torch.arange(height)[:, None, None, None] * width + torch.arange(width)[:, None]).float()
    is_here = by_cell(place) == inside  # (n, rows, height, columns, width, channels)
    found = torch.where(is_here, by_cell(gradient), 0.0).clone(memory_format=torch.contiguous_format)
    found = found.view(samples, rows * height, columns * width, channels).permute(0, 3, 1, 2)
    below, beside = shape[2] - rows * height, shape[3] - columns * width
    return torch.nn.functional.pad(found, (0, beside, 0, below)) if below or beside else found


def by_cell(tensor: Tensor) -> Tensor:
    """Return a tensor (n, channels, rows, columns) as (n, rows, 1, columns, 1, channels)."""
    return tensor.permute(0, 2, 3, 1)[:, :, None, :, None, :]


def inserted(graph: Graph, before: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compute a function of nodes' results before a node; return the nodes of its results."""
    from torch.fx.experimental.proxy_tensor import make_fx

    values = [node.meta["val"] for node in arguments]
    with values[0].fake_mode:
        traced = make_fx(function)(*values).graph
    nodes = dict(zip((node for node in traced.nodes if node.op == "placeholder"), arguments, strict=True))
    with graph.inserting_before(before):
        for node in traced.nodes:
            if node.op == "call_function":
                nodes[node] = graph.node_copy(node, nodes.__getitem__)
    return map_arg(traced.output_node().args[0], nodes.__getitem__)
