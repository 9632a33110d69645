"""Damage to what lies beside checkpoints and bundle: records, history and losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from faults.outcome import case_random
from rushlight.errors import RushlightError
from rushlight.run import Run
from rushlight.runs import History, list_runs, read_history, read_losses

RECORDS = ("recipe.json", "environment.json", "report.json", "history.jsonl")


def damage_side_files(run: Run, count: int, seed: int, figures: Counter[str]) -> list[str]:
    """Damage each kind of file about `count` times."""
    random = case_random("damage/beside", seed, 0)
    return [
        *damage_records(run, count, random, figures),
        *tear_history(run, count, random, figures),
    ]


def damage_records(run: Run, count: int, random: Random, figures: Counter[str]) -> list[str]:
    """Damage what is read as text: it is read, or refused with an explanation."""
    failures = []
    for name in RECORDS:
        path = run.folder / name
        content = path.read_bytes()
        for _ in range(count):
            at, bit = random.randrange(len(content)), 1 << random.randrange(8)
            cut = random.random() < 0.2
            path.write_bytes(content[:at] + (b"" if cut else bytes([content[at] ^ bit]) + content[at + 1 :]))
            figures["damaged"] += 1
            for reader in (lambda: Run(run.folder).recipe, lambda: Run(run.folder).report, lambda: Run(run.folder).notes,
                           lambda: Run(run.folder).history, lambda: list_runs(run.folder.parent)):  # fmt: skip
                failures += explained(
                    reader, f"{name}: {'cut off' if cut else f'bits {bit:08b} flipped'} at byte {at}", figures
                )
        path.write_bytes(content)
    return failures


def explained(read: Callable[[], object], what: str, figures: Counter[str]) -> list[str]:
    """Read something: it may be refused, but not without an explanation."""
    try:
        read()
    except RushlightError:
        pass
    except Exception as error:
        figures["raised"] += 1
        return [f"{what}: {type(error).__name__} instead of an explanation: {error}"]
    return []


def tear_history(run: Run, count: int, random: Random, figures: Counter[str]) -> list[str]:
    """Tear off the ends of history and losses as a crash does; going on with them leaves what is whole."""
    failures = []
    lines, losses = ((run.folder / name) for name in ("history.jsonl", "losses.f32"))
    whole = lines.read_bytes(), losses.read_bytes()
    for _ in range(count):
        ends = [random.randrange(1, len(content)) for content in whole]
        for path, content, end in zip((lines, losses), whole, ends, strict=True):
            path.write_bytes(content[:end])
        figures["damaged"] += 1
        expected = whole[0][: whole[0].rfind(b"\n", 0, ends[0]) + 1], whole[1][: ends[1] // 4 * 4]
        found = repaired(run.folder)
        if found != expected:
            failures.append(
                f"history.jsonl cut off at {ends[0]} and losses.f32 at {ends[1]}: not repaired: {found!r:.200}"
            )
    lines.write_bytes(whole[0])
    losses.write_bytes(whole[1])
    return failures


def repaired(folder: Path) -> tuple[bytes, bytes] | str:
    """Go on with the history where its whole part ends; return what that leaves of its files, or what it raised."""
    try:
        with History(folder) as history:
            history.restore(history.lines.written, history.losses.written, b"", b"")
        read_history(folder)
        read_losses(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return (folder / "history.jsonl").read_bytes(), (folder / "losses.f32").read_bytes()
