"""`rushlight predict`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rushlight.api import open_run
from rushlight.console import print_json, print_lines
from rushlight.data import is_table
from rushlight.errors import UsageError
from rushlight.export import Predictions, SavedModel, open_bundle
from rushlight.run import Run
from rushlight.texts import visible


def print_predictions(name: str, model: str | None, runs: Path, inputs: list[str], top: int, as_json: bool) -> None:
    """Predict from the files and print what comes out, a line or a JSON entry for each sample."""
    paths = [path for given in inputs for path in expanded(given)]
    is_bundle = (Path(name) / "model.json").is_file()
    run: Run | SavedModel = open_bundle(name, model) if is_bundle else open_run(name, model, runs=runs)
    rows = [row for group in grouped(paths) for row in prediction_rows(group, run.predict(group), top)]
    if as_json:
        print_json({"run": name if isinstance(run, SavedModel) else run.name, "predictions": rows})
        return
    width = max((len(visible(row["input"])) for row in rows), default=0)
    for row in rows:
        if "value" in row:
            values = row["value"] if isinstance(row["value"], list) else [row["value"]]
            parts = [f"{value:.6g}" for value in values]
        else:
            shares = (f"{visible(label)} {share:.1%}" for label, share in row["probabilities"].items())
            parts = [f"{visible(row['label']):<16}", *shares]
        print_lines("  ".join([f"{visible(row['input']):<{width}}", *parts]))


def grouped(paths: list[Path]) -> Iterator[list[Path] | Path]:
    """Give the images together, since they go through the model together, then tables and arrays one by one."""
    alone = [path for path in paths if is_table(path) or path.suffix.lower() == ".npy"]
    images = [path for path in paths if path not in alone]
    yield from [images] if images else []
    yield from alone


def prediction_rows(group: list[Path] | Path, predictions: Predictions, top: int) -> Iterator[dict[str, Any]]:
    """Give each prediction with the name of what it is about: a file, or a row of one."""
    names = list(map(str, group)) if isinstance(group, list) else [f"{group}[{i}]" for i in range(len(predictions))]
    likeliest = None if predictions.probabilities is None else predictions.top(top)
    for index, name in enumerate(names):
        if likeliest is not None and predictions.labels is not None:
            label = predictions.labels[index] if predictions.labels.ndim == 1 else likeliest[index][0][0]
            yield {"input": name, "label": str(label), "probabilities": dict(likeliest[index])}
        elif predictions.values is not None:
            values = predictions.values[index].tolist()
            yield {"input": name, "value": values[0] if len(values) == 1 else values}


def expanded(given: str) -> list[Path]:
    """Return the files a name or a pattern stands for (a shell on Windows expands none)."""
    path = Path(given)
    if path.exists():
        return [path]
    anchor = Path(path.anchor or ".")
    found: list[Path] = []
    with contextlib.suppress(ValueError, NotImplementedError):  # it is no pattern either
        found = sorted(anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    if not found:
        raise UsageError("no-input-file", path=given, folder=Path.cwd())
    return found
