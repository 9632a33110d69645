"""Saved models: weights files, bundles, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.export.batches import predict_batches
    from rushlight.export.bundle import Bundle, bundle_architecture, check_bundle, read_bundle, write_bundle
    from rushlight.export.nested import pack, unpack
    from rushlight.export.predictions import Predictions, predict
    from rushlight.export.saved import SavedModel, load, open_bundle
    from rushlight.export.weights import load_fitting, load_state, write_weights


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rushlight.export.batches": ["predict_batches"],
        "rushlight.export.bundle": ["Bundle", "bundle_architecture", "check_bundle", "read_bundle", "write_bundle"],
        "rushlight.export.nested": ["pack", "unpack"],
        "rushlight.export.predictions": ["Predictions", "predict"],
        "rushlight.export.saved": ["SavedModel", "load", "open_bundle"],
        "rushlight.export.weights": ["load_fitting", "load_state", "write_weights"],
    },
)
