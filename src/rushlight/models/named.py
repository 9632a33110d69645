"""Small networks by name. Each fits its first and last layer to the data, and ends in raw outputs (logits).

They are plain `nn.Module`s built of plain layers: what is trained here loads into the same few lines anywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.errors import ModelError, UsageError, suggest

Shape = tuple[int, ...]  # of one sample, without the batch dimension


def linear(shape: Shape, outputs: int) -> nn.Module:
    """One linear layer on the flattened input: logistic or linear regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), outputs))


def mlp(shape: Shape, outputs: int, hidden: Sequence[int] = (512, 512), dropout: float = 0.0) -> nn.Module:
    """Fully connected layers with ReLU between them, none after the last.

    `hidden` holds the sizes of the hidden layers; `dropout` is the share of hidden values set to zero in training.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    size = prod(shape)
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def cnn(shape: Shape, outputs: int, channels: Sequence[int] = (32, 64, 128), dropout: float = 0.0) -> nn.Module:
    """3×3 convolutions with BatchNorm and ReLU, halving the image after each; then average and one linear layer."""
    image_channels, height, width = image_shape(shape, "cnn")
    layers: list[nn.Module] = []
    for width_out in channels:
        layers += convolution(image_channels, width_out)
        layers += [nn.MaxPool2d(2)] if min(height, width) >= 2 else []
        image_channels, height, width = width_out, max(height // 2, 1), max(width // 2, 1)
    head = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(image_channels, outputs))


def resnet(shape: Shape, outputs: int, width: int = 32, blocks: Sequence[int] = (1, 1, 1)) -> nn.Module:
    """A small residual network for images of 28 to 64 pixels: `blocks` per stage, channels doubling by stage.

    After He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), the version for small images:
    a 3×3 stem without pooling, then stages of two-convolution blocks.
    """
    image_channels, _, _ = image_shape(shape, "resnet")
    layers = convolution(image_channels, width)
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stage_width = width << stage
            layers.append(ResidualBlock(channels, stage_width, stride=2 if stage and not block else 1))
            channels = stage_width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Return a 3×3 convolution that keeps the image's size, with BatchNorm and ReLU."""
    kernels = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [kernels, nn.BatchNorm2d(channels_out), nn.ReLU()]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, added to their input (through a 1×1 convolution where shapes differ)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shape (batch, channels_out, height / stride, width / stride)."""
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu(y + self.shortcut(x))


class UNet(nn.Module):
    """Halves an image's size and doubles its channels `depth` times, then goes back, with what each size had on the way down.

    After Ronneberger et al., "U-Net" (arXiv:1505.04597), with padding, BatchNorm, and sizes of any kind.
    """

    def __init__(self, channels_in: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(two_convolutions, [channels_in, *widths[:-1]], widths))
        self.up = nn.ModuleList(two_convolutions(3 * each, each) for each in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class at each pixel, shape (batch, outputs, height, width)."""
        skipped: list[Tensor] = []
        for block in self.down:
            x = block(nn.functional.max_pool2d(x, 2, ceil_mode=True) if skipped else x)
            skipped.append(x)
        for block, skip in zip(self.up, reversed(skipped[:-1]), strict=True):
            x = block(torch.cat([skip, nn.functional.interpolate(x, size=skip.shape[-2:])], dim=1))
        outputs: Tensor = self.head(x)
        return outputs


def two_convolutions(channels_in: int, channels_out: int) -> nn.Module:
    """Return two 3×3 convolutions with BatchNorm and ReLU."""
    return nn.Sequential(*convolution(channels_in, channels_out), *convolution(channels_out, channels_out))


def unet(shape: Shape, outputs: int, width: int = 16, depth: int = 3) -> nn.Module:
    """A small U-Net for a class for each pixel; `width` channels at full size, `depth` halvings."""
    return UNet(image_shape(shape, "unet")[0], outputs, width, depth)


class TextCNN(nn.Module):
    """Reads token ids by convolutions of several widths; the largest answer of each anywhere in a text decides.

    After Kim, "Convolutional Neural Networks for Sentence Classification" (arXiv:1408.5882). Padding changes nothing: it is
    embedded as zeros, which the convolutions pad with too, and their answers at padding are left out.
    """

    def __init__(
        self, vocabulary: int, padding: int | None, outputs: int, embedding: int, channels: int, widths: Sequence[int],
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, embedding, padding)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, channels, width, padding=width // 2) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * len(widths), outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of token ids, (batch, length)."""
        x = self.embedding(ids).transpose(1, 2)  # (batch, embedding, length)
        # one answer for each token, at least 0, as those at padding are to count; even widths give one more
        answers = [torch.relu(convolution(x))[..., : ids.shape[1]] for convolution in self.convolutions]
        if self.padding is not None:
            is_text = (ids != self.padding).unsqueeze(1).to(x.dtype)
            answers = [answer * is_text for answer in answers]
        largest = torch.cat([answer.amax(2) for answer in answers], 1)
        outputs: Tensor = self.head(self.dropout(largest))
        return outputs


def textcnn(
    shape: Shape, outputs: int, vocabulary: int = 0, padding: int | None = None, embedding: int = 64, channels: int = 64,
    widths: Sequence[int] = (3, 5, 7), dropout: float = 0.5,
) -> nn.Module:  # fmt: skip
    """Convolutions of several widths over token ids and the maximum over the text; `vocabulary` and `padding` are the data's."""
    if len(shape) != 1 or vocabulary < 1:
        raise ModelError("needs-text", shape=tuple(shape))
    return TextCNN(vocabulary, padding, outputs, embedding, channels, widths, dropout)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp, "cnn": cnn, "resnet": resnet, "linear": linear, "unet": unet, "textcnn": textcnn,
}  # fmt: skip


def build_model(name: str, shape: Shape, outputs: int, arguments: dict[str, Any], seed: int) -> nn.Module:
    """Build a network by name for inputs of `shape` and `outputs` outputs; initial weights depend on `seed` alone.

    Raises:
        UsageError: no such name, or the network has no such argument, or cannot use its value.
        ModelError: the network cannot take such inputs.
    """
    if name not in MODELS:
        raise UsageError("unknown-model", name=name, known=", ".join(MODELS), suggestion=suggest(name, MODELS))
    known = [
        parameter for parameter in inspect.signature(MODELS[name]).parameters if parameter not in ("shape", "outputs")
    ]
    for argument in arguments:
        if argument not in known:
            raise UsageError(
                "unknown-model-argument", model=name, argument=argument, known=", ".join(known) or "none",
                suggestion=suggest(argument, known),
            )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return MODELS[name](shape, outputs, **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            given = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
            raise UsageError("model-argument-values", model=name, given=given, reason=error) from error


def image_shape(shape: Shape, name: str) -> tuple[int, int, int]:
    """Return (channels, height, width), or raise ModelError when the data is no images."""
    if len(shape) != 3:
        raise ModelError("needs-images", model=name, shape=tuple(shape))
    return shape[0], shape[1], shape[2]
