"""Options: what may be given for each, and that nothing is left behind when one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rushlight
from rushlight.errors import UsageError
from rushlight.runs import read_recipe

SMALL: dict[str, Any] = {"epochs": 1, "quiet": True}
NUMBERS: dict[str, Any] = {
    "epochs": 2, "batch_size": 32, "accumulate": 2, "warmup": 3, "early_stopping": 2, "seed": 7, "lr": 0.125, "clip_norm": 0.5,
    "test_fraction": 0.25, "workers": 0, "keep_epochs": True, "tensorboard": False, "skip_bad": False, "profile": False,
    "model_arguments": {"hidden": (8, 4), "dropout": 0.25}, "optimizer_arguments": {"weight_decay": 0.25, "betas": (0.5, 0.75)},
}  # fmt: skip
KINDS = {int: np.int64, float: np.float32, bool: np.bool_}  # 32 bits hold these fractions exactly


def as_numpy(value: Any) -> Any:
    """The value with NumPy's numbers in place of Python's."""
    if isinstance(value, dict):
        return {key: as_numpy(entry) for key, entry in value.items()}
    return tuple(map(as_numpy, value)) if isinstance(value, tuple) else KINDS[type(value)](value)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A file of arrays, of two classes that a line tells apart."""
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    np.savez(tmp_path / "two.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    return tmp_path / "two.npz"


def test_numpy_numbers_are_as_good_as_pythons_for_every_option(two: Path, tmp_path: Path) -> None:
    own = {option: value for option, value in NUMBERS.items() if option != "skip_bad"}  # that one is for folders
    run = rushlight.train("mlp", two, runs=tmp_path, name="python", quiet=True, **own)
    same = rushlight.train("mlp", two, runs=tmp_path, name="numpy", quiet=np.bool_(True), **as_numpy(own))
    assert read_recipe(same.folder) == read_recipe(run.folder)
    assert np.array_equal(same.losses, run.losses)


@pytest.mark.parametrize("number", [np.float64(0.125), np.array(0.125), torch.tensor(0.125)])
def test_a_learning_rate_may_be_any_single_number(number: Any, two: Path, tmp_path: Path) -> None:
    run = rushlight.train("linear", two, lr=number, runs=tmp_path, **SMALL)
    assert run.recipe.optimizer["arguments"]["lr"] == 0.125


def test_arrays_are_as_good_as_lists_for_names(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    names = np.array(["down", "up"])
    run = rushlight.train("linear", (x, x[:, 0] > 0), classes=names, runs=tmp_path, **SMALL)
    assert run.report is not None
    assert [figures.name for figures in run.report.classes] == ["down", "up"]


def test_a_device_may_be_given_as_torch_has_it(two: Path, tmp_path: Path) -> None:
    run = rushlight.train("linear", two, device=torch.device("cpu"), runs=tmp_path, **SMALL)
    assert run.recipe.device == "cpu"
    assert rushlight.resume(run.folder, epochs=2, schedule="constant", device=torch.device("cpu"), quiet=True).report


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("device", 3.5, "unknown-device"),
        ("device", ["cpu"], "unknown-device"),
        ("model_arguments", {"hidden": nn.ReLU()}, "model-argument-values"),
        ("seed", 1.5, "bad-seed"),
        ("seed", True, "bad-seed"),
        ("clip_norm", "much", "not-positive"),
        ("early_stopping", "soon", "not-a-count"),
        ("batch_size", np.float64(32), "not-a-count"),
        ("warmup", "long", "negative"),
        ("workers", "two", "negative"),
        ("test_fraction", "half", "bad-fraction"),
        ("tensorboard", "yes", "option-no-bool"),
        ("keep_epochs", 2, "option-no-bool"),
        ("optimizer_arguments", {"lr": "fast"}, "optimizer-arguments"),
    ],
)
def test_a_value_that_no_recipe_can_hold_is_refused_by_name_and_leaves_nothing_behind(
    option: str, value: Any, key: str, two: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        rushlight.train("mlp", two, runs=tmp_path / "runs", **{**SMALL, option: value})
    assert caught.value.key == key
    assert not (tmp_path / "runs").exists()


def test_an_argument_of_ones_own_class_that_json_cannot_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, end):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10), end)\n"
    )
    with pytest.raises(UsageError, match="model_arguments cannot be recorded") as caught:
        rushlight.train("nets.py:Net", "digits", model_arguments={"end": nn.Identity()}, **SMALL)
    assert "pass it instead of its name" in caught.value.advice
    assert not Path("runs").exists()
