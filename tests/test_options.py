"""The options are declared once: signatures, help, command line, recipe, checks and reference have each of them."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import click
import pytest
import typer

import rushlight
from rushlight import texts
from rushlight.cli.app import app
from rushlight.cli.help import explain
from rushlight.data import DataOptions
from rushlight.errors import UsageError
from rushlight.options import OPTIONS, TAKES, Options, RecipeOptions, check_options, options_reference
from rushlight.texts import Note
from rushlight.training.recipe import Recipe

COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VERBS: dict[str, Any] = {
    "train": rushlight.train, "epochs": rushlight.epochs, "resume": rushlight.resume, "open_data": rushlight.open_data,
}  # fmt: skip
WRONG: dict[str, Any] = {  # for each type and check, a value that it refuses
    "epochs": 0, "batch_size": 0.5, "accumulate": -1, "clip_norm": 0.0, "early_stopping": True, "on_nan": "go", "seed": 0.5,
    "precision": "float8", "numerics": "quick", "compile": "yes", "keep_epochs": 1, "tensorboard": "no", "lr": -0.1,
    "optimizer_arguments": ["momentum"], "schedule_by": "year", "schedule_arguments": ["patience"], "warmup": -1, "model_arguments": "hidden", "test_fraction": 1.0, "val_fraction": -0.1,
    "task": "guess", "kind": "sound", "normalize": "max", "skip_bad": 0, "workers": -1, "processes": 0, "ray": "ray://head", "gpus_per_process": 0, "shard": 1, "sync_batchnorm": "yes", "resume": "yes", "inexact": 1,
    "augment": "much", "ema": 1.0, "mixup": -0.2, "cutmix": 0.0, "swa": 0, "loss_arguments": ["weight"], "max_steps": 0, "groups": ["a"], "freeze": "backbone", "unfreeze_after": 0, "profile": 1, "quiet": "very", "to_stderr": 1, "final_test": 1, "split_seed": 0.5,
    "text_length": 0, "window": 0.5, "horizon": 0, "shuffle_window": 0,
}  # fmt: skip
ANYTHING = {  # checked where they are used: a name, a path or a live object
    "optimizer", "schedule", "loss", "objective", "test_data", "val_data", "target", "classes", "image_size", "device", "name",
    "runs", "checkpoint", "on_event", "keep", "metrics", "best", "weights", "step", "study",
    "text_column", "time_column", "tokenizer",
}  # fmt: skip


def test_every_declared_option_is_in_a_panel_and_has_one_line_of_help() -> None:
    assert set(OPTIONS) == {entry.name for entry in fields(Options)}
    for option in OPTIONS.values():
        assert option.help.endswith((".", "…", "cat,dog.")), option.name
        assert "\n" not in option.help


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_signature_and_docstring_show_every_option_it_takes(verb: str) -> None:
    signature = inspect.signature(VERBS[verb])
    taken = TAKES["train" if verb == "epochs" else verb]
    shown = {name: entry for name, entry in signature.parameters.items() if entry.kind is entry.KEYWORD_ONLY}
    assert tuple(shown) == taken
    for name in taken:
        assert shown[name].default == OPTIONS[name].default
        assert re.search(rf"^ *{name} \(default: .*\): \S", VERBS[verb].__doc__, re.MULTILINE), name


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_the_command_line_shows_every_option_in_its_panel(verb: str) -> None:
    parameters = {parameter.name: parameter for parameter in COMMANDS[verb].params}
    for code in texts.LANGUAGES:
        explain(COMMANDS[verb], click.Context(COMMANDS[verb]), code)
        check_words(verb, parameters, code)


def check_words(verb: str, parameters: dict[str, Any], code: str) -> None:
    """Check what a verb's command says of each option in one language."""
    for name in TAKES[verb]:
        option = OPTIONS[name]
        if option.flags and (verb == "train" or option.on_resume != "live"):
            parameter: Any = parameters[name]
            assert option.flags == tuple(parameter.opts)
            assert parameter.rich_help_panel == Note(f"help.panels.{option.panel}").translated(code)
            assert parameter.help == option.help.translated(code)
            assert parameter.default == (option.default if verb == "train" else None)


@pytest.mark.parametrize("code", texts.LANGUAGES)
def test_the_reference_has_every_option_with_its_default(code: str) -> None:
    text = options_reference(code)
    for option in OPTIONS.values():
        (row,) = re.findall(rf"^\| `{option.name}` \|.*$", text, re.MULTILINE)
        default = option.default if option.in_words is None else option.in_words.translated(code)
        assert f"| {default} |" in row
        assert option.help.translated(code).replace("|", "\\|") in row
        assert all(f"`{flag}`" in row for flag in option.flags)


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - ANYTHING))
def test_every_options_check_refuses_what_it_is_not(name: str) -> None:
    with pytest.raises(UsageError, match=r"seed|seen|" + name):
        check_options({name: WRONG[name]})


def test_the_recipe_keeps_the_options_that_are_declared_for_it() -> None:
    kept = {entry.name: entry.default for entry in fields(RecipeOptions)}
    recorded = {entry.name: entry.default for entry in fields(Recipe)}
    assert kept.items() - {("batch_size", None)} <= recorded.items()
    assert set(recorded) - set(kept) == {"model", "data", "loss", "optimizer", "schedule", "keep", "metrics"}


def test_the_data_room_has_the_same_names_defaults_and_choices() -> None:
    from rushlight.data import open as opening

    for entry in fields(DataOptions):
        assert entry.name in TAKES["open_data"]
        assert entry.default == OPTIONS[entry.name].default
    assert OPTIONS["normalize"].choices == opening.NORMALIZE
    assert OPTIONS["task"].choices == opening.TASKS
    assert OPTIONS["kind"].choices == opening.ARRAY_KINDS


def test_an_option_of_another_verb_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="open_data takes no epochs"):
        rushlight.open_data("digits", epochs=3)
    with pytest.raises(UsageError, match=r'no option "max_epochs". Here it is called epochs'):
        rushlight.train("mlp", "digits", max_epochs=3)
    with pytest.raises(UsageError, match="open_data takes no lr"):
        rushlight.open_data("digits", lr=1.0)


def test_the_options_are_importable_without_torch_and_documented() -> None:
    assert rushlight.Options is Options
    assert check_options({}) == Options()
