"""Every word that a user reads, in English and in Chinese.

The words stand in `LANGUAGE/ROOM.toml`, to be edited without knowing Python (README.md says how). A key is
"room.name", and "errors.name.problem" or "errors.name.advice" for the two halves of an error. A file is read when
its first text is needed. What is written into a run's files is English, whatever language is shown: see `Note`.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "zh")
CHINESE = "[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef“”]"  # characters and marks
UNSEEN = re.compile(  # what a terminal obeys, hides or reorders: controls, marks of direction, of no width, of no character
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
MOST_CHARACTERS, MOST_PARTS = 1000, 100  # of a foreign text, and of a list of texts, that are shown
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
        parts = tuple(part if isinstance(part, Note) else visible(part) for part in parts)
        parts = parts if len(parts) <= MOST_PARTS else (*parts[:MOST_PARTS], "…")
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


def shown(value: object) -> str:
    """Return a note in the language of this process; any other text as `visible` has it."""
    return value.translated(language()) if isinstance(value, Note) else visible(value)


def visible(value: object, most: int = MOST_CHARACTERS) -> str:
    """Return foreign text on one line, with escapes such as `\\x1b` for what a terminal obeys, hides or reorders.

    Foreign is whatever stands in a file, a name, or an error of another library. A longer text loses its middle.
    """
    text = str(value)
    if len(text) > most:
        text = f"{text[: most * 3 // 4 - 3]} … {text[-(most // 4) :]}"
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def quoted(value: object) -> str:
    """Return a name or a path as it is typed in a shell: `'my run'`, or `$'\\x1b'` where some of it cannot be seen."""
    word = str(value)
    if os.name == "nt":
        return f'"{word}"' if re.search(r"[\s&|<>^%!();,']", word) else word
    if not UNSEEN.search(word):
        return shlex.quote(word)
    literal = re.sub(r"([\\'])", r"\\\1", word)
    return f"$'{UNSEEN.sub(lambda found: shell_escape(ord(found[0])), literal)}'"


def shell_escape(code: int) -> str:
    """Return a character as bash and zsh have it in $'…'; Python's stand-in for a byte that is no UTF-8 as that byte."""
    return f"\\x{code & 0xFF:02x}" if code < 0x80 or 0xDC80 <= code <= 0xDCFF else f"\\U{code:08x}"


class Foreign:
    """A value of a text that is no note and no number: filled in as `visible` has it, or `{so:typed}` as `quoted` has it."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __format__(self, form: str) -> str:
        return visible(quoted(self.value) if form == "typed" else format(self.value, form))

    def __repr__(self) -> str:
        return visible(repr(self.value))


def fill(code: str, key: str, values: Mapping[str, object]) -> str:
    """Return the text of `key` in one language, English where that has none, with its values filled in."""
    room, _, name = key.partition(".")
    try:
        found: Any = read_room(code, room)
    except (OSError, ImportError):  # a process may lose the right to read files; its errors still say what they can
        return ", ".join([key, *(f"{name} {visible(value)}" for name, value in values.items())])
    for step in name.split("."):
        if step not in found and code != "en":
            return fill("en", key, values)
        found = found[step]
    if isinstance(found, dict):
        found = found["one" if values["count"] == 1 else "other"]
    notes = {name: value.translated(code) for name, value in values.items() if isinstance(value, Note)}
    others = {name: value if isinstance(value, (int, float)) else Foreign(value) for name, value in values.items()}
    return str(close_up(found, notes).format(**{**others, **notes}))


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
    named = next(filter(None, map(os.environ.get, LOCALE_VARIABLES)), "")
    spoken = code_of(named or (windows_language() if sys.platform == "win32" else "")) or "en"
    if chosen:
        report_unknown(chosen, spoken)
    return spoken


def code_of(name: str) -> str | None:
    """Return the language of a locale such as "zh_CN.UTF-8" or "en-GB"; None if there are no texts in it."""
    code = re.split(r"[-_.@]", name.strip().lower())[0]
    return code if code in LANGUAGES else None


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
