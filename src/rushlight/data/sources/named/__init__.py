"""Datasets by name, fetched once and kept in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.named.cache import cache_folder
    from rushlight.data.sources.named.catalog import DATASETS
    from rushlight.data.sources.named.named import SHIPPED, describe_datasets, needs_network
    from rushlight.data.sources.named.source import NAMED


__getattr__, __dir__ = lazy_names(__name__)  # reading what is in the catalog needs no torch
