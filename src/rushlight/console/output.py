"""Standard output and standard error, whatever their encoding can write.

All that Rushlight prints goes through here, so that no text from a file or a name commands the terminal: `visible` of the
texts makes values and cells so, one line each; what this console renders can then have nothing but line ends in it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import traceback as tracebacks
from typing import IO, TYPE_CHECKING, Any

from rushlight.texts import UNSEEN, text, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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


@functools.cache
def console_class() -> type[Console]:
    """Return rich's console with nothing in what it renders that a terminal obeys but its own colours and line ends."""
    from rich import console as rich_console

    class VisibleConsole(rich_console.Console):
        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                if not segment.control and UNSEEN.search(segment.text):
                    lines = (visible(line, WIDEST) for line in segment.text.split("\n"))
                    segment = segment._replace(text="\n".join(lines))
                yield segment

    return VisibleConsole


def open_console(to_stderr: bool = False, drops: bool = False) -> Console:
    """Return a rich console on sys.stdout or sys.stderr, without markup and highlighting.

    When nobody reads on, rich ends the process at the next word; with `drops`, words are left out instead.
    """
    stream: Any = SafeStream(sys.stderr if to_stderr else sys.stdout, drops)
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH
    return console_class()(file=stream, markup=False, highlight=False, emoji=False, width=width)


@functools.cache
def table_class() -> type[Table]:
    """Return rich's table with `visible` headings and cells."""
    from rich import table as rich_table

    class VisibleTable(rich_table.Table):
        def add_column(self, header: Any = "", *more: Any, **options: Any) -> None:
            super().add_column(visible_cell(header), *more, **options)

        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(visible_cell, cells), **options)

    return VisibleTable


def visible_cell(cell: str | Text) -> str | Text:
    """Return a cell with `visible` text; a text in colour that is changed by that keeps one style."""
    if isinstance(cell, str):
        return visible(cell)
    plain = visible(cell.plain)
    return cell if plain == cell.plain else type(cell)(plain, cell.style)


def new_table() -> Table:
    """Return an empty table with the look that all tables here have."""
    from rich import box

    return table_class()(box=box.SIMPLE_HEAD, header_style="dim", show_edge=False)


def new_grid() -> Table:
    """Return an empty table of names and values."""
    grid = table_class().grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def print_json(content: object) -> None:
    """Print one JSON object on one line of standard output; NaN and infinity raise ValueError."""
    line = json.dumps(content, ensure_ascii=not can_encode(sys.stdout, "数×"), allow_nan=False)
    write_line(UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], line))


def print_lines(text: str) -> None:
    """Print a text on standard output, its lines however long."""
    for line in text.split("\n"):
        write_line(visible(line, WIDEST))


def write_line(line: str) -> None:
    """Write one line to standard output."""
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
