"""Max pooling over two dimensions, faster on the processor, with the same bits.

torch's kernel for the usual layout (channels outermost) takes one number at a time; the one for channels last takes a vector
of channels, and is ten times as fast. Nothing is added up in a maximum, so the layout changes no bit: samples are laid out
channels last, pooled, and laid out as before. Backward is torch's own kernel on the same indices.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from rushlight.data import CPU

FEWEST_CHANNELS = 8  # below that a vector of them is hardly filled
FEWEST_NUMBERS = 1 << 15  # below that the calls cost more than the kernels

POOLINGS = (nn.functional.max_pool2d, torch.max_pool2d)


class FasterMaxPool(TorchFunctionMode):
    """Makes max pooling faster within it, whoever calls it: a layer, `F` or `torch`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        named = kwargs or {}
        pooled = max_pool(*args, **named) if function in POOLINGS else None
        return function(*args, **named) if pooled is None else pooled


def has_images(model: nn.Module) -> bool:
    """Tell whether a model has convolutions over two dimensions."""
    return any(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in model.modules())


def may_pool(model: nn.Module) -> bool:
    """Tell whether a model on the processor may pool in its forward pass, eagerly: each call then takes 2 µs longer."""
    is_elsewhere = any(parameter.device != CPU for parameter in model.parameters())
    is_compiled = any(each._compiled_call_impl or type(each).__name__ == "OptimizedModule" for each in model.modules())
    return has_images(model) and not is_compiled and not is_elsewhere


def max_pool(
    input: Any = None,  # as torch calls it
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    **others: Any,
) -> Tensor | None:
    """Return the result of `F.max_pool2d`, with its gradients; None where it must be called."""
    stride = kernel_size if stride is None or stride == [] else stride
    settings = [pair(size) for size in (kernel_size, stride, padding, dilation)]
    if return_indices or others or None in settings or not suits(input) or not are_bits_the_same():
        return None
    pooled: Tensor = MaxPool.apply(input, *settings, ceil_mode)  # type: ignore[no-untyped-call]
    return pooled


def suits(samples: Any) -> bool:
    """Tell whether pooling of samples can be faster, and only a gradient is wanted of it."""
    return (
        type(samples) in (Tensor, nn.Parameter)
        and torch._C._functorch.peek_interpreter_stack() is None  # no transform of torch.func is at work
        and forward_ad._current_level < 0
        and samples.device == CPU
        and samples.dtype == torch.float32
        and samples.dim() == 4
        and samples.shape[1] >= FEWEST_CHANNELS
        and samples.numel() >= FEWEST_NUMBERS
        and samples.is_contiguous()
        and not samples.is_contiguous(memory_format=torch.channels_last)
    )


class MaxPool(torch.autograd.Function):
    """Max pooling of contiguous samples by the kernel for channels last."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, *settings: Any) -> Tensor:
        """Return the pooled samples, contiguous."""
        pooled, indices = by_channels(samples, *settings)
        ctx.save_for_backward(samples, indices)
        ctx.settings = settings
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the samples' gradient."""
        samples, indices = ctx.saved_tensors
        found = torch.ops.aten.max_pool2d_with_indices_backward(gradient, samples, *ctx.settings, indices)
        return found, *(None for _ in ctx.settings)


def by_channels(samples: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """Return the pooled samples and the indices of the maxima, both contiguous."""
    channels_last = samples.contiguous(memory_format=torch.channels_last)
    pooled, indices = torch.ops.aten.max_pool2d_with_indices(channels_last, *settings)
    both = (each.contiguous().view(-1).view(pooled.shape) for each in (pooled, indices))  # also the strides of a 1
    return tuple(both)


@functools.cache
def are_bits_the_same() -> bool:
    """Tell whether this torch's two kernels have the same bits: on ties, both zeros, NaN."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(-3, 4, (3, 19, 13, 11), generator=generator).float()
    samples *= torch.where(torch.rand(samples.shape, generator=generator) < 0.5, -1.0, 1.0)  # -0.0 too
    for value in (float("nan"), float("inf"), float("-inf")):
        samples[torch.rand(samples.shape, generator=generator) < 0.02] = value
    for settings in (([2, 2], [2, 2], [0, 0], [1, 1], False), ([3, 3], [2, 2], [1, 1], [1, 1], True)):
        plain = torch.ops.aten.max_pool2d_with_indices(samples, *settings)
        pairs = zip(plain, by_channels(samples, *settings), strict=True)
        if not all(torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in pairs):
            return False
    return True


def pair(size: Any) -> list[int] | None:
    """Return a size in both dimensions; None for anything else."""
    sizes = [size, size] if isinstance(size, int) else size
    is_pair = isinstance(sizes, (list, tuple)) and len(sizes) == 2 and all(isinstance(each, int) for each in sizes)
    return list(sizes) if is_pair else None
