"""The floor: the matrix products and convolutions of a step, forward and backward, and nothing else.

They are recorded from one real step, with the tensors they worked on, and repeated: no data, no activation functions, no
normalisation, no loss, no update, no autograd, no test. It learns nothing. Freed memory is kept, as the best case has it.

On a graphics card it is another floor: a CUDA graph of some whole steps on one batch, with torch's fused update, replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.peers import Laps
from benchmarks.workloads import Work
from rushlight.device import keep_freed_memory

PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip


class Recorded(TorchDispatchMode):
    """Keeps the products that torch computes, with their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as ever, and keep what is a product."""
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def train(work: Work, epochs: int, laps: Laps) -> None:
    """Repeat the products of one step as often as training would compute them."""
    if work.device.type == "cuda":
        replay(work.on_device(), epochs, laps)
        return
    keep_freed_memory()
    size = work.workload.batch_size
    model = work.workload.model()
    with Recorded() as recorded:
        loss = nn.functional.cross_entropy(model(work.prepared(work.inputs[:size])), work.targets[:size])
        loss.backward()
    laps.begin()
    with torch.no_grad():
        for _ in range(epochs):
            for _ in range(work.steps):
                for product, operands, options in recorded.products:
                    product(*operands, **options)
            laps.done(None, None)


TOGETHER = 25  # steps in a graph


def replay(work: Work, epochs: int, laps: Laps) -> None:
    """Replay a graph of whole steps as often as training would need it."""
    workload, model = work.workload, work.workload.model().to(work.device)
    arguments = {**workload.optimizer_arguments, "fused": True}
    arguments |= {} if workload.optimizer == "SGD" else {"capturable": True}
    optimizer = getattr(torch.optim, workload.optimizer)(model.parameters(), lr=workload.lr, **arguments)
    x, y = work.prepared(work.inputs[: workload.batch_size]), work.targets[: workload.batch_size]

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        for _ in range(TOGETHER):
            step()
    torch.cuda.synchronize()
    laps.begin()
    for _ in range(epochs):
        for _ in range(work.steps // TOGETHER):
            graph.replay()
        torch.cuda.synchronize()
        laps.done(None, None)
