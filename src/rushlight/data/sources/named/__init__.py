"""Datasets by name, fetched once and kept in a cache."""

from rushlight.data.sources.named.cache import cache_folder
from rushlight.data.sources.named.catalog import DATASETS
from rushlight.data.sources.named.named import describe_datasets, open_named

__all__ = ["DATASETS", "cache_folder", "describe_datasets", "open_named"]
