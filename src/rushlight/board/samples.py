"""Why a model is wrong: the test samples behind a report, chosen by what happened to them, and the samples themselves.

The samples come from a process that opens the data (it imports torch, the board does not); it lives until another run's are
asked for, or the board closes. The probabilities over the epochs come from `samples.f16`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight.board.compare import read_predictions
from rushlight.board.files import read_range
from rushlight.runs import read_recipe
from rushlight.texts import text

LISTS = ("cell", "wrong", "hardest", "forgotten", "suspects")
MOST_SHOWN = 24  # samples at once
MOST_EPOCHS = 60  # points of one sample's probability
MOST_POINTS = 400  # of a curve over thresholds
MOST_BYTES = 256 << 20
LONGEST_NAME = 300
SECONDS = 90  # for one answer of the process
LEARNT = 0.5  # a true class of more than this probability is the predicted one

Floats = NDArray[np.floating]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Tested:
    """The test samples of one run: (n,) each, and (epochs, n) the true class's probability; no rows where none is kept."""

    truth: NDArray[Any]
    predicted: NDArray[Any]
    confidence: Floats
    names: NDArray[Any] | None
    rows: Floats


def read_tested(folder: Path) -> Tested | None:
    """Return what a run's last test and its epochs say of each sample; None where the test has no single classes."""
    found = read_predictions(folder / "predictions.npz")
    if found is None or found["truth"].ndim != 1 or found["truth"].dtype.kind not in "iu":
        return None
    count, confidence, names = len(found["truth"]), found.get("confidence"), found.get("names")
    if confidence is None or confidence.shape != (count,) or confidence.dtype.kind != "f":
        return None
    if names is not None and (names.shape != (count,) or names.dtype.kind != "U"):
        names = None
    return Tested(found["truth"], found["predicted"], confidence, names, probabilities_of(folder, found["truth"]))


def probabilities_of(folder: Path, truth: NDArray[Any]) -> Floats:
    """Return the probabilities over the epochs, of the samples with these true classes; none where they are of others."""
    none = np.empty((0, len(truth)), np.float32)
    try:
        described = json.loads(read_range(folder / "samples.json", 0, MOST_BYTES))
        if described["split"] != "test" or not np.array_equal(np.array(described["truth"]), truth):
            return none
    except Exception:  # whatever a hostile file brings about
        return none
    content = read_range(folder / "samples.f16", 0, MOST_BYTES)
    epochs = len(content) // (2 * len(truth))
    rows = np.frombuffer(content, "<f2", epochs * len(truth)).reshape(epochs, len(truth))
    known: Floats = rows[~np.isnan(rows).all(axis=1)].astype(np.float32)
    return known


def choose(tested: Tested, which: str, truth: int | None, predicted: int | None) -> Indices:
    """Return the samples of a list, the first one first: "cell", "wrong", "hardest", "forgotten" or "suspects".

    A label is suspect where the model was sure of another class in every epoch: the test's labels were never learnt from.
    """
    is_wrong, rows = tested.truth != tested.predicted, np.nan_to_num(tested.rows)
    if which == "cell":
        is_chosen, order = (tested.truth == truth) & (tested.predicted == predicted), -tested.confidence
    elif which == "wrong":
        is_chosen, order = is_wrong, -tested.confidence
    elif not len(rows):
        return np.empty(0, np.intp)
    elif which == "forgotten":
        is_chosen, order = is_wrong & (rows.max(axis=0) > LEARNT), -rows.max(axis=0)
    elif which == "suspects":  # the lower the mean logarithm of the true class's probability, the more suspect
        is_chosen, order = is_wrong & (rows.max(axis=0) <= LEARNT), np.log(np.maximum(rows, 1e-7)).mean(axis=0)
    else:  # the hardest
        is_chosen, order = np.ones(len(is_wrong), bool), rows.mean(axis=0)
    chosen = np.flatnonzero(is_chosen)
    return chosen[np.argsort(order[chosen], kind="stable")]


