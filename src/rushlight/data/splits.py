"""Opened data: its splits with what a model must know of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rushlight.data.feed import Split, StreamedSplit
from rushlight.data.spec import FeatureSpec, TargetSpec

RAW = "raw:"  # begins the fingerprint of data that the previous release would have given to its loss otherwise


@dataclass(frozen=True)
class Data:
    """Train, validation and test splits with what a model must know of them.

    `validation` is None where nothing chooses by it, `test` where there is nothing to test on. `notes` are the
    decisions made while opening, one sentence each, to be shown. `fingerprint` is a SHA-256 over the samples of train
    and test, and "-" and one over those of validation, if there are any (or over a description, where samples cannot
    be read).
    `features` and `target` are None when the batches are not (inputs, targets): only an `objective` can train on these.
    Targets are as they came, until `retarget` makes of them what a loss takes.
    """

    name: str
    train: Split
    test: Split | None
    features: FeatureSpec | None
    target: TargetSpec | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    batch_size: int | None = None  # a DataLoader of the user's brings its own
    examples: Tensor | None = None  # a few training inputs as stored, for the bundle
    validation: Split | None = None  # what chooses: the best epoch, early stopping, plateau schedules
    inexact: tuple[str, ...] = ()  # why reading it again does not give the same, a sentence each
    may_scale: bool = False  # whether a loss of quantities may have the targets standardised

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        known = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in known.items() if split is not None}

    def with_splits(self, splits: Mapping[str, Split]) -> Data:
        """Return the data with these splits, by name, instead of its own of those names."""
        return replace(self, **splits)  # type: ignore[arg-type]  # the names are those of `splits`

    def unscaled(self) -> Data:
        """Return the data whose targets stay in their own units, whatever the loss."""
        return replace(self, may_scale=False, fingerprint=f"{RAW}{self.fingerprint}") if self.may_scale else self

    def to(self, device: torch.device) -> Data:
        """Return the data with the batches of every split on `device`."""
        return self.with_splits({name: split.to(device) for name, split in self.splits.items()})


@contextlib.contextmanager
def keeping_workers(data: Data, epochs: int) -> Iterator[None]:
    """Let the worker processes that read the data outlive an epoch, for the block, in which `epochs` are trained."""
    with contextlib.ExitStack() as stack:
        for split in data.splits.values():
            if isinstance(split, StreamedSplit):
                stack.enter_context(split.reader.keep_workers(epochs))
        yield
