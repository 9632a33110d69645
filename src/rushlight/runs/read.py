"""Reading a run's files, their entries checked for kinds; RunError names one that is missing or damaged."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError
from rushlight.kinds import (
    Kind,
    either,
    is_count,
    is_finite,
    is_object,
    is_share,
    is_text,
    maybe,
    named,
    pair_of,
    wrong_entry,
)
from rushlight.texts import Note

RECIPE, ENVIRONMENT, REPORT = "recipe.json", "environment.json", "report.json"
Checkers = Mapping[str, Callable[[Any], bool]]  # by the text of a line's key
MOST_BYTES = 4 << 30  # of a history or of the losses: a thousand million steps

NAMED = either(is_text, {"name?": is_text, "path?": is_text})
RECIPE_KIND: Kind = {"model": NAMED, "data": NAMED, "epochs": maybe(is_count)}  # `recipe_from_json` checks the rest
ENVIRONMENT_KIND: Kind = {"data_notes?": [is_text], "conditions?": is_object, "data_fingerprint?": maybe(is_text)}
FIGURES: dict[str, Kind] = {
    "n?": is_count, "loss?": maybe(is_finite), "accuracy?": maybe(is_share), "mae?": maybe(is_finite),
    "rmse?": maybe(is_finite), "r2?": maybe(is_finite), "numbers?": named(maybe(is_finite)), "judged_by?": is_text,
}  # fmt: skip
SHARES = ("precision", "recall", "f1")
REPORT_KIND: Kind = FIGURES | {
    "task?": maybe(is_text), "accuracy_interval?": maybe(pair_of(is_share)), "intervals?": named(pair_of(maybe(is_finite))), "target?": maybe(is_text), "confusion?": maybe([[is_count]]),
    "classes?": maybe([{
        "name": is_text, "n": is_count, **{f"{name}?": maybe(is_share) for name in SHARES},
        **{f"{name}_interval?": maybe(pair_of(maybe(is_share))) for name in SHARES},
    }]),
    "most_wrong?": maybe([{"index": is_count, "name?": is_text, "error?": maybe(is_finite), "probability?": maybe(is_share)}]),
}  # fmt: skip


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return a file's bytes."""
    try:
        return files.read_bytes(path, most)
    except FileNotFoundError:
        raise RunError("run-file-missing", path=path) from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the file
            raise files.explanation(error, path) from error
        if isinstance(error, PermissionError):
            raise RunError("run-file-unreadable", path=path, reason=error.strerror) from error
        raise RunError("run-file-damaged", path=path, reason=error.strerror or error) from error


def read_json(path: Path, kind: Kind) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        content = files.parse_json(read_file(path, files.MOST_JSON))
    except ValueError as error:
        raise RunError("run-file-damaged", path=path, reason=error) from error
    if not isinstance(content, dict):
        raise RunError("run-file-damaged", path=path, reason=Note("runs.no-object"))
    if (name := wrong_entry(content, kind)) is not None:
        raise RunError("run-file-damaged", path=path, reason=Note("runs.lacks", name=name))
    return content


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return a run's recipe as JSON values."""
    return read_json(folder / RECIPE, RECIPE_KIND)


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what a run was begun with: versions, the conditions of its bits, the notes on its data."""
    return read_json(folder / ENVIRONMENT, ENVIRONMENT_KIND)


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report of a run's last test as JSON values."""
    report = read_json(folder / REPORT, REPORT_KIND)
    confusion, classes = report.get("confusion") or (), report.get("classes") or ()
    if confusion and {len(confusion), *map(len, confusion)} != {len(classes)}:
        raise RunError("run-file-damaged", path=folder / REPORT, reason=Note("runs.lacks", name="confusion"))
    return report


def read_lines(
    path: Path, key: str, kinds: Checkers, skip: bytes | None = None, length: int | None = None
) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines, or in its first `length` bytes.

    Each has the text `key`, and the entries that `kinds` has for that text. A torn last line (a crash in mid-write) is left
    out, and so is every line but the last that begins with `skip`.
    """
    content = read_file(path)[:length]
    end = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(end - 1, 0)) + 1  # where the last whole line begins
    before = BytesIO(content[:last])  # line by line: a long history's steps are never all in memory
    chosen = [line for line in before if skip is None or not line.startswith(skip)]
    chosen += [content[last:end]] if end else []
    try:
        lines = files.parse_json(b"[" + b",".join(chosen) + b"]")  # at once: twice as fast as line by line
        if len(lines) == len(chosen) and all(is_of_kind(line, key, kinds) for line in lines):
            return list(lines)
    except ValueError:
        pass
    whole = content[:end].split(b"\n")[:-1]
    return [parse_line(path, number, line, key, kinds) for number, line in enumerate(whole, start=1)]


def is_of_kind(line: Any, key: str, kinds: Checkers) -> bool:
    """Tell whether a line is an object with the text `key` ("": none), and the entries that `kinds` has for that text."""
    name = line.get(key, "" if not key else None) if isinstance(line, dict) else None
    return isinstance(name, str) and (name not in kinds or kinds[name](line))


def parse_line(path: Path, number: int, line: bytes, key: str, kinds: Checkers) -> dict[str, Any]:
    """Return the object in one line; raises RunError naming the line."""
    try:
        content = files.parse_json(line)
    except ValueError:  # bad JSON, bad UTF-8
        content = None
    if not is_of_kind(content, key, kinds):
        found = repr(line[:40].decode("utf-8", "replace")) if line.strip() else Note("runs.empty-line")
        raise RunError("history-line-damaged", path=path, line=number, found=found)
    return content  # type: ignore[no-any-return]
