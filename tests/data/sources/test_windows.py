"""Windows of a series: what is in them, where the splits are cut, and what is refused, beside a plain loop by hand."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.training.plain_loop import plain_loop
from torch import Tensor, nn

import rushlight
from rushlight.data import DataOptions, open_source
from rushlight.errors import DataError, UsageError
from rushlight.models import build_model

WINDOW, HORIZON, ROWS = 6, 2, 120
SERIES = DataOptions(target="load", window=WINDOW, horizon=HORIZON, time_column="time")
Row = dict[str, Any]


def make_rows(count: int = ROWS) -> list[Row]:
    chance, start = random.Random(0), datetime(2024, 2, 27)
    return [
        {
            "time": (start + timedelta(hours=hour)).strftime("%Y-%m-%d %H:%M"),
            "load": round(50 + 9 * math.sin(hour / 4) + chance.gauss(0, 1), 3), "warm": round(chance.gauss(10, 3), 3),
        }
        for hour in range(count)
    ]  # fmt: skip


def write_rows(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def by_hand(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised windows, standardised targets, test windows, and test targets as they are."""
    values = torch.tensor([[row["load"], row["warm"]] for row in rows])
    first_tested = len(rows) - round(0.2 * len(rows))
    train, test = values[:first_tested], values[first_tested:]
    mean, std = train.double().mean(0).float(), train.double().std(0, correction=0).float()

    def windows(part: Tensor) -> tuple[Tensor, Tensor]:
        starts = range(len(part) - WINDOW - HORIZON + 1)
        past = torch.stack([(part[start : start + WINDOW] - mean) / std for start in starts])
        return past, torch.stack([part[start + WINDOW : start + WINDOW + HORIZON, 0] for start in starts])

    return *windows(train), *windows(test)


