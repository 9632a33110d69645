"""Bundles: what is written is what is loaded, damage is named, and nothing in a bundle is ever run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rushlight.data.spec import Column, FeatureSpec, Normalization, TargetSpec
from rushlight.errors import UsageError, WeightsError
from rushlight.export.bundle import read_bundle, write_bundle
from rushlight.export.predictions import predict
from rushlight.export.saved import open_bundle
from rushlight.models import build_model

FEATURES = FeatureSpec("image", (1, 8, 8), "uint8", Normalization("standard", 255.0, (0.3,), (0.2,)))
TARGET = TargetSpec("classification", ("cat", "dog", "猫"))
BY_NAME = {"name": "cnn", "arguments": {"channels": [4]}}
BY_CLASS = {"import": "net.py:Net", "arguments": {"hidden": 32}}
RAW = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A CNN with BatchNorm; `relu=False` has the same shapes but computes something else."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 3)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.head((x.relu() if self.relu else x).flatten(1))


class Tied(nn.Module):
    """An embedding and an output layer that share their weights; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(x)
        return {"hidden": hidden, "logits": self.out(hidden)}


def trained() -> Net:
    torch.manual_seed(3)
    model = Net()
    model(torch.randn(64, 1, 8, 8) * 2)
    return model


def save(folder: Path, model: nn.Module | None = None, **changes: Any) -> nn.Module:
    model = model or trained()
    given = {"features": FEATURES, "target": TARGET, "architecture": BY_NAME, "provenance": {"run": "r1"}}
    write_bundle(folder, model, **{**given, "examples": RAW, **changes})
    return model


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_a_loaded_bundle_predicts_bit_for_bit_as_before(tmp_path: Path) -> None:
    folder = tmp_path / "my model 模型"
    model = save(folder)
    loaded = open_bundle(folder, Net()).model
    before = predict(model, RAW, FEATURES, TARGET)
    bundle = read_bundle(folder)
    assert bundle.features is not None
    assert bundle.target is not None
    after = predict(loaded, RAW, bundle.features, bundle.target)
    assert before.probabilities is not None
    assert after.probabilities is not None
    assert (before.probabilities == after.probabilities).all()
    assert not loaded.training
    assert model.training, "saving put the model in another mode"


def test_everything_written_is_read_back(tmp_path: Path) -> None:
    columns = (Column("age", "number", fill=3.5, flags_missing=True), Column("色", "category", ("red", "blue")))
    features = FeatureSpec("table", (4,), "float32", Normalization("standard", 1.0, (0.0,) * 4, (1.0,) * 4), columns)
    target = TargetSpec("regression", width=2, name="price", mean=(1.0, 2.0), std=(3.0, 4.0))
    model = nn.Linear(4, 2)
    provenance = {"run": "r1", "accuracy": 0.5, "loss": float("nan"), "list": [float("inf"), 1]}
    save(tmp_path / "b", model, features=features, target=target, examples=torch.ones(2, 4), provenance=provenance)
    bundle = read_bundle(tmp_path / "b")
    assert (bundle.features, bundle.target, bundle.architecture) == (features, target, BY_NAME)
    assert bundle.provenance == {"run": "r1", "accuracy": 0.5, "loss": None, "list": [None, 1]}
    assert torch.equal(bundle.weights["weight"], model.weight)
    assert torch.equal(bundle.examples["inputs"], torch.ones(2, 4))
    assert torch.equal(bundle.examples["outputs"], model(torch.ones(2, 4)))


def test_a_bundle_is_three_plain_files_that_state_their_signature_and_sums(tmp_path: Path) -> None:
    save(tmp_path / "b")
    content = json.loads((tmp_path / "b" / "model.json").read_text(encoding="utf-8"))
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"model.json", *content["files"]}
    assert content["signature"] == {
        "inputs": {"kind": "image", "shape": [1, 8, 8], "dtype": "uint8"},
        "outputs": 3,
        "task": "classification",
    }
    for name, entry in content["files"].items():
        assert hashlib.sha256((tmp_path / "b" / name).read_bytes()).hexdigest() == entry["sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_tied_weights_and_several_outputs_without_specs_travel_too(tmp_path: Path) -> None:
    tokens = torch.randint(0, 11, (3, 5))
    model = save(tmp_path / "b", Tied(), features=None, target=None, architecture=BY_CLASS, examples=tokens)
    assert set(read_bundle(tmp_path / "b").examples) == {"inputs", "outputs.hidden", "outputs.logits"}
    loaded = open_bundle(tmp_path / "b", Tied()).model
    assert torch.equal(loaded(tokens)["logits"], model(tokens)["logits"])
    assert loaded.out.weight is loaded.embed.weight


def test_a_model_that_answers_at_random_is_saved_without_examples(tmp_path: Path) -> None:
    class Random(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(1)

    save(tmp_path / "b", Random(2, 2), features=None, target=None, examples=torch.ones(2, 2))
    assert read_bundle(tmp_path / "b").examples == {}
    open_bundle(tmp_path / "b", Random(2, 2))


def test_saving_again_replaces_the_bundle(tmp_path: Path) -> None:
    save(tmp_path / "b", provenance={"run": "first"})
    save(tmp_path / "b", provenance={"run": "second"}, examples=None)
    assert read_bundle(tmp_path / "b").provenance == {"run": "second"}
    assert not (tmp_path / "b" / "examples.safetensors").exists()


def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        save(tmp_path)
    with pytest.raises(UsageError, match="13 bytes"):
        save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_same_shapes_with_another_computation_are_found_out_and_the_model_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "b")
    other = Net(relu=False)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match="differ by up to") as caught:
        open_bundle(tmp_path / "b", other)
    assert "an activation left out" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    assert other.training


