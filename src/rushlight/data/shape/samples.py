"""Raw samples with their names, and how a share of them is set aside for testing and for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rushlight.data.order import split_seed, validation_seed
from rushlight.data.spec import Share, TargetSpec
from rushlight.errors import UsageError
from rushlight.texts import Note

FOLD_CUT = "data.fold-cut"  # the note of data whose test split is a fold
SPLIT_FOLDERS = {  # the names of folders, in small letters
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),  # without a folder to test on, the first one there is tested
}


class Names(Sequence[str]):
    """The samples' names, each made when it is asked for: a text of their own, or the text `key` with their row number.

    `key` may also be a function that names a row by its number.
    With `texts`, (n,), each is followed by its own, as samples of text are by their beginning.
    """

    def __init__(
        self,
        values: np.ndarray,
        key: str | Callable[[int], str] | None = None,
        file: str = "",
        texts: np.ndarray | None = None,
    ) -> None:
        self.values, self.key, self.file, self.texts = values, key, file, texts  # values: (n,), texts or row numbers

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        """Return one name, or, for a slice or an array of indices, those names."""
        value = self.values[index]
        if isinstance(value, np.ndarray):
            return Names(value, self.key, self.file, None if self.texts is None else self.texts[index])
        name = (
            value
            if self.key is None
            else self.key(int(value))
            if callable(self.key)
            else Note(self.key, row=int(value), file=self.file)
        )
        return name if self.texts is None else Note("data.name-and-text", name=name, text=self.texts[index])


@dataclass(frozen=True)
class Samples:
    """Raw samples: inputs (n, *shape) in the dtype they are kept in, targets (n, *shape) as numbers."""

    inputs: Tensor
    targets: Tensor
    names: Names | None = None

    def take(self, indices: np.ndarray) -> Samples:
        """Return the samples at `indices`."""
        chosen = torch.from_numpy(indices)
        names = None if self.names is None else self.names[indices]
        return Samples(self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen), names)


def split_indices(
    targets: np.ndarray,
    fraction: Share,
    seed: int,
    *,
    stratified: bool,
    split: Literal["validation", "test"] = "test",
) -> tuple[np.ndarray, np.ndarray]:
    """Cut n samples into (train, `split`) index arrays, each sorted, by `seed` alone.

    Stratified, every class gives `round(fraction * its count)` samples to `split`, at least one if it has two
    or more, and always keeps one for training. A fold, (2, 5), has every fifth of the samples dealt one by one, class after
    class, each class in an order drawn by `seed`: of each class as many as any other fold, to within one.
    """
    generator = np.random.Generator(np.random.PCG64(split_seed(seed) if split == "test" else validation_seed(seed)))
    groups = (
        [np.flatnonzero(targets == value) for value in np.unique(targets)] if stratified else [np.arange(len(targets))]
    )
    set_aside = []
    if isinstance(fraction, tuple):
        number, folds = fraction
        dealt = np.concatenate([generator.permutation(group) for group in groups])
        set_aside.append(dealt[number - 1 :: folds])
    else:
        for group in groups:
            count = min(max(round(fraction * len(group)), 1), len(group) - 1) if fraction > 0 else 0
            set_aside.append(generator.permutation(group)[:count])
    indices = np.sort(np.concatenate(set_aside)) if set_aside else np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(targets)), indices), indices


@dataclass(frozen=True)
class Cut:
    """The indices of each split's samples (None: no such split was cut), and the sentences that tell of them."""

    train: np.ndarray
    validation: np.ndarray | None
    test: np.ndarray | None
    notes: tuple[Note, ...]


def cut_splits(
    labels: np.ndarray, *, test_fraction: Share | None, val_fraction: float | None, seed: int, stratified: bool
) -> Cut:
    """Set samples aside for testing, then, of the rest, samples for validation; before anything is learnt of them.

    `labels` (n,) are the samples' classes, or anything of that length where the cut is not stratified. A fraction of
    None means that the split is not to be cut, or came from elsewhere.
    """
    train, test, validation = np.arange(len(labels)), None, None
    notes: list[Note] = []
    if test_fraction is not None:
        rest, found = split_indices(labels, test_fraction, seed, stratified=stratified)
        if isinstance(test_fraction, tuple):
            number, folds = test_fraction
            if len(labels) < folds:
                raise UsageError("more-folds-than-samples", folds=folds, samples=len(labels))
            notes.append(Note(FOLD_CUT, number=number, folds=folds, count=len(found), total=len(labels), seed=seed))
            train, test = rest, found
        elif len(found):
            key = "data.test-split-cut-by-class" if stratified else "data.test-split-cut"
            notes.append(Note(key, count=len(found), total=len(labels), seed=seed))
            train, test = rest, found
        else:
            is_wanted = test_fraction > 0 and len(labels) > 1
            notes.append(Note("data.no-sample-to-spare" if is_wanted else "data.no-test-split"))
    if val_fraction:
        kept, found = split_indices(labels[train], val_fraction, seed, stratified=stratified, split="validation")
        if len(found):
            key = "data.validation-split-cut-by-class" if stratified else "data.validation-split-cut"
            notes.append(Note(key, count=len(found), total=len(train), seed=seed))
            train, validation = train[kept], train[found]
        else:
            notes.append(Note("data.no-validation-split"))
    return Cut(train, validation, test, tuple(notes))


def cut_samples(
    samples: Samples, target: TargetSpec | None, *, test_fraction: Share | None, val_fraction: float | None, seed: int
) -> tuple[Samples, Samples | None, Samples | None, tuple[Note, ...]]:
    """Cut samples as `cut_splits` cuts their indices; return (train, validation, test, notes)."""
    if len(samples.inputs) != len(samples.targets):
        return samples, None, None, ()  # `build_data` raises on unequal counts
    values, count = samples.targets, len(samples.targets)
    if target is None:  # an objective's: numbers that repeat are classes for all that matters here
        stratified = values.dim() == 1 and values.dtype == torch.int64 and 2 * len(np.unique(values.numpy())) <= count
    else:
        stratified = target.task in ("classification", "binary") and values.numel() == count
    labels = samples.targets.numpy().reshape(-1) if stratified else np.zeros(len(samples.targets))
    cut = cut_splits(labels, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed, stratified=stratified)
    train = samples if len(cut.train) == len(samples.inputs) else samples.take(cut.train)
    validation, test = (None if rows is None else samples.take(rows) for rows in (cut.validation, cut.test))
    return train, validation, test, cut.notes
