"""What a benchmark leaves: a Markdown table to paste, strict JSON with every round, and a chart as PNG."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Machine, Spread
from rushlight import files

OURS, OTHERS, FLOOR = "#c2410c", "#94a3b8", "#334155"


def standard_options(name: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--rounds", type=int, default=None, help=f"how often each is measured ({rounds})")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="the folder for what is written")
    parser.add_argument(
        "--quick", action="store_true", help="tiny and within seconds: to see that it works, not to measure"
    )
    parser.set_defaults(usual_rounds=rounds)
    return parser


def rounds_of(options: argparse.Namespace) -> int:
    """Return how many rounds to measure."""
    if options.rounds is not None:
        return int(options.rounds)
    return 1 if options.quick else int(options.usual_rounds)


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table that is aligned in plain text too; its first columns are texts, the others figures."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]

    def line_of(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rules = ["-" * (width + 2) if column < texts else "-" * (width + 1) + ":" for column, width in enumerate(widths)]
    rule = "|".join(rules)
    return "\n".join([line_of(headers), f"|{rule}|", *(line_of(row) for row in rows)])


def figure(value: Spread | None, scale: float = 1.0, digits: int = 0) -> str:
    """Return "median (least-most)"; nothing where there is no value."""
    if value is None:
        return ""
    median, least, most = (f"{part * scale:,.{digits}f}" for part in (value.median, value.least, value.most))
    return median if least == most else f"{median} ({least}-{most})"


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure, or nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def write_results(out: Path, name: str, command: str, machine: Machine, text: str, results: Mapping[str, Any]) -> None:
    """Print the tables, and write them as NAME.md and everything measured as NAME.json."""
    body = f"`{command}`\n\n{machine}\n\n{text}\n"
    print(body)
    files.make_folder(out)
    files.write_bytes(out / f"{name}.md", body.encode())
    content = {"command": command, "machine": machine.to_json(), **results}
    files.write_json(out / f"{name}.json", files.without_nan(content))


# ── charts ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its value with the spread, and its colour."""

    label: str
    value: Spread
    colour: str = OTHERS


def bar_chart(path: Path, panels: Mapping[str, Sequence[Bar]], axis: str, title: str) -> None:
    """Draw horizontal bars, a panel for each group, as PNG; whiskers reach from the least to the most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = [max(len(bars), 1) for bars in panels.values()]
    drawn = Figure(figsize=(9, 1.0 + sum(0.32 * count + 0.75 for count in counts)), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots(len(panels), 1, squeeze=False, height_ratios=counts)[:, 0]
    for ax, (name, bars) in zip(axes, panels.items(), strict=True):
        draw_bars(ax, bars)
        ax.set_title(name, loc="left", fontsize=10)
    axes[-1].set_xlabel(axis)
    drawn.suptitle(title, fontsize=12, x=0.01, ha="left")
    save(drawn, path)


def draw_bars(ax: Any, bars: Sequence[Bar]) -> None:
    """Draw one panel, the first bar on top, each with its value beside it."""
    places = range(len(bars))
    below = [bar.value.median - bar.value.least for bar in bars]
    above = [bar.value.most - bar.value.median for bar in bars]
    medians = [bar.value.median for bar in bars]
    ax.barh(places, medians, xerr=[below, above], color=[bar.colour for bar in bars], ecolor="#475569", capsize=2)
    for place, bar in zip(places, bars, strict=True):
        ax.annotate(
            f"{bar.value.median:,.3g}" if bar.value.median < 100 else f"{bar.value.median:,.0f}",
            (bar.value.most, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks(list(places), [bar.label for bar in bars], fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.spines[["top", "right"]].set_visible(False)


def line_chart(
    path: Path, lines: Mapping[str, Sequence[tuple[float, Spread]]], axes_names: tuple[str, str], title: str
) -> None:
    """Draw lines with both axes logarithmic, as PNG; bands reach from the least to the most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(drawn)
    ax = drawn.subplots()
    for name, points in lines.items():
        xs = [x for x, _ in points]
        (drawn_line,) = ax.plot(xs, [value.median for _, value in points], marker="o", markersize=4, label=name)
        least, most = [value.least for _, value in points], [value.most for _, value in points]
        ax.fill_between(xs, least, most, color=drawn_line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xscale="log", yscale="log", xlabel=axes_names[0], ylabel=axes_names[1])
    ax.set_title(title, loc="left", fontsize=11)
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    save(drawn, path)


def save(drawn: Any, path: Path) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=150)
    files.write_bytes(path, buffer.getvalue())
