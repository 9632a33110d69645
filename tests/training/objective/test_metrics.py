"""Metrics: their values beside their definitions, what they choose, and what a run keeps of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

import rushlight
from rushlight.console import print_report
from rushlight.errors import RunError, UsageError
from rushlight.formats import main_figure
from rushlight.report import Report
from rushlight.runs import list_runs, read_history
from rushlight.training.objective import choose_metrics
from rushlight.training.objective.metrics import average_precision, named_figure
from rushlight.training.objective.schedule import followed

X = torch.randn(240, 8, generator=torch.Generator().manual_seed(0))
CLASSES = (X[:, 0] > 0.3).long() + (X[:, 1] > 0.9).long()
LABELS = (X[:, :3] > 0.7).float()
QUIET: dict[str, Any] = {"quiet": True, "epochs": 3, "batch_size": 16, "lr": 0.05, "numerics": "exact"}


def wrong_share(outputs: Tensor, targets: Tensor) -> Tensor:
    assert len(outputs) == len(targets)
    return (outputs.argmax(1) != targets).float().mean()


class Gathered:
    """As torchmetrics' objects are."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.wrong = self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.wrong += int((outputs.argmax(1) != targets).sum())
        self.count += len(targets)

    def compute(self) -> dict[str, float]:
        return {"share": self.wrong / self.count, "samples": self.count}


def train(tmp_path: Path, data: Any = None, **options: Any) -> rushlight.Run:
    torch.manual_seed(0)
    data = (X, CLASSES) if data is None else data
    outputs = options.pop("outputs", 3)
    return rushlight.train(nn.Linear(8, outputs), data, runs=tmp_path, **{**QUIET, **options})


def by_hand(name: str, truth: Tensor, predicted: Tensor, classes: int) -> float:
    """Return the figure by its definition, class by class; a class that neither occurs nor is predicted has none."""
    found = []
    for each in range(classes):
        right = int(((truth == each) & (predicted == each)).sum())
        wrong, missed = (
            int(((truth != each) & (predicted == each)).sum()),
            int(((truth == each) & (predicted != each)).sum()),
        )
        if right + missed + (0 if name == "balanced-accuracy" else wrong) == 0:
            continue
        found.append(
            {
                "f1": right / max(right + (wrong + missed) / 2, 1), "iou": right / max(right + wrong + missed, 1),
                "precision": right / max(right + wrong, 1), "balanced-accuracy": right / max(right + missed, 1),
            }[name]
        )  # fmt: skip
    return sum(found) / len(found)


@pytest.mark.parametrize("name", ["f1", "iou", "precision", "balanced-accuracy"])
def test_a_metric_by_name_is_the_mean_of_its_definition_over_the_classes(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, metrics=[name], test_data=(X[:80], CLASSES[:80]))
    with torch.no_grad():
        predicted = run.model(torch.from_numpy(np.asarray(run._training.data.test.inputs))).argmax(1)  # type: ignore[union-attr]
    report = run.report
    assert report is not None
    expected = by_hand(name, CLASSES[:80], predicted, 3)
    assert report.numbers == {name: pytest.approx(expected, abs=1e-12)}
    low, high = report.intervals[name]
    assert low < expected < high
    assert high - low < 0.4
    again = rushlight.open_run(run.name, nn.Linear(8, 3), runs=tmp_path).report
    assert again == report


def test_metrics_of_labels_count_each_label_by_itself(tmp_path: Path) -> None:
    run = train(tmp_path, (X, LABELS), loss="bce", metrics=["f1", "average-precision"], test_data=(X, LABELS))
    assert run.report is not None
    assert run.report.numbers["f1"] == pytest.approx(sum(figures.f1 for figures in run.report.classes) / 3)
    assert 0.5 < run.report.numbers["average-precision"] <= 1
    assert not run.report.intervals


def test_average_precision_is_the_area_under_the_steps_with_equal_scores_as_one() -> None:
    class Found:
        truth = torch.tensor([1, 0, 1, 1, 0, 0])
        confidence = torch.tensor([0.9, 0.8, 0.8, 0.7, 0.6, 0.9])
        predicted = torch.tensor([1, 1, 1, 1, 1, 0])  # the last one's probability of 1 is 0.1

    # at 0.9: P 1, R 1/3; at 0.8: P 2/3, R 2/3; at 0.7: P 3/4, R 1
    assert average_precision(Found) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 4)


def test_an_interval_holds_the_truth_of_most_drawings() -> None:
    generator, inside = np.random.default_rng(1), 0
    for _ in range(60):
        truth = generator.integers(0, 2, 200)
        predicted = np.where(generator.random(200) < 0.8, truth, 1 - truth)  # F1 is 0.8
        confusion = np.zeros((2, 2), int)
        np.add.at(confusion, (truth, predicted), 1)
        _, interval = named_figure("f1", Report("classification", 0.0, 200, confusion=confusion.tolist()), None)
        assert interval is not None
        inside += interval[0] <= 0.8 <= interval[1]
    assert 52 <= inside <= 60


