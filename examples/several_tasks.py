"""Several tasks at once, with metrics of their own: which digit it is, and how much ink it has.

python examples/several_tasks.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import rushlight


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)
        self.weights = nn.Parameter(torch.zeros(2))  # of the two losses, learnt (Kendall et al. 2018)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(images)
        return self.digit(hidden), self.ink(hidden)[:, 0]


def objective(model: nn.Module, batch: Any) -> dict[str, Any]:
    images, labels = batch
    digit, ink = model(images)
    truth = images.flatten(1).mean(1)
    losses = torch.stack([cross_entropy(digit, labels), mse_loss(ink, truth)])
    return {
        "loss": (losses * torch.exp(-model.weights) + model.weights).sum(), "outputs": digit,
        "digits right": (digit.argmax(1) == labels).float().mean(), "ink off by": (ink - truth).abs().mean(),
    }  # fmt: skip


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    digits = rushlight.open_data("digits")
    images, labels = digits.train.inputs.float() / 16, digits.train.targets
    torch.manual_seed(0)
    count = 200 if small else len(images)
    options = {
        "objective": objective, "best": "max:digits right", "early_stopping": 5, "val_fraction": 0.2, "epochs": 3 if small else 60,
        "test_data": (digits.test.inputs.float() / 16, digits.test.targets), "lr": 3e-3,
    }  # fmt: skip
    return TwoHeads(), (images[:count], labels[:count]), options


def use(run: rushlight.Run, folder: Path) -> None:
    print({name: round(value, 4) for name, value in run.test().numbers.items()})
    model = rushlight.load(run.save(folder / "two-heads.pth"), TwoHeads())
    print([part.shape for part in model(torch.rand(2, 1, 8, 8))])


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())
