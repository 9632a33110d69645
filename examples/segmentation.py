"""Segmentation: which pixels are a disc, which a square, which neither; chosen by the mean IoU.

python examples/segmentation.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rushlight


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy pictures (n, 1, 24, 24) and a class for each pixel; the outermost ones are not labelled (255)."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 24, 24, dtype=torch.int64)
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    for mask in masks:
        y, x, v, u = torch.randint(5, 19, (4,), generator=generator).tolist()
        mask[(rows - v).abs().maximum((columns - u).abs()) < 4] = 2
        mask[(rows - y) ** 2 + (columns - x) ** 2 < 16] = 1
    images = (masks > 0).float()[:, None] + 0.3 * torch.randn(count, 1, 24, 24, generator=generator)
    masks[:, [0, -1]] = masks[:, :, [0, -1]] = 255
    return images, masks


def network() -> nn.Module:
    layers: list[nn.Module] = []
    for width_in, width, dilation in ((1, 16, 1), (16, 16, 2), (16, 16, 4)):
        layers += [nn.Conv2d(width_in, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 3, 1))


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    count = 40 if small else 400
    torch.manual_seed(0)
    options = {
        "loss": nn.CrossEntropyLoss(ignore_index=255), "metrics": ["iou"], "best": "iou", "val_data": scenes(count // 4, 1),
        "test_data": scenes(count // 4, 2), "epochs": 3 if small else 20, "batch_size": 16, "lr": 0.01,
        "classes": ["nothing", "disc", "square"],
    }  # fmt: skip
    return network(), scenes(count, 0), options


def use(run: rushlight.Run, folder: Path) -> None:
    report, (images, _) = run.test(), scenes(2, 3)
    print(f"{report.accuracy:.1%} of {report.places:,} pixels right, mean IoU {report.iou:.3f}")
    print(run.predict(images.numpy()).labels.shape)
    rushlight.load(run.save(folder / "segmentation.safetensors"), network())


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())
