"""A Hugging Face classifier as it is: dict batches, and the loss that the model returns. Needs transformers.

python examples/hugging_face.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

import rushlight

WORDS = 40


def network() -> nn.Module:
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return BertForSequenceClassification(config)


def sentences(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Return padded sentences of 5 to 12 words, whose label says whether word 7 is among them."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for label in (number % 2 for number in range(count)):
        length = int(torch.randint(5, 13, (), generator=generator))
        words = torch.randint(8, WORDS, (12,), generator=generator)
        words[0] = 7 if label else words[0]
        mask = (torch.arange(12) < length).long()
        rows.append({"input_ids": words * mask, "attention_mask": mask, "labels": torch.tensor(label)})
    return rows


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    count = 64 if small else 1000
    torch.manual_seed(0)
    options = {
        "val_data": DataLoader(sentences(count // 4, 1), 32), "test_data": DataLoader(sentences(count // 4, 2), 32),
        "metrics": [accuracy], "best": "max:accuracy", "epochs": 2 if small else 8, "lr": 1e-3,
    }  # fmt: skip
    return network(), DataLoader(sentences(count, 0), 16, shuffle=True), options


def use(run: rushlight.Run, folder: Path) -> None:
    print(run.test().numbers, run.predict(DataLoader(sentences(4, 3), 4)).values.argmax(1))
    rushlight.load(run.save(folder / "bert.safetensors"), network())


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())