def test_functions_get_all_samples_at_once_and_objects_batches_both_in_the_datas_terms(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spread(outputs: Tensor, targets: Tensor) -> float:
        seen.append((outputs, targets))
        return float(targets.max() - targets.min())

    y = 100 + 50 * X[:, 0]
    run = train(tmp_path, (X, y), outputs=1, metrics=[spread], test_data=(X, y), epochs=1)
    assert seen[-1][1].flatten().tolist() == pytest.approx(y.tolist(), abs=1e-3)  # in units, not standardised
    assert run.report is not None
    assert run.report.mae == pytest.approx(float((seen[-1][0] - seen[-1][1]).abs().mean()), abs=1e-3)
    run = train(tmp_path, metrics={"gathered": Gathered(), "wrong": wrong_share}, test_data=(X, CLASSES))
    assert run.report is not None
    assert run.report.accuracy is not None
    expected = {"share": 1 - run.report.accuracy, "samples": 240.0, "wrong": 1 - run.report.accuracy}
    assert run.report.numbers == pytest.approx(expected)


def test_objects_of_torchmetrics_measure(tmp_path: Path) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    metrics = [
        "f1",
        classification.MulticlassF1Score(num_classes=3),
        classification.MulticlassJaccardIndex(num_classes=3),
        "iou",
    ]
    run = train(tmp_path, metrics=metrics, best="MulticlassF1Score", val_data=(X, CLASSES), test_data=(X, CLASSES))
    assert run.report is not None
    f1, torch_f1, torch_iou, iou = run.report.numbers.values()
    assert f1 == pytest.approx(torch_f1, abs=1e-6)
    assert iou == pytest.approx(torch_iou, abs=1e-6)
    assert run.report.judged_by == "max:MulticlassF1Score"


def test_metrics_are_in_history_values_runs_and_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, metrics=["f1", wrong_share], best="max:f1", val_data=(X[:100], CLASSES[:100]), quiet=False)
    epochs = [line["validation"] for line in read_history(run.folder) if line["kind"] == "epoch"]
    assert [sorted(figures["numbers"]) for figures in epochs] == [["f1", "wrong_share"]] * 3
    values = [json.loads(line)["values"] for line in (run.folder / "values.jsonl").read_text().splitlines()]
    assert [figures["validation/f1"] for figures in values] == [figures["numbers"]["f1"] for figures in epochs]
    (row,) = list_runs(tmp_path)
    assert (row.metric, row.metric_value) == ("f1", epochs[-1]["numbers"]["f1"])
    scores = [figures["numbers"]["f1"] for figures in epochs]
    assert row.best_epoch == 1 + scores.index(max(scores))
    assert run.report is not None
    print_report(run.report.to_json())
    shown = capsys.readouterr().out
    assert "val f1" in shown
    assert f"wrong_share {run.report.numbers['wrong_share']:.4f}" in shown


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_epoch_is_that_of_the_metric_in_its_direction(mode: str, tmp_path: Path) -> None:
    turns: list[int] = []

    def scripted(outputs: Tensor, targets: Tensor) -> float:
        turns.append(len(turns))
        return [0.2, 0.7, 0.1, 0.5, 0.0][min(turns[-1], 4)]

    options = {"metrics": [scripted], "best": f"{mode}:scripted", "val_data": (X, CLASSES), "epochs": 4}
    run = train(tmp_path, **options)
    best = {"max": 2, "min": 3}[mode]
    assert [line["step"] for line in run.history if line.get("event") == "finished"] == [best * 12]
    assert list_runs(tmp_path)[0].best_epoch == best
    straight = train(tmp_path, epochs=best, val_data=(X, CLASSES), schedule="constant")
    torch.testing.assert_close(run.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)


def test_early_stopping_waits_for_the_metric(tmp_path: Path) -> None:
    falling = iter([0.5, 0.6, 0.4, 0.3, 0.9, 0.9])
    options = {"metrics": {"own": lambda o, y: next(falling)}, "best": "max:own", "early_stopping": 2, "epochs": 9}
    run = train(tmp_path, val_data=(X, CLASSES), **options)
    assert run.summary()["epochs"] == 4


def test_a_plateau_of_the_same_direction_follows_the_metric() -> None:
    plateau = ReduceLROnPlateau(torch.optim.SGD([torch.zeros(1)]), mode="max")
    assert followed(plateau, Report(None, 0.3, 1, accuracy=0.5, numbers={"f1": 0.7}, judged_by="max:f1")) == 0.7
    assert followed(plateau, Report(None, 0.3, 1, accuracy=0.5, numbers={"wer": 0.7}, judged_by="min:wer")) == 0.5


