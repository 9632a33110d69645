"""Whether what a model is asked is still what it was trained on: live inputs and answers against the bundle's own figures.

A few batches a second are looked at, so that looking costs next to nothing. Nothing of a request is kept but sums.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

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
        self.target, self.tested, self.features = model.target, model.tested, model.features
        normalization = self.features.normalization if self.features is not None else None
        self.mean = np.array(normalization.mean if normalization else (), np.float64)
        self.std = np.array(normalization.std if normalization else (), np.float64)
        self.rows, self.next = 0, 0.0
        self.sums, self.classes = np.zeros(len(self.mean)), np.zeros(len(self.target.classes) if self.target else 0)
        self.unknown: dict[str, float] = {}  # rows by the column whose category was none that is known

    def see(self, inputs: Mapping[str, Array], answers: Answers) -> None:
        """Add one request's rows, unless the last that was looked at is too near."""
        if self.features is None or (now := time.monotonic()) < self.next:
            return
        self.next, raw = now + PAUSE, next(iter(inputs.values()))
        self.rows += len(raw)
        if len(self.mean):
            rows = np.moveaxis(raw, 1 if self.features.kind == "image" else -1, -1).reshape(
                len(raw), -1, len(self.mean)
            )
            self.sums += rows.mean(axis=1, dtype=np.float64).sum(axis=0) / self.features.normalization.divisor
        for (kind, name), place in self.places().items():
            if kind == "category":
                self.unknown[name] = self.unknown.get(name, 0.0) + float((raw[:, place].sum(axis=1) == 0).sum())
        numbers = meaning(answers)
        if numbers.ndim == 2 and numbers.shape[1] == len(self.classes):
            self.classes += np.bincount(numbers.argmax(axis=1), minlength=len(self.classes))

    def places(self) -> dict[tuple[str, str], slice]:
        """Return by kind and name where the features of each column of a table stand."""
        places: dict[tuple[str, str], slice] = {}
        first = 0
        for column in self.features.columns if self.features is not None else ():
            places[column.kind, column.name] = slice(first, first + column.width)
            first += column.width
        return places

    def deviations(self) -> dict[str, float]:
        """Return by input how far its live mean is from that of training, in standard deviations of training."""
        if not self.rows or not len(self.mean):
            return {}
        away = (self.sums / self.rows - self.mean) / np.maximum(self.std, 1e-12)
        places = self.places()
        if not places:
            return {str(place): float(value) for place, value in enumerate(away[:64])}
        return {name: float(away[place.start]) for (kind, name), place in places.items() if kind != "category"}

    def shares(self) -> dict[str, float]:
        """Return the shares of missing values, of unknown categories and of classes, by what they are of."""
        if not self.rows or self.features is None:
            return {}
        places = self.places()
        found = {f"unknown:{name}": count / self.rows for name, count in self.unknown.items()}
        for column in self.features.columns:
            if column.flags_missing and len(self.mean):
                missing = self.sums[places[column.kind, column.name].start + 1] / self.rows
                found[f"missing:{column.name}"] = float(missing)
        if self.target is not None and self.classes.sum():
            shares = self.classes / self.classes.sum()
            found |= {f"class:{name}": float(share) for name, share in zip(self.target.classes, shares, strict=True)}
        return found

    def sentence(self) -> Note:
        """Say what has moved furthest, or that nothing has."""
        if self.rows < ENOUGH:
            return Note("serve.drift.few", count=self.rows, enough=ENOUGH)
        deviations, shares = self.deviations(), self.shares()
        name = max(deviations, key=lambda name: abs(deviations[name]), default="")
        if name and abs(deviations[name]) > FAR:
            return Note("serve.drift.mean", name=name, away=deviations[name], rows=self.rows)
        if (name := max(self.unknown, key=self.unknown.__getitem__, default="")) and self.unknown[
            name
        ] > OFTEN * self.rows:
            return Note(
                "serve.drift.unknown", name=name, share=format_share(self.unknown[name] / self.rows), rows=self.rows
            )
        more = {name: shares.get(f"class:{name}", 0.0) - share for name, share in self.tested.items()}
        if (name := max(more, key=lambda name: abs(more[name]), default="")) and abs(more[name]) > OFTEN:
            live, then = format_share(shares.get(f"class:{name}", 0.0)), format_share(self.tested[name])
            return Note("serve.drift.classes", name=name, live=live, then=then, rows=self.rows)
        return Note("serve.drift.none", rows=self.rows)
