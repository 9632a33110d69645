"""Saved models: weights files, bundles, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.export.batches import predict_batches
    from rushlight.export.bundle import Bundle, bundle_architecture, check_bundle, read_bundle, write_bundle
    from rushlight.export.description import read_description, read_listed
    from rushlight.export.graph import MOST_BYTES, Answers, Graph, open_graph, read_examples, why_unproven
    from rushlight.export.inputs import hidden_row, read_raw
    from rushlight.export.nested import pack, unpack
    from rushlight.export.predictions import Predictions, predict
    from rushlight.export.saved import SavedModel, load, move_to_card, open_bundle, save_model
    from rushlight.export.weights import load_fitting, load_state


__getattr__, __dir__ = lazy_names(__name__)
