"""What a person sees of a search: its space, a row for each trial, the winner's test, what mattered."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rushlight.console.output import can_encode, new_table, open_console
from rushlight.console.progress import PLAIN_SECONDS, LiveLine
from rushlight.console.report import print_titled
from rushlight.console.runs import draw_curve
from rushlight.formats import format_count, format_metric
from rushlight.texts import shown, text

BAR = 24  # columns of the most important choice
STYLES = {"pruned": "dim", "failed": "red"}


class StudyScreen:
    """Shows a search while it goes on: a line at the foot for the trials in training, a lasting row for each that ended."""

    def __init__(self, quiet: bool, to_stderr: bool) -> None:
        self.quiet = quiet
        self.line = LiveLine(to_stderr)
        self.trials, self.epochs, self.said_at = 0, 0, time.monotonic()

    def begin(
        self, name: str, space: Mapping[str, Any], trials: int, epochs: int, jobs: int, threads: int, done: int
    ) -> None:
        """Show what is searched."""
        self.trials, self.epochs = trials, epochs
        if self.quiet:
            return
        self.line.console.print(text("console.study.title", name=name), style="bold", soft_wrap=True)
        keys = ["begins"] if not done else ["begins", "goes-on"]
        for key in keys:
            line = text(f"console.study.{key}", count=trials, epochs=epochs, jobs=jobs, threads=threads, done=done)
            self.line.console.print(line, style="dim", soft_wrap=True)
        for choice, entry in space.items():
            if isinstance(entry, Mapping):
                ((kind, (low, high)),) = entry.items()
                values = text(f"console.study.range-{kind}", low=f"{low:g}", high=f"{high:g}")
            else:
                values = ", ".join(map(str, entry))
            self.line.console.print(f"  {choice_words(choice)}  {values}", style="dim", soft_wrap=True)

    def judged(self, number: int, epoch: int, metric: str, value: float) -> None:
        """Show where a trial is."""
        if self.quiet:
            return
        parts = [
            text("console.study.trial", number=number, count=self.trials),
            text("console.study.epoch", epoch=epoch, epochs=self.epochs),
        ]
        parts.append(f"{metric} {format_metric(metric, value)}")
        if self.line.is_live:
            self.line.draw(parts, epoch / self.epochs)
        elif time.monotonic() - self.said_at >= PLAIN_SECONDS:
            self.said_at = time.monotonic()
            self.line.console.print(self.line.joined(parts), soft_wrap=True)

    def ended(self, trial: Mapping[str, Any], metric: str, is_best: bool) -> None:
        """Print a trial's row."""
        from rich.cells import cell_len

        if self.quiet:
            return
        self.line.clear()
        self.said_at = time.monotonic()
        figures = trial["figures"]
        value = trial["value"] if trial["value"] is not None else (figures[max(figures)] if figures else None)
        status, length = text(f"console.study.{trial['status']}"), max(figures, default=0)
        epochs = f"{text('console.study.epochs-of-trial')} {length:>3}"
        row = f"{trial['number']:>4}  {status}{' ' * (8 - cell_len(status))}  {epochs}  {metric} {format_metric(metric, value)}"
        mark = f" {text('console.best')} " if is_best else "  "
        style = "bold green" if is_best else STYLES.get(trial["status"], "")
        self.line.console.print(f"{row}{mark} {describe_choices(trial['choices'])}", style=style, soft_wrap=True)
        if trial["message"]:
            self.line.console.print(f"      {shown(trial['message'])}", style="red", soft_wrap=True)

    def testing(self, seeds: int) -> None:
        """Say that the winner is being tested."""
        if not self.quiet:
            self.line.clear()
            self.line.console.print(text("console.study.testing", count=seeds), style="dim", soft_wrap=True)

    def stopped(self, done: int) -> None:
        """Say how far a search came that was stopped."""
        if not self.quiet:
            self.line.clear()
            self.line.console.print(text("console.study.stopped", done=done, count=self.trials), soft_wrap=True)

    def close(self) -> None:
        """Clear the live line."""
        self.line.clear()


