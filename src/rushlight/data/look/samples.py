"""Single samples of a run's data, for a process that is asked over its pipes.

The first line of its input describes the data as a recipe does, with "is_raw" and the run's "folder"; each further line asks for something, and gets one line
of JSON: {"indices": [test samples]} gets {"kind", "items"}, an item being a PNG ("image"), [[column, value], …] ("table") or
[number, …] ("array"); {"twins": true} gets {"twins": find_duplicates}. What fails gets {"error": why}. Nothing is fetched.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from rushlight.data.feed import ResidentSplit, StreamedSplit
from rushlight.data.look.overview import as_image, as_pixels, find_duplicates
from rushlight.data.open import DataOptions, open_source
from rushlight.data.sources import decoded_text
from rushlight.data.spec import FeatureSpec, reading_floats
from rushlight.data.splits import Data
from rushlight.errors import RushlightError

LARGEST = 160  # pixels of a picture's longer side
MOST_NUMBERS = 64  # of an array
MOST_CHARACTERS = 2000  # of a text
MOST_TWINS = 10_000


def answer_lines(explained: Callable[[Data, dict[str, Any], dict[str, Any]], dict[str, Any]]) -> None:
    """Answer line by line until the input ends; `explained` gets the data, the first line, and a line with "indices" or "explain"."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    socket.socket.connect = refuse_connection  # type: ignore[method-assign]
    data: Data | None = None
    described: dict[str, Any] = {}
    answer: dict[str, Any]
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            if data is None:
                data, described, answer = opened(asked), asked, {"ready": True}
            elif "twins" in asked:
                answer = {"twins": find_duplicates(data.train, data.test, MOST_TWINS)}
            else:
                answer = explained(data, described, asked)
        except RushlightError as error:
            answer = {"error": error.problem}
        except Exception as error:  # whatever reading somebody's data may raise
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def refuse_connection(*arguments: object) -> NoReturn:
    """Connect to nobody."""
    raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def opened(described: dict[str, Any]) -> Data:
    """Open the data of a recipe."""
    options = DataOptions.from_json(described["options"], Path(described.get("folder", ".")))
    with reading_floats("float64" if described.get("floats") == "float64" else "float32"):
        return open_source(
            described["source"], described.get("test"), options, validation=described.get("validation"),
            is_raw=described["is_raw"],
        )  # fmt: skip


def described_samples(features: FeatureSpec | None, split: object, indices: Iterable[int]) -> dict[str, Any]:
    """Return some samples of a split as the page shows them."""
    if features is None or not isinstance(split, (ResidentSplit, StreamedSplit)):
        return {"kind": "none", "items": []}
    inputs = (split.inputs[index] if isinstance(split, ResidentSplit) else split.dataset[index][0] for index in indices)
    if features.kind == "image":
        return {"kind": "image", "items": [png_of(pixels) for pixels in inputs]}
    if (tokens := features.tokens) is not None:
        texts = (decoded_text(row.numpy(), tokens)[:MOST_CHARACTERS] for row in inputs)
        return {"kind": "table", "items": [[(features.columns[0].name, text)] for text in texts]}
    if features.columns:
        return {"kind": "table", "items": [list(cells_of(row, features)) for row in inputs]}
    return {"kind": "array", "items": [raw.flatten()[:MOST_NUMBERS].tolist() for raw in inputs]}


def png_of(pixels: Tensor) -> str:
    """Return an image (channels, height, width) as a PNG in base64, shrunk where it is large."""
    image = as_image(as_pixels(pixels))
    image.thumbnail((LARGEST, LARGEST))
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def cells_of(row: Tensor, features: FeatureSpec) -> Iterator[tuple[str, float | str | None]]:
    """Give the name and the value of each column of a table's row, as they were before they became features."""
    row = row[-1] if features.time else row  # of a window, its last row
    values = features.normalization.undo(row.unsqueeze(0), features.channel_dim)[0].tolist()
    place = 0
    for column in features.columns:
        own = values[place : place + column.width]
        place += column.width
        if column.orders:
            continue
        if column.kind == "category":
            best = max(range(len(own)), key=own.__getitem__, default=0)
            yield column.name, column.categories[best] if own and own[best] > 0.5 else None
        else:
            yield column.name, None if column.flags_missing and own[1] > 0.5 else float(f"{own[0]:.6g}")
