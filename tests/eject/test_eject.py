"""A run written as one plain script, run where Rushlight cannot be imported: it ends with the run's own bits."""

from __future__ import annotations

import ast
import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import rushlight
from rushlight.errors import RunError, UsageError

PLAIN = "import runpy, sys; sys.modules['rushlight'] = None; scripts = sys.argv[1:]; sys.argv[1:] = []\nfor script in scripts: runpy.run_path(script)"
NET = '''"""A network of the user's own."""

from __future__ import annotations

import math
import torch.nn as nn
import torch

WIDTHS = (8, 16)


class Net(nn.Module):
    """Convolutions with BatchNorm and dropout, and a block that uses torch's own functions."""

    def __init__(self, classes: int = 10, share: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.drop = nn.Dropout(share * math.cos(0))
        self.last = nn.Linear(WIDTHS[0], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))).mean((2, 3)))


if __name__ == "__main__":
    print(Net())
'''


def run_plainly(*scripts: Path) -> str:
    """Run scripts in one process that has no Rushlight; return what they print."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, scripts)], capture_output=True, text=True, timeout=300, check=False, encoding="utf-8"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(path: Path, model: Any, data: Any, **options: Any) -> rushlight.Run:
    chosen = {"epochs": 2, "numerics": "exact", "seed": 5, "batch_size": 32, "runs": path / "runs", "quiet": True}
    return rushlight.train(model, data, **{**chosen, **options})


def write_table(path: Path, rows: int = 120) -> Path:
    """A CSV with numbers, gaps, categories, truths, dates, names of classes and a quantity."""
    draw, lines = np.random.default_rng(0), ["size, colour,ok,day,kind,price"]
    for _ in range(rows):
        size, colour = draw.normal(), draw.choice(["red", "green", "blue, dark", "?"])
        gap, day = (
            ("NA", "?")[draw.integers(2)] if draw.random() < 0.1 else "",
            f"2024-{draw.integers(1, 13):02d}-{draw.integers(1, 28):02d}",
        )
        kind = "large" if size + draw.normal() / 4 > 0 else "small"
        lines.append(
            f'{gap or round(size, 3)},"{colour}",{draw.choice(["True", "False"])},{day},{kind},{1000 * size + 5e5:.1f}'
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pictures(path: Path, *, folders: tuple[str, ...] = ("",), mode: str = "RGB") -> Path:
    draw = np.random.default_rng(1)
    for top in folders:
        for name, shade in (("cat", 60), ("dog's", 180)):
            (path / top / name).mkdir(parents=True)
            for number in range(12):
                size = (9 + number % 3, 8)
                pixels = draw.normal(shade, 40, (*size, 4 if mode == "RGBA" else 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path / top / name / f"{number}.png")
    return path


@pytest.mark.slow
def test_scripts_end_with_the_bits_of_their_runs(tmp_path: Path) -> None:
    """A file of the user's with BatchNorm and dropout; a table with gaps, categories and dates, by AdamW with cosine and a warm-up."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    table = write_table(tmp_path / "some table.csv")
    found = [
        trained(tmp_path, f"{tmp_path}/net.py:Net", "digits", epochs=1, model_arguments={"share": 0.1}, optimizer="SGD", lr=0.05),
        trained(tmp_path, "mlp", table, target="kind", model_arguments={"hidden": (8,), "dropout": 0.1}, warmup=3),
    ]  # fmt: skip
    scripts = [tmp_path / f"{number}.py" for number in range(len(found))]
    assert [run.eject(script) for run, script in zip(found, scripts, strict=True)] == [None] * len(found)
    printed = run_plainly(*scripts)
    for run, script in zip(found, scripts, strict=True):
        assert f"These are the weights of the run {run.name}, bit for bit." in printed
        text = script.read_text("utf-8")
        assert len(text.splitlines()) <= 200
        # The line of the data is as long as the path of it, which is the machine's.
        assert max(len(line.replace(str(tmp_path), "")) for line in text.splitlines()) <= 140
        assert "import rushlight" not in text
        for line in run.history:
            if line["kind"] == "epoch":
                loss, accuracy = f"loss {line['train_loss']:.4f}", f"{line['test']['accuracy']:.2%}"
                assert f"epoch {line['epoch']}/{run.recipe.epochs}  {loss}  test accuracy {accuracy}" in printed


