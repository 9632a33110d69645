"""The user's own model class, by `file.py:Class` or `package.module:Class`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from rushlight import files
from rushlight.errors import ModelError, suggest
from rushlight.models.head import replace_head
from rushlight.texts import Note

MOST_OF_A_SOURCE = 16 << 20  # bytes


def load_model_class(reference: str) -> Callable[..., nn.Module]:
    """Import `file.py:Class`, `package.module:Class` or a function that returns a module, and return it.

    Raises:
        ModelError: the file or module is not there, does not run, or has no such `nn.Module` or function.
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
            "no-such-class", where=where, name=name, known=", ".join(classes) or Note("device.no-module-class"),
            suggestion=suggest(name, classes),
        )  # fmt: skip
    if not (issubclass(found, nn.Module) if inspect.isclass(found) else inspect.isfunction(found)):
        raise ModelError("not-a-module", where=where, name=name, found=type(found).__name__)
    made: Callable[..., nn.Module] = found
    return made


def build_custom(reference: str, arguments: dict[str, Any], seed: int, head: dict[str, Any] | None = None) -> nn.Module:
    """Load the class and construct it; initial weights depend on `seed` alone.

    `head` is the layer with another number of outputs that a run gave it: {"name", "outputs"}.
    """
    model_class = load_model_class(reference)
    try:
        inspect.signature(model_class).bind(**arguments)
    except TypeError as error:
        wanted = str(inspect.signature(model_class))
        raise ModelError("constructor-arguments", model=reference, reason=error, wanted=wanted) from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = model_class(**arguments)
            if head is not None:
                replace_head(model, head["name"], head["outputs"], seed)
        except Exception as error:
            raise ModelError("constructor-failed", model=reference, **failure(error)) from error
    if not isinstance(model, nn.Module):
        raise ModelError("no-module-made", model=reference, found=type(model).__name__)
    return model


def find_source(reference: str) -> Path | None:
    """Return the file that `file.py:Class` or `package.module:Class` is read from, without executing any of it.

    None where there is no such module, or none that is a file.
    """
    where = reference.rpartition(":")[0]
    if "\0" in where:
        return None
    if where.endswith(".py"):
        return Path(where).resolve()
    first, *others = parts = where.split(".")
    if not all(parts):
        return None
    with importable(str(Path.cwd())):
        found = next(filter(None, (finder.find_spec(first, None) for finder in sys.meta_path)), None)
        for part in others:  # importlib's own search imports the packages on the way
            places = None if found is None else found.submodule_search_locations
            if places is None:
                return None
            found = PathFinder.find_spec(part, list(places))
    return Path(found.origin).resolve() if found and found.has_location and found.origin else None


def source_digest(reference: str) -> str | None:
    """Return the SHA-256 of the file that a model's class is read from; None where there is none."""
    try:
        source = find_source(reference)
        return None if source is None else hashlib.sha256(files.read_bytes(source, MOST_OF_A_SOURCE)).hexdigest()
    except (OSError, ValueError):  # missing or unreadable: importing it says so in better words
        return None


@contextlib.contextmanager
def importable(folder: str) -> Iterator[None]:
    """Search a folder first for imports in the block, and last from then on: it must not shadow libraries."""
    is_new = folder not in sys.path
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.path.extend([folder] if is_new else [])


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module; its own folder is importable, as it is for `python file.py`."""
    if not path.is_file():
        near = suggest(path.name, [found.name for found in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise ModelError("no-model-file", path=path, suggestion=near)
    name, folder = path.stem, path.resolve().parent
    libraries = [entry for entry in sys.path if Path(entry).resolve() != folder]
    while (
        getattr(sys.modules.get(name), "__file__", str(path)) != str(path)
        or name in sys.builtin_module_names
        or getattr(PathFinder.find_spec(name, libraries), "has_location", False)
    ):
        name += (
            "_"  # a file called random.py or matplotlib.py must not take the place of the library, loaded yet or not
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(str(folder)):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise import_error(str(path), error) from error
    return module


def import_module(name: str) -> ModuleType:
    """Import an installed module, or one in the current folder."""
    try:
        with importable(str(Path.cwd())):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelError("no-model-module", name=name) from error
        raise import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise import_error(name, error) from error


def import_error(path: str, error: BaseException) -> ModelError:
    """Return the error for a file or module that does not run: a syntax error shows its line."""
    if not isinstance(error, SyntaxError) or error.lineno is None:
        return ModelError("model-file-failed", path=path, **failure(error))
    return ModelError(
        "syntax-error", path=error.filename, line=error.lineno, text=(error.text or "").rstrip(), reason=error.msg,
        marker=" " * (max((error.offset or 1) - 1, 0)) + "^",
    )  # fmt: skip


def failure(error: BaseException) -> dict[str, str]:
    """Return "where" an error was raised (the deepest frame not of torch or the import system) and its "reason"."""
    torch_folder = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((torch_folder, "<frozen"))]
    where = Note("device.place", path=own[-1].filename, line=own[-1].lineno) if own else Note("device.unknown-place")
    return {"where": where, "reason": f"{type(error).__name__}: {error}"}
