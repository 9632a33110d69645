"""Folders of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.images.folder import IMAGES, ImageFolderDataset
    from rushlight.data.sources.images.masks import MASKS
    from rushlight.data.sources.images.pixels import read_image


__getattr__, __dir__ = lazy_names(__name__)
