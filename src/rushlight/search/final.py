"""The end of a search: the winner and the defaults, trained from new seeds, tested, and compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushlight.board import compare_numbers, read_predictions, welch
from rushlight.errors import TrainingError
from rushlight.formats import main_figure
from rushlight.report import Z95, wilson
from rushlight.runs import read_report
from rushlight.search.study import Trial
from rushlight.search.trial import Job
from rushlight.search.work import work

LEVEL = 0.05
LEAST_SEEDS = 3  # from which their spread says something


@dataclass(frozen=True)
class TestedRecipe:
    """The test of one recipe: its runs, the figure of each, their mean, and a 95 % interval of that.

    The interval is of the test's size: Wilson's for an accuracy, else that of the mean error of a sample; None for neither.
    """

    runs: list[str]
    values: list[float]
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Result:
    """The winner's test beside the defaults'.

    `verdict` is "winner", "defaults", "cannot-tell", "few-seeds" (less than three), "one-recipe" where the winner is the
    defaults, or "no-defaults" where no model can be built without choices. `difference` is by how much the mean error of a
    sample is smaller with the winner's recipe, with its 95 % interval. The two are told apart where both a permutation test of
    the samples' errors and Welch's test of the seeds do so.
    """

    metric: str
    winner: TestedRecipe
    defaults: TestedRecipe | None
    verdict: str
    difference: tuple[float, float, float] | None = None


def compare_with_defaults(
    make: Callable[..., Job],
    best: Trial,
    defaults: dict[str, Any] | None,
    seeds: int,
    threads: int,
    jobs: int,
    cluster: Any = None,
) -> Result | None:
    """Train the winner and the defaults again from seeds that no trial had, and test them; None without a test split.

    The splits are those of the trials. Where the defaults are unknown ({}), they are what is trained when nothing is chosen;
    where nothing can be trained then (None), only the winner is tested.
    """
    is_one = best.choices == defaults
    queue: list[Job] = []
    kinds = (f"best-{best.number:03}", best.choices), ("defaults", None if is_one else defaults)
    for kind, chosen in kinds:  # a study that goes on may have another best one: its runs are others
        for seed in range(1, seeds + 1) if chosen is not None else ():
            job = make(0, f"{kind}-{seed}", chosen, threads)
            own = {"seed": job.options["seed"] + seed, "split_seed": job.options["seed"]}
            queue.append(Job(0, job.model, job.data, {**job.options, **own}, threads))
    folders = [Path(job.options["runs"]) / job.options["name"] for job in queue]

    def tell(number: int, failed: str) -> Any:
        if failed:
            raise TrainingError("final-failed", reason=failed)

    waiting = iter(queue)
    work(jobs, lambda: next(waiting, None), lambda *epoch: False, tell, cluster)
    if not (folders[0] / "report.json").exists():
        return None
    found = [tested(group) for group in (folders[:seeds], folders[seeds:]) if group]
    metric = figure(folders[0])[0]
    if len(found) < 2:
        return Result(metric, found[0][0], None, "one-recipe" if is_one else "no-defaults")
    (winner, ours), (usual, theirs) = found
    return Result(metric, winner, usual, *verdict(winner, usual, ours, theirs))


def figure(folder: Path) -> tuple[str, float]:
    """Return the name and the value of what a run is judged by, of its test."""
    found = main_figure(read_report(folder))
    return ("loss", math.nan) if found is None else found[:2]


def tested(folders: list[Path]) -> tuple[TestedRecipe, NDArray[np.float64] | None]:
    """Return a recipe's test, and the mean error of each sample over its seeds; None where predictions have none."""
    metrics, values = zip(*map(figure, folders), strict=True)
    mean = statistics.fmean(values)
    each = [errors(folder) for folder in folders]
    known = [found for found in each if found is not None]
    mistakes = np.mean(known, axis=0) if len(known) == len(each) else None
    interval = None
    if metrics[0] == "accuracy" and mistakes is not None:
        interval = wilson(round(mean * len(mistakes)), len(mistakes))
    elif metrics[0] == "mae" and mistakes is not None:
        spread = Z95 * float(mistakes.std(ddof=1)) / math.sqrt(len(mistakes))
        interval = mean - spread, mean + spread
    return TestedRecipe([folder.name for folder in folders], list(values), mean, interval), mistakes


def errors(folder: Path) -> NDArray[np.float64] | None:
    """Return the error of each tested sample: its share of wrong places, or its mean absolute error."""
    found = read_predictions(folder / "predictions.npz")
    if found is None:
        return None
    truth, predicted = found["truth"], found["predicted"]
    wrong = np.abs(predicted - truth) if truth.dtype.kind == "f" else predicted != truth
    mean: NDArray[np.float64] = wrong.reshape(len(truth), -1).mean(1, dtype=np.float64)
    return mean


def verdict(
    winner: TestedRecipe, usual: TestedRecipe, ours: NDArray[np.float64] | None, theirs: NDArray[np.float64] | None
) -> tuple[str, tuple[float, float, float] | None]:
    """Return which recipe is better, or "cannot-tell", and the difference of the errors with its interval."""
    if ours is None or theirs is None:
        return "cannot-tell", None
    difference = theirs - ours
    spread = Z95 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    found = compare_numbers(ours, theirs)["verdict"]
    if len(winner.values) < LEAST_SEEDS:
        found = "few-seeds"
    elif welch(winner.values, usual.values) >= LEVEL:
        found = "cannot-tell"
    return {"one": "winner", "other": "defaults"}.get(found, found), (mean, mean - spread, mean + spread)
