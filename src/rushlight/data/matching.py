"""Other data, opened to be tested on by a model that is already trained: prepared exactly as its own data was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rushlight.data.batches import Data, LoaderSplit, ResidentSplit, Split, StreamedSplit
from rushlight.data.build import Samples, check_samples, resident
from rushlight.data.datasets import Finish
from rushlight.data.opening import DataOptions, FetchProgress, holds_arrays, is_table, open_source
from rushlight.data.spec import FeatureSpec, TargetSpec
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
    is_folder = (
        isinstance(source, (str, Path)) and Path(source).expanduser().is_dir() and not holds_arrays(Path(source))
    )
    if features.kind == "image" and is_folder:
        options = replace(options, image_size=(features.shape[1], features.shape[2]))
    plain = replace(options, normalize="none", test_fraction=0.0, target=None)
    opened = open_source(source, None, plain, progress)
    split = opened.test if opened.test is not None else opened.train
    if opened.features is None or opened.target is None or opened.features.shape != features.shape:
        found = None if opened.features is None else opened.features.shape
        raise DataError("other-shape", data=opened.name, expected=features.shape, found=found)
    if isinstance(split, ResidentSplit):
        targets = as_known_classes(split.targets, opened, target)
        return kept(opened.name, Samples(split.inputs, targets), features, target)
    assert isinstance(split, (StreamedSplit, LoaderSplit))
    return replace(split, finish=Finish(target, features))


def kept(name: str, samples: Samples, features: FeatureSpec, target: TargetSpec) -> ResidentSplit:
    """Check samples and keep them, prepared as `features` and `target` say."""
    check_samples(name, "test", samples, target)
    split = resident(samples, features, target)
    return replace(split, targets=split.targets.float().reshape(-1, 1)) if target.task == "binary" else split


def as_known_classes(targets: Tensor, opened: Data, target: TargetSpec) -> Tensor:
    """Number the other data's classes as the model's are numbered, by their names."""
    assert opened.target is not None
    if target.task not in ("classification", "binary") or opened.target.classes == target.classes:
        return targets
    names = opened.target.classes
    if opened.target.task == "regression" or all(name.isdecimal() for name in names):
        return targets  # plain numbers: they are the model's own class numbers
    unknown = [name for name in names if name not in target.classes]
    if unknown:
        raise DataError(
            "unknown-class", data=opened.name, name=unknown[0], known=", ".join(target.classes[:20]),
            suggestion=suggest(unknown[0], target.classes),
        )  # fmt: skip
    numbers = torch.tensor([target.classes.index(name) for name in names])
    return numbers[targets]
