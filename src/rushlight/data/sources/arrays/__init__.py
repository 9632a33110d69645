"""Arrays: in memory, .npz, .npy and idx files."""

from rushlight.data.sources.arrays.arrays import ARRAYS
from rushlight.data.sources.arrays.files import array_names, idx_file, read_array_files
