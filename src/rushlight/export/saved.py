"""Saved models, opened: weights files, bundles and run folders; nothing here imports training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rushlight.data import with_tokenizer
from rushlight.device import named_device
from rushlight.errors import UsageError, WeightsError, first_line
from rushlight.export.bundle import Bundle, answer, difference, read_bundle, write_bundle
from rushlight.export.description import GRAPH, read_description
from rushlight.export.make_graph import ENDINGS, Served, add_graph, save_graph
from rushlight.export.predictions import Predictions, device_of, predict
from rushlight.export.weights import load_state, load_weights, unchanged_on_error, write_weights
from rushlight.models import build_custom, build_model, restored
from rushlight.texts import Note


@dataclass(frozen=True)
class SavedModel:
    """A bundle, opened: the model with everything needed to use it, on any machine."""

    model: nn.Module
    bundle: Bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; none for a regression."""
        return self.bundle.target.classes if self.bundle.target is not None else ()

    def predict(self, inputs: Any, batch_size: int = 512, *, tokenizer: Any = None) -> Predictions:
        """Predict as `Run.predict` does."""
        features = self.bundle.features
        if features is None:
            raise UsageError("no-signature", run=self.bundle.provenance.get("run"))
        features = features if tokenizer is None else with_tokenizer(features, tokenizer)
        return predict(self.model, inputs, features, self.bundle.target, batch_size=batch_size)

    def answer(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name on raw inputs as stored, and what they mean, as `Graph.answer` does."""
        served = Served(self.model, self.bundle.features, self.bundle.target)
        with torch.inference_mode():
            inputs = torch.from_numpy(raw).to(device_of(self.model))
            return {name: values.numpy(force=True) for name, values in served.named(inputs).items()}


def open_bundle(folder: str | Path, model: nn.Module | str | None = None) -> SavedModel:
    """Open a bundle to predict with it: the model, in eval mode, its preprocessing and its class names.

    Without `model`, one is built where the bundle's architecture is known by name; `model` may name its class, as
    "net.py:Net". The outputs on the bundle's
    examples must be the recorded ones within `atol + rtol * |recorded|`, rtol 1e-3 and atol 1e-4, in float32: other
    machines round differently. Raises WeightsError when weights or outputs differ; `model` is then as it was.
    """
    bundle = read_bundle(Path(folder))
    model = model if isinstance(model, nn.Module) else build_bundled(Path(folder), bundle, model)
    if "float64" in [spec.floats for spec in (bundle.features, bundle.target) if spec is not None]:
        model.double()
    with unchanged_on_error(model):
        load_state(model, bundle.weights, str(folder))
        check_examples(Path(folder), model, bundle)
    return SavedModel(model.eval(), bundle)


def move_to_card(saved: SavedModel, number: int) -> None:
    """Move a model to an NVIDIA card; from then on this process convolves in whole float32, the same each time.

    Raises UsageError where torch cannot use the card.
    """
    device = named_device(f"cuda:{number}")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    saved.model.to(device)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a saved model, in eval mode: weights (.pth, .safetensors) into `model`, or a bundle or run folder.

    Nothing in a file is ever executed. A bundle of a model by name needs no `model`; any other does.

    Raises:
        WeightsError: the file is damaged, holds a pickled object, or does not fit the model.
    """
    path = Path(path)
    if path.is_dir():
        return open_bundle(path / "model" if (path / "recipe.json").is_file() else path, model).model
    if model is None:
        raise UsageError("weights-need-model", path=str(path))
    for note in load_weights(model, path):
        warnings.warn(note, stacklevel=2)
    return model.eval()


def save_model(path: Path, model: nn.Module, bundle: Callable[[], Bundle], home: Path) -> None:
    """Save a model by the path's ending: .pth (a plain state_dict), .safetensors, .onnx, .pt2, or none: a bundle.

    `bundle` reads the model's own bundle, which lies in `home`. A bundle gets its graph where the extra `serve` is installed,
    which takes some seconds; one that is not kept is warned of. `home` itself gets its graph and is else left as it is.
    """
    if path.suffix:
        if path.suffix.lower() in ENDINGS:
            save_graph(path, model, bundle())
        else:
            write_weights(model, path)
        return
    is_home = path.resolve() == home.resolve()
    if not is_home:
        own = bundle()
        write_bundle(
            path, model, features=own.features, target=own.target, architecture=own.architecture,
            provenance=own.provenance, examples=own.examples.get("inputs"),
        )  # fmt: skip
    elif GRAPH in read_description(home)["files"]:
        return
    if (reason := add_graph(path, model)) is not None:
        warnings.warn(Note("export.graph.left-out", path=path, reason=reason), stacklevel=3)


def build_bundled(folder: Path, bundle: Bundle, reference: str | None = None) -> nn.Module:
    """Build a bundle's model, known by name, or of the class that is named; else WeightsError has the class to pass along."""
    arguments, name = bundle.architecture.get("arguments"), bundle.architecture.get("name")
    if reference is not None:
        restored_arguments = {key: restored(value) for key, value in (arguments or {}).items()}
        return build_custom(reference, restored_arguments, 0, bundle.architecture.get("head"))
    if name is None:
        needed: str = bundle.architecture.get("import") or bundle.architecture.get("class", "Net")
        class_name = needed.rpartition(":")[2].rpartition(".")[2]
        written = ", ".join(f"{key}={value!r}" for key, value in (arguments or {}).items())
        raise WeightsError("bundle-needs-model", path=str(folder), needed=needed, call=f"{class_name}({written})")
    if not isinstance(arguments, dict) or bundle.features is None or bundle.target is None:
        raise WeightsError("bundle-incomplete", model=name)
    arguments = {key: restored(value) for key, value in arguments.items()}
    return build_model(str(name), bundle.features.shape, bundle.target.outputs, arguments, seed=0)


def check_examples(folder: Path, model: nn.Module, bundle: Bundle) -> None:
    """Raise WeightsError unless the model gives the recorded outputs on the recorded inputs."""
    if not bundle.examples:
        return
    expected = dict(bundle.examples)
    inputs = expected.pop("inputs")
    try:
        found = answer(model, bundle.features, inputs)
    except Exception as error:  # a forward() may raise anything
        shape = tuple(inputs.shape)
        raise WeightsError("bundle-example-failed", path=folder, shape=shape, reason=first_line(error)) from error
    for name, recorded in expected.items():
        off = difference(recorded, found[name]) if name in found else math.inf
        if off > 0:
            scale = max(recorded.float().abs().flatten().tolist(), default=0.0)
            samples = len(inputs)
            raise WeightsError("bundle-differs", path=folder, samples=samples, difference=off, scale=scale)
