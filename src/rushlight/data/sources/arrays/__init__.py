"""Arrays: in memory, .npz, .npy and idx files."""

from rushlight.data.sources.arrays.arrays import ARRAYS
