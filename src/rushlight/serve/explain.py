"""How much each part of an input speaks for an answer: the answer's fall when the part is hidden.

Occlusion (Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901): a cell of a picture, a column of a table or a number of an
array is replaced by its mean in the training data, by no known category where it is one. It needs nothing but the graph.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from rushlight.data import FeatureSpec
from rushlight.export import Answers, hidden_row
from rushlight.serve.answers import Refusal
from rushlight.serve.model import Array, Model
from rushlight.serve.reading import json_lists, meaning

MOST_ROWS = 16
MOST_PARTS = 196  # of one input: 14 x 14 cells of a picture
MOST_BYTES = 32 << 20  # of inputs that are made at a time


async def explain_rows(model: Model, raw: Array, target: str, run: Callable[[Array], Awaitable[Answers]]) -> Any:
    """Return for each row, or for the only one, by how much hiding each part lowers the output `target`.

    A table's row is an object by column; any other has its own shape. `target` is a class's name or an output's number; "" takes
    the largest. `run` gives the outputs on raw rows. Refusal for more than MOST_ROWS rows and for an unknown target.
    """
    features = model.features
    assert features is not None  # else the input was refused
    if len(raw) > MOST_ROWS:
        raise Refusal(413, "serve-too-many-rows", rows=len(raw), most=MOST_ROWS)
    numbers = meaning(await run(raw))
    if numbers.ndim != 2:
        raise Refusal(400, "serve-no-classes")
    names = model.class_names(numbers.shape[1])
    hidden, parts, explained = means(features), part_numbers(features, raw.shape[1:]), []
    count = len(features.columns) or int(parts.max()) + 1
    for row, own in zip(raw, numbers, strict=True):
        chosen, falls, step = place_of_target(target, names, own), list[float](), max(1, MOST_BYTES // row.nbytes)
        for first in range(0, count, step):
            which = np.arange(first, min(first + step, count)).reshape(-1, *[1] * row.ndim)
            without = meaning(await run(np.where(parts == which, hidden, row)))
            falls += (own[chosen] - without[:, chosen]).tolist()
        if features.columns:
            pairs = zip(features.columns, falls, strict=True)
            effects: Any = {column.name: fall for column, fall in pairs if column.width}
        else:
            effects = json_lists(np.array(falls)[parts])
        label = names[chosen] if names else chosen
        explained.append({"target": label, "value": float(own[chosen]), "effects": effects})
    return explained[0] if len(explained) == 1 else explained


def place_of_target(target: str, names: tuple[str, ...], own: Array) -> int:
    """Return the number of an output."""
    if target in names:
        return names.index(target)
    if target and not (target.isdecimal() and len(target) < 9 and int(target) < len(own)):
        raise Refusal(400, "serve-no-target", found=target[:100])
    return int(target) if target else int(own.argmax())


def means(features: FeatureSpec) -> Array:
    """Return what stands in the place of a hidden part, in the stored units: the mean, or 0 where it is not known."""
    normalization = features.normalization
    found = np.array(normalization.mean or (0.0,)) * normalization.divisor
    if features.columns:  # of a series, in each of its rows
        found = hidden_row(features.columns)
    return found.reshape(-1, 1, 1).astype(features.dtype) if features.kind == "image" else found.astype(features.dtype)


def part_numbers(features: FeatureSpec, shape: tuple[int, ...]) -> Array:
    """Return the number of the part that each value of a row is of: at most MOST_PARTS, but for a table's columns."""
    if features.columns:
        return np.repeat(np.arange(len(features.columns)), [column.width for column in features.columns])
    if features.kind == "image":
        side = round(MOST_PARTS**0.5)
        down, across = (np.arange(length) * min(side, length) // length for length in shape[1:])
        return np.broadcast_to(down[:, None] * min(side, shape[2]) + across, shape)
    size = int(np.prod(shape))
    return (np.arange(size) * min(MOST_PARTS, size) // size).reshape(shape)
