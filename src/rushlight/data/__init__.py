"""Data: where it comes from, which samples in which order, and how they become batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.feed import (
        CPU,
        Batch,
        Feed,
        ResidentSplit,
        Split,
        StreamedSplit,
        count_samples,
        equal_parts,
        tensors_in,
    )
    from rushlight.data.look import describe_data, write_contact_sheet
    from rushlight.data.open import (
        DataOptions,
        memory_limit,
        open_like,
        open_source,
        options_from_json,
        options_to_json,
        retarget,
    )
    from rushlight.data.order import epoch_order, step_seed
    from rushlight.data.sources import (
        DATASETS,
        ImageFolderDataset,
        cache_folder,
        describe_datasets,
        is_table,
        read_image,
        read_rows,
    )
    from rushlight.data.spec import (
        Column,
        FeatureSpec,
        Normalization,
        TargetSpec,
        Task,
        features_from_json,
        features_to_json,
        target_from_json,
        target_to_json,
    )
    from rushlight.data.splits import Data, keeping_workers

__all__ = ['CPU', 'DATASETS', 'Batch', 'Column', 'Data', 'DataOptions', 'FeatureSpec', 'Feed', 'ImageFolderDataset', 'Normalization', 'ResidentSplit', 'Split', 'StreamedSplit', 'TargetSpec', 'Task', 'cache_folder', 'count_samples', 'describe_data', 'describe_datasets', 'epoch_order', 'equal_parts', 'features_from_json', 'features_to_json', 'is_table', 'keeping_workers', 'memory_limit', 'open_like', 'open_source', 'options_from_json', 'options_to_json', 'read_image', 'read_rows', 'retarget', 'step_seed', 'target_from_json', 'target_to_json', 'tensors_in', 'write_contact_sheet']  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rushlight.data.feed": [
            "Batch",
            "CPU",
            "Feed",
            "ResidentSplit",
            "Split",
            "StreamedSplit",
            "count_samples",
            "equal_parts",
            "tensors_in",
        ],
        "rushlight.data.look": ["describe_data", "write_contact_sheet"],
        "rushlight.data.open": [
            "DataOptions",
            "open_like",
            "memory_limit",
            "open_source",
            "options_from_json",
            "options_to_json",
            "retarget",
        ],
        "rushlight.data.order": ["epoch_order", "step_seed"],
        "rushlight.data.sources": [
            "DATASETS",
            "ImageFolderDataset",
            "cache_folder",
            "describe_datasets",
            "is_table",
            "read_image",
            "read_rows",
        ],
        "rushlight.data.spec": [
            "Column",
            "FeatureSpec",
            "Normalization",
            "TargetSpec",
            "Task",
            "features_from_json",
            "features_to_json",
            "target_from_json",
            "target_to_json",
        ],
        "rushlight.data.splits": ["Data", "keeping_workers"],
    },
)
