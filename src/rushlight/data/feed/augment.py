"""Changes training images at random, as a function of (seed, epoch, index): many at once, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Strength = Literal["light", "strong"]

DRAWS = 7  # random numbers for each image
WORDS = 1 << 64
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


@dataclass(frozen=True)
class Augment:
    """Changes images (n, channels, height, width), stored in any dtype; what comes in from outside is 0.

    light:  moved by up to an eighth of their size
    strong: also mirrored, darker or brighter by up to 40 %, and without a square of a quarter of their size
    """

    strength: Strength

    def __call__(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Return the images of the samples with these indices as they are in this epoch."""
        drawn = uniform(indices, seed, epoch).to(images.device)
        count, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device) - whole(drawn[:, 0], height // 8)  # (n, height)
        columns = torch.arange(width, device=images.device) - whole(drawn[:, 1], width // 8)
        inside = is_within(rows, height)[:, :, None] & is_within(columns, width)[:, None]
        if self.strength == "strong":
            columns = torch.where(drawn[:, 2:3] < 0.5, width - 1 - columns, columns)
            inside &= ~(near(rows, drawn[:, 3:4], height)[:, :, None] & near(columns, drawn[:, 4:5], width)[:, None])
        places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
        places = places.reshape(count, 1, -1).expand(count, channels, -1)
        changed = images.reshape(count, channels, -1).gather(2, places).reshape(images.shape) * inside[:, None]
        if self.strength == "light":
            return changed
        brighter = changed * (0.6 + 0.8 * drawn[:, 5]).reshape(-1, 1, 1, 1)
        return brighter.clamp(max=255).to(torch.uint8) if images.dtype == torch.uint8 else brighter.to(images.dtype)


def whole(drawn: Tensor, most: int) -> Tensor:
    """Return whole numbers from -most to most, (n, 1), for numbers from 0 to 1."""
    return (drawn * (2 * most + 1)).long()[:, None] - most


def is_within(places: Tensor, size: int) -> Tensor:
    """Tell which places lie inside the image."""
    return (places >= 0) & (places < size)


def near(places: Tensor, middle: Tensor, size: int) -> Tensor:
    """Tell which places lie in a stretch of a quarter of the size, around a middle that is drawn."""
    return (places - (middle * size).long()).abs() <= size // 8


def uniform(indices: Tensor, seed: int, epoch: int) -> Tensor:
    """Return numbers from 0 to 1, float32 (n, DRAWS), for samples by index: splitmix64 of (seed, epoch, index, draw).

    Steele et al. 2014, "Fast splittable pseudorandom number generators". Whole numbers wrap at 64 bits.
    """
    base = mixed_number(mixed_number(seed % WORDS) ^ (epoch * GOLDEN % WORDS))
    keys = mixed_bits(indices[:, None] * signed(GOLDEN) + signed(base))
    draws = mixed_bits(keys + torch.arange(1, DRAWS + 1, device=indices.device) * signed(GOLDEN))
    return (shifted(draws, 40)).float() / (1 << 24)


def mixed_bits(words: Tensor) -> Tensor:
    """Return the finalizer of splitmix64, on int64 as on unsigned words."""
    words = (words ^ shifted(words, 30)) * signed(FIRST)
    words = (words ^ shifted(words, 27)) * signed(SECOND)
    return words ^ shifted(words, 31)


def shifted(words: Tensor, count: int) -> Tensor:
    """Return int64 words shifted right, with zeros coming in."""
    return (words >> count) & ((1 << (64 - count)) - 1)


def mixed_number(word: int) -> int:
    """Return the finalizer of splitmix64 for one word."""
    word = (word ^ word >> 30) * FIRST % WORDS
    word = (word ^ word >> 27) * SECOND % WORDS
    return word ^ word >> 31


def signed(word: int) -> int:
    """Return an unsigned word as the int64 of the same bits."""
    return word - WORDS if word >= WORDS // 2 else word
