"""Rewrites matrix products in a captured graph: biases, and updates of plain SGD in place.

Plain SGD subtracts `rate * (left @ right)` from a parameter. BLAS adds a product to a matrix in place, so that no gradient
is written, read and subtracted.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
BIASED, PLAIN = aten.addmm.default, aten.mm.default
ADD_PRODUCT = "add_product_(Tensor(a!) total, Tensor left, Tensor right) -> ()"


def separate_biases(graph: GraphModule) -> None:
    """Add each bias after its product: the compiler fuses it into the activation."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not BIASED or node.kwargs:
            continue
        bias, left, right = node.args
        with graph.graph.inserting_before(node):
            product = graph.graph.call_function(PLAIN, (left, right))
            negative = graph.graph.call_function(aten.neg.default, (bias,))
            total = graph.graph.call_function(aten.sub.Tensor, (product, negative))  # a sum would become `addmm` again
        product.meta.update(node.meta)
        negative.meta.update(bias.meta)
        total.meta.update(node.meta)
        node.replace_all_uses_with(total)
        graph.graph.erase_node(node)
    graph.recompile()


# ── updates that are products ────────────────────────────────────────────────────────────────────────────────


def add_products(graph: GraphModule) -> int:
    """Make each update `parameter - rate * (left @ right)` a product in place; return the count."""
    written = {node.args[0] for node in graph.graph.nodes if is_writing(node)}
    updates = {node: update for node in graph.graph.nodes if (update := update_of(node, written))}
    try:
        own_operator()
    except (ImportError, AttributeError):  # this torch's compiler has another shape
        return 0
    for copy, (rate, left, right) in updates.items():
        with graph.graph.inserting_before(copy):
            factor = graph.graph.call_function(aten.neg.default, (rate,))
            scaled = graph.graph.call_function(aten.mul.Tensor, (left, factor))
            graph.graph.call_function(torch.ops.rushlight.add_product_.default, (copy.args[0], scaled, right))
        for unused in (copy, copy.args[1]):
            graph.graph.erase_node(unused)
    graph.graph.eliminate_dead_code(lambda node: node.is_impure() or is_writing(node))
    graph.recompile()
    return len(updates)


def update_of(copy: Node, written: set[Any]) -> tuple[Any, Any, Any] | None:
    """Return rate, left, right where a node writes `parameter - rate * (left @ right)`.

    None where an operand lies in memory that the graph writes: by the time of the product it may be another.
    """
    if copy.target is not aten.copy_.default or copy.users:
        return None
    parameter, new = copy.args
    start, scaled = operands(new, aten.sub.Tensor)
    rate, gradient = operands(scaled, aten.mul.Tensor)
    is_transposed = False
    while inner := operands(gradient, aten.t.default)[0]:
        gradient, is_transposed = inner, not is_transposed
    left, right = operands(gradient, PLAIN)
    if start is not parameter or is_transposed or left is None or {owner_of(left), owner_of(right)} & written:
        return None
    return rate, left, right


def is_writing(node: Node) -> bool:
    """Tell whether a node changes a tensor in place: its first argument."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return schema is not None and schema.is_mutable


def owner_of(node: Any) -> Any:
    """Return the node whose memory a node's result lies in."""
    while node.op == "call_function" and getattr(node.target, "is_view", True):
        node = node.args[0]
    return node


def operands(node: Any, target: Any) -> tuple[Any, ...]:
    """Return the arguments of a node that calls `target`, for one other node alone; else Nones."""
    is_it = isinstance(node, Node) and node.target is target and len(node.users) == 1 and not node.kwargs
    return node.args if is_it else (None, None)


@functools.cache
def own_operator() -> torch.library.Library:
    """Define the operator `total += left @ right`; it lasts as long as the result."""
    library = torch.library.Library("rushlight", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(ADD_PRODUCT)  # type: ignore[no-untyped-call]

    def add(total: Tensor, left: Tensor, right: Tensor) -> None:
        total.addmm_(left, right)

    library.impl("add_product_", add, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake("rushlight::add_product_", lambda total, left, right: None, lib=library)
    lower_in_place(torch.ops.rushlight.add_product_.default)
    return library


def lower_in_place(operator: Any) -> None:
    """Register the call of C that torch's compiler writes for `operator`."""
    from torch._inductor import compile_fx, ir, lowering  # noqa: F401  # the first makes the compiler ready
    from torch._inductor.virtualized import V
    from torch.utils._ordered_set import OrderedSet

    class AddProduct(ir.ExternKernel):  # as torch's own InplaceBernoulliFallback
        def __init__(self, total: Any, left: Any, right: Any) -> None:
            inputs = [*self.unwrap_storage([total]), self.realize_input(left), self.realize_input(right)]
            super().__init__(None, ir.NoneLayout(device=total.get_device()), inputs, (), op_overload=operator)
            V.graph.mark_buffer_mutated(total.get_name())
            self.name = V.graph.register_buffer(self)
            V.graph.register_operation(self)

        def codegen(self, wrapper: Any) -> None:
            total, left, right = (each.codegen_reference() for each in self.inputs)  # type: ignore[union-attr]
            call = f"aoti_torch_cpu_addmm_out({total}, {total}, {left}, {right}, 1.0, 1.0)"
            wrapper.writeline(f"AOTI_TORCH_ERROR_CODE_CHECK({call});")

        def should_allocate(self) -> bool:
            return False

        def get_mutation_names(self) -> list[str]:
            return [self.inputs[0].get_name()]  # type: ignore[union-attr]

        def get_unbacked_symbol_defs(self) -> Any:
            return OrderedSet()

    def call(total: Any, left: Any, right: Any) -> None:
        total.realize()
        AddProduct(total, left, right)

    lowering.lowerings[operator] = call
