"""A language model on a text file, byte by byte: a small causal transformer, and what it writes.

python examples/language_model.py [FILE]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rushlight

LENGTH = 32


class LanguageModel(nn.Module):
    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        future = torch.ones(length, length, device=tokens.device).triu(1).bool()
        hidden = self.bytes(tokens) + self.places.weight[:length]
        return self.head(self.blocks(hidden, mask=future)).transpose(1, 2)  # (batch, 256, length)


def program(folder: Path, small: bool = False, text: Path = Path(__file__)) -> tuple[nn.Module, Any, dict[str, Any]]:
    content = torch.tensor(list(text.read_bytes()), dtype=torch.int64)
    rows = content[: (len(content) - 1) // LENGTH * LENGTH].reshape(-1, LENGTH)
    following = content[1 : rows.numel() + 1].reshape(-1, LENGTH)
    cut = int(0.9 * len(rows))
    torch.manual_seed(0)
    options = {
        "kind": "tokens", "test_data": (rows[cut:], following[cut:]), "epochs": 2 if small else 40, "batch_size": 16,
        "lr": 3e-3, "schedule": "cosine", "warmup": 10, "clip_norm": 1.0, "classes": list(map(str, range(256))),
    }  # fmt: skip
    return LanguageModel(), (rows[:cut], following[:cut]), options


def use(run: rushlight.Run, folder: Path) -> None:
    print(f"perplexity {run.test().perplexity:.2f}")
    model = rushlight.load(run.save(folder / "language.pth"), LanguageModel())
    written = torch.tensor([list(b"def ")])
    with torch.no_grad():
        for _ in range(60):
            following = model(written[:, -LENGTH:])[:, :, -1].argmax(1, keepdim=True)
            written = torch.cat([written, following], dim=1)
    print(bytes(written[0].tolist()).decode(errors="replace"))


if __name__ == "__main__":
    model, data, options = program(Path(), text=Path(sys.argv[1] if len(sys.argv) > 1 else __file__))
    use(rushlight.train(model, data, **options), Path())
