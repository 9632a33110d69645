"""Where data comes from: one package for each kind of source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.arrays import holds_array_files, open_arrays, read_array_files
    from rushlight.data.sources.datasets import is_ordinary, open_dataset
    from rushlight.data.sources.images import ImageFolderDataset, open_image_folder, read_image
    from rushlight.data.sources.named import DATASETS, cache_folder, describe_datasets, open_named
    from rushlight.data.sources.tables import TABLE_ENDINGS, describe_columns, open_table, read_other_table, read_rows

__all__ = [
    "DATASETS",
    "TABLE_ENDINGS",
    "ImageFolderDataset",
    "cache_folder",
    "describe_columns",
    "describe_datasets",
    "holds_array_files",
    "is_ordinary",
    "open_arrays",
    "open_dataset",
    "open_image_folder",
    "open_named",
    "open_table",
    "read_array_files",
    "read_image",
    "read_other_table",
    "read_rows",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rushlight.data.sources.arrays": ["holds_array_files", "open_arrays", "read_array_files"],
        "rushlight.data.sources.datasets": ["is_ordinary", "open_dataset"],
        "rushlight.data.sources.images": ["ImageFolderDataset", "open_image_folder", "read_image"],
        "rushlight.data.sources.named": ["DATASETS", "cache_folder", "describe_datasets", "open_named"],
        "rushlight.data.sources.tables": [
            "TABLE_ENDINGS",
            "describe_columns",
            "open_table",
            "read_rows",
            "read_other_table",
        ],
    },
)
