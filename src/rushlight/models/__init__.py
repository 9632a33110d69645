"""Small networks by name, fitted to the data, and the user's own by `file.py:Class`."""

from rushlight.models.custom import load_model_class
from rushlight.models.named import MODELS, build_model

__all__ = ["MODELS", "build_model", "load_model_class"]
