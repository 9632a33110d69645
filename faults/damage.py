"""Damage: bits flipped, bytes zeroed, files cut off, missing, too long or swapped. Each must be found before it is used."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.outcome import Outcome, case_random
from faults.side_files import damage_side_files, explained
from faults.small import fast_pace, result_of, resume, scratch_folder, train
from rushlight.errors import WeightsError
from rushlight.export.bundle import MODEL, read_bundle
from rushlight.run import Run
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.training.checkpoint.checkpoint import latest_checkpoint, read_checkpoint

KINDS = ("bit", "byte", "zero", "cut")
LOOKED_UP = 50  # one damaged checkpoint in so many is also looked for among the others
RESUMED = 2000  # one in so many is resumed past, to the end
SHOWN = 20  # failures that are told in full
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Damage:
    """One thing that happened to a file: `kind` at byte `at`."""

    file: Path
    kind: str
    at: int = 0
    bit: int = 0

    def __str__(self) -> str:
        return f"{self.kind} at byte {self.at} of {self.file.parent.name}/{self.file.name} (bit or value {self.bit})"

    def of(self, content: bytes) -> bytes | None:
        """Return the damaged content; None where the file is gone."""
        if self.kind in ("missing", "longer"):
            return None if self.kind == "missing" else content + b"\0"
        before, byte, after = content[: self.at], content[self.at], content[self.at + 1 :]
        if self.kind == "cut":
            return before
        new = {"bit": byte ^ (1 << self.bit % 8), "byte": (byte + self.bit) % 256, "zero": 0 if byte else 255}
        return before + bytes([new[self.kind]]) + after


def campaign(
    count: int,
    seed: int,
    work: Path,
    say: Callable[[str], None],
    *,
    read: Read = read_checkpoint,
    resumed: int = RESUMED,
) -> Outcome:
    """Damage a run's newest checkpoint and its bundle `count` times in all, and then the files beside them."""
    figures: Counter[str] = Counter(damaged=0, undetected=0, raised=0, looked_up=0, resumed=0)
    with scratch_folder("damage", work) as scratch, fast_pace():
        run = train(scratch / "runs")
        failures = damage_checkpoint(run, count * 3 // 4, seed, read, resumed, figures)
        say(f"damage: checkpoint: {figures['damaged']:,} damaged, {len(failures)} failures")
        failures += damage_bundle(run, count - count * 3 // 4, seed, figures)
        say(f"damage: bundle: {figures['damaged']:,} damaged, {len(failures)} failures")
        failures += damage_side_files(run, max(20, count // 10), seed, figures)
        say(f"damage: the files beside them: {figures['damaged']:,} damaged, {len(failures)} failures")
    figures["failed"] = len(failures)
    return Outcome("damage", figures["damaged"], tuple(failures[:SHOWN]), dict(figures))


def damage_checkpoint(run: Run, count: int, seed: int, read: Read, resumed: int, figures: Counter[str]) -> list[str]:
    """Damage the newest checkpoint; it must be refused, and the one before it be taken."""
    *_, before, newest = list_checkpoints(run.folder)
    random, failures = case_random("damage/checkpoint", seed, 0), []
    intact = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    figures["header_bytes"] = sum(header_length(path, content) for path, content in intact.items())
    for number, damage in enumerate(damages(intact, count, random)):
        damaged(damage, intact)
        failures += refusal(read, newest, str(damage), figures)
        if number % LOOKED_UP == 0 and read is read_checkpoint:
            figures["looked_up"] += 1
            if latest_checkpoint(run.folder) != before:
                failures.append(f"{damage}: the checkpoint before it was not taken")
            if number % resumed == 0:
                failures += resumes_past(run, damage, figures)
        damage.file.write_bytes(intact[damage.file])
    failures += swapped(before, newest, read, figures)
    read(newest)  # all damage is undone, so this one is whole
    return failures


def damages(intact: dict[Path, bytes], count: int, random: Random) -> list[Damage]:
    """Return `count` damages: each file missing and longer, a bit of every byte of the headers, then of any kind anywhere."""
    chosen = [Damage(path, kind) for path in intact for kind in ("missing", "longer")]
    headers = [
        Damage(path, "bit", at, random.randrange(8))
        for path in intact
        for at in range(header_length(path, intact[path]))
    ]
    chosen += headers if len(headers) <= count * 2 // 3 else random.sample(headers, count * 2 // 3)
    for _ in range(max(0, count - len(chosen))):
        path = random.choice(list(intact))
        chosen.append(Damage(path, random.choice(KINDS), random.randrange(len(intact[path])), random.randrange(1, 256)))
    return chosen


def header_length(path: Path, content: bytes) -> int:
    """Return how many bytes of a file are no tensors' numbers."""
    return 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else len(content)


def damaged(damage: Damage, intact: dict[Path, bytes]) -> None:
    """Put the damage on the disk."""
    content = damage.of(intact[damage.file])
    if content is None:
        damage.file.unlink()
    else:
        damage.file.write_bytes(content)


def refusal(read: Read, folder: Path, what: str, figures: Counter[str]) -> list[str]:
    """Read what is damaged: it must be refused as such."""
    figures["damaged"] += 1
    try:
        read(folder)
    except WeightsError:
        return []
    except Exception as error:
        figures["raised"] += 1
        return [f"{what}: {type(error).__name__} instead of an explanation: {error}"]
    figures["undetected"] += 1
    return [f"{what}: not detected"]


def swapped(before: Path, newest: Path, read: Read, figures: Counter[str]) -> list[str]:
    """Put each file of one checkpoint into the other: its own checksums are right, but it does not belong there."""
    failures = []
    for other in sorted(before.iterdir()):
        own = newest / other.name
        content = own.read_bytes()
        if other.read_bytes() == content:
            continue
        own.write_bytes(other.read_bytes())
        failures += refusal(read, newest, f"{other.name} of {before.name} in {newest.name}", figures)
        own.write_bytes(content)
    return failures


def resumes_past(run: Run, damage: Damage, figures: Counter[str]) -> list[str]:
    """Resume a copy of the run as it is now, and compare it with what it was."""
    figures["resumed"] += 1
    copy = run.folder.parent.parent / "resumed" / run.name
    shutil.copytree(run.folder, copy)
    try:
        same = result_of(resume(copy.parent)) == result_of(run)
        return [] if same else [f"{damage}: the run resumed from the checkpoint before it ended differently"]
    except Exception as error:
        return [f"{damage}: resume raised {type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(copy.parent)


def damage_bundle(run: Run, count: int, seed: int, figures: Counter[str]) -> list[str]:
    """Damage the bundle: its tensors are covered by checksums; what describes it is read, or refused with an explanation."""
    random, failures = case_random("damage/bundle", seed, 0), []
    folder = run.folder / "model"
    intact = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for damage in damages(intact, count, random):
        damaged(damage, intact)
        found = refusal(read_bundle, folder, str(damage), figures)
        if damage.file.name != MODEL or damage.kind in ("missing", "cut"):
            failures += found
        elif found:
            failures += explained(lambda: read_bundle(folder), str(damage), figures)
            figures["undetected"] -= 1  # no promise covers it
        damage.file.write_bytes(intact[damage.file])
    read_bundle(folder)
    return failures
