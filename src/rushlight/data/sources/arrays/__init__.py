"""Arrays: in memory, .npz, .npy and idx files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.arrays.arrays import holds_array_files, open_arrays, read_array_files, read_targets
    from rushlight.data.sources.arrays.idx import read_idx

__all__ = ["holds_array_files", "open_arrays", "read_array_files", "read_idx", "read_targets"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rushlight.data.sources.arrays.arrays": [
            "holds_array_files",
            "open_arrays",
            "read_array_files",
            "read_targets",
        ],
        "rushlight.data.sources.arrays.idx": ["read_idx"],
    },
)
