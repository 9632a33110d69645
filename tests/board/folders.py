"""Run folders written by hand: the format is a contract, and none of these needs a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BEGAN = 1_795_000_000.0


def write_losses(folder: Path, losses: Any) -> None:
    np.asarray(losses, "<f4").tofile(folder / "losses.f32")


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(runs: Path, name: str, losses: Any = (), epochs: int = 2, per_epoch: int = 10, **recipe: Any) -> Path:
    """Write a finished run of some epochs, a second each, with a report of two classes."""
    folder = runs / name
    folder.mkdir(parents=True)
    content = {
        "model": {"name": "mlp", "arguments": {}}, "data": {"name": "digits"}, "loss": {"name": "CrossEntropyLoss"},
        "optimizer": {"name": "SGD", "arguments": {"lr": 0.1}}, "epochs": epochs, "batch_size": 16, "seed": 0, **recipe,
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(content))
    write_losses(folder, losses)
    lines: list[dict[str, Any]] = [
        {"kind": "start", "run": name, "epochs": epochs, "steps_per_epoch": per_epoch, "time": BEGAN}
    ]
    for epoch in range(1, epochs + 1):
        test = {"loss": 1 / epoch, "accuracy": 1 - 1 / (epoch + 1), "n": 100}
        step, time = epoch * per_epoch, BEGAN + epoch
        lines.append({"kind": "epoch", "epoch": epoch, "step": step, "train_loss": 2 / epoch, "test": test,
                      "learning_rate": 0.1, "seconds": 1.0, "time": time})  # fmt: skip
    lines.append({"kind": "event", "event": "finished", "step": epochs * per_epoch, "time": BEGAN + epochs + 5})
    write_lines(folder / "history.jsonl", lines)
    figures = {"precision": 0.9, "recall": 0.8, "f1": 0.85}
    report = {
        "task": "classification", "loss": 0.5, "n": 100, "accuracy": 0.8, "accuracy_interval": [0.7, 0.9],
        "classes": [{"name": "cat", "n": 50, **figures}, {"name": "dog", "n": 50, **figures}],
        "confusion": [[40, 10], [12, 38]], "most_wrong": [{"index": 3, "true": "cat", "predicted": "dog", "probability": 0.9}],
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def write_tested(folder: Path, truth: Any, predicted: Any, rows: Any = (), names: Any = None) -> Path:
    """Write what a test and its epochs leave of each sample."""
    truth, predicted = np.array(truth), np.array(predicted)
    arrays = {"truth": truth, "predicted": predicted, "confidence": np.linspace(0.5, 1, len(truth)).astype(np.float32)}
    np.savez_compressed(folder / "predictions.npz", **arrays, **({} if names is None else {"names": np.array(names)}))
    (folder / "samples.json").write_text(json.dumps({"split": "test", "samples": len(truth), "truth": truth.tolist()}))
    np.array(rows, "<f2").tofile(folder / "samples.f16")
    return folder
