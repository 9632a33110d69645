"""The user's own Dataset or DataLoader."""

from rushlight.data.sources.datasets.datasets import is_ordinary, open_dataset

__all__ = ["is_ordinary", "open_dataset"]
