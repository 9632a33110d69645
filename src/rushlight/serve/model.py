"""The model that is served: found, opened, proven on its recorded examples, and measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rushlight.data import FeatureSpec, TargetSpec
from rushlight.errors import RushlightError, UsageError, WeightsError, first_line
from rushlight.export import (
    MOST_BYTES,
    Answers,
    Graph,
    open_graph,
    read_description,
    read_examples,
    read_listed,
    why_unproven,
)
from rushlight.kinds import is_count, named, wrong_entry
from rushlight.runs import find_run, is_run, read_recipe
from rushlight.serve.cards import Card, cuda_cards
from rushlight.texts import Note, shown

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Mapping[str, Array]], Answers]

SIZES = (1, 2, 4, 8, 16, 32, 64)  # rows of the batches that are executed; what comes is padded to one of them
SLOW = 0.1  # seconds: batches that take longer are not made larger
DATATYPES = {  # the names of the Open Inference Protocol
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "str": "BYTES",
}  # fmt: skip
ONNX_TYPES = {"float": "float32", "double": "float64", "string": "str"}  # others have NumPy's name


@dataclass(frozen=True)
class Signature:
    """A tensor that goes in or comes out: its name, NumPy's name of its dtype, and its shape, None where it varies."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def described(self) -> dict[str, Any]:
        """The signature as the Open Inference Protocol has it."""
        shape = [-1 if side is None else side for side in self.shape]
        return {"name": self.name, "datatype": DATATYPES[self.dtype], "shape": shape}


@dataclass(frozen=True)
class Summary:
    """What is said of a model when it is served."""

    name: str
    version: str
    examples: int
    engine: str
    threads: int
    sizes: tuple[int, ...]
    kind: str  # of its inputs; "tensors" where only the file's signature is known
    note: str  # "" for none


@dataclass
class Model:
    """A model, ready to answer. `sizes` are the batch sizes whose answers have the same bits, whoever shares the batch."""

    name: str
    run: Run
    engine: str
    inputs: list[Signature]
    outputs: list[Signature]
    features: FeatureSpec | None = None
    target: TargetSpec | None = None
    examples: Answers = field(default_factory=dict)
    sizes: tuple[int, ...] = (1,)
    seconds: dict[int, float] = field(default_factory=dict)  # that a batch of each size takes
    threads: int = 1
    device: str = "cpu"  # or cuda:N
    note: Note | None = None  # what is said when it is served
    version: str = "1"
    source: Path = Path()  # the bundle's folder, or the ONNX file
    state: str = ""  # of its files, when it was opened
    tested: dict[str, float] = field(default_factory=dict)  # the share of each class in the test split

    @property
    def is_fixed(self) -> bool:
        """Whether a batch has a size that the file fixes."""
        return any(not tensor.shape or tensor.shape[0] is not None for tensor in self.inputs)

    def class_names(self, outputs: int) -> tuple[str, ...]:
        """Return the names of the classes where there is one for each of `outputs`; else none."""
        names = () if self.target is None else self.target.classes
        return names if len(names) == outputs else ()

    @property
    def summary(self) -> Summary:
        """What is said of it."""
        kind, note = "tensors" if self.features is None else self.features.kind, shown(self.note) if self.note else ""
        count = len(self.examples.get("inputs", ()))
        return Summary(self.name, self.version, count, self.engine, self.threads, self.sizes, kind, note)

    @property
    def measured(self) -> list[Any]:
        """What `measure` found, as JSON has it."""
        return [list(self.sizes), [*self.seconds.items()], self.device]

    def follow(self, measured: list[Any]) -> None:
        """Take what another process measured: the sizes whose answers have the same bits are the same in all."""
        sizes, seconds, _ = measured
        self.sizes, self.seconds = tuple(sizes), dict(seconds)

    def prove(self) -> Note | None:
        """Return why the answers are not the recorded ones; None where they are, or nothing is recorded."""
        if not self.examples:
            return None
        return why_unproven(lambda raw: self.run({self.inputs[0].name: raw}), self.examples)


