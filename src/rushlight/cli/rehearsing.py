"""`rushlight tune --find-lr` and `--find-batch-size`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rushlight.console import print_json, print_lines, print_rate_test, print_size_test
from rushlight.report import write_rate_plot
from rushlight.search import find_batch_size, find_lr
from rushlight.texts import text


def show_rate(model: str, data: str, options: dict[str, Any], as_json: bool) -> None:
    """Print what a range test found, and write its curve."""
    found = find_lr(model, data, **options)
    path = Path(f"find-lr-{Path(model.rpartition(':')[2]).stem}-{Path(data).stem}.png")
    write_rate_plot(path, found.rates, found.losses, found.lr)
    if as_json:
        print_json({**found.to_json(), "plot": str(path)})
        return
    print_rate_test(found.to_json())
    print_lines(text("console.saved", path=path))


def show_sizes(model: str, data: str, options: dict[str, Any], as_json: bool) -> None:
    """Print what was measured of batch sizes."""
    found = find_batch_size(model, data, **options).to_json()
    if as_json:
        print_json(found)
    else:
        print_size_test(found)
