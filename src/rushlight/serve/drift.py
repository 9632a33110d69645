"""Whether what a model is asked is still what it was trained on: live inputs and answers against the bundle's own figures.

A few batches a second are looked at, so that looking costs next to nothing. Nothing of a request is kept but sums.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rushlight.data import Column
from rushlight.export import Answers
from rushlight.formats import format_share
from rushlight.serve.model import Array, Model
from rushlight.serve.reading import meaning
from rushlight.texts import Note

PAUSE = 0.05  # seconds between two requests that are looked at
ENOUGH = 200  # rows, from which on something is said
FAR = 1.0  # standard deviations of the training data that a mean may move
OFTEN = 0.1  # share of unknown categories, or of a class beyond its share when tested


class Drift:
    """Sums over the rows that a version of a model was asked."""

    def __init__(self, model: Model) -> None:
        target, self.tested, self.features = model.target, model.tested, model.features
        normalization = self.features.normalization if self.features is not None else None
        self.mean = np.array(normalization.mean if normalization else (), np.float64)
        self.std = np.array(normalization.std if normalization else (), np.float64)
        self.rows, self.next = 0, 0.0
        self.labels = target.classes if target is not None and target.task in ("classification", "binary") else ()
        self.sums, self.classes = np.zeros(len(self.mean)), np.zeros(len(self.labels))
        self.unknown: dict[str, float] = {}  # rows by the column whose category was none that is known
        self.columns: list[tuple[Column, int]] = []  # of a table, and where the features of each begin
        for column in self.features.columns if self.features is not None else ():
            if not column.orders:
                self.columns.append((column, sum(other.width for other, _ in self.columns)))

    def take_turn(self) -> bool:
        """Tell whether a request is to be looked at; the next one is a pause later."""
        if self.features is None or (now := time.monotonic()) < self.next:
            return False
        self.next = now + PAUSE
        return True

    def see(self, inputs: Mapping[str, Array], answers: Answers) -> None:
        """Add one request's rows, raw as stored, and its answers."""
        assert self.features is not None  # it took its turn
        raw = next(iter(inputs.values()))
        self.rows += len(raw)
        if width := len(self.mean):
            last = np.moveaxis(raw, 1 if self.features.kind == "image" else -1, -1).reshape(len(raw), -1, width)
            self.sums += last.mean(axis=1, dtype=np.float64).sum(axis=0) / self.features.normalization.divisor
        for column, first in self.columns:
            if column.kind == "category":
                is_none = raw[..., first : first + column.width].sum(axis=-1) == 0  # of a window, in each of its rows
                count = float(is_none.reshape(len(raw), -1).mean(axis=1).sum())
                self.unknown[column.name] = self.unknown.get(column.name, 0.0) + count
        numbers = meaning(answers)
        if numbers.ndim == 2 and numbers.shape[1] == len(self.classes):
            self.classes += np.bincount(numbers.argmax(axis=1), minlength=len(self.classes))

    def figures(self) -> dict[str, Any]:
        """Return the sums, as JSON has them."""
        return {
            "rows": self.rows, "sums": self.sums.tolist(), "classes": self.classes.tolist(), "unknown": self.unknown,
        }  # fmt: skip

    def with_figures(self, given: Mapping[str, Any]) -> Drift:
        """Return the drift of the same model with other sums."""
        other = copy.copy(self)
        other.rows, other.unknown = given["rows"], given["unknown"]
        other.sums, other.classes = np.array(given["sums"]), np.array(given["classes"])
        return other

    def deviations(self) -> dict[str, float]:
        """Return by input how far its live mean is from that of training, in standard deviations of training."""
        if not self.rows or not len(self.mean):
            return {}
        away = ((self.sums / self.rows - self.mean) / np.maximum(self.std, 1e-12)).tolist()
        if not self.columns:
            return {str(place): value for place, value in enumerate(away[:64])}
        return {column.name: away[first] for column, first in self.columns if column.kind != "category"}

    def shares(self) -> dict[str, float]:
        """Return the shares of missing values, of unknown categories and of classes, by what they are of."""
        if not self.rows:
            return {}
        found = {f"unknown:{name}": count / self.rows for name, count in self.unknown.items()}
        for column, first in self.columns:
            if column.flags_missing and len(self.mean):
                found[f"missing:{column.name}"] = float(self.sums[first + 1] / self.rows)
        if self.classes.sum():
            shares = (self.classes / self.classes.sum()).tolist()
            found |= {f"class:{name}": share for name, share in zip(self.labels, shares, strict=True)}
        return found

    def sentence(self) -> Note:
        """Say what has moved furthest, or that nothing has."""
        rows = self.rows
        if rows < ENOUGH:
            return Note("serve.drift.few", count=rows, enough=ENOUGH)
        deviations, shares = self.deviations(), self.shares()
        name = max(deviations, key=lambda name: abs(deviations[name]), default="")
        if name and abs(deviations[name]) > FAR:
            return Note("serve.drift.mean", name=name, away=deviations[name], rows=rows)
        name = max(self.unknown, key=self.unknown.__getitem__, default="")
        if name and self.unknown[name] > OFTEN * rows:
            return Note("serve.drift.unknown", name=name, share=format_share(self.unknown[name] / rows), rows=rows)
        tested = self.tested if self.classes.sum() else {}
        more = {name: shares.get(f"class:{name}", 0.0) - share for name, share in tested.items()}
        name = max(more, key=lambda name: abs(more[name]), default="")
        if name and abs(more[name]) > OFTEN:
            live, then = format_share(more[name] + self.tested[name]), format_share(self.tested[name])
            return Note("serve.drift.classes", name=name, live=live, then=then, rows=rows)
        return Note("serve.drift.none", rows=rows)
