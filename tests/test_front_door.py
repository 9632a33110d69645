"""The front door: what a user imports, and that opening it costs nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import rushlight

PUBLIC = [
    "CrossValidation", "Data", "Epoch", "Epochs", "Options", "Predictions", "Report", "Run", "RushlightError", "SavedModel",
    "StudyResult", "cross_validate", "epochs", "load", "open_bundle", "open_data", "open_run", "resume", "train", "tune",
]  # fmt: skip
HEAVY = ("torch", "numpy", "polars", "matplotlib", "rich", "typer", "PIL", "safetensors")


def loaded_after(code: str) -> set[str]:
    """Which of the heavy packages a fresh Python has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


def test_the_public_names_are_exactly_these() -> None:
    """Whoever adds or removes one says so here, in the README and in the changelog."""
    assert rushlight.__all__ == PUBLIC
    assert set(dir(rushlight)) >= {*PUBLIC, "__version__"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(rushlight, name)
    assert value.__doc__
    assert value.__module__.startswith("rushlight.")
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_an_unknown_name_is_an_attribute_error_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'rushlight' has no attribute 'trian'"):
        rushlight.trian  # noqa: B018
    assert not hasattr(rushlight, "fit")


def test_importing_loads_nothing_heavy() -> None:
    assert loaded_after("import rushlight; rushlight.__version__; dir(rushlight)") == set()


def test_the_errors_can_be_caught_without_loading_torch() -> None:
    assert loaded_after("from rushlight import RushlightError") == set()


def test_help_errors_and_listing_runs_load_neither_torch_nor_numpy(tmp_path: object) -> None:
    commands = [["--help"], ["train", "--help"], ["--version"], ["runs", "--runs", f"{tmp_path}/none"], ["trian"]]
    code = "from rushlight.cli import main\ntry:\n    main({!r})\nexcept SystemExit:\n    pass"
    loaded = loaded_after("\n".join(map(code.format, commands)))
    assert loaded & {"torch", "numpy", "polars", "matplotlib"} == set()
