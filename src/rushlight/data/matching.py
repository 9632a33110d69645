"""Other data, opened to be tested on by a model that is already trained: prepared exactly as its own data was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rushlight.data.batches import Data, LoaderSplit, ResidentSplit, Split, StreamedSplit
from rushlight.data.build import Samples, check_same_dtype, check_samples, resident
from rushlight.data.finish import Finish
from rushlight.data.opening import DataOptions, FetchProgress, as_parts, is_table, open_parts
from rushlight.data.spec import FeatureSpec, Normalization, TargetSpec
from rushlight.errors import DataError, suggest


def open_like(
    source: Any,
    features: FeatureSpec,
    target: TargetSpec,
    options: DataOptions,
    progress: FetchProgress | None = None,
) -> Split:
    """Open `source` (anything `open_source` takes) as a split to test on: its test split where it has one, else all of it.

    Raises:
        DataError: the samples have another shape than the model takes, or classes it does not know.
    """
    if features.kind == "table" and isinstance(source, (str, Path)) and is_table(Path(source)):
        from rushlight.data.tables import read_test_table

        samples, _ = read_test_table(Path(source), features.columns, target)
        return kept(str(source), samples, features, target)
    size = (features.shape[1], features.shape[2]) if features.kind == "image" else None
    plain = replace(options, normalize="none", test_fraction=0.0, image_size=size)
    opened = open_parts(*as_parts(source, None), plain, progress)
    split = opened.test if opened.test is not None else opened.train
    if opened.features is not None:
        check_same_dtype(opened.name, features.dtype, opened.features.dtype)
    if opened.features is None or opened.target is None or opened.features.shape != features.shape:
        found = None if opened.features is None else opened.features.shape
        raise DataError("other-shape", data=opened.name, expected=features.shape, found=found)
    numbers = known_classes(opened, target)
    if isinstance(split, ResidentSplit):
        if isinstance(source, Data):
            check_same_scaling(source, features, target)
        targets = split.targets if numbers is None else numbers[split.targets.long().flatten()]
        if isinstance(source, Data) and is_scaled(source):
            return replace(split, targets=targets.float().reshape(-1, 1) if target.task == "binary" else targets)
        return kept(opened.name, Samples(split.inputs, targets), features, target)
    assert isinstance(split, (StreamedSplit, LoaderSplit))
    return replace(split, finish=Finish(target, features, numbers))


def is_scaled(data: Data) -> bool:
    """Tell whether data in memory holds its inputs or targets scaled, not as they were stored."""
    assert data.features is not None
    assert data.target is not None
    return (data.features.dtype == "float32" and data.features.normalization != Normalization()) or bool(
        data.target.mean
    )


def check_same_scaling(data: Data, features: FeatureSpec, target: TargetSpec) -> None:
    """Raise DataError for data that is open already and was scaled otherwise than the model's own."""
    assert data.features is not None
    assert data.target is not None
    theirs = data.features.normalization, data.target.mean, data.target.std
    if is_scaled(data) and theirs != (features.normalization, target.mean, target.std):
        raise DataError("scaled-otherwise", data=data.name)


def kept(name: str, samples: Samples, features: FeatureSpec, target: TargetSpec) -> ResidentSplit:
    """Check samples and keep them, prepared as `features` and `target` say."""
    check_samples(name, "test", samples, target)
    split = resident(samples, features, target)
    return replace(split, targets=split.targets.float().reshape(-1, 1)) if target.task == "binary" else split


def known_classes(opened: Data, target: TargetSpec) -> Tensor | None:
    """Return the model's number of each of the other data's classes, by name; None where the numbers are the same.

    Classes 0, 1, 2, … that the model has no such names for are taken for its own class numbers.
    """
    assert opened.target is not None
    names = opened.target.classes
    are_classes = all(task in ("classification", "binary") for task in (opened.target.task, target.task))
    if not are_classes or names == target.classes:
        return None
    unknown = [name for name in names if name not in target.classes]
    if unknown and names == tuple(map(str, range(len(names)))):
        return None
    if unknown:
        raise DataError(
            "unknown-class", data=opened.name, name=unknown[0], known=", ".join(target.classes[:20]),
            suggestion=suggest(unknown[0], target.classes),
        )  # fmt: skip
    return torch.tensor([target.classes.index(name) for name in names])
