"""The user's own model class, by `file.py:Class` or `package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from rushlight.errors import ModelError, suggest


def load_model_class(reference: str) -> type[nn.Module]:
    """Import `file.py:Class` or `package.module:Class` and return the class.

    Raises:
        ModelError: the file or module is not there, does not run, or has no such `nn.Module`.
    """
    where, _, name = reference.rpartition(":")
    module = import_file(Path(where)) if where.endswith(".py") else import_module(where)
    classes = [
        key for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]  # fmt: skip
    found = getattr(module, name, None)
    if found is None:
        raise ModelError(
            "no-such-class", where=where, name=name, known=", ".join(classes) or "no nn.Module at all",
            suggestion=suggest(name, classes),
        )  # fmt: skip
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ModelError("not-a-module", where=where, name=name, found=type(found).__name__)
    return found


def build_custom(reference: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """Load the class and construct it; initial weights depend on `seed` alone."""
    model_class = load_model_class(reference)
    try:
        inspect.signature(model_class).bind(**arguments)
    except TypeError as error:
        wanted = str(inspect.signature(model_class))
        raise ModelError("constructor-arguments", model=reference, reason=error, wanted=wanted) from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return model_class(**arguments)
        except Exception as error:
            raise ModelError(
                "constructor-failed", model=reference, where=last_line(error), reason=describe(error)
            ) from error


def source_digest(reference: str) -> str | None:
    """Return the SHA-256 of the file a `file.py:Class` names, or None for a module."""
    where = Path(reference.rpartition(":")[0])
    return hashlib.sha256(where.read_bytes()).hexdigest() if where.suffix == ".py" and where.is_file() else None


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module; its own folder is importable, as it is for `python file.py`."""
    if not path.is_file():
        near = suggest(path.name, [found.name for found in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise ModelError("no-model-file", path=path, suggestion=near)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        line = (error.text or "").rstrip()
        raise ModelError(
            "syntax-error", path=error.filename, line=error.lineno, text=line, reason=error.msg,
            marker=" " * (max((error.offset or 1) - 1, 0)) + "^",
        ) from error  # fmt: skip
    except Exception as error:
        raise ModelError("model-file-failed", path=path, where=last_line(error), reason=describe(error)) from error
    return module


def import_module(name: str) -> ModuleType:
    """Import an installed module, or one in the current folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelError("no-model-module", name=name) from error
        raise ModelError("model-file-failed", path=name, where=last_line(error), reason=describe(error)) from error
    except Exception as error:
        raise ModelError("model-file-failed", path=name, where=last_line(error), reason=describe(error)) from error


def last_line(error: BaseException) -> str:
    """Return 'file.py, line 7' for the deepest frame of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "unknown place"


def describe(error: BaseException) -> str:
    """Return 'TypeError: what it says'."""
    return f"{type(error).__name__}: {error}"
