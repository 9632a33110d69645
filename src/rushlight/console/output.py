"""Standard output and standard error, whatever their encoding can write."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback as tracebacks
from typing import IO, TYPE_CHECKING, Any

from rushlight.texts import text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 100  # columns when nobody says how wide the page is: a file, a pipe
WIDEST = 100_000
PLAIN = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "…": "...", "━": "#", "╸": ">", "─": "-", "·": ".", "→": "->", "µ": "u", "“": '"', "”": '"'}
)  # fmt: skip


class Unheard(io.StringIO):
    """Stands for a missing standard stream: a process without a terminal, or begun with `>&-`."""

    def write(self, text: str) -> int:
        """Keep nothing."""
        return len(text)


class SafeStream:
    """A text stream that writes characters its encoding lacks in ASCII, at worst as '?'.

    With `drops`, text that cannot be written is dropped: training goes on without a reader.
    """

    def __init__(self, stream: IO[str] | None, drops: bool = False) -> None:
        self.stream: IO[str] = Unheard() if stream is None else stream
        self.refused = (OSError, ValueError) if drops else ()  # ValueError: the stream was closed
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write the text, as well as the encoding allows."""
        with contextlib.suppress(*self.refused):
            try:
                return self.stream.write(text)
            except UnicodeEncodeError:
                plain = text.translate(PLAIN).encode(self.encoding, "replace").decode(self.encoding)
                return self.stream.write(plain)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with contextlib.suppress(*self.refused):
            self.stream.flush()

    def isatty(self) -> bool:
        """Tell whether a person sits at the other end."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self.stream.fileno()


def can_encode(stream: Any, text: str) -> bool:
    """Tell whether the stream's encoding has all characters of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def open_console(to_stderr: bool = False, drops: bool = False) -> Console:
    """Return a rich console on sys.stdout or sys.stderr, without markup and highlighting.

    When nobody reads on, rich ends the process at the next word; with `drops`, words are left out instead.
    """
    from rich.console import Console

    stream: Any = SafeStream(sys.stderr if to_stderr else sys.stdout, drops)
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if not stream.isatty() and not os.environ.get("COLUMNS"):
        console = Console(file=stream, markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)
    return console


def print_json(content: object) -> None:
    """Print one JSON object on one line of standard output; NaN and infinity raise ValueError."""
    line = json.dumps(content, ensure_ascii=not can_encode(sys.stdout, "数×"), allow_nan=False)
    stream = SafeStream(sys.stdout)
    stream.write(line + "\n")
    stream.flush()


def print_error(error: BaseException, traceback: bool = False) -> None:
    """Print an error and its advice on standard error; with `traceback`, its place first."""
    console = open_console(to_stderr=True, drops=True)  # unread or not, the exit code tells
    if traceback:
        console.print("".join(tracebacks.format_exception(error)).rstrip(), style="dim", soft_wrap=True)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    print_marked(console, text("console.error"), "bold red", problem)
    if advice := getattr(error, "advice", ""):
        console.print(advice, soft_wrap=not console.is_terminal)


def print_marked(console: Console, mark: str, style: str, line: str) -> None:
    """Print a line that begins with a coloured word; a full-width colon needs no blank after it."""
    from rich.text import Text

    blank = "" if mark.endswith("：") else " "
    console.print(Text.assemble((mark, style), blank, line), soft_wrap=not console.is_terminal)


def print_unwrapped(console: Console, table: Table) -> None:
    """Print a table; into a file or a pipe as wide as it is, so that nothing wraps there."""
    if not console.is_terminal:
        widest = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
        console.width = max(console.width, widest)
    console.print(table)