def print_study(found: Mapping[str, Any]) -> None:
    """Print what a search found; `found` is the content of result.json."""
    console = open_console(drops=True)
    best, metric = found["best"], found["metric"]
    console.print()
    line = text(
        "console.study.winner", number=best["number"], metric=metric, value=format_metric(metric, best["value"])
    )
    console.print(line, style="bold", soft_wrap=True)
    console.print(f"  {describe_choices(best['choices'])}", soft_wrap=True)
    if result := found["result"]:
        print_tests(console, result)
    importances: Mapping[str, float] = found["importances"]
    whole = sum(trial["status"] == "complete" for trial in found["trials"])
    if importances:
        table, most = new_table(), max(importances.values())
        for name, justify in (("choice", "left"), ("share", "right"), ("bar", "left")):
            table.add_column("" if name == "bar" else text(f"console.study.{name}"), justify=justify)  # type: ignore[arg-type]
        sign = "━" if can_encode(console.file, "━") else "#"
        for name, share in importances.items():
            table.add_row(choice_words(name), f"{share * 100:.0f}%", sign * round(BAR * share / most) if most else "")
        print_titled(console, text("console.study.importance", count=whole), table)
    else:
        console.print(text("console.study.too-few", count=whole), style="dim", soft_wrap=True)
    console.print()
    console.print(text("console.study.folder", folder=found["folder"]), style="dim", soft_wrap=True)
    if found["result"]:
        run = found["result"]["winner"]["runs"][0]
        console.print(text("console.study.next", run=run), soft_wrap=True)


def print_rate_test(found: Mapping[str, Any]) -> None:
    """Print the curve of a range test, and the rate that it names; `found` is that of `RateTest.to_json`."""
    console = open_console()
    rates = [math.log10(rate) for rate in found["rates"]]
    draw_curve(console, text("console.study.range-test"), text("console.study.log-rate"), rates, found["losses"])
    lr, lowest = (f"{found[name]:.2g}" for name in ("lr", "lowest"))
    console.print(text("console.study.rate", lr=lr, lowest=lowest), soft_wrap=True)


def print_size_test(found: Mapping[str, Any]) -> None:
    """Print the speed of each batch size; `found` is that of `SizeTest.to_json`."""
    console, table = open_console(), new_table()
    for name in ("batch-size", "speed"):
        table.add_column(text(f"console.study.{name}"), justify="right")
    for size, speed in found["sizes"].items():
        table.add_row(f"{size:,}", f"{format_count(speed)}/s")
    console.print(table)
    line = text("console.study.sizes", fastest=found["fastest"], largest=found["largest"])
    console.print(line, soft_wrap=True)


def print_tests(console: Any, result: Mapping[str, Any]) -> None:
    """Print the winner's test beside the defaults'."""
    metric, table = result["metric"], new_table()
    heads = ("", text("console.study.test", metric=metric), text("console.study.interval"), text("console.study.seeds"))
    for head in heads:
        table.add_column(head, justify="left" if head in (heads[0], heads[3]) else "right")
    for key, name in (("winner", "winners"), ("defaults", "defaults")):
        if (test := result[key]) is not None:
            ends = " - ".join(format_metric(metric, end) for end in test["interval"] or ())
            each = ", ".join(format_metric(metric, value) for value in test["values"])
            table.add_row(text(f"console.study.{name}"), format_metric(metric, test["mean"]), ends, each)
    console.print(table)
    if (difference := result["difference"]) is not None:
        mean, low, high = (f"{end * 100:+.2f}%" if metric == "accuracy" else f"{end:+.4g}" for end in difference)
        key = "by-share" if metric == "accuracy" else "by-error"
        console.print(text(f"console.study.{key}", mean=mean, low=low, high=high), soft_wrap=True)
    console.print(text(f"console.study.verdict.{result['verdict']}"), soft_wrap=True)


def describe_choices(choices: Mapping[str, Any]) -> str:
    """Return a trial's choices on one line."""
    return "  ".join(
        f"{choice_words(name)} {value:.3g}" if isinstance(value, float) else f"{choice_words(name)} {value}"
        for name, value in choices.items()
    )


def choice_words(name: str) -> str:
    """Return a choice's name as words."""
    return shown(name.replace("_", " "))
