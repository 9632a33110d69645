"""Folders of images."""

from rushlight.data.sources.images.folder import ImageFolderDataset, open_image_folder, read_image

__all__ = ["ImageFolderDataset", "open_image_folder", "read_image"]
