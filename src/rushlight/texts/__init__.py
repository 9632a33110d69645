"""Every word that a user reads, in English and in Chinese.

The words stand in `LANGUAGE/ROOM.toml`, to be edited without knowing Python (README.md says how). A key is
"room.name", and "errors.name.problem" or "errors.name.advice" for the two halves of an error. A file is read when
its first text is needed. What is written into a run's files is English, whatever language is shown: see `Note`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "zh")
CHINESE = "[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef“”]"  # characters and marks
LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set counts


def text(key: str, /, **values: object) -> str:
    """Return a text in the language of this process, with its values filled in.

    A text with a form for one and a form for many is chosen by the value `count`.
    """
    return fill(language(), key, values)


class Note(str):
    """A text that is also written into a run's files: in English as a string, in the user's language by `shown`.

    Its values may be notes themselves.
    """

    __slots__ = ("key", "values")
    key: str
    values: Mapping[str, object]

    def __new__(cls, key: str, /, **values: object) -> Note:
        """Fill in the English text."""
        note = super().__new__(cls, fill("en", key, values))
        note.key, note.values = key, values
        return note

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the arguments that make the same note, for copies and pickles."""
        return (self.key,), dict(self.values)

    def translated(self, code: str) -> str:
        """Return the text in another language."""
        return fill(code, self.key, self.values)


class Joined(Note):
    """Texts in a row, with what stands between them in each language: by "list", "nothing", "reasons", "sentences", "lines" or "items"."""

    __slots__ = ("by", "parts")
    by: str
    parts: tuple[str, ...]

    def __new__(cls, by: str, parts: Iterable[str]) -> Joined:
        """Join the English texts."""
        parts = tuple(parts)
        note = str.__new__(cls, fill("en", f"words.between.{by}", {}).join(parts))
        note.by, note.parts = by, parts
        return note

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the arguments that make the same note, for copies and pickles."""
        return (self.by, self.parts), {}

    def translated(self, code: str) -> str:
        """Return the texts in another language, joined as is usual there."""
        parts = (part.translated(code) if isinstance(part, Note) else part for part in self.parts)
        return fill(code, f"words.between.{self.by}", {}).join(parts)


def shown(value: str) -> str:
    """Return a note in the language of this process; any other text as it is."""
    return value.translated(language()) if isinstance(value, Note) else value


def fill(code: str, key: str, values: Mapping[str, object]) -> str:
    """Return the text of `key` in one language, English where that has none, with its values filled in."""
    room, _, name = key.partition(".")
    try:
        found: Any = read_room(code, room)
    except (OSError, ImportError):  # a process may lose the right to read files; its errors still say what they can
        return ", ".join([key, *(f"{name} {value}" for name, value in values.items())])
    for step in name.split("."):
        if step not in found and code != "en":
            return fill("en", key, values)
        found = found[step]
    if isinstance(found, dict):
        found = found["one" if values["count"] == 1 else "other"]
    notes = {name: value.translated(code) for name, value in values.items() if isinstance(value, Note)}
    return str(close_up(found, notes).format(**{**values, **notes}))


def close_up(template: str, notes: Mapping[str, str]) -> str:
    """Remove the blanks of a template that would stand between two Chinese characters once the notes are filled in."""
    for name, note in notes.items():
        if re.match(CHINESE, note):
            template = re.sub(rf"(?<={CHINESE}) (?=\{{{name}\}})", "", template)
        if re.search(rf"{CHINESE}$", note):
            template = re.sub(rf"(?<=\{{{name}\}}) (?={CHINESE})", "", template)
    return template


@functools.cache
def read_room(code: str, room: str) -> dict[str, Any]:
    """Read the texts of one room in one language."""
    import tomllib  # only where a text is needed: importing it takes as long as reading a file

    path = FOLDER / code / f"{room}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


# ── the language ─────────────────────────────────────────────────────────────────────────────────────────────


def language() -> str:
    """Return "en" or "zh": what RUSHLIGHT_LANGUAGE says, else the system's language if there are texts in it."""
    chosen = os.environ.get("RUSHLIGHT_LANGUAGE", "")
    if code := code_of(chosen):
        return code
    spoken = code_of(system_language()) or "en"
    if chosen:
        report_unknown(chosen, spoken)
    return spoken


def code_of(name: str) -> str | None:
    """Return the language of a locale such as "zh_CN.UTF-8" or "en-GB"; None if there are no texts in it."""
    code = re.split(r"[-_.@]", name.strip().lower())[0]
    return code if code in LANGUAGES else None


def system_language() -> str:
    """Return the locale of the environment; on Windows, where none is set, that of the user interface."""
    for variable in LOCALE_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    return windows_language() if sys.platform == "win32" else ""


@functools.cache
def windows_language() -> str:
    """Return the locale of Windows' user interface, such as "zh_CN"."""
    import ctypes
    import locale

    identifier: int = getattr(ctypes, "windll").kernel32.GetUserDefaultUILanguage()  # noqa: B009 (Windows only)
    return locale.windows_locale.get(identifier, "")


@functools.cache
def report_unknown(chosen: str, spoken: str) -> None:
    """Say on standard error, once in a process, that there are no texts in the language that was chosen."""
    if sys.stderr is not None:
        known = ", ".join(LANGUAGES)
        sys.stderr.write(fill(spoken, "console.unknown-language", {"chosen": chosen, "known": known}) + "\n")
