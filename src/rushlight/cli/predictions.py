"""`rushlight predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rushlight.console import print_json
from rushlight.data.opening import TABLES
from rushlight.errors import UsageError
from rushlight.run import Run

SHOWN_ROWS = 20


def print_predictions(run: Run, inputs: list[str], top: int, as_json: bool) -> None:
    """Predict from the files and print what comes out, a line or a JSON entry for each sample."""
    paths = [path for given in inputs for path in expanded(given)]
    rows: list[dict[str, Any]] = []
    for name, predictions in predicted(run, paths):
        best = predictions.top(top) if predictions.probabilities is not None else None
        for index in range(len(predictions)):
            row: dict[str, Any] = {"input": name if len(predictions) == 1 else f"{name}[{index}]"}
            if best is not None:
                row |= {"label": str(predictions.labels[index]), "probabilities": dict(best[index])}
            else:
                values = predictions.values[index].tolist()
                row["value"] = values[0] if len(values) == 1 else values
            rows.append(row)
    if as_json:
        print_json({"run": run.name, "predictions": rows})
        return
    width = max((len(row["input"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['input']:<{width}}  {said(row)}")  # noqa: T201


def said(row: dict[str, Any]) -> str:
    """Return one prediction as a person reads it."""
    if "value" in row:
        values = row["value"] if isinstance(row["value"], list) else [row["value"]]
        return "  ".join(f"{value:.6g}" for value in values)
    shares = [f"{name} {share:.1%}" for name, share in row["probabilities"].items()]
    return f"{row['label']:<16}  " + "  ".join(shares)


def expanded(given: str) -> list[Path]:
    """Return the files a name or a pattern stands for (a shell on Windows expands none)."""
    path = Path(given)
    if path.exists():
        return [path]
    anchor = Path(path.anchor or ".")
    found = sorted(anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    if not found:
        raise UsageError("no-input-file", path=given, folder=Path.cwd())
    return found


def predicted(run: Run, paths: list[Path]) -> list[tuple[str, Any]]:
    """Return (file, its predictions) for every file; images go through the model together."""
    images = [path for path in paths if path.suffix.lower() not in (*TABLES, ".npy")]
    results = []
    if images:
        together = run.predict(images)
        results = [(str(path), together[index : index + 1]) for index, path in enumerate(images)]
    for path in paths:
        if path.suffix.lower() in TABLES:
            results.append((str(path), run.predict(path)))
        elif path.suffix.lower() == ".npy":
            results.append((str(path), run.predict(np.load(path, allow_pickle=False))))
    return results
