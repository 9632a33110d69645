"""Folders of images."""

from rushlight.data.sources.images.folder import IMAGES, ImageFolderDataset, read_image
