"""A study: which choices are tried next, and which trial is not worth its remaining epochs. Optuna decides both.

What is asked next is a function of the study's seed and of what was told before: each trial has a sampler of its own, seeded by
the trial's number. With one job a study that was killed ends with the trials that it would have had.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError
from rushlight.search.space import Range, Space
from rushlight.texts import Note

JOURNAL = "journal.jsonl"
STARTUP = 10  # trials at random before the sampler learns
REDUCTION = 3  # of three trials of one length, one goes on
LEAST_IMPORTANCE = 8  # whole trials from which importances are computed
SEED_STRIDE = 1_000_003  # a prime: the seeds of two studies' samplers do not meet


@dataclass(frozen=True)
class Figure:
    """What a trial is judged by after an epoch: a figure of the validation split, and between equal ones its loss."""

    name: str
    value: float
    is_higher_better: bool
    loss: float

    @property
    def score(self) -> float:
        """The figure as what is to be made small."""
        return -self.value if self.is_higher_better else self.value


@dataclass(frozen=True)
class Trial:
    """One trial: its choices, how it ended ("running", "complete", "pruned", "failed") and the figure of each epoch."""

    number: int
    status: str
    choices: dict[str, Any]
    figures: dict[int, float]  # by epoch
    value: float | None  # that it is compared by
    message: str = ""
    loss: float | None = None  # decides between trials of equal value


class Study:
    """The trials of a study, in a journal in its folder. Only one process may open it at a time.

    `epochs` is the length of a whole trial; `keeps_best`: a trial is worth its best epoch, not its last.
    """

    def __init__(
        self, folder: Path, space: Space, defaults: dict[str, Any], epochs: int, keeps_best: bool = False, seed: int = 0, *,
        sampler: str = "tpe", prunes: bool = True,
    ) -> None:  # fmt: skip
        try:
            import optuna
        except ImportError as error:
            raise UsageError("optuna-missing") from error
        from rushlight.search.journal import Journal

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.epochs, self.keeps_best, self.seed, self.sampler = optuna, epochs, keeps_best, seed, sampler
        self.distributions = {name: self.distribution(choice) for name, choice in space.items()}
        self.journal = Journal(folder / JOURNAL)
        pruner: Any = optuna.pruners.HyperbandPruner(1, epochs, REDUCTION) if prunes else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            study_name=folder.name,
            storage=optuna.storages.JournalStorage(self.journal),
            pruner=pruner,
            load_if_exists=True,
        )
        self.spared = (0,) if defaults else ()  # what the winner is to be better than is trained to its end
        if not self.study.trials and defaults:
            self.study.enqueue_trial(defaults)
        self.journal.commit()

    def distribution(self, choice: Range | list[Any]) -> Any:
        """Return Optuna's distribution of a choice."""
        kinds = self.optuna.distributions
        if isinstance(choice, list):
            return kinds.CategoricalDistribution(choice)
        kind = kinds.IntDistribution if choice.is_whole else kinds.FloatDistribution
        return kind(choice.low, choice.high, log=choice.is_log)

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, by number."""
        return [
            self.described(trial) for trial in self.study.get_trials(deepcopy=False) if trial.state.name != "WAITING"
        ]

    def described(self, trial: Any) -> Trial:
        """Return one of Optuna's trials as ours."""
        message = trial.user_attrs.get("failed", "")
        status = "failed" if message else trial.state.name.lower()
        sign = -1 if self.study.user_attrs.get("is_higher_better") else 1
        figures = {epoch: sign * score for epoch, score in trial.intermediate_values.items()}
        is_told = trial.state.is_finished() and trial.value is not None
        value, loss = sign * trial.value if is_told else None, trial.user_attrs.get("loss")
        return Trial(trial.number, status, dict(trial.params), figures, value, message, loss)

    @property
    def metric(self) -> str:
        """The name of the figure that trials are judged by."""
        return str(self.study.user_attrs.get("metric", "loss"))

    def ask(self) -> Trial:
        """Return a new trial with its choices, once it is written."""
        number = len(self.trials)
        seed = (self.seed * SEED_STRIDE + number) % 2**32
        samplers = self.optuna.samplers
        is_random = self.sampler == "random"
        self.study.sampler = (
            samplers.RandomSampler(seed) if is_random else samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = self.study.ask(self.distributions)
        self.journal.commit()
        return self.described(self.frozen(asked.number))

    def frozen(self, number: int) -> Any:
        """Return one of Optuna's trials by its number."""
        return self.study.get_trials(deepcopy=False)[number]

    def judge(self, number: int, epoch: int, figure: Figure) -> bool:
        """Note a trial's figure after an epoch; tell whether the trial is to end there.

        A decision and its figure are written together; what was decided before stays: a trial that goes on after a kill may
        come to the same epoch again.
        """
        trial = self.frozen(number)
        if trial.state.is_finished():
            return bool(trial.state.name == "PRUNED" and epoch >= (trial.last_step or 0))
        if epoch in trial.intermediate_values or not math.isfinite(figure.score):
            return False
        if "metric" not in self.study.user_attrs:
            self.study.set_user_attr("metric", figure.name)
            self.study.set_user_attr("is_higher_better", figure.is_higher_better)
        live = self.optuna.Trial(self.study, trial._trial_id)
        score = min([*trial.intermediate_values.values(), figure.score]) if self.keeps_best else figure.score
        live.report(score, epoch)
        if score == figure.score and math.isfinite(figure.loss):
            live.set_user_attr("loss", figure.loss)
        is_pruned = epoch < self.epochs and live.should_prune() and number not in self.spared
        if is_pruned:
            self.study.tell(number, state=self.optuna.trial.TrialState.PRUNED)
        self.journal.commit()
        return bool(is_pruned)

    def tell(self, number: int, failed: str = "") -> Trial:
        """Note that a trial has ended: whole, or failed for a reason. One that failed counts as worse than any.

        Nothing is told twice: a trial that was pruned, or told before a kill, stays what it is.
        """
        trial = self.frozen(number)
        if not trial.state.is_finished():
            scores = trial.intermediate_values
            if failed or not scores:
                self.study._storage.set_trial_user_attr(trial._trial_id, "failed", failed or Note("search.no-figure"))
                self.study.tell(number, state=self.optuna.trial.TrialState.PRUNED)
            else:
                self.study.tell(number, scores[max(scores)])
            self.journal.commit()
        return self.described(self.frozen(number))

    @property
    def best(self) -> Trial | None:
        """The whole trial with the best figure; of equal ones that with the lower loss, then the first."""
        sign = -1 if self.study.user_attrs.get("is_higher_better") else 1
        whole = [
            (sign * trial.value, math.inf if trial.loss is None else trial.loss, trial.number, trial)
            for trial in self.trials
            if trial.status == "complete" and trial.value is not None
        ]
        return min(whole, key=lambda each: each[:3])[3] if whole else None

    def importances(self) -> dict[str, float]:
        """Return each choice's share of what makes whole trials differ, the largest first; {} where there are too few."""
        if sum(trial.status == "complete" for trial in self.trials) < LEAST_IMPORTANCE:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, float] = self.optuna.importance.get_param_importances(self.study)
        return found
