"""What testing found. Figures only: no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rushlight import files
from rushlight.data import Task
from rushlight.errors import UsageError
from rushlight.report.student import t_quantile

FIGURES = ("precision", "recall", "f1")
SHORT = ("loss", "accuracy", "iou", "perplexity", "mae", "rmse", "r2", "n")
Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassFigures:
    """One class: how many samples it has, and how it was recognised, each figure with its 95 % interval.

    Precision and recall have Wilson's score interval (Wilson 1927). F1 = 2J / (1 + J) where J = TP / (TP + FP + FN)
    is a proportion too: its interval is that of J, carried over. Places of one sample are not independent: figures of
    these have no interval, but J by its own name, `iou` (intersection over union).
    """

    name: str
    n: int
    precision: float
    precision_interval: Interval | None
    recall: float
    recall_interval: Interval | None
    f1: float
    f1_interval: Interval | None
    iou: float | None = None


@dataclass(frozen=True)
class Report:
    """What testing found. Figures that the task does not have are None (or empty).

    `loss` is the mean over samples; `accuracy` the share of samples predicted right (for multilabel: of single labels);
    `confusion[i][j]` counts samples of class i predicted as j. For regression `mae`, `rmse` and `r2` are in the
    data's own units, averaged over the target's columns. `naive` is the `mae` of a series' last known value, given as forecast.
    `most_wrong` lists the samples (by index in the split) that
    were most confidently wrong.

    Where each place of a sample has a target (pixels, tokens), accuracy, confusion, MAE, … are over the `places` that
    count; `iou` is the mean over the classes that occur, `perplexity` that of tokens. `numbers` are the means of what the
    user's objective returned beside the loss, and the run's metrics, with `intervals` of 95 % where they have one (bootstrap).
    `judged_by` is "max:NAME" or "min:NAME" where a run chooses by a figure of its own.
    """

    task: Task | None
    loss: float
    n: int
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    naive: float | None = None
    target: str = ""
    most_wrong: tuple[dict[str, Any], ...] = ()
    places: int | None = None
    iou: float | None = None
    perplexity: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    judged_by: str = ""

    @property
    def headline(self) -> tuple[str, float]:
        """The one figure to look at first: that which the run chooses by, ('accuracy', 0.89), ('MAE', 3.2) or ('loss', 0.41).

        Raises UsageError where the run chooses by a figure that was not measured.
        """
        if self.judged_by:
            name = self.judged_by.partition(":")[2]
            value = self.numbers.get(name, getattr(self, name) if name in SHORT else None)
            if value is None:
                known = [each for each in SHORT if each != "n" and getattr(self, each) is not None]
                raise UsageError("best-not-measured", name=name, known=", ".join([*known, *self.numbers]))
            return name, value
        if self.accuracy is not None:
            return "accuracy", self.accuracy
        return ("MAE", self.mae) if self.mae is not None else ("loss", self.loss)

    def is_better_than(self, theirs: float, loss: float) -> bool:
        """Tell whether this report's headline beats another's; a lower loss decides between equals."""
        name, mine = self.headline
        if math.isnan(mine) or math.isnan(theirs):  # not a number is worse than any
            return math.isnan(theirs) and not math.isnan(mine)
        if mine != theirs:
            is_higher = self.judged_by.startswith("max") if self.judged_by else name == "accuracy"
            return mine > theirs if is_higher else mine < theirs
        return self.loss < loss

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values; a figure that is not finite becomes null."""
        content: dict[str, Any] = files.without_nan(asdict(self))
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Report:
        """Rebuild what `to_json` wrote; what was not finite is NaN again."""
        given = {"task": None, "loss": math.nan, **{key: value for key, value in content.items() if value is not None}}
        classes: Iterator[dict[str, Any]] = (
            {key: math.nan if value is None and key in FIGURES else as_tuple(value) for key, value in entry.items()}
            for entry in given.get("classes", ())
        )
        given = {key: as_tuple(value) for key, value in given.items()}
        given["numbers"] = {
            key: math.nan if value is None else value for key, value in given.get("numbers", {}).items()
        }
        given["intervals"] = {key: as_tuple(value) for key, value in given.get("intervals", {}).items()}
        return cls(**{**given, "classes": tuple(ClassFigures(**entry) for entry in classes)})

    def short(self) -> dict[str, Any]:
        """Return the figures a line of history holds."""
        named = {name: getattr(self, name) for name in SHORT if getattr(self, name) is not None}
        own = {name: getattr(self, name) for name in ("numbers", "judged_by") if getattr(self, name)}
        content: dict[str, Any] = files.without_nan({**named, **own})
        return content


def class_figures(name: str, right: int, predicted: int, n: int, are_places: bool = False) -> ClassFigures:
    """Return one class's figures from its true positives, how often it was predicted, and how many samples it has."""
    union = predicted + n - right  # TP + FP + FN
    jaccard = wilson(right, union)
    figures = ClassFigures(
        name=name, n=n,
        precision=right / predicted if predicted else math.nan, precision_interval=wilson(right, predicted),
        recall=right / n if n else math.nan, recall_interval=wilson(right, n),
        f1=2 * right / (predicted + n) if predicted + n else math.nan,
        f1_interval=(f1_of(jaccard[0]), f1_of(jaccard[1])),
    )  # fmt: skip
    if not are_places:
        return figures
    iou = right / union if union else None
    return replace(figures, precision_interval=None, recall_interval=None, f1_interval=None, iou=iou)


def as_tuple(value: Any) -> Any:
    """Return a list from JSON as a tuple, and the lists in it; anything else as it is."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def f1_of(jaccard: float) -> float:
    """Return F1 for a Jaccard index."""
    return 2 * jaccard / (1 + jaccard)


def fold_interval(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean over k folds: mean ± t · s · √(1/k + 1/(k − 1)), t of k − 1 degrees of freedom.

    Folds are not independent: any two share most of their training samples. 1/(k − 1), the size of a fold by that of its training
    split, widens the interval for it (Nadeau and Bengio 2003, "Inference for the generalization error", Machine Learning 52);
    no formula is exact. `values` are two or more.
    """
    count, mean = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    reach = t_quantile(count - 1) * spread * math.sqrt(1 / count + 1 / (count - 1))
    return mean - reach, mean + reach


def wilson(right: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval of `right` successes in `n` trials; (0, 1) when there were none."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    middle, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    low = (middle - spread) / scale if right > 0 else 0.0  # exactly, where rounding would leave 1e-17
    return low, (middle + spread) / scale if right < n else 1.0