def test_a_model_that_fails_on_the_examples_is_named_with_its_reason(tmp_path: Path) -> None:
    save(tmp_path / "b", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(WeightsError, match=r"fails on the bundle's example inputs of shape \(4, 1, 8, 8\)"):
        open_bundle(tmp_path / "b", nn.Sequential(nn.Identity(), nn.Linear(64, 3)))


def test_rounding_of_another_machine_is_tolerated(tmp_path: Path) -> None:
    model = save(tmp_path / "b")

    class Rounded(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + 1e-4)

    loaded = open_bundle(tmp_path / "b", Rounded()).model
    assert torch.equal(loaded.conv.weight, model.conv.weight)


def test_other_shapes_are_a_mismatch_with_both_sides(tmp_path: Path) -> None:
    save(tmp_path / "b")
    wide = Net()
    wide.head = nn.Linear(144, 7)
    with pytest.raises(WeightsError, match=r"trained for 3 outputs \(classes\), the model has 7"):
        open_bundle(tmp_path / "b", wide)


def test_a_class_of_ones_own_is_never_imported_and_the_call_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('this was imported')")
    save(tmp_path / "b", architecture=BY_CLASS)
    with pytest.raises(WeightsError, match=r"net\.py:Net") as caught:
        open_bundle(tmp_path / "b")
    assert f"rushlight.load({str(tmp_path / 'b')!r}, Net(hidden=32))" in str(caught.value)
    save(tmp_path / "b", architecture={"class": "package.models.Net"})
    with pytest.raises(WeightsError, match=r", Net\(\)\)"):
        open_bundle(tmp_path / "b")


def test_a_model_by_name_is_built_from_its_bundle_alone(tmp_path: Path) -> None:
    model = save(tmp_path / "b", build_model("cnn", (1, 8, 8), 3, {"channels": (4,)}, seed=5))
    opened = open_bundle(tmp_path / "b")
    assert torch.equal(opened.model(FEATURES.prepare(RAW)), model.eval()(FEATURES.prepare(RAW)))
    assert opened.bundle.architecture == BY_NAME
    assert opened.classes == TARGET.classes


@pytest.mark.parametrize("name", ["weights.safetensors", "examples.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, harm: str) -> None:
    save(tmp_path / "b")
    path = tmp_path / "b" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink() if harm == "gone" else path.write_bytes(content if harm == "flip" else content[:-4])
    with pytest.raises(WeightsError, match=name) as caught:
        read_bundle(tmp_path / "b")
    assert caught.value.key == "bundle-damaged"


def test_a_description_cut_off_anywhere_is_named(tmp_path: Path) -> None:
    save(tmp_path / "b")
    path = tmp_path / "b" / "model.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model\.json cannot be read"):
            read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": None},
        {"files": {"weights.safetensors": {}}},
        {"architecture": 3},
        {"preprocessing": {"kind": "image"}},
        {"target": {"task": "regression", "width": 1, "classes": []}, "version": "1"},
        {"target": {"width": 1}},
        {"provenance": None},
    ],
)
def test_a_description_with_missing_or_odd_entries_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(tmp_path / "b")
    edit(tmp_path / "b", **changes)
    with pytest.raises(WeightsError, match=r"model\.json"):
        read_bundle(tmp_path / "b")


def test_fields_of_a_later_writer_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "b")
    content = json.loads((tmp_path / "b" / "model.json").read_text(encoding="utf-8"))
    for place in (content, content["preprocessing"], content["preprocessing"]["normalization"], content["target"]):
        place["colour"] = "new"
    edit(tmp_path / "b", **content)
    assert read_bundle(tmp_path / "b").features == FEATURES
    assert read_bundle(tmp_path / "b").target == TARGET


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    save(tmp_path / "b")
    edit(tmp_path / "b", version=2)
    with pytest.raises(WeightsError, match="pip install --upgrade rushlight"):
        read_bundle(tmp_path / "b")


def test_a_file_name_in_the_description_leads_nowhere_else(tmp_path: Path) -> None:
    save(tmp_path / "b")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    edit(tmp_path / "b", files={"../secret": {"sha256": hashlib.sha256(b"x").hexdigest()}})
    with pytest.raises(WeightsError, match=r"lists no weights\.safetensors"):
        read_bundle(tmp_path / "b")


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    save(tmp_path / "run" / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text("{}")
    words = {
        "nowhere": "nothing there",
        "empty": "a folder with nothing in it",
        "run/model/model.json": "a file",
        "other": 'does not say "format"',
    }
    for name, found in words.items():
        with pytest.raises(WeightsError) as caught:
            read_bundle(tmp_path / name)
        assert found in str(caught.value)
    with pytest.raises(WeightsError) as caught:
        read_bundle(tmp_path / "run")
    assert str(tmp_path / "run" / "model") in str(caught.value)
