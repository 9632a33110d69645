"""What a person sees while a model trains or data is downloaded: a live line, and the lasting rows above it.

The line is drawn by the thread that trains, when an event asks for it: no refresh thread, no cursor tricks that a killed
process would leave behind, a few microseconds each time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rushlight.console.output import can_encode, open_console, print_marked
from rushlight.console.profile import print_profile
from rushlight.formats import format_bytes, format_count, format_duration, format_figure, format_metric, main_figure
from rushlight.texts import shown, text

PLAIN_SECONDS = 10.0  # between the lines inside a long epoch when nobody watches a terminal
DRAW_SECONDS = 0.05
BAR_MOST, BAR_LEAST = 24, 6
WIDE = 64  # columns from which rows and lines have all their parts
WARNED_OF = ("skipped", "rolled-back", "micro-batch")  # events that are shown as warnings


class LiveLine:
    """One line at the foot of the terminal that is drawn over and over; nothing when there is no terminal."""

    def __init__(self, to_stderr: bool) -> None:
        self.console = open_console(to_stderr, drops=True)  # training and downloads go on without a reader
        self.is_live = self.console.file.isatty() and not self.console.is_dumb_terminal
        self.is_drawn = False
        self.has_colour = self.console.color_system is not None and not self.console.legacy_windows
        self.signs = "━─" if can_encode(self.console.file, "━─") else "#-"

    @property
    def is_wide(self) -> bool:
        """Whether there is room for words between the figures."""
        return not self.is_live or self.console.width >= WIDE

    @property
    def gap(self) -> str:
        """The space between two parts."""
        return "  " if self.is_wide else " "

    @property
    def width(self) -> int:
        """Columns that can be filled without wrapping; some terminals wrap after the very last."""
        return self.console.width - 1

    def joined(self, parts: Sequence[str]) -> str:
        """Return the parts that are not empty, side by side."""
        return self.gap.join(part for part in parts if part)

    def draw(self, parts: Sequence[str], done: float | None = None) -> None:
        """Draw the parts over the line before; with a bar of the share `done` after the first, where there is room."""
        from rich.cells import cell_len, set_cell_size

        line = self.joined(parts)
        room = min(BAR_MOST, self.width - cell_len(line) - len(self.gap))
        length = cell_len(line) + room + len(self.gap)
        if done is None or room < BAR_LEAST:
            length = min(cell_len(line), self.width)
            line = set_cell_size(line, length)
        else:
            line = self.joined([parts[0], self.bar(done, room), *parts[1:]])
        self.console.file.write("\r" + line + " " * max(0, self.width - length) + "\r")
        self.console.file.flush()
        self.is_drawn = True

    def bar(self, done: float, length: int) -> str:
        """Return a bar of `length` characters, coloured where the terminal can."""
        filled = round(length * min(1.0, max(0.0, done)))
        full, rest = self.signs[0] * filled, self.signs[1] * (length - filled)
        return f"\x1b[32m{full}\x1b[0m\x1b[2m{rest}\x1b[0m" if self.has_colour else full + rest

    def clear(self) -> None:
        """Clear the line, so that lasting lines can be printed."""
        if self.is_drawn:
            self.console.file.write("\r" + " " * self.width + "\r")
            self.console.file.flush()
            self.is_drawn = False


class Progress:
    """Follows a run's events (the kinds are listed in `training.events`) and shows them, from the thread that trains.

    On a terminal it is one live line with a row for each epoch above it; elsewhere plain lines, one for each epoch
    and one every ten seconds inside long ones; with `quiet` nothing at all.
    """

    def __init__(self, quiet: bool = False, to_stderr: bool = False) -> None:
        self.quiet = quiet
        self.line = LiveLine(to_stderr)
        self.console = self.line.console
        self.epochs: int | None = None  # of the run
        self.metric: str | None = None  # the header printed so far is for this one
        self.shown_at = -math.inf if self.line.is_live else time.monotonic()

    def show(self, event: Any) -> None:
        """Show an event, if it is of a kind that is shown."""
        kind, data = event.kind, event.data
        if self.quiet:
            return
        if kind == "progress" and self.is_due():
            self.show_steps(data)
        elif kind == "evaluating" and self.is_due():
            word, total = ("validating" if data["split"] == "validation" else "testing"), data["total"]
            words = text(f"console.progress.{word}", done=of(data["done"], total))
            self.show_live([words], data["done"] / total if total else None)
        elif kind == "epoch":
            self.show_epoch(data)
        elif kind == "values":
            figures: list[str] = []
            for name, value in data["values"].items():
                kept = format_figure(value) if isinstance(value, float) else value
                figures.append(f"{shown(name)} {shown(kept['media'] if isinstance(kept, dict) else kept)}")
            self.print("  ".join(figures))
        elif kind == "message":
            self.print(shown(data["text"]))
        elif kind == "warning" or (kind == "event" and data["event"] in WARNED_OF):
            self.line.clear()
            message = shown(data["message" if kind == "event" else "text"])
            print_marked(self.console, text("console.warning"), "bold yellow", message)
        elif kind == "announcement":
            self.epochs = data["epochs"]
            for line, style in ((data["title"], "bold"), *((line, "dim") for line in data["lines"])):
                self.console.print(shown(line), style=style, soft_wrap=not self.line.is_live)
        elif kind == "profile":
            self.line.clear()
            print_profile(self.console, data, wraps=not self.line.is_live)
            self.metric = None  # so that the header stands above the next row again

    def is_due(self) -> bool:
        """Tell whether the live line, or a plain one, is due by the clock; if so, the next one is due later."""
        now = time.monotonic()
        if now - self.shown_at < (DRAW_SECONDS if self.line.is_live else PLAIN_SECONDS):
            return False
        self.shown_at = now
        return True

    def show_steps(self, data: Mapping[str, Any]) -> None:
        """Show where the epoch is, and the averages since it began."""
        step, steps, accuracy, speed, left = (data.get(name) for name in ("step", "steps", "accuracy", "samples_per_second", "seconds_left"))  # fmt: skip
        assert step is not None
        loss = text("console.progress.loss", value=format_figure(data["loss"]))
        share = "" if accuracy is None else f"{accuracy * 100:.1f}%"
        pace = "" if speed is None else f"{format_count(speed)}/s"
        time_left = "" if left is None else format_duration(left)
        epoch, at = of(data["epoch"], data["epochs"]), of(step, steps)
        if self.line.is_wide:
            epoch, at = text("console.progress.epoch", done=epoch), text("console.progress.step", done=at)
            share = share and text("console.progress.accuracy", value=share)
            time_left = time_left and text("console.progress.left", time=time_left)
        parts = [epoch, at, loss, share, pace, time_left]
        self.show_live(parts, step / steps if steps else None)

    def show_live(self, parts: list[str], done: float | None) -> None:
        """Draw the parts that fit beside a bar; or, when nobody watches, print them all as a plain line."""
        if not self.line.is_live:
            self.print(self.line.joined(parts))
            return
        from rich.cells import cell_len

        room = self.line.width - (BAR_LEAST + 2 if done is not None else 0)
        for position in (4, 3, 1, 5):  # the speed is missed least, then the accuracy, then what the bar shows too
            if cell_len(self.line.joined(parts)) > room and position < len(parts):
                parts[position] = ""
        self.line.draw(parts, done)

    def show_epoch(self, data: Mapping[str, Any]) -> None:
        """Print a lasting row for an epoch; the first row follows the header."""
        self.shown_at = -math.inf if self.line.is_live else time.monotonic()
        is_wide = self.line.is_wide
        split, figures = evaluated(data)
        metric = metric_of(figures) or self.metric or "accuracy"
        head = {
            name: text(f"console.headings.{name}") for name in ("epoch", "train-loss", f"{split}-loss", "lr", "time")
        }
        title = metric_title(metric, split if is_wide else "test")
        cells = [
            (head["epoch"], of(data["epoch"], self.epochs), 7 if is_wide else 6),
            (head["train-loss"], format_figure(data["train_loss"]), 11),
            (head[f"{split}-loss"], format_figure(figures.get("loss")), 10),
            (title, show_metric(metric, figures), 9),
            *([(head["lr"], f"{data['learning_rate']:.3g}", 10)] if is_wide else []),
            (head["time"], format_duration(data["seconds"]), 8 if is_wide else 7),
        ]
        self.line.clear()
        if metric != self.metric:
            self.print_row([(title, title, width) for title, _, width in cells], style="dim")
            self.metric = metric
        mark = f" {text('console.best')}" if is_wide else " *"
        self.print_row(cells, mark if data["is_best"] and split == "validation" else "")

    def print_row(self, cells: Sequence[tuple[str, str, int]], mark: str = "", style: str | None = None) -> None:
        """Print cells, each a (heading, value, least width), right-aligned in their columns; and a mark after them."""
        from rich.cells import cell_len  # Chinese characters are two columns wide

        row = " ".join(" " * (max(width, cell_len(head)) - cell_len(value)) + value for head, value, width in cells)
        self.console.print(row + mark, style=style, soft_wrap=True)

    def print(self, line: str) -> None:
        """Print a lasting line above the live one."""
        self.line.clear()
        self.console.print(line, soft_wrap=not self.line.is_live)

    def close(self) -> None:
        """Clear the live line; the lasting ones stay. May be called more than once."""
        self.line.clear()


def of(number: int, total: int | None) -> str:
    """Return '312/938', or '312' when there is no telling of how many."""
    return f"{number}" if total is None else f"{number}/{total}"


def evaluated(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the split that an epoch was evaluated on, and the figures; {} where it was on none."""
    split = "validation" if line.get("validation") else "test"
    return split, line.get(split) or {}


