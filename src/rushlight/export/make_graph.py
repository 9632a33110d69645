"""From a model to its graph: exported by torch, kept only where it repeats the bundle's recorded examples."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import FeatureSpec, TargetSpec
from rushlight.errors import UsageError, WeightsError, first_line
from rushlight.export.bundle import Bundle, named_outputs, read_bundle
from rushlight.export.graph import (
    INPUTS,
    MEANINGS,
    METADATA,
    MOST_BYTES,
    Graph,
    metadata_of,
    why_unproven,
    write_graph,
)
from rushlight.export.predictions import are_as_saved, in_words
from rushlight.models import as_figures, eval_mode
from rushlight.texts import Note

ENDINGS = (".onnx", ".pt2")
EXAMPLE_ROWS = 3  # of the batch that is traced: torch takes a batch of one for a constant


class Served(nn.Module):
    """A model between its normalisation and what its outputs mean: raw inputs in, all outputs out, in a fixed order."""

    def __init__(self, model: nn.Module, features: FeatureSpec | None, target: TargetSpec | None) -> None:
        super().__init__()
        self.model, self.features, self.target = model, features, target

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs, in the order of `named`."""
        return tuple(self.named(inputs).values())

    def named(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the model's outputs by name, and what they mean where that is known."""
        outputs = self.model(self.features.prepare(inputs) if self.features else inputs)
        named = named_outputs(outputs)
        if isinstance(outputs, Tensor) and self.target is not None and self.target.task != "other":
            rows = outputs[:, None] if outputs.dim() == 1 else outputs
            if are_as_saved(rows, self.target):
                named[MEANINGS[0] if self.target.classes else MEANINGS[1]] = in_words(as_figures(rows), self.target)
        return named


def add_graph(folder: Path, model: nn.Module) -> Note | None:
    """Add `graph.onnx` to the bundle of `model`; return the reason, which model.json then has too, where it is not kept.

    Takes some seconds. Without the extra `serve` nothing is done.
    """
    if missing_package() is not None:
        return None
    content, reason = make_graph(model, read_bundle(folder))
    write_graph(folder, content, reason)
    return reason


def save_graph(path: Path, model: nn.Module, bundle: Bundle) -> None:
    """Write the graph of a bundle's model to a file, as ONNX or, for `.pt2`, as `torch.export.load` reads it.

    Raises WeightsError where the graph does not repeat the recorded examples, or none can be made; UsageError without the
    extra `serve`.
    """
    if (package := missing_package()) is not None:
        raise UsageError("serve-missing", package=package)
    content, reason = make_graph(model, bundle, path.suffix.lower())
    if content is None:
        raise WeightsError("graph-not-kept", path=path, reason=reason)
    files.write_named(path, content)


def missing_package() -> str | None:
    """Return the first package of the extra `serve` that a graph needs and that is not installed."""
    packages = ("onnxruntime", "onnxscript")  # torch's exporter needs the second, and says so late
    return next((package for package in packages if importlib.util.find_spec(package) is None), None)


def make_graph(model: nn.Module, bundle: Bundle, ending: str = ".onnx") -> tuple[bytes | None, Note | None]:
    """Return the graph of a bundle's model, or why there is none."""
    if not bundle.examples:
        return None, Note("export.graph.no-examples")
    served = Served(copy.deepcopy(model).cpu(), bundle.features, bundle.target)
    examples = bundle.examples["inputs"]
    batch = examples[torch.arange(EXAMPLE_ROWS) % len(examples)]
    varying: dict[int, Any] = {0: torch.export.Dim("batch")}
    if bundle.features is not None and bundle.features.varies:
        varying[1] = torch.export.Dim("length")
    try:
        with eval_mode(served), torch.no_grad(), quietly():
            names = list(served.named(batch))
            program = torch.export.export(served, (batch,), dynamic_shapes={INPUTS: varying})
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # which has the paths of this machine
            content = (
                as_onnx(program, batch, names, metadata_of(bundle.features, bundle.target))
                if ending == ".onnx"
                else b""
            )
            answer = Graph(content).answer if content else answers_of(program, names)
    except Exception as error:  # torch's tracer and exporter raise whatever a forward() leads them to
        return None, Note("export.graph.not-made", reason=first_line(error))
    recorded = {name: values.numpy() for name, values in bundle.examples.items()}
    if (reason := why_unproven(answer, recorded)) is not None:
        return None, reason
    if not content:
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        content = buffer.getvalue()
    return content, None


def as_onnx(program: Any, batch: Tensor, names: list[str], metadata: str) -> bytes:
    """Return an exported program as an ONNX file, with the names of its outputs."""
    found: Any = torch.onnx.export(program, (batch,), dynamo=True, external_data=False, verbose=False)
    for value, name in zip(found.model.graph.outputs, names, strict=True):
        value.name = name
    model = found.model_proto
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]  # what the exporter notes of each operation; it is as long as a small model
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    if model.ByteSize() > MOST_BYTES:
        raise ValueError(Note("export.graph.too-large"))
    content: bytes = model.SerializeToString()
    return content


def answers_of(program: Any, names: list[str]) -> Any:
    """Return a function from raw inputs to outputs by name, as `Graph.answer` is."""
    module = program.module()
    return lambda raw: {
        name: part.detach().numpy() for name, part in zip(names, module(torch.from_numpy(raw)), strict=True)
    }


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the exporter's warnings and its log off the screen: what matters of them is an exception or a difference."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
