"""The user's own Dataset or DataLoader."""

from rushlight.data.sources.datasets.datasets import DATASET, LOADER, group_inputs
