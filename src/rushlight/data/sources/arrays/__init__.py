"""Arrays: in memory, .npz, .npy and idx files."""

from rushlight.data.sources.arrays.arrays import holds_array_files, open_arrays, read_array_files, read_targets
from rushlight.data.sources.arrays.idx import read_idx

__all__ = ["holds_array_files", "open_arrays", "read_array_files", "read_idx", "read_targets"]
