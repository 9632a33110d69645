"""A study's decisions are a function of its seed and of what was told, however often its process is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rushlight.errors import RunError
from rushlight.search import log
from rushlight.search.journal import Journal
from rushlight.search.space import Space
from rushlight.search.study import JOURNAL, Figure, Study, Trial

SPACE: Space = {"lr": log(1e-4, 1e-1), "kind": ["a", "b"], "width": log(4, 64)}
EPOCHS = 3


def open_study(folder: Path, **options: Any) -> Study:
    folder.mkdir(exist_ok=True, parents=True)
    return Study(folder, SPACE, {"lr": 1e-3, "kind": "a", "width": 16}, EPOCHS, seed=3, **options)


def accuracy(choices: dict[str, Any], epoch: int) -> Figure:
    """What a made-up training validates."""
    distance = abs(choices["lr"] / 0.01 - 1) + (choices["kind"] == "a") + abs(choices["width"] - 20) / 20
    return Figure("accuracy", 1 / (1 + distance) * (1 - 0.5**epoch), True, distance)


def train(study: Study, trial: Trial) -> None:
    if not any(study.judge(trial.number, epoch, accuracy(trial.choices, epoch)) for epoch in range(1, EPOCHS + 1)):
        study.tell(trial.number)


def test_a_study_opened_anew_after_every_word_decides_the_same(tmp_path: Path) -> None:
    whole = open_study(tmp_path / "one" / "study")
    for _ in range(13):
        train(whole, whole.ask())
    folder = tmp_path / "other" / "study"
    for _ in range(13):
        trial = open_study(folder).ask()
        for epoch in range(1, EPOCHS + 1):
            figure = accuracy(trial.choices, epoch)
            if open_study(folder).judge(trial.number, epoch, figure):
                break
            assert not open_study(folder).judge(trial.number, epoch, figure)  # a resumed run comes to it again
        else:
            open_study(folder).tell(trial.number)
        open_study(folder).tell(trial.number)  # twice is once
    found = open_study(folder)
    assert found.trials == whole.trials
    statuses = [trial.status for trial in found.trials]
    assert set(statuses) == {"complete", "pruned"}
    assert found.trials[0].choices == {"lr": 1e-3, "kind": "a", "width": 16}  # the defaults
    assert found.best == max(
        (trial for trial in found.trials if trial.status == "complete"), key=lambda trial: trial.value or 0
    )
    assert sum(found.importances().values()) == pytest.approx(1)


def test_a_decision_to_prune_is_written_with_its_figure_or_not_at_all(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    while not any(trial.status == "pruned" for trial in study.trials):
        train(study, study.ask())
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    trial = study.trials[-1]
    (tmp_path / JOURNAL).write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])  # killed while the last line was written
    again = open_study(tmp_path)
    assert again.trials[-1].status == "running"
    epoch = max(trial.figures)
    assert epoch not in again.trials[-1].figures
    assert again.judge(trial.number, epoch, accuracy(trial.choices, epoch))
    assert again.trials == study.trials
    assert all(json.loads(line) for line in (tmp_path / JOURNAL).read_bytes().splitlines())


def test_a_trial_that_failed_counts_as_worse_than_any(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    trial = study.tell(study.ask().number, "the loss is not finite")
    assert (trial.status, trial.value, trial.message) == ("failed", None, "the loss is not finite")
    assert study.best is None
    assert study.tell(study.ask().number).status == "failed"  # nothing finite was ever measured
    assert not study.judge(study.ask().number, 1, Figure("loss", float("nan"), False, float("nan")))


def test_between_equal_figures_the_lower_loss_decides(tmp_path: Path) -> None:
    study = open_study(tmp_path, prunes=False)
    for loss in (0.5, 0.25, 0.75):
        number = study.ask().number
        study.judge(number, 1, Figure("accuracy", 1.0, True, loss))
        study.tell(number)
    assert study.best is not None
    assert (study.best.number, study.best.loss) == (1, 0.25)


def test_a_trial_that_keeps_its_best_epoch_is_worth_that(tmp_path: Path) -> None:
    for keeps_best, value in ((True, 0.5), (False, 0.75)):
        study = open_study(tmp_path / str(keeps_best), keeps_best=keeps_best)
        number = study.ask().number
        for epoch, loss in enumerate((1.0, 0.5, 0.75), start=1):
            study.judge(number, epoch, Figure("loss", loss, False, loss))
        assert study.tell(number).value == value


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    open_study(tmp_path)
    path = tmp_path / JOURNAL
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(RunError, match=JOURNAL):
        Journal(path)
