"""The version, where every room can read it without importing the package upward."""

__version__ = "0.1.0"
