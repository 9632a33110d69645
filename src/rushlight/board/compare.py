"""Two models on one test set: whether their results can be told apart, from the predictions of every sample.

Classes: McNemar's exact test of the samples that only one of them gets right (McNemar 1947). Numbers: a paired permutation
test of the absolute errors (Fisher 1935), with `SHUFFLES` random signs. Both are valid for any number of samples: of two
equal models, at most one pair in twenty is called different.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight.board.files import read_range

MOST_BYTES = 256 << 20  # of predictions, as they are stored and unpacked
LEVEL = 0.05
SHUFFLES = 9999

Arrays = dict[str, NDArray[Any]]


def compare_models(one: Path, other: Path) -> dict[str, Any]:
    """Return "verdict" and the figures behind it, for the models of two run folders.

    The verdict is "one" or "other" (the better), "cannot-tell", "no-predictions" or "other-samples".
    """
    mine, theirs = (read_predictions(folder / "predictions.npz") for folder in (one, other))
    if mine is None or theirs is None:
        return {"verdict": "no-predictions"}
    if not all(np.array_equal(mine.get(name, ()), theirs.get(name, ())) for name in ("truth", "names")):
        return {"verdict": "other-samples"}
    truth = mine["truth"]
    if truth.dtype.kind == "f":
        return compare_numbers(
            *(np.abs(found["predicted"] - truth).reshape(len(truth), -1).mean(1) for found in (mine, theirs))
        )
    right, others = ((found["predicted"] == truth).reshape(len(truth), -1).all(1) for found in (mine, theirs))
    return compare_classes(int((right & ~others).sum()), int((others & ~right).sum()), len(truth))


def compare_classes(only_one: int, only_other: int, count: int) -> dict[str, Any]:
    """Compare by how many samples only the one and only the other model gets right."""
    p = mcnemar(only_one, only_other)
    better = "one" if only_one > only_other else "other"
    verdict = better if p < LEVEL else "cannot-tell"
    return {"verdict": verdict, "kind": "classes", "only_one": only_one, "only_other": only_other, "n": count, "p": p}


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p-value: how often equal models would differ by as much, were each such sample a fair coin."""
    total, fewer = only_one + only_other, min(only_one, only_other)
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def compare_numbers(one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, Any]:
    """Compare by the absolute errors of every sample."""
    difference = np.asarray(one - other, np.float64)
    figures = {"kind": "numbers", "error_one": float(one.mean()), "error_other": float(other.mean()), "n": len(one)}
    if not np.isfinite(difference).all() or not len(difference):
        return {**figures, "verdict": "cannot-tell", "p": None}
    random, observed = np.random.default_rng(0), abs(difference.mean())
    as_large = sum(
        abs((difference * random.choice((-1.0, 1.0), len(difference))).mean()) >= observed * (1 - 1e-12)
        for _ in range(SHUFFLES)
    )
    p = (1 + as_large) / (1 + SHUFFLES)
    better = "other" if difference.mean() > 0 else "one"
    return {**figures, "verdict": better if p < LEVEL else "cannot-tell", "p": p}


def read_predictions(path: Path) -> Arrays | None:
    """Return the arrays of a predictions file; None where it is not there, too large, or no such file."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_range(path, 0, MOST_BYTES))) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                return None
            found = {
                Path(name).stem: np.lib.format.read_array(archive.open(name), allow_pickle=False)
                for name in archive.namelist()
            }
    except Exception:  # whatever a hostile file brings about
        return None
    truth, predicted = found.get("truth"), found.get("predicted")
    if truth is None or predicted is None or truth.shape != predicted.shape or not truth.ndim or not len(truth):
        return None
    return found if truth.dtype.kind in "iufb" and predicted.dtype.kind in "iufb" else None
