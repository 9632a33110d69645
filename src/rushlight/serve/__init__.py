"""`rushlight serve`: a run, a bundle or an ONNX file behind the protocols that clients already speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.errors import UsageError
from rushlight.lazy import lazy_names

try:
    import orjson  # most of what is here needs it: it is told once
except ImportError as error:
    raise UsageError("serve-missing", package="orjson") from error

if TYPE_CHECKING:
    from rushlight.serve.deploy import write_deployment
    from rushlight.serve.options import Settings
    from rushlight.serve.server import serve


__getattr__, __dir__ = lazy_names(__name__)
