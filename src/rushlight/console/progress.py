"""The live line of training and downloading, and the lasting rows above it.

The line is drawn by the thread that trains, only when it says so: no refresh thread, no cursor tricks that a killed
process would leave behind, a few microseconds each time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rushlight.console.formats import format_bytes, format_count, format_duration, format_figure, format_share
from rushlight.console.output import can_encode, open_console, print_marked

PLAIN_SECONDS = 10.0  # between the lines inside a long epoch when nobody watches a terminal
DRAW_SECONDS = 0.05
BAR_MOST, BAR_LEAST = 24, 6
WIDE = 64  # columns from which rows and lines have all their parts


class LiveLine:
    """One line at the foot of the terminal that is drawn over and over; nothing when there is no terminal."""

    def __init__(self, to_stderr: bool) -> None:
        self.console = open_console(to_stderr, drops=True)  # nobody reads it: what it tells of goes on
        self.is_live = self.console.file.isatty() and not self.console.is_dumb_terminal
        self.is_drawn = False
        self.has_colour = self.console.color_system is not None and not self.console.legacy_windows
        self.signs = "━─" if can_encode(self.console.file, "━─") else "#-"

    @property
    def is_wide(self) -> bool:
        """Tell whether there is room for words between the figures."""
        return not self.is_live or self.console.width >= WIDE

    @property
    def gap(self) -> str:
        """What stands between two parts."""
        return "  " if self.is_wide else " "

    @property
    def width(self) -> int:
        """Columns that can be filled without wrapping; some terminals wrap after the very last."""
        return self.console.width - 1

    def draw(self, parts: Sequence[str], done: float | None = None) -> None:
        """Draw the parts, and a bar of the share `done` in the room they leave; the first part comes before the bar."""
        text = self.joined(parts)
        room = min(BAR_MOST, self.width - len(text) - len(self.gap))
        if done is None or room < BAR_LEAST:
            line = text[: self.width]
            self.put(line, len(line))
            return
        line = self.joined([parts[0], self.bar(done, room), *parts[1:]])
        self.put(line, len(text) + room + len(self.gap))

    def joined(self, parts: Sequence[str]) -> str:
        """Return the parts that there are, side by side."""
        return self.gap.join(part for part in parts if part)

    def put(self, line: str, length: int) -> None:
        """Write the line over the one before, and leave the cursor at its start."""
        self.console.file.write("\r" + line + " " * max(0, self.width - length) + "\r")
        self.console.file.flush()
        self.is_drawn = True

    def bar(self, done: float, length: int) -> str:
        """Return a bar of `length` characters, coloured where the terminal can."""
        filled = round(length * min(1.0, max(0.0, done)))
        full, rest = self.signs[0] * filled, self.signs[1] * (length - filled)
        return f"\x1b[32m{full}\x1b[0m\x1b[2m{rest}\x1b[0m" if self.has_colour else full + rest

    def clear(self) -> None:
        """Take the line away, so that lasting lines can be printed."""
        if self.is_drawn:
            self.console.file.write("\r" + " " * self.width + "\r")
            self.console.file.flush()
            self.is_drawn = False


class Progress:
    """What a person sees while a model trains. Call it from the training thread only.

    On a terminal it is one live line with a row for each epoch above it; elsewhere plain lines, one for each epoch
    and one every ten seconds inside long ones; with `quiet` nothing at all.
    """

    def __init__(self, quiet: bool = False, to_stderr: bool = False) -> None:
        self.quiet = quiet
        self.line = LiveLine(to_stderr)
        self.console = self.line.console
        self.metric: str | None = None  # the header printed so far is for this one
        self.shown_at = -math.inf if self.line.is_live else time.monotonic()

    def start(self, title: str, lines: Sequence[str] = ()) -> None:
        """Print what is trained on what, and below it where, how, and what was decided."""
        if self.quiet:
            return
        self.console.print(title, style="bold", soft_wrap=not self.line.is_live)
        for text in lines:
            self.console.print(text, style="dim", soft_wrap=not self.line.is_live)

    def update(
        self, *, epoch: int, epochs: int | None, step: int, steps: int | None, loss: float | None,
        accuracy: float | None = None, samples_per_second: float | None = None, seconds_left: float | None = None,
    ) -> None:  # fmt: skip
        """Show where the epoch is: `step` of `steps` (None if unknown), and the averages since the epoch began."""
        if self.quiet or not self.is_due():
            return
        share = "" if accuracy is None else f"{accuracy * 100:.1f}%"
        speed = "" if samples_per_second is None else f"{format_count(samples_per_second)}/s"
        left = "" if seconds_left is None else format_duration(seconds_left)
        parts = [of(epoch, epochs), of(step, steps), f"loss {format_figure(loss)}", share, speed, left]
        if self.line.is_wide:
            words = ("epoch {}", "step {}", "{}", "acc {}", "{}", "{} left")
            parts = [word.format(part) if part else "" for word, part in zip(words, parts, strict=True)]
        self.show(parts, step / steps if steps else None)

    def testing(self, done: int, total: int | None) -> None:
        """Show how many samples (or batches) have been tested."""
        if not self.quiet and self.is_due():
            self.show([f"testing {of(done, total)}"], done / total if total else None)

    def is_due(self) -> bool:
        """Tell whether to say something now; what asks at every batch is answered by the clock."""
        now = time.monotonic()
        if now - self.shown_at < (DRAW_SECONDS if self.line.is_live else PLAIN_SECONDS):
            return False
        self.shown_at = now
        return True

    def show(self, parts: list[str], done: float | None) -> None:
        """Draw the parts that fit beside a bar; or, when nobody watches, print them all as a plain line."""
        if not self.line.is_live:
            self.print(self.line.joined(parts))
            return
        room = self.line.width - (BAR_LEAST + 2 if done is not None else 0)
        for position in (
            4,
            3,
            1,
            5,
        ):  # the speed is missed least, then the accuracy, then what the bar shows too
            if len(self.line.joined(parts)) <= room:
                break
            if position < len(parts):
                parts[position] = ""
        self.line.draw(parts, done)

    def epoch_done(self, line: Mapping[str, Any], *, epochs: int | None, is_best: bool = False) -> None:
        """Print a lasting row for an epoch, given as its line of history; the first row follows the header."""
        if self.quiet:
            return
        self.shown_at = -math.inf if self.line.is_live else time.monotonic()
        is_wide = self.line.is_wide
        split, figures = evaluated(line)
        metric = metric_of(figures) or self.metric or "accuracy"
        short = "val" if split == "validation" else "test"
        cells = [
            ("epoch", of(line["epoch"], epochs), 7 if is_wide else 6),
            ("train loss", format_figure(line["train_loss"]), 11),
            (f"{short} loss", format_figure(figures.get("loss")), 10),
            (f"val {metric}" if short == "val" and is_wide else metric, show_metric(metric, figures.get(metric)), 9),
            ("lr", f"{line['learning_rate']:.3g}", 10) if is_wide else ("", "", 0),
            ("time", format_duration(line["seconds"]), 8 if is_wide else 7),
        ]
        self.line.clear()
        widths = [max(width, len(head)) for head, _, width in cells]
        if metric != self.metric:
            self.print_row((head for head, _, _ in cells), widths, style="dim")
            self.metric = metric
        self.print_row((value for _, value, _ in cells), widths, (" best" if is_wide else " *") if is_best else "")

    def print_row(self, cells: Iterable[str], widths: Sequence[int], mark: str = "", style: str | None = None) -> None:
        """Print cells, right-aligned in columns of these widths (0: no column), and a mark after them."""
        row = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True) if width)
        self.console.print(row + mark, style=style, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print a lasting line."""
        if not self.quiet:
            self.print(text)

    def warning(self, text: str) -> None:
        """Print a lasting line that is marked as a warning."""
        if not self.quiet:
            self.line.clear()
            print_marked(self.console, "warning:", "bold yellow", text)

    def print(self, text: str) -> None:
        """Print a lasting line above the live one."""
        self.line.clear()
        self.console.print(text, soft_wrap=not self.line.is_live)

    def close(self) -> None:
        """Take the live line away; the lasting ones stay. May be called more than once."""
        self.line.clear()