def test_losses_and_the_test_are_those_of_a_plain_loop_by_hand(tmp_path: Path) -> None:
    rows = make_rows()
    path = write_rows(tmp_path / "series.csv", random.Random(1).sample(rows, len(rows)))
    run = rushlight.train(
        "mlp", path, target="load", window=WINDOW, horizon=HORIZON, time_column="time", numerics="exact", epochs=3, batch_size=16,
        optimizer="SGD", lr=0.05, model_arguments={"hidden": (8,)}, runs=tmp_path / "runs", quiet=True,
    )  # fmt: skip
    past, future, test_past, test_future = by_hand(rows)
    mean, std = future.double().mean(0).float(), future.double().std(0, correction=0).float()
    model = build_model("mlp", (WINDOW, 2), HORIZON, {"hidden": (8,)}, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    result = plain_loop(
        model, optimizer, nn.MSELoss(), past, (future - mean) / std, test_past, torch.zeros(len(test_past)),
        epochs=3, batch_size=16, seed=0,
    )  # fmt: skip
    assert run.losses.tolist() == np.array(result.losses, np.float32).tolist()
    with torch.no_grad():
        predicted = model(test_past) * std + mean
    assert run.report is not None
    assert run.report.n == len(test_past) == round(0.2 * ROWS) - WINDOW - HORIZON + 1
    assert run.report.mae == pytest.approx((predicted - test_future).abs().mean().item(), rel=1e-6)
    # the next values after the last rows, however the rows come
    last = torch.tensor([[row["load"], row["warm"]] for row in rows[-WINDOW:]])
    train = torch.tensor([[row["load"], row["warm"]] for row in rows[: ROWS - round(0.2 * ROWS)]]).double()
    with torch.no_grad():
        after = model(((last - train.mean(0)) / train.std(0, correction=0)).float()[None]) * std + mean
    frame = pl.read_csv(path, try_parse_dates=True)
    for given in (path, rows, rows[-WINDOW:], rows[::-1], frame):
        assert run.predict(given).values == pytest.approx(after.numpy(), abs=1e-4)
    reopened = rushlight.open_run(run.folder)
    assert reopened.predict(rows).values.tolist() == run.predict(rows).values.tolist()  # type: ignore[union-attr]
    assert (
        rushlight.open_bundle(run.folder / "model").predict(rows).values.tolist() == run.predict(rows).values.tolist()
    )  # type: ignore[union-attr]
    assert reopened.test().mae == run.report.mae
    naive = (test_past[:, -1, :1] * train.std(0, correction=0)[0] + train.mean(0)[0] - test_future).abs().mean().item()
    assert run.report.naive == reopened.test().naive == pytest.approx(naive, rel=1e-5)
    with pytest.raises(UsageError, match="not read by a script: series by time") as refused:
        run.eject(tmp_path / "train.py")
    assert refused.value.advice.endswith(f"rushlight save {run.name} FOLDER")
    assert reopened.test(rows[-40:]).n == 40 - WINDOW - HORIZON + 1


def test_splits_are_cut_by_time_and_no_window_reaches_across(tmp_path: Path) -> None:
    rows = make_rows()
    data = open_source(rows, options=DataOptions(**{**vars(SERIES), "normalize": "none", "val_fraction": 0.25}))
    counts = {name: split.samples for name, split in data.splits.items()}
    assert counts == {"train": 72 - 7, "validation": 24 - 7, "test": 24 - 7}
    borders = {"train": (0, 72), "validation": (72, 96), "test": (96, 120)}
    for name, (first, last) in borders.items():
        split: Any = data.splits[name]
        expected = [row["load"] for row in rows[first:last]]
        assert split.inputs[:, :, 0].unique().tolist() == pytest.approx(sorted(set(expected[:-HORIZON])), abs=1e-4)
        assert split.inputs[0, :, 0].tolist() == pytest.approx(expected[:WINDOW], abs=1e-4)
        assert split.targets[-1].tolist() == pytest.approx(expected[-HORIZON:], abs=1e-4)
        assert str(split.names[0]) == f"row {first + WINDOW + 1}"
    assert any("train 65, validation 17, test 17" in note for note in data.notes)


def test_nothing_is_learnt_from_rows_that_are_not_trained_on(tmp_path: Path) -> None:
    rows = make_rows()
    first = open_source(rows, options=SERIES)
    second = open_source([*rows[:96], *({**row, "load": 1e6, "warm": -1e6} for row in rows[96:])], options=SERIES)
    assert first.features == second.features
    assert torch.equal(first.train.inputs, second.train.inputs)  # type: ignore[union-attr]


def test_rows_out_of_order_and_gaps_are_told(tmp_path: Path) -> None:
    rows = make_rows()
    gappy = [*rows[:30], *rows[45:]]
    gappy[3], gappy[4] = gappy[4], gappy[3]
    notes = open_source(gappy, options=SERIES).notes
    assert any('2 of 105 rows were not in the order of "time"' in note for note in notes)
    assert any("one step of 104 that is longer than usual (1h 00m): 16h 00m after row 30." in n for n in notes)
    assert not any("longer than usual" in note for note in open_source(rows, options=SERIES).notes)


def test_the_last_known_value_is_a_figure_to_beat(tmp_path: Path) -> None:
    rows = make_rows()
    tested = torch.tensor([row["load"] for row in rows[96:]])
    off = [(tested[i + 6 : i + 8] - tested[i + 5]).abs().mean() for i in range(17)]
    notes = open_source(rows, options=SERIES).notes
    assert any(f"would be off by {float(sum(off) / 17):.4f} on average" in note for note in notes)


def changed(**cell: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [*rows[:4], {**rows[4], **cell}, *rows[5:]]


@pytest.mark.parametrize(("change", "options", "said"), [
    (changed(time="2024-02-27 01:00"), {}, "Rows 2 and 5 have the same time"),
    (changed(time=None), {}, 'Row 5 has no time in "time"'),
    (changed(time="soon"), {}, 'column "time" is no time'),
    (changed(load="much"), {}, "much"),
    (lambda rows: rows[:30], {}, "test has 6 rows; a window needs 8"),
    (list, {"time_column": "tide"}, 'no column "tide"'),
    (list, {"window": 95}, "train has 96 rows; a window needs 97"),
])  # fmt: skip
def test_what_no_windows_can_be_made_of_is_refused_in_words(change: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_source(change(make_rows()), options=DataOptions(**{**vars(SERIES), **options}))


@pytest.mark.parametrize("options", [
    {"window": 3}, {"time_column": "time"}, {"horizon": 2}, {"window": 3, "time_column": "time", "text_column": "auto"},
    {"window": 3, "time_column": "time", "task": "classification"},
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        open_source(make_rows(), options=DataOptions(target="load", **options))


def test_too_few_rows_and_rows_without_time_are_not_predicted_from(tmp_path: Path) -> None:
    rows = make_rows()
    run = rushlight.train(
        "linear", rows, target="load", window=WINDOW, time_column="time", epochs=1, runs=tmp_path, quiet=True
    )
    with pytest.raises(DataError, match="the table has 5 rows; a window needs 6"):
        run.predict(rows[-5:])
    with pytest.raises(DataError, match=r'"time".*is not there'):
        run.predict([{"load": row["load"], "warm": row["warm"]} for row in rows])


def test_a_category_and_a_gap_become_features_of_each_row() -> None:
    rows = [
        {**row, "day": "rest" if i % 7 > 4 else "work", "warm": None if i % 9 == 0 else row["warm"]}
        for i, row in enumerate(make_rows())
    ]
    data = open_source(rows, options=SERIES)
    assert data.features is not None
    assert data.features.shape == (WINDOW, 1 + 2 + 2)  # load; warm and whether it is missing; day
