"""`rushlight serve`: a run, a bundle or an ONNX file behind the protocols that clients already speak."""

from rushlight.serve.options import Settings
from rushlight.serve.server import serve

__all__ = ["Settings", "serve"]