def test_an_objectives_outputs_and_a_dicts_labels_are_measured(tmp_path: Path) -> None:
    rows = [{"x": x, "labels": y} for x, y in zip(X, CLASSES, strict=True)]

    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        outputs = model(batch["x"])
        return functional.cross_entropy(outputs, batch["labels"]), outputs

    loader = DataLoader(rows, 16)  # type: ignore[arg-type]
    run = rushlight.train(
        nn.Linear(8, 3), loader, test_data=loader, objective=objective, metrics=[wrong_share], epochs=1, quiet=True, runs=tmp_path
    )  # fmt: skip
    assert run.report is not None
    assert 0 < run.report.numbers["wrong_share"] < 1
    with pytest.raises(UsageError, match="has no outputs to work on"):
        rushlight.train(
            nn.Linear(8, 3), loader, test_data=loader, objective=lambda m, b: objective(m, b)[0], metrics=[wrong_share],
            epochs=1, quiet=True, runs=tmp_path,
        )  # fmt: skip


def test_a_run_goes_on_with_its_metrics_and_its_best(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["f1", wrong_share], "best": "min:wrong_share", "val_data": (X, CLASSES)}
    whole = train(tmp_path, **options, epochs=4, schedule="constant", name="whole")
    part = train(tmp_path, **options, epochs=2, schedule="constant", name="part")
    data = (X, CLASSES)
    with pytest.raises(RunError, match="metrics"):
        rushlight.resume(part.name, nn.Linear(8, 3), data, runs=tmp_path, val_data=data, epochs=4, quiet=True)
    with pytest.raises(RunError, match="f1, wrong_share"):
        rushlight.resume(
            part.name, nn.Linear(8, 3), data, runs=tmp_path, val_data=data, epochs=4, quiet=True, metrics=[wrong_share]
        )
    part = rushlight.resume(
        part.name, nn.Linear(8, 3), data, runs=tmp_path, val_data=data, epochs=4, quiet=True, metrics=options["metrics"]
    )
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    figures = [[line.get("validation") for line in run.history if line["kind"] == "epoch"] for run in (whole, part)]
    assert figures[0] == figures[1]
    reopened = rushlight.open_run("whole", nn.Linear(8, 3), runs=tmp_path)
    assert set(reopened.test((X, CLASSES)).numbers) == {"f1"}  # a function has to be given again
    assert set(reopened.test((X, CLASSES), metrics=[wrong_share, "iou"]).numbers) == {"iou", "wrong_share"}


def test_metrics_change_no_bit_of_the_training(tmp_path: Path) -> None:
    plain = train(tmp_path, test_data=(X, CLASSES))
    measured = train(tmp_path, test_data=(X, CLASSES), metrics=["f1", wrong_share, Gathered()])
    assert plain.summary()["state_sha256"] == measured.summary()["state_sha256"]


def test_the_command_line_takes_metrics_by_name(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rushlight.cli.app import app

    command = f"train linear digits --metric f1 --metric iou --best f1 --epochs 1 --json --quiet --runs {tmp_path}"
    found = json.loads(CliRunner().invoke(app, command.split()).stdout)
    assert set(found["validation"]["numbers"]) == {"f1", "iou"}
    tested = json.loads(CliRunner().invoke(app, ["test", found["folder"], "--json"]).stdout)
    assert set(tested["intervals"]) == {"f1", "iou"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["f2"]}, 'There is no metric "f2". Did you mean "f1"'),
        ({"metrics": "f1"}, "wants a list or a dict"),
        ({"metrics": [3]}, "is given as int"),
        ({"metrics": [Gathered]}, "A class needs its parentheses"),
        ({"metrics": ["f1", "f1"]}, "Two metrics"),
        ({"metrics": ["average-precision"]}, "does not fit these targets"),
        ({"best": "wrong"}, 'best="max:wrong"'),
        ({"best": "max:wrong", "metrics": [wrong_share]}, "There are: loss, accuracy, wrong_share"),
        ({"metrics": {"bad": lambda o, y: 1 / 0}}, "ZeroDivisionError"),
        ({"metrics": {"bad": lambda o, y: o}}, '"bad" failed'),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        train(tmp_path, val_data=(X, CLASSES), **options)


def test_a_direction_is_known_of_named_metrics_and_of_objects_that_tell() -> None:
    assert choose_metrics(None, "f1").judged_by == "max:f1"
    assert choose_metrics(None, "f1").live == {"f1": None}
    assert choose_metrics(None, "rmse").judged_by == "min:rmse"
    assert choose_metrics([Gathered()], "Gathered").judged_by == "min:Gathered"


@pytest.mark.parametrize("name", ["confusion", "task", "classes", "", "nowhere"])
def test_what_is_judged_by_no_number_is_judged_as_usual(name: str) -> None:
    figures = {
        "judged_by": f"max:{name}",
        "confusion": [[1]],
        "task": "binary",
        "classes": [],
        "accuracy": 0.5,
        "loss": 1.0,
    }
    assert main_figure(figures) == ("accuracy", 0.5, True)
