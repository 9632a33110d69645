"""Spaces: as they are given, the table of defaults, and what they make of a training's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rushlight.errors import UsageError
from rushlight.models import MODELS
from rushlight.options import check_options
from rushlight.search import Range, between, log, read_space
from rushlight.search.space import (
    TABLE,
    check_space,
    chosen_options,
    contains,
    default_space,
    known_defaults,
    space_to_json,
)

GIVEN = {"lr": log(1e-4, 1e-1), "width": log(16, 256), "dropout": between(0.0, 0.5), "batch_size": [32, 64]}
FILE = "lr = {log = [1e-4, 1e-1]}\nwidth = {log = [16, 256]}\ndropout = {between = [0.0, 0.5]}\nbatch_size = [32, 64]\n"


def test_a_space_in_a_file_is_that_in_python(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(FILE)
    assert read_space(path) == check_space(GIVEN) == check_space(space_to_json(check_space(GIVEN)))
    assert GIVEN["width"].is_whole  # type: ignore[attr-defined]
    assert not GIVEN["dropout"].is_whole  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "no choices"),
        ({"lr": 0.1}, "lr is 0.1, which is neither"),
        ({"lr": [0.1]}, "two or more values"),
        ({"lr": {"log": [0.0, 1.0]}}, "log two above 0"),
        ({"lr": {"between": [1.0, 0.0]}}, "the lower first"),
        ({"lr": {"between": [True, 2]}}, "two numbers"),
        ({"epochs": [1, 2]}, "epochs cannot be searched"),
        ({"model.width": [1, 2]}, "model.width cannot be searched"),
        ({"batch_size": [32, 0]}, "batch_size must be a whole number, greater than 0"),
        ({"augment": ["none", "much"]}, "augment"),
    ],
)
def test_what_is_no_space_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_space(wrong)


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("lr = log(1, 2)\n")
    with pytest.raises(UsageError, match=r"cannot be read as TOML: .*line 1"):
        read_space(path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", [name for name in TABLE if name not in (*MODELS, "all", "images")])
def test_every_named_model_and_optimizer_has_a_space_with_its_defaults_in_it(model: str, optimizer: str) -> None:
    space, defaults = default_space(model, {"optimizer": optimizer}, True, False)
    assert {"lr", "batch_size", "schedule", "augment"} <= space.keys()
    assert defaults.keys() == space.keys()
    assert all(contains(space[name], value) for name, value in defaults.items())
    check_options(chosen_options(model, defaults, {"optimizer": optimizer}))


def test_what_an_option_decides_is_not_searched() -> None:
    given = {"lr": 0.1, "optimizer_arguments": {"weight_decay": 0.0}, "model_arguments": {"hidden": (8,)}}
    space, _ = default_space("mlp", given, False, True)
    assert sorted(space) == ["dropout", "schedule"]


def test_an_optimizer_without_a_space_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="LBFGS"):
        default_space("mlp", {"optimizer": "LBFGS"}, False, False)


def test_choices_become_options_of_the_model_the_optimizer_and_the_training() -> None:
    choices = {
        "lr": 0.1,
        "width": 16,
        "depth": 3,
        "momentum": 0.9,
        "augment": "none",
        "loss_arguments.label_smoothing": 0.1,
    }
    assert chosen_options("mlp", choices, {"epochs": 2, "optimizer": "SGD", "optimizer_arguments": {"nesterov": True}}) == {
        "lr": 0.1, "epochs": 2, "optimizer": "SGD", "optimizer_arguments": {"nesterov": True, "momentum": 0.9},
        "model_arguments": {"hidden": [16, 16, 16]}, "loss_arguments": {"label_smoothing": 0.1},
    }  # fmt: skip
    assert chosen_options("cnn", {"width": 8}, {}) == {"model_arguments": {"channels": [8, 16, 32]}}


def test_the_defaults_of_a_function_are_those_of_its_signature() -> None:
    def net(width: int = 32, depth: int = 9) -> None: ...

    space = check_space({"width": between(16, 64), "lr": log(1e-4, 1e-1)})
    assert known_defaults(net, space, {}) == {"width": 32, "lr": 1e-3}
    assert known_defaults(net, {**space, "depth": between(1, 4)}, {}) == {}  # 9 is not in its range
    assert isinstance(space["lr"], Range)


def test_the_default_schedule_is_that_of_a_training_which_chooses_as_much() -> None:
    for options, usual in (({}, "cosine"), ({"optimizer": "SGD"}, "constant"), ({"lr": 0.1}, "constant")):
        assert default_space("mlp", options, False, False)[1]["schedule"] == usual
