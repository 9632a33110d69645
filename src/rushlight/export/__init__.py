"""What leaves the house: weights files, bundles, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.export.bundle import Bundle, load_bundle, read_bundle, write_bundle
    from rushlight.export.predictions import Predictions, predict
    from rushlight.export.saved import SavedModel, build_bundled, bundle_architecture
    from rushlight.export.weights import load_state, load_weights, write_weights

__all__ = ['Bundle', 'Predictions', 'SavedModel', 'build_bundled', 'bundle_architecture', 'load_bundle', 'load_state', 'load_weights', 'predict', 'read_bundle', 'write_bundle', 'write_weights']  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rushlight.export.bundle": ["Bundle", "load_bundle", "read_bundle", "write_bundle"],
        "rushlight.export.predictions": ["Predictions", "predict"],
        "rushlight.export.saved": ["SavedModel", "build_bundled", "bundle_architecture"],
        "rushlight.export.weights": ["load_state", "load_weights", "write_weights"],
    },
)