def find_model(
    given: str,
    runs: Path,
    reference: str | None,
    settings_name: str | None,
    threads: int,
    tell: Callable[[Note], object],
    version: str = "1",
    measured: list[Any] | None = None,
    device: str = "auto",
) -> Model:
    """Open what is to be served: "latest", a run, a bundle's folder or an ONNX file; prove it and measure it.

    The fastest of `candidates` is kept. Where another process has `measured` it, this one goes by that, in the same place.

    A bundle without a graph is given one first, by a process of its own; where that is refused, torch runs the model, whose
    class `reference` names. Raises WeightsError unless the recorded examples are repeated.
    """
    path = Path(given)
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise WeightsError("weights-missing", path=path, suggestion="")
        source, name = path, path.stem
        make: Callable[[int, int | None], Model] = partial(from_file, path)
    else:
        is_bundle = (path / "model.json").is_file()
        source = path if is_bundle else find_run(runs, given) / "model"
        if not is_bundle:
            tell_of_fold(source.parent, tell)
        name, make = opened_bundle(source, runs, reference, is_bundle, tell)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", settings_name or name).strip(".") or "model"
    state = files_state(source)

    def opened(count: int, card: Card | None) -> Model:
        model = make(count, None if card is None else card.number)
        model.name, model.version, model.threads = name, version, count
        model.source, model.state = source, state
        if card is not None:
            model.device, model.engine = f"cuda:{card.number}", f"{model.engine} ({card.name})"
        if (reason := model.prove()) is not None:
            if card is not None:
                raise WeightsError("serve-unproven-on-card", path=given, device=model.device, reason=reason)
            raise WeightsError("serve-unproven", path=given, reason=reason)
        if measured is None:
            measure(model)
        else:
            model.follow(measured)
        return model

    best: Model | None = None
    for count, card in candidates(device if measured is None else measured[2], threads):
        try:
            model = opened(count, card)
        except Exception as error:  # an engine may raise anything; on the processor the model runs
            if best is None or card is None:
                raise
            tell_of_card(name, card.name, error, tell)
            continue
        if best is not None and card is not None and model.seconds and fastest(model) >= fastest(best):
            figures = {"own": 1e6 * fastest(best), "other": 1e6 * fastest(model)}
            tell(Note("serve.no-faster", name=name, card=card.name, **figures))
        if best is None or fastest(model) < fastest(best):
            best = model
    assert best is not None
    return best


def candidates(device: str, threads: int) -> list[tuple[int, Card | None]]:
    """Return the numbers of threads with which a model is tried, each with a card, or None for the processor.

    UsageError for a device that is none, or is not there.
    """
    counts = [threads] if threads else sorted({1, os.cpu_count() or 1})
    on_processor: list[tuple[int, Card | None]] = [(count, None) for count in counts]
    if device == "cpu":
        return on_processor
    cards = cuda_cards()
    if device == "auto":
        return [*on_processor, *((counts[0], card) for card in cards[:1])]
    if (found := re.fullmatch(r"cuda(?::(\d{1,3}))?", device, re.ASCII)) is None:
        raise UsageError("serve-device", found=device)
    if (number := int(found[1] or 0)) >= len(cards):
        there = ", ".join(f"cuda:{card.number} ({card.name})" for card in cards)
        raise UsageError("serve-no-card", device=device, found=there or Note("serve.no-cards"))
    return [(counts[0], cards[number])]


def tell_of_card(name: str, card: str, error: Exception, tell: Callable[[Note], object]) -> None:
    """Say why a model does not run on a card, with the way out where that is known."""
    reason = error.record if isinstance(error, RushlightError) else first_line(error)
    tell(Note("serve.not-on-card", name=name, card=card, reason=reason))
    if isinstance(error, RushlightError):
        tell(Note(f"errors.{error.key}.advice", **error.values))


def tell_of_fold(run: Path, tell: Callable[[Note], object]) -> None:
    """Say so where a run is a fold of a cross-validation."""
    found = read_recipe(run)["data"]["options"].get("test_fraction")
    if isinstance(found, list) and len(found) == 2:
        tell(Note("serve.fold", name=run.name, number=found[0], count=found[1]))


def files_state(place: Path) -> str:
    """Return names, sizes and times of the files that a version is made of; "" for what is not there."""
    folder = place / "model" if is_run(place) else place
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else [folder]
        found = [(path.name, (state := path.stat()).st_size, state.st_mtime_ns, state.st_ino) for path in inside]
    except OSError:  # it was taken away meanwhile
        return ""
    return repr(found) if found else ""


def fastest(model: Model) -> float:
    """Return the seconds that a row takes in the largest batch."""
    size = model.sizes[-1]
    return model.seconds.get(size, 0.0) / size


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────


def opened_bundle(
    folder: Path, runs: Path, reference: str | None, is_bundle: bool, tell: Callable[[Note], object]
) -> tuple[str, Callable[[int, int | None], Model]]:
    """Return a bundle's name, and a function that opens its model to run on so many threads, and on a card."""
    if not folder.is_dir():
        raise WeightsError("bundle-missing", path=folder, found=Note("export.nothing-there"), suggestion="")
    description = read_description(folder)
    if "graph.onnx" not in description["files"] and "graph" not in description:
        source = str(folder if is_bundle else folder.parent)
        tell(Note("serve.making"))
        command = [sys.executable, "-m", "rushlight", "save", source, str(folder), "--runs", str(runs)]
        command += ["--model", reference] if reference else []
        subprocess.run(command, check=False, capture_output=True)  # why there is none is recorded, and said below
        description = read_description(folder)
    for listed, entry in description["files"].items():
        read_listed(folder, listed, entry["sha256"], MOST_BYTES)  # the weights too: what is damaged is not served
    name, examples = str(description["provenance"].get("run") or folder.name), read_examples(folder)
    counts = description["provenance"].get("classes")
    counts = counts if wrong_entry(counts, named(is_count)) is None else {}
    tested = {label: count / max(1, sum(counts.values())) for label, count in counts.items()}

    def make(threads: int, card: int | None) -> Model:
        graph = open_graph(folder, threads, card)
        model = from_torch(folder, reference, card) if graph is None else from_graph(graph)
        model.examples, model.tested = examples, tested
        return model

    return name, make