def metric_of(figures: Mapping[str, Any]) -> str | None:
    """Return the name of the figure that a split is judged by besides the loss."""
    found = main_figure(figures)
    return None if found is None or found[0] == "loss" else found[0]


def metric_title(metric: str, split: str) -> str:
    """Return the heading of a metric's column, that of one of the user's by its own name."""
    prefix = "validation-" if split == "validation" else ""
    if metric in ("accuracy", "mae", "loss"):
        return text(f"console.headings.{prefix}{metric}")
    return text("console.headings.validation-own", name=shown(metric)) if prefix else shown(metric)


def metric_value(metric: str, figures: Mapping[str, Any]) -> float | None:
    """Return a metric among the figures of an evaluation; None where it has none."""
    value: float | None = {**(figures.get("numbers") or {}), **figures}.get(metric)
    return value


def show_metric(metric: str, figures: Mapping[str, Any]) -> str:
    """Return a metric among the figures of an evaluation as a person reads it."""
    return format_metric(metric, metric_value(metric, figures))


def fetch_progress(quiet: bool = False, to_stderr: bool = True) -> Callable[[str, int, int | None], None]:
    """Return `progress(name, done bytes, total bytes or None)`, which shows a download as a bar, or as plain lines.

    Call it as often as you like, and with done == total at the end: then the line is left standing.
    """
    from rich.cells import cell_len

    if quiet:
        return lambda name, done, total: None
    line = LiveLine(to_stderr)
    pause = DRAW_SECONDS if line.is_live else PLAIN_SECONDS
    download, begun_at, begun_bytes = "", 0.0, 0  # not 0 bytes when an interrupted download goes on
    shown_at, shown_bytes, is_over = 0.0, 0, True

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal download, begun_at, begun_bytes, shown_at, shown_bytes, is_over
        now = time.monotonic()
        if name != download or done < shown_bytes:
            download, begun_at, begun_bytes = name, now, done
        elif is_over or (done != total and now - shown_at < pause):
            return
        shown_at, shown_bytes, is_over = now, done, done == total
        size = format_bytes(done)
        if total is not None:
            size = text("console.progress.downloaded", done=size, total=format_bytes(total))
        seconds = now - begun_at
        speed = f"{format_bytes((done - begun_bytes) / seconds)}/s" if seconds > 0.2 else ""  # else too early to tell
        if line.is_live and not is_over:
            room = line.width - cell_len(line.joined(["", size, speed])) - BAR_LEAST - 3 * len(line.gap)
            line.draw([cut_in_middle(name, room), size, speed], done / total if total else None)
        else:
            line.clear()
            line.console.print(line.joined([name, size, speed]), soft_wrap=True)

    return progress


def cut_in_middle(name: str, room: int) -> str:
    """Return the name, cut with '...' in its middle to at most `room` columns (never below eight)."""
    from rich.cells import cell_len, set_cell_size

    room = max(8, room)
    if cell_len(name) <= room:
        return name
    start = (room - 3) // 2
    end = set_cell_size(name[::-1], room - 3 - start)[::-1]
    return f"{set_cell_size(name, start)}...{end}"
