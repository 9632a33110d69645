"""Makes the bundles that the tests serve: `python -m tests.serve.make_bundles`. They are committed: an export takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushlight.data.spec import Column, FeatureSpec, Normalization, TargetSpec, Tokens
from rushlight.export.bundle import write_bundle
from rushlight.export.make_graph import add_graph
from rushlight.models import build_model

HERE = Path(__file__).parent / "bundles"
ON_CARDS = Path(__file__).parents[1] / "gpu" / "bundles"  # one with convolutions
COLUMNS = (
    Column("age", "number", fill=40.0, flags_missing=True),
    Column("city", "category", ("Oslo", "Rome", "北京")),
    Column("since", "date", fill=10_000.0),
)
SPECS = {
    "image": (
        FeatureSpec("image", (1, 8, 8), "uint8", Normalization("standard", 255.0, (0.3,), (0.2,))),
        TargetSpec("classification", ("cat", "dog", "猫")),
    ),
    "table": (
        FeatureSpec("table", (6,), "float32", Normalization("standard", 1.0, (40.0, *[0.0] * 4, 1e4), (9.0, *[1.0] * 4, 1e3)), COLUMNS),
        TargetSpec("binary", ("no", "yes"), name="bought"),
    ),
    "array": (
        FeatureSpec("array", (5,), "float32", Normalization("standard", 1.0, (0.5,) * 5, (2.0,) * 5)),
        TargetSpec("regression", width=1, mean=(5.0,), std=(2.0,)),
    ),
    "text": (
        FeatureSpec("table", (24,), "int64", columns=(Column("review", "text", tokens=Tokens(24)),)),
        TargetSpec("classification", ("bad", "good")),
    ),
    "series": (
        FeatureSpec(
            "table", (3, 2), "float32", Normalization("standard", 1.0, (5.0, 1.0), (2.0, 1.0)),
            (Column("load", "number"), Column("rain", "number"), Column("hour", "number", orders=True)),
        ),
        TargetSpec("regression", width=2, mean=(5.0, 5.0), std=(2.0, 2.0)),
    ),
    "residual": (
        FeatureSpec("image", (3, 16, 16), "uint8", Normalization("standard", 255.0, (0.3,) * 3, (0.2,) * 3)),
        TargetSpec("classification", ("cat", "dog", "猫")),
    ),
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("textcnn", {"vocabulary": 257, "padding": 256, "embedding": 4, "channels": 4}),
    "residual": ("resnet", {"width": 4}),
}


def main() -> None:
    """Write the bundles."""
    generator = torch.Generator().manual_seed(0)
    for kind, (features, target) in SPECS.items():
        raw = torch.rand(4, *features.shape, generator=generator) * 2
        raw = raw if features.dtype == "float32" else (raw * 127).to(getattr(torch, features.dtype))
        name, arguments = MODELS.get(kind, ("mlp", {"hidden": [8]}))
        folder = (ON_CARDS if kind == "residual" else HERE) / kind
        model: nn.Module = build_model(name, features.shape, target.outputs, arguments, seed=1)
        write_bundle(
            folder, model, features=features, target=target, architecture={"name": name, "arguments": arguments},
            provenance={"run": kind}, examples=raw,
        )  # fmt: skip
        assert add_graph(folder, model) is None


if __name__ == "__main__":
    main()