def of(number: int, total: int | None) -> str:
    """Return '312/938', or '312' when there is no telling of how many."""
    return f"{number}" if total is None else f"{number}/{total}"


def evaluated(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the split that an epoch was evaluated on, and the figures, from its line of history; {} where on none."""
    split = "validation" if line.get("validation") else "test"
    return split, line.get(split) or {}


def metric_of(test: Mapping[str, Any] | None) -> str | None:
    """Return the name of the figure that a test is judged by besides its loss."""
    return next((name for name in ("accuracy", "mae") if test and test.get(name) is not None), None)


def show_metric(metric: str, value: float | None) -> str:
    """Return an accuracy in percent, another metric as a number."""
    return format_share(value) if metric == "accuracy" else format_figure(value)


def fetch_progress(quiet: bool = False, to_stderr: bool = True) -> Callable[[str, int, int | None], None]:
    """Return `progress(name, done bytes, total bytes or None)`, which shows a download as a bar, or as plain lines.

    Call it as often as you like, and with done == total at the end: then the line is left standing.
    """
    if quiet:
        return lambda name, done, total: None
    line = LiveLine(to_stderr)
    download = Download("", 0.0, 0, 0.0)

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal download
        now = time.monotonic()
        is_new, is_done = name != download.name or done < download.shown_bytes, done == total
        if is_new:
            download = Download(name, now, done, now)
        elif download.is_done or not (is_done or download.is_due(now, line.is_live)):
            return
        download.shown_at, download.shown_bytes, download.is_done = now, done, is_done
        show_download(line, name, done, total, download.speed(now, done))

    return progress


@dataclass
class Download:
    """The download on show, and when it was last shown (seconds of the monotonic clock)."""

    name: str
    begun_at: float
    begun_bytes: int  # not 0 when an interrupted download goes on
    shown_at: float
    shown_bytes: int = 0
    is_done: bool = False

    def is_due(self, now: float, is_live: bool) -> bool:
        """Tell whether it is time to show it again."""
        return now - self.shown_at >= (DRAW_SECONDS if is_live else PLAIN_SECONDS)

    def speed(self, now: float, done: int) -> float | None:
        """Return bytes per second, None while it is too early to tell."""
        return (done - self.begun_bytes) / (now - self.begun_at) if now - self.begun_at > 0.2 else None


def show_download(line: LiveLine, name: str, done: int, total: int | None, speed: float | None) -> None:
    """Draw the download's live line, or print a lasting one at its end and when nobody watches."""
    size = format_bytes(done) + (f" of {format_bytes(total)}" if total is not None else "")
    parts = [size] if speed is None else [size, f"{format_bytes(speed)}/s"]
    if line.is_live and done != total:
        room = line.width - len(line.joined(["", *parts])) - BAR_LEAST - 3 * len(line.gap)
        line.draw([shortened(name, room), *parts], done / total if total else None)
    else:
        line.clear()
        line.console.print(line.joined([name, *parts]), soft_wrap=True)


def shortened(text: str, room: int) -> str:
    """Return the text, cut with '...' in its middle to at most `room` characters (never below eight)."""
    room = max(8, room)
    if len(text) <= room:
        return text
    return text[: (room - 3) // 2] + "..." + text[len(text) - (room - 3 - (room - 3) // 2) :]