def from_file(path: Path, threads: int, card: int | None) -> Model:
    """Return the model in an ONNX file."""
    return from_graph(Graph(path, threads, card))


def from_graph(graph: Graph) -> Model:
    """Return a graph's model; its signature is the file's own."""
    inputs = [graph_signature(tensor) for tensor in graph.session.get_inputs()]
    outputs = [graph_signature(tensor) for tensor in graph.session.get_outputs()]
    return Model("", graph.run, "ONNX Runtime", inputs, outputs, graph.features, graph.target)


def graph_signature(tensor: Any) -> Signature:
    """Return the signature of a graph's input or output; UsageError for what is no tensor."""
    found = re.fullmatch(r"tensor\((\w+)\)", tensor.type)
    dtype = ONNX_TYPES.get(found[1], found[1]) if found else ""
    if dtype == "float16" or dtype in DATATYPES:
        return Signature(tensor.name, dtype, tuple(side if isinstance(side, int) else None for side in tensor.shape))
    raise UsageError("serve-not-tensors", name=tensor.name, found=tensor.type)


def from_torch(folder: Path, reference: str | None, card: int | None) -> Model:
    """Return a bundle's model, run by torch: it has no graph, so its class is needed."""
    from rushlight.export import move_to_card, open_bundle  # imports torch

    saved = open_bundle(folder, reference)
    if card is not None:
        move_to_card(saved, card)
    features = saved.bundle.features
    if features is None:
        raise UsageError("no-signature", run=folder)
    inputs = Signature(
        "inputs", features.dtype, (None, *(None if features.varies else side for side in features.shape))
    )
    answers = saved.answer(np.zeros((1, *features.shape), features.dtype))
    outputs = [Signature(name, found.dtype.name, (None, *found.shape[1:])) for name, found in answers.items()]
    reason = read_description(folder).get("graph", {}).get("reason") or Note("serve.not-written")
    note = Note("serve.by-torch", reason=reason)
    return Model(
        "",
        lambda given: saved.answer(given["inputs"]),
        "torch",
        [inputs],
        outputs,
        features,
        saved.bundle.target,
        note=note,
    )


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────


def measure(model: Model) -> None:
    """Time batches of each size, and keep the sizes at which a row's answer has the same bits in any company.

    A row alone may be computed by another routine than one in a batch: then batches of one are padded to two.
    """
    if model.is_fixed:
        return
    rows = sample_rows(model)
    groups: dict[bytes, list[int]] = {}
    for size in SIZES:
        seconds, bits = probe(model, rows, size)
        if bits is not None:
            groups.setdefault(bits, []).append(size)
        model.seconds[size] = seconds
        if seconds > SLOW:
            break
    largest = max(groups.values(), key=lambda sizes: sizes[-1], default=[1])
    model.sizes = tuple(largest)


def sample_rows(model: Model) -> dict[str, Array]:
    """Return a few rows to measure with: the recorded ones, else zeros."""
    if model.examples:
        return {model.inputs[0].name: model.examples["inputs"]}
    zeros = {}
    for tensor in model.inputs:
        shape = tuple(8 if side is None else side for side in tensor.shape[1:])
        zeros[tensor.name] = np.full((4, *shape), "") if tensor.dtype == "str" else np.zeros((4, *shape), tensor.dtype)
    return zeros


def probe(model: Model, rows: Mapping[str, Array], size: int) -> tuple[float, bytes | None]:
    """Return the seconds of a batch of `size`, and the bits of each row's answer; None where these depend on the company."""
    count = len(next(iter(rows.values())))
    orders = [(np.arange(size) + first) % count for first in range(0, count, size)]
    seconds, bits_of = float("inf"), dict[int, bytes]()
    orders += [count - 1 - order for order in orders]  # each row, at two places
    orders += [
        np.where(np.arange(size) == row % size, row, (row + 1) % count) for row in range(count)
    ]  # among one other
    for order in orders:
        started = time.perf_counter()
        answers = model.run({name: values[order] for name, values in rows.items()})
        seconds = min(seconds, time.perf_counter() - started)
        parts = [np.ascontiguousarray(values) for values in answers.values()]
        if any(values.ndim == 0 or len(values) != size for values in parts):
            return seconds, None
        for place, row in enumerate(order.tolist()):
            bits = b"".join(values[place].tobytes() for values in parts)
            if bits_of.setdefault(row, bits) != bits:
                return seconds, None
    return seconds, b"".join(bits_of[row] for row in sorted(bits_of))
