"""A model's graph, `graph.onnx`: run by ONNX Runtime, and proven on recorded examples. Needs no torch.

The graph takes raw inputs as they are stored, and holds the normalisation. Beside the model's outputs it gives what they mean:
"probabilities", or "values" in the data's units. Preprocessing and class names stand in its metadata.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rushlight import files
from rushlight.data import FeatureSpec, TargetSpec
from rushlight.errors import UsageError, WeightsError, first_line
from rushlight.export.description import (
    ATOL,
    EXAMPLES,
    GRAPH,
    MODEL,
    RTOL,
    SPECS,
    read_description,
    read_listed,
    read_specs,
)
from rushlight.kinds import wrong_entry
from rushlight.texts import Note

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray[Any, np.dtype[Any]]
Answers = dict[str, Array]

INPUTS = "inputs"  # the name of the one input of a graph made here
MEANINGS = ("probabilities", "values")  # the names of the output that says what the model's outputs mean
METADATA = "rushlight"  # the key of the specs in a graph's metadata
PROVEN_SIZES = (1, 2, 3, 16)  # rows of a batch
MOST_BYTES = 2 << 30  # of a graph without external data
ON_PROCESSOR, ON_CARD = "CPUExecutionProvider", "CUDAExecutionProvider"
# whole float32, and convolutions chosen by the shape alone: by a measurement, answers would vary from start to start
EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


class Graph:
    """A graph, opened. Thread-safe; what it is asked for is checked by who asks."""

    def __init__(self, content: bytes | Path, threads: int = 0, card: int | None = None) -> None:
        """Open a graph, or an ONNX file whose external data, if any, lies beside it; WeightsError for what is none.

        It runs on the NVIDIA card of the number `card`, else on the processor.
        """
        self.session = open_session(content, threads, card)
        metadata = self.session.get_modelmeta().custom_metadata_map.get(METADATA, "")
        self.features, self.target = specs_in(metadata) if metadata else (None, None)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> Answers:
        """Return the outputs by name."""
        return dict(zip(self.outputs, self.session.run(None, dict(inputs)), strict=True))

    def answer(self, raw: Array) -> Answers:
        """Return the outputs by name on one batch of raw inputs."""
        return self.run({INPUTS: raw})


def open_session(content: bytes | Path, threads: int, card: int | None = None) -> InferenceSession:
    """Open a graph with ONNX Runtime: no code from elsewhere, and no threads that spin while there is nothing to do.

    On a card, the processor does what that has no kernel for. UsageError where ONNX Runtime cannot use the card at all.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("serve-missing", package="onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it says on standard error is said in the exception too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    given = content if isinstance(content, bytes) else str(content)
    providers: list[Any] = [ON_PROCESSOR]
    complaint = ""
    if card is not None:
        complaint = load_cuda()
        if ON_CARD not in onnxruntime.get_available_providers():
            raise UsageError("serve-no-cuda", version=onnxruntime.__version__)
        options.use_deterministic_compute = True
        providers.insert(0, (ON_CARD, {"device_id": card, **EXACT}))
    try:
        session = onnxruntime.InferenceSession(given, options, providers=providers, enable_fallback=0)
    except Exception as error:  # of classes of its own, that share no base
        if card is not None and "CUDA" in str(error):
            raise UsageError("serve-card-unusable", card=card, reason=first_line(error)) from error
        where = Path(GRAPH) if isinstance(content, bytes) else content
        raise WeightsError("graph-unreadable", path=where, reason=first_line(error)) from error
    if card is not None and ON_CARD not in session.get_providers():  # it would run on the processor, without a word
        raise UsageError("serve-card-unusable", card=card, reason=complaint or Note("export.graph.no-cuda"))
    return session


@functools.cache
def load_cuda() -> str:
    """Load the CUDA libraries that are installed as packages; return what ONNX Runtime says of one that it does not find.

    It looks beside itself alone; they may lie in another folder of packages, with torch.
    """
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21
    if preload is None:
        return ""
    onnxruntime.set_default_logger_severity(3)  # errors: of kinds of cards that are not there it would warn
    found = importlib.util.find_spec("nvidia")
    places = map(Path, (found and found.submodule_search_locations) or ())
    folders = [str(folder) for place in places for folder in sorted(place.glob("*/lib"))]
    for folder in [*folders, None]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            preload(directory=folder)
    return printed.getvalue().partition("\n")[0]


def specs_in(metadata: str) -> tuple[FeatureSpec | None, TargetSpec | None]:
    """Return the specs in a graph's metadata; (None, None) where another program wrote it."""
    try:
        content = files.parse_json(metadata.encode())
    except ValueError:
        return None, None
    return (None, None) if wrong_entry(content, SPECS) is not None else read_specs(content)


def metadata_of(features: FeatureSpec | None, target: TargetSpec | None) -> str:
    """Return specs as `specs_in` reads them."""
    return json.dumps({"preprocessing": features and features.to_json(), "target": target and target.to_json()})


def open_graph(folder: Path, threads: int = 0, card: int | None = None) -> Graph | None:
    """Open the graph of a bundle, checked against its SHA-256; None where the bundle has none."""
    listed = read_description(folder)["files"]
    if GRAPH not in listed:
        return None
    return Graph(read_listed(folder, GRAPH, listed[GRAPH]["sha256"], MOST_BYTES), threads, card)


def read_examples(folder: Path) -> Answers:
    """Return a bundle's recorded "inputs" and the outputs on them as arrays; empty where there are none."""
    import safetensors.numpy

    listed = read_description(folder)["files"]
    if EXAMPLES not in listed:
        return {}
    try:
        return dict(safetensors.numpy.load(read_listed(folder, EXAMPLES, listed[EXAMPLES]["sha256"], MOST_BYTES)))
    except (safetensors.SafetensorError, KeyError, TypeError) as error:  # bfloat16, among others
        reason = Note("export.unreadable", name=EXAMPLES, reason=error)
        raise WeightsError("bundle-damaged", path=folder, reason=reason) from error


def why_unproven(answer: Callable[[Array], Answers], examples: Mapping[str, Array]) -> Note | None:
    """Return why answers are not the recorded ones at every batch size in PROVEN_SIZES; None where they are.

    They are where all numbers agree within the bundle's tolerance and the largest of each row is the same, unless the
    recorded row leads by less than that.
    """
    recorded = {name: values for name, values in examples.items() if name != INPUTS}
    if not recorded:
        return Note("export.graph.no-examples")
    for size in PROVEN_SIZES:
        rows = np.arange(size) % len(examples[INPUTS])
        try:
            found = answer(examples[INPUTS][rows])
        except Exception as error:  # an engine may raise anything
            return Note("export.graph.fails", rows=size, reason=first_line(error))
        for name, values in recorded.items():
            if name not in found or found[name].shape != values[rows].shape:
                return Note("export.graph.other-shape", rows=size, name=name)
            if (off := output_difference(values[rows], found[name])) > 0:
                return Note("export.graph.differs", rows=size, difference=off)
    return None


def output_difference(recorded: Array, found: Array) -> float:
    """Return 0 where outputs agree, else their largest difference."""
    left, right = recorded.astype(np.float32), found.astype(np.float32)
    if not np.allclose(right, left, rtol=RTOL, atol=ATOL, equal_nan=True):
        apart = float(np.abs(left - right).max())
        return apart if apart == apart else float("inf")
    if left.ndim < 2 or left.shape[1] < 2:
        return 0.0
    second, first = np.sort(left, axis=1)[:, -2:].swapaxes(0, 1)
    is_clear = first - second > 2 * (ATOL + RTOL * np.abs(first))
    is_same = left.argmax(axis=1) == right.argmax(axis=1)
    return float((first - second)[is_clear & ~is_same].max(initial=0.0))


def write_graph(folder: Path, content: bytes | None, reason: Note | None) -> None:
    """Add a graph to a bundle, or the reason why it has none."""
    description = read_description(folder)
    description.pop("graph", None)
    if content is None:
        description["files"].pop(GRAPH, None)
        description["graph"] = {"reason": str(reason)}
    else:
        files.write_bytes(folder / GRAPH, content)
        description["files"][GRAPH] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files.write_json(folder / MODEL, description)
