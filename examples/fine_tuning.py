"""Fine-tuning with augmentation: a network that knows the digits 0 to 4 learns 5 to 9 from forty pictures.

python examples/fine_tuning.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import rushlight


def network(classes: int) -> nn.Module:
    backbone = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    parts = nn.Sequential()
    parts.add_module("backbone", backbone)
    parts.add_module("head", nn.Linear(32 * 4 * 4, classes))
    return parts


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    digits = rushlight.open_data("digits")
    images, labels, test = digits.train.inputs, digits.train.targets, digits.test
    known, weights = labels < 5, folder / "known.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        data = (images[known], labels[known])
        rushlight.train(network(5), data, epochs=1 if small else 10, runs=folder / "first", quiet=True).save(weights)
    few = torch.nonzero(~known).flatten()[:40]
    later = test.targets >= 5
    torch.manual_seed(1)
    options = {
        "weights": weights, "freeze": ["backbone.0"], "groups": {"backbone": {"lr": 1e-4}}, "lr": 1e-2, "augment": "light",
        "ema": 0.9, "epochs": 3 if small else 30, "batch_size": 8, "classes": list("56789"),
        "test_data": (test.inputs[later], test.targets[later] - 5),
    }  # fmt: skip
    return network(5), (images[few], labels[few] - 5), options


def use(run: rushlight.Run, folder: Path) -> None:
    print(run.test().accuracy, run.predict(rushlight.open_data("digits").test.inputs[:3].numpy()).labels)
    rushlight.load(run.save(folder / "fine-tuned.pth"), network(5))


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())
