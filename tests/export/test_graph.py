"""Graphs: what is kept repeats the recorded examples, and what does not is said and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rushlight.data.spec import FeatureSpec, Normalization, TargetSpec
from rushlight.errors import WeightsError
from rushlight.export.bundle import read_bundle, write_bundle
from rushlight.export.description import read_description
from rushlight.export.graph import Graph, open_graph, read_examples, why_unproven
from rushlight.export.make_graph import add_graph, save_graph
from rushlight.export.predictions import predict
from rushlight.models import build_model

pytestmark = pytest.mark.slow  # an export takes seconds

FEATURES = FeatureSpec("image", (1, 8, 8), "uint8", Normalization("standard", 255.0, (0.3,), (0.2,)))
TARGET = TargetSpec("classification", ("cat", "dog", "猫"))
RAW = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its graph; an export takes seconds."""
    path = tmp_path_factory.mktemp("graph") / "bundle"
    assert save(path, build_model("mlp", (1, 8, 8), 3, {"hidden": (16,)}, seed=0)) is None
    return path


def save(path: Path, model: nn.Module, features: Any = FEATURES, target: Any = TARGET, examples: Any = RAW) -> Any:
    write_bundle(
        path, model, features=features, target=target, architecture={"name": "mlp"}, provenance={}, examples=examples
    )
    return add_graph(path, model)


def test_a_graph_gives_what_predict_gives_from_raw_inputs(folder: Path) -> None:
    graph = open_graph(folder)
    assert graph is not None
    assert graph.target == TARGET
    assert graph.features == FEATURES
    model = build_model("mlp", (1, 8, 8), 3, {"hidden": (16,)}, seed=0)
    raw = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
    expected = predict(model, raw, FEATURES, TARGET)
    assert np.allclose(graph.answer(raw)["probabilities"], np.asarray(expected), atol=1e-6)


def test_a_graph_is_listed_with_its_checksum_and_a_changed_one_is_refused(folder: Path) -> None:
    before = (folder / "graph.onnx").read_bytes()
    try:
        (folder / "graph.onnx").write_bytes(before[:-40] + bytes([before[-40] ^ 1]) + before[-39:])
        with pytest.raises(WeightsError, match="SHA-256"):
            open_graph(folder)
    finally:
        (folder / "graph.onnx").write_bytes(before)
    assert read_bundle(folder).target == TARGET


def test_a_graph_tells_no_path_of_the_machine_it_was_made_on(folder: Path) -> None:
    content = (folder / "graph.onnx").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_one_flipped_bit_in_the_weights_of_a_graph_is_no_proof(folder: Path) -> None:
    graph, examples = open_graph(folder), read_examples(folder)
    assert graph is not None
    assert why_unproven(graph.answer, examples) is None
    examples["outputs"] = examples["outputs"].copy()
    examples["outputs"].view(np.uint32)[2, 1] ^= 1 << 27
    assert "answers otherwise" in str(why_unproven(graph.answer, examples))
    assert "another shape" in str(why_unproven(lambda raw: {"outputs": graph.answer(raw)["outputs"][:1]}, examples))


def test_who_opens_a_graph_imports_no_torch(folder: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; from rushlight.export import open_graph, read_examples, "
        "why_unproven, read_raw; path = Path(sys.argv[1]); graph = open_graph(path);"
        "assert why_unproven(graph.answer, read_examples(path)) is None;"
        "graph.answer(read_raw(np.zeros((8, 8), np.uint8), graph.features)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


class Branches(nn.Module):
    """A network that decides on numbers which way to go: no graph has that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out if out.sum() > 0 else -out


def test_a_model_without_a_graph_keeps_its_bundle_and_the_reason(tmp_path: Path) -> None:
    model = Branches()
    reason = save(tmp_path / "bundle", model)
    assert "torch cannot write this model as a graph" in str(reason)
    assert read_description(tmp_path / "bundle")["graph"]["reason"] == str(reason)
    assert not (tmp_path / "bundle" / "graph.onnx").exists()
    assert open_graph(tmp_path / "bundle") is None
    with pytest.raises(WeightsError, match="was not written"):
        save_graph(tmp_path / "model.onnx", model, read_bundle(tmp_path / "bundle"))


def test_a_batch_size_that_a_model_keeps_from_its_example_is_found(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        """Repeats the rows of its first batch."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x.flatten(1))
            return out + torch.zeros(len(x.tolist()), 3)

    assert save(tmp_path / "bundle", Frozen()) is not None


@pytest.mark.parametrize("name", ["cnn", "resnet", "linear"])
def test_every_named_model_has_a_graph(tmp_path: Path, name: str) -> None:
    assert save(tmp_path / "bundle", build_model(name, (1, 8, 8), 3, {}, seed=0)) is None


def test_a_saved_onnx_or_pt2_file_is_the_graph_alone(tmp_path: Path, folder: Path) -> None:
    model, bundle = build_model("mlp", (1, 8, 8), 3, {"hidden": (16,)}, seed=0), read_bundle(folder)
    save_graph(tmp_path / "model.onnx", model, bundle)
    assert Graph(tmp_path / "model.onnx").target == TARGET
    save_graph(tmp_path / "model.pt2", model, bundle)
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.allclose(program(RAW)[0], bundle.examples["outputs"], atol=1e-6)


@pytest.mark.parametrize(
    ("target", "outputs"),
    [
        (TargetSpec("binary", ("no", "yes")), 1),
        (TargetSpec("multilabel", ("a", "b")), 2),
        (TargetSpec("regression", width=2, mean=(5.0, 6.0), std=(2.0, 3.0)), 2),
    ],
    ids=lambda value: getattr(value, "task", ""),
)
def test_a_graph_of_every_task_says_what_its_outputs_mean(tmp_path: Path, target: TargetSpec, outputs: int) -> None:
    features = FeatureSpec("array", (5,), "float32", Normalization("standard", 1.0, (0.5,) * 5, (2.0,) * 5))
    model, raw = nn.Linear(5, outputs), torch.randn(4, 5)
    assert save(tmp_path / "bundle", model, features, target, raw) is None
    graph = open_graph(tmp_path / "bundle")
    assert graph is not None
    meaning = graph.answer(raw.numpy())["probabilities" if target.classes else "values"]
    assert np.allclose(meaning, np.asarray(predict(model, raw, features, target)), atol=1e-5)
    assert json.loads((tmp_path / "bundle" / "model.json").read_text())["files"]["graph.onnx"]["bytes"]
