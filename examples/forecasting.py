"""Forecasting: the next hours of a series from the day before, tested on what comes later.

python examples/forecasting.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rushlight

PAST, FUTURE = 24, 6  # hours


class Forecaster(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(1, width, batch_first=True), nn.Linear(width, FUTURE)

    def forward(self, past: Tensor) -> Tensor:
        _, last = self.reader(past[:, :, None])
        return past[:, -1:] + self.head(last[0])  # what changes from the last hour on


def windows(hours: int) -> tuple[Tensor, Tensor]:
    """Return the past (n, 24) and the future (n, 6) of every hour: a day, a week, and noise."""
    time = torch.arange(hours + PAST + FUTURE)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    series = 20 + 5 * torch.sin(2 * torch.pi * time / 24) + 2 * torch.sin(2 * torch.pi * time / 168) + 0.3 * noise
    rows = series.unfold(0, PAST + FUTURE, 1)
    return rows[:, :PAST].contiguous(), rows[:, PAST:].contiguous()


def last_hour_off(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, -1] - targets[:, -1]).abs().mean()


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    past, future = windows(300 if small else 3000)
    learnt, chosen = int(0.7 * len(past)), int(0.85 * len(past))  # by time: nothing is learnt from what comes later
    torch.manual_seed(0)
    options = {
        "val_data": (past[learnt:chosen], future[learnt:chosen]), "test_data": (past[chosen:], future[chosen:]),
        "metrics": [last_hour_off], "best": "min:last_hour_off", "normalize": "none", "epochs": 3 if small else 20, "lr": 5e-3,
    }  # fmt: skip
    return Forecaster(), (past[:learnt], future[:learnt]), options


def use(run: rushlight.Run, folder: Path) -> None:
    report, past = run.test(), windows(10)[0]
    print(f"off by {report.mae:.2f}", report.numbers, run.predict(past[:1].numpy()).values.round(1))
    rushlight.load(run.save(folder / "forecaster.safetensors"), Forecaster())


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())
