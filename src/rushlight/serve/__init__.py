"""`rushlight serve`: a run, a bundle or an ONNX file behind the protocols that clients already speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.serve.deploy import write_deployment
    from rushlight.serve.options import Settings
    from rushlight.serve.server import serve


__getattr__, __dir__ = lazy_names(__name__)