def arrays(path: Path) -> dict[str, Any]:
    """Files of arrays of every kind, by what is in them."""
    draw = np.random.default_rng(2)
    x, pictures = draw.normal(3, 2, (90, 6)), draw.integers(0, 256, (90, 8, 9), dtype=np.uint8)
    classes = (x[:, 0] > 3).astype(np.int64) + (x[:, 1] > 3)
    content = {
        "numbers": {"x": x, "y": classes},
        "names": {"x_train": x.astype(np.float32), "y_train": np.array(["no", "some", "all"])[classes], "x_test": x[:9].astype(np.float32), "y_test": np.array(["no", "some", "all"])[classes[:9]]},
        "quantity": {"inputs": x, "targets": 1e6 + 1e4 * x[:, :2]},
        "labels": {"x": x, "y": (x[:, :3] > 3).astype(np.int64)},
        "grey": {"images": pictures, "labels": classes},
        "colour": {"images_train": np.stack([pictures] * 3, -1), "labels_train": classes, "images_val": np.stack([pictures[:20]] * 3, -1), "labels_val": classes[:20]},
        "bright": {"x": draw.normal(0, 1, (90, 3, 8, 8)), "y": classes},
        "places": {"x": pictures, "y": (pictures > 99).astype(np.int64)},
        "tokens": {"x": draw.integers(0, 9, (90, 6)), "y": classes},
    }  # fmt: skip
    for name, stored in content.items():
        np.savez(path / f"{name}.npz", **stored)
    (path / "folder").mkdir()
    for key, array in content["numbers"].items():
        np.save(path / "folder" / f"{key}.npy", array)
    (path / "idx").mkdir()
    for name, array in (("train-images-idx3-ubyte", pictures), ("train-labels-idx1-ubyte", classes.astype(np.uint8))):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (path / "idx" / f"{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return {name: path / f"{name}.npz" for name in content} | {"folder": path / "folder", "idx": path / "idx"}


EMBED = """import torch
from torch import Tensor, nn


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.table(x).mean(1), 0.2, self.training))
"""


@pytest.mark.slow
def test_every_kind_of_data_model_and_option_ends_with_the_bits_of_its_run(tmp_path: Path) -> None:
    files, table = arrays(tmp_path), write_table(tmp_path / "table.csv")
    other = write_table(tmp_path / "other.csv", rows=30)
    grey = write_pictures(tmp_path / "split", folders=("train", "val", "test"))
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "embed.py").write_text(EMBED, encoding="utf-8")
    small: dict[str, Any] = {"model_arguments": {"hidden": (8,)}}
    pictures = write_pictures(tmp_path / "pictures", mode="RGBA")
    cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "mlp": ("mlp", "digits", {"model_arguments": {"hidden": (16,), "dropout": 0.3}}),
        "stops": ("cnn", pictures, {"batch_size": 8, "model_arguments": {"channels": (4,)}, "early_stopping": 1, "epochs": 4}),
        "linear": ("linear", files["numbers"], {"optimizer": "SGD", "lr": 0.1, "optimizer_arguments": {"momentum": 0.9, "nesterov": True}}),
        "names": ("mlp", files["names"], {**small, "loss_arguments": {"label_smoothing": 0.1}, "clip_norm": 0.5}),
        "regression": ("mlp", files["quantity"], {**small, "schedule": "onecycle"}),
        "multilabel": ("mlp", files["labels"], {**small, "accumulate": 2, "epochs": 3}),
        "weighted": ("mlp", files["folder"], {**small, "loss_arguments": {"weight": "balanced"}, "val_fraction": 0.2, "split_seed": 9}),
        "cnn": ("cnn", files["grey"], {"model_arguments": {"channels": (4, 8), "dropout": 0.2}, "max_steps": 5}),
        "resnet": ("resnet", files["colour"], {"model_arguments": {"width": 4}, "epochs": 1}),
        "bright": ("cnn", files["bright"], {"model_arguments": {"channels": (4,)}, "mixup": 0.3}),
        "unet": ("unet", files["places"], {"model_arguments": {"width": 4, "depth": 2}, "epochs": 1}),
        "tokens": (f"{tmp_path}/embed.py:Embed", files["tokens"], {"kind": "tokens"}),
        "idx": (f"{tmp_path}/net.py:Net", files["idx"], {"normalize": "unit", "model_arguments": {"classes": 3}}),
        "price": ("mlp", table, {**small, "target": "price", "early_stopping": 2, "schedule": "onecycle", "warmup": 2}),
        "binary": ("mlp", table, {**small, "target": "kind", "task": "binary", "test_data": other, "normalize": "none"}),
        "folders": ("cnn", grey, {"model_arguments": {"channels": (4,)}, "image_size": (6, 7), "normalize": "none"}),
    }  # fmt: skip
    scripts, names = [], []
    for name, (model, data, options) in cases.items():
        run = trained(tmp_path, model, data, name=name, **options)
        script = tmp_path / f"{name}_script.py"
        assert run.eject(script) is None, name
        assert len(script.read_text("utf-8").splitlines()) <= 200, name
        scripts.append(script)
        names.append(run.name)
    printed = run_plainly(*scripts)
    assert [name for name in names if f"These are the weights of the run {name}, bit for bit." not in printed] == []


def test_a_fast_run_is_written_without_a_claim(tmp_path: Path) -> None:
    run = trained(tmp_path, "linear", "digits", numerics="fast", epochs=1)
    reason = run.eject(tmp_path / "train.py")
    assert reason == "The run rounded otherwise, for speed; these are the bits that numerics=exact gives."
    text = (tmp_path / "train.py").read_text("utf-8")
    assert reason in text
    assert "RUN" not in text