def list_samples(
    tested: Tested, which: str, truth: int | None, predicted: int | None, start: int, most: int = MOST_SHOWN
) -> dict[str, Any]:
    """Return "count" and the "samples" from `start` on, each with its index, name, classes, and probabilities over the epochs."""
    chosen = choose(tested, which, truth, predicted)
    epochs = np.unique(np.linspace(0, len(tested.rows) - 1, min(MOST_EPOCHS, len(tested.rows))).round().astype(int))
    samples = [
        {
            "index": index, "name": None if tested.names is None else str(tested.names[index])[:LONGEST_NAME],
            "truth": int(tested.truth[index]), "predicted": int(tested.predicted[index]),
            "confidence": float(tested.confidence[index]), "probabilities": tested.rows[epochs, index].tolist(),
        }
        for index in chosen[start : start + most].tolist()
    ]  # fmt: skip
    return {
        "count": len(chosen),
        "has_epochs": len(tested.rows) > 0,
        "epochs": (epochs + 1).tolist(),
        "samples": samples,
    }


def calibration_of(tested: Tested | None) -> list[dict[str, float]] | None:
    """Return, for each tenth of confidence that the test has, how sure the model was on average, how often right, and "n"."""
    if tested is None or not np.isfinite(tested.confidence).all():
        return None
    tenth = np.clip((tested.confidence * 10).astype(int), 0, 9)
    is_right = tested.truth == tested.predicted
    counts = np.bincount(tenth, minlength=10)
    sure, right = (np.bincount(tenth, part, minlength=10) for part in (tested.confidence, is_right))
    return [
        {"sure": float(sure[place] / count), "right": float(right[place] / count), "n": int(count)}
        for place, count in enumerate(counts.tolist()) if count
    ]  # fmt: skip


def thresholds_of(tested: Tested | None) -> dict[str, Any] | None:
    """Return, for a test of two classes, "roc" and "pr" as points (x, y), "area" under the first, and "precision", the mean of the other.

    They go over every threshold at which something changes (of many, `MOST_POINTS`); class 1 is what is looked for.
    """
    if tested is None or set(np.unique(tested.truth)) != {0, 1} or not np.isin(tested.predicted, (0, 1)).all():
        return None
    score = np.where(tested.predicted == 1, tested.confidence, 1 - tested.confidence).astype(np.float64)
    if not np.isfinite(score).all():
        return None
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # equal scores fall on one side together
    hits = np.cumsum(tested.truth[order] == 1)[ends].astype(np.float64)
    recall, fall_out = hits / hits[-1], (ends + 1 - hits) / (len(order) - hits[-1])
    precision = hits / (ends + 1)
    area = np.sum(np.diff(fall_out, prepend=0) * (recall + np.append(0, recall[:-1])) / 2)
    chosen = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), MOST_POINTS)).round().astype(int))
    return {
        "roc": [[0.0, 0.0], *np.stack([fall_out, recall], 1)[chosen].tolist()], "pr": np.stack([recall, precision], 1)[chosen].tolist(),
        "area": float(area), "precision": float(np.sum(np.diff(recall, prepend=0) * precision)), "share": float(hits[-1] / len(order)),
    }  # fmt: skip


class Viewer:
    """Owns the process that opens a run's data; one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.folder: Path | None = None

    def ask(self, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
        """Return the process's answer; {"error": why} where there is none."""
        with self.lock:
            if self.folder != folder or self.process is None or self.process.poll() is not None:
                self.close()
                try:
                    recipe = read_recipe(folder)
                except Exception:  # whatever a hostile file brings about
                    return {"error": text("board.problem.unreadable", reason="recipe.json")}
                described, loss = recipe["data"], recipe.get("loss")
                if not isinstance(described, dict) or not isinstance(described.get("source"), str):
                    return {"error": text("board.problem.live-data")}
                is_raw = isinstance(loss, dict) and loss.get("name") == "objective"
                self.begin(folder)
                more = {"is_raw": is_raw, "folder": str(folder), "bundle": str(folder / "model")}
                ready = self.answer({"options": {}, **described, **more})
                if "ready" not in ready:
                    self.close()
                    return ready
            return self.answer(request)

    def begin(self, folder: Path) -> None:
        """Start a process for a run's data."""
        command = [sys.executable, "-m", "rushlight.export.explain"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        )
        self.folder = folder

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, and wait for its answer; a process that does not answer is ended."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None  # noqa: PT018
        alarm = threading.Timer(SECONDS, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            found = None
        finally:
            alarm.cancel()
        return found if isinstance(found, dict) else {"error": text("board.problem.no-samples")}

    def close(self) -> None:
        """End the process; a request that waits for it gets its error."""
        process, self.process, self.folder = self.process, None, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not read by it yet is lost with it
                    assert pipe is not None
                    pipe.close()
