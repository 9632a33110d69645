"""Matrix products in a captured graph: by oneDNN where that is faster here than the BLAS that torch calls.

On processors that are not Intel's, MKL leaves the widest instructions unused: a product of (64, 784) and (784, 512) took 147 µs
by oneDNN and 293 µs by MKL (AMD EPYC with AVX-512, 2 threads). Which one is faster is measured, product by product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

ROUNDS, REPEATS = 5, 10
CLEARLY = 0.9  # of the time, for a change to pay
aten = torch.ops.aten
BIASED, PLAIN = aten.addmm.default, aten.mm.default


@dataclass(frozen=True)
class Product:
    """A product of two float32 matrices, (rows, inner) and (inner, columns), plus a bias or not; strides of both."""

    rows: int
    inner: int
    columns: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    biased: bool

    def __post_init__(self) -> None:
        for name in ("left", "right"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON makes lists of them


def product_of(node: Node) -> Product | None:
    """Return the product that a node computes, if it is one that oneDNN could compute instead."""
    if node.op != "call_function" or node.target not in (BIASED, PLAIN) or node.kwargs:
        return None
    *_, left, right = (argument.meta["val"] for argument in node.args)  # type: ignore[union-attr]
    if left.dtype != torch.float32 or right.dtype != torch.float32:
        return None
    shape = (left.shape[0], left.shape[1], right.shape[1])
    return Product(*shape, left.stride(), right.stride(), node.target is BIASED)


def faster_products(graph: GraphModule) -> list[Product]:
    """Return the products of a graph that oneDNN computes clearly faster, on one thread, here and now."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []
    found = dict.fromkeys(product for node in graph.graph.nodes if (product := product_of(node)))
    return [product for product in found if is_faster(product)]


def is_faster(product: Product) -> bool:
    """Tell whether oneDNN computes a product clearly faster than torch's own BLAS: the least of some interleaved rounds."""
    left = torch.empty_strided((product.rows, product.inner), product.left).fill_(0.5)
    right = torch.empty_strided((product.inner, product.columns), product.right).fill_(0.5)
    bias = torch.zeros(product.columns) if product.biased else None
    ways: list[Callable[[], Tensor]] = [
        lambda: left @ right if bias is None else torch.addmm(bias, left, right),
        lambda: torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], ""),
    ]
    best = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(ROUNDS):
            for number, way in enumerate(ways):
                way()
                began = time.perf_counter()
                for _ in range(REPEATS):
                    way()
                best[number] = min(best[number], time.perf_counter() - began)
    return best[1] < CLEARLY * best[0]


def use_products(graph: GraphModule, chosen: Sequence[Product]) -> None:
    """Let oneDNN compute the chosen products of a graph."""
    if not chosen:
        return
    lower_as_it_is()
    for node in list(graph.graph.nodes):
        if product_of(node) not in chosen:
            continue
        *bias, left, right = node.args
        with graph.graph.inserting_before(node):
            transposed = graph.graph.call_function(aten.t.default, (right,))
            arguments: Any = (left, transposed, bias[0] if bias else None, "none", [], "")
            made = graph.graph.call_function(torch.ops.mkldnn._linear_pointwise.default, arguments)
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
    graph.recompile()


def lower_as_it_is() -> None:
    """Let torch's compiler call oneDNN's product directly. Its own rule for it takes weights that never change only."""
    from torch._inductor import compile_fx, lowering, mkldnn_ir  # noqa: F401  # the first makes the compiler ready
    from torch._inductor.fx_passes import mkldnn_fusion
    from torch._inductor.ir import TensorBox

    mkldnn_fusion._mkldnn_fusion_init()

    def call(inputs, weight, bias, attribute, scalars, algorithm):  # type: ignore[no-untyped-def]
        made = mkldnn_ir.LinearUnary.create(inputs, weight, bias, attribute, scalars, algorithm)  # type: ignore[no-untyped-call]
        return TensorBox.create(made)

    lowering.lowerings[torch.ops.mkldnn._linear_pointwise.default] = call
