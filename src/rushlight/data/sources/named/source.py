"""Datasets by name as a source of data."""

from __future__ import annotations

from pathlib import Path

import torch

from rushlight.data.shape import Samples, build_data, cut_samples
from rushlight.data.sources.kind import SourceKind
from rushlight.data.sources.named.cache import Progress
from rushlight.data.sources.named.catalog import DATASETS
from rushlight.data.sources.named.named import open_named
from rushlight.data.spec import NormalizeName, Share, TargetSpec
from rushlight.data.splits import Data


def open_named_data(
    name: str,
    *,
    normalize: NormalizeName = "auto",
    test_fraction: Share = 0.2,
    val_fraction: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Data:
    """Open the dataset called `name`, fetching it first if need be; its train and test splits are those published.

    A fold is cut from the published training samples, and the published test split is left out then.
    """
    arrays = open_named(name, progress=progress)
    target = TargetSpec("classification", tuple(arrays.classes))
    published = Samples(torch.from_numpy(arrays.train_inputs), torch.from_numpy(arrays.train_targets))
    test = Samples(torch.from_numpy(arrays.test_inputs), torch.from_numpy(arrays.test_targets))
    fold = test_fraction if isinstance(test_fraction, tuple) else None
    train, validation, cut, notes = cut_samples(
        published, target, test_fraction=fold, val_fraction=val_fraction, seed=seed
    )
    return build_data(
        name,
        "image",
        train,
        cut or test,
        target,
        validation=validation,
        normalize=normalize,
        notes=(*arrays.notes, *notes),
    )


def is_name(source: object) -> bool:
    """Tell whether a source is a name of ours. Only text is compared: to write out tensors takes 10 ms."""
    return isinstance(source, (str, Path)) and str(source) in DATASETS


NAMED: SourceKind = SourceKind("data.kinds.named", is_name, open_named_data)
