"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def format_duration(seconds: float) -> str:
    """Return a span of time in at most two units: '0.42s', '8.1s', '3m 05s', '2h 07m', '5d 03h'."""
    if not math.isfinite(seconds):
        return "?"
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds:.2f}s" if seconds >= 0.0095 or seconds == 0 else f"{seconds * 1000:.1g}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d {hours % 24:02d}h"


def format_step(seconds: float) -> str:
    """Return the time of a step with three digits: '412 µs', '1.73 ms', '2.41 s'."""
    return _scaled(seconds * 1e6, (" µs", " ms", " s"))


def format_count(number: float) -> str:
    """Return a count in at most five characters: '938', '12.3k', '4.56M'."""
    return _scaled(number, ("", "k", "M", "G", "T"))


def format_bytes(number: float) -> str:
    """Return a size in decimal units, as disks are sold: '512 B', '30.9 MB'."""
    return _scaled(number, (" B", " kB", " MB", " GB", " TB"))


def format_share(share: float | None) -> str:
    """Return a share of one in percent, '88.41%'; '-' when there is none."""
    return "-" if share is None or not math.isfinite(share) else f"{share * 100:.2f}%"


def format_figure(value: float | None) -> str:
    """Return a loss or an error with four significant digits; '-' when there is none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def format_metric(metric: str, value: float | None) -> str:
    """Return an accuracy in percent, any other figure as a number."""
    return format_share(value) if metric == "accuracy" else format_figure(value)


def format_names(names: Sequence[str], most: int = 5) -> str:
    """Return at most so many names with commas between them; '…' stands for the rest."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def main_figure(figures: Mapping[str, Any]) -> tuple[str, float, bool] | None:
    """Return what figures of a report are judged by: name, value, and whether a higher one is better; None for nothing."""
    mode, _, name = (figures.get("judged_by") or "").partition(":")
    own = {**figures, **numbers} if (numbers := figures.get("numbers")) else figures
    for found in (name, "accuracy", "mae", "loss"):
        if isinstance(value := own.get(found), (int, float)):
            return found, value, mode == "max" if found == name else found == "accuracy"
    return None


def _scaled(number: float, units: tuple[str, ...]) -> str:
    """Return the number with three significant digits, in the largest unit with at least one."""
    if not math.isfinite(number):
        return "?"
    scale = 0
    while abs(number) >= 999.5 and scale < len(units) - 1:
        number, scale = number / 1000, scale + 1
    if scale == 0:
        return f"{number:.0f}{units[0]}" if abs(number) >= 9.95 or number == int(number) else f"{number:.1f}{units[0]}"
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}{units[scale]}"