def code_of(script: str) -> str:
    """The code of a script without its texts."""
    tree = ast.parse(script)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_a_run_that_was_left_after_an_epoch_is_written_without_a_claim(tmp_path: Path) -> None:
    def leave(event: rushlight.Event) -> None:
        if event.kind == "epoch":
            raise KeyError("left")

    with pytest.raises(KeyError, match="left"):
        trained(tmp_path, "linear", "digits", name="left", on_event=leave)
    run = rushlight.open_run("left", runs=tmp_path / "runs")
    assert "not finished" in str(run.eject(tmp_path / "left.py"))


def test_a_run_that_early_stopping_ended_is_claimed_and_one_that_was_left_is_not(tmp_path: Path) -> None:
    stopped = trained(tmp_path, "linear", "digits", name="stopped", epochs=30, early_stopping=2, lr=0.5)
    assert sum(line["kind"] == "epoch" for line in stopped.history) < 30
    assert stopped.eject(tmp_path / "stopped.py") is None
    for epoch in rushlight.epochs(
        "linear", "digits", epochs=9, numerics="exact", device="cpu", quiet=True, name="left", runs=tmp_path / "runs"
    ):
        if epoch.number == 2:
            break
    left = rushlight.open_run("left", runs=tmp_path / "runs")
    assert "before its last epoch" in str(left.eject(tmp_path / "left.py"))


def test_the_comments_are_chinese_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, "linear", "digits", epochs=1)
    run.eject(tmp_path / "english.py")
    monkeypatch.setenv("RUSHLIGHT_LANGUAGE", "zh")
    run.eject(tmp_path / "chinese.py")
    english, chinese = ((tmp_path / f"{name}.py").read_text("utf-8") for name in ("english", "chinese"))
    assert "# 朝反方向走一步" in chinese
    assert code_of(english) == code_of(chinese)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ema": 0.9, "augment": "light"}, ["ema is 0.9.", "augment is light."]),
        (
            {"loss": lambda outputs, targets: (outputs**2).mean()},
            ["The loss was an object made in Python", "The model was an object"],
        ),
        ({"schedule": "plateau"}, ["schedule is plateau."]),
        ({"cutmix": 0.5}, ["cutmix is 0.5."]),
    ],
)
def test_what_cannot_be_carried_is_named_and_nothing_is_written(
    options: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) if "loss" in options else "linear"
    run = trained(tmp_path, model, "digits", epochs=1, **options)
    with pytest.raises(UsageError) as refused:
        run.eject(tmp_path / "train.py")
    assert all(words in str(refused.value) for words in named), refused.value
    assert not (tmp_path / "train.py").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("import torch\n", "import torch\nfrom helper import share\n"), "net.py, line 8 imports helper"),
        (("WIDTHS", "SEED"), "The model's file and the script both have something called SEED."),
        (("import torch\n", "import torch\nimport random\n"), "net.py draws random numbers that are not torch's"),
    ],
)
def test_a_source_that_would_mean_something_else_is_refused(
    change: tuple[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text("share = 0.5\n", encoding="utf-8")
    (tmp_path / "net.py").write_text(NET.replace(*change), encoding="utf-8")
    run = trained(tmp_path, f"{tmp_path}/net.py:Net", "digits", epochs=1)
    with pytest.raises(UsageError) as refused:
        run.eject(tmp_path / "train.py")
    assert named in str(refused.value)


def test_a_target_that_the_script_could_not_judge_is_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    np.savez(tmp_path / "soft.npz", x=draw.normal(0, 1, (40, 4)), y=draw.dirichlet((1, 1, 1), 40))
    np.savez(tmp_path / "counts.npz", x=draw.normal(0, 1, (40, 4)), y=draw.poisson(3, 40).astype(np.float32))
    for name, loss in (("soft", "CrossEntropyLoss"), ("counts", "PoissonNLLLoss")):
        run = trained(tmp_path, "linear", tmp_path / f"{name}.npz", loss=loss, epochs=1)
        with pytest.raises(UsageError, match=f"loss is {loss}"):
            run.eject(tmp_path / "train.py")


def test_other_data_than_the_runs_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    """The file has changed since: its rows are read again, and are not those that the script would be about."""
    table = write_table(tmp_path / "table.csv")
    run = trained(tmp_path, "linear", table, target="kind", epochs=1)
    table.write_text(table.read_text("utf-8").replace("green", "GREEN"), encoding="utf-8")
    with pytest.raises(UsageError, match="it has changed since"):
        run.eject(tmp_path / "train.py")


def test_a_run_from_elsewhere_is_written_once_its_source_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    run = trained(tmp_path, f"{tmp_path}/net.py:Net", "digits", epochs=1)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another account"))
    with pytest.raises(RunError, match="is not imported"):
        run.eject(tmp_path / "train.py")
    assert run.eject(tmp_path / "train.py", f"{tmp_path}/net.py:Net") is None
    (tmp_path / "net.py").write_text(NET.replace("relu", "tanh"), encoding="utf-8")
    with pytest.raises(UsageError, match="is not the source that the run was trained with"):
        run.eject(tmp_path / "train.py", f"{tmp_path}/net.py:Net")
