"""Whether a run is whole, and whether it can be resumed or used.

Any flipped bit is found in checkpoints and in the bundle's tensors, which carry checksums. The other files are whole
when they can be read and reach as far as the newest checkpoint.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError, StorageError
from rushlight.kinds import Kind, is_text
from rushlight.runs.checkpoint_files import (
    CHECKPOINTS,
    FORMAT,
    STATE,
    STATE_KIND,
    Watch,
    age,
    damage_of,
    list_checkpoints,
    newer_format,
    read_state,
)
from rushlight.runs.folder import typed
from rushlight.runs.history import CHECKERS, HISTORY, LOSSES, read_history
from rushlight.runs.lock import describe_holder, is_locked
from rushlight.runs.read import (
    ENVIRONMENT,
    RECIPE,
    REPORT,
    read_environment,
    read_file,
    read_json,
    read_lines,
    read_recipe,
    read_report,
)
from rushlight.runs.sessions import LINES as SESSION_LINES
from rushlight.runs.sessions import SESSIONS
from rushlight.runs.summary import ENDED, RunSummary, summarize_any
from rushlight.texts import Joined, Note, quoted

BUNDLE, MODEL, WEIGHTS, EXAMPLES = "model", "model.json", "weights.safetensors", "examples.safetensors"
GRAPH = "graph.onnx"
PREDICTIONS = "predictions.npz"
WHOLE, DAMAGED, MISSING, NOT_YET, OTHER = "whole", "damaged", "missing", "not yet", "other version"


@dataclass(frozen=True)
class CheckedFile:
    """One file or folder of a run; `state` is one of these five, `detail` locates the damage."""

    name: str
    state: str
    detail: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class RunVerification:
    """The result of verifying one run; `holder` names the process that uses it, "" if none does."""

    summary: RunSummary
    holder: str
    files: tuple[CheckedFile, ...]
    meaning: str  # what still works, and what puts the rest right

    @property
    def typed(self) -> str:
        """The path that a command takes for the run."""
        return typed(self.summary.folder)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not any(file.state in (DAMAGED, MISSING) for file in self.files)


def verify_run(folder: Path, watch: Watch | None = None) -> RunVerification:
    """Read all of the run and tell of each file whether it is whole. Changes nothing.

    A run in use is read as far as it is written: its process adds and deletes files meanwhile, which is no damage.
    """
    summary = summarize_any(folder)
    is_finished = summary.status in ENDED or (summary.status == "damaged" and (folder / BUNDLE).is_dir())
    checkpoints = check_checkpoints(folder, watch)  # before the history, which only grows beyond them
    whole = [folder / file.name for file in checkpoints if file.state == WHOLE]
    lacking = shortfalls(whole[-1]) if whole else {}
    finished = MISSING if is_finished else NOT_YET
    begun = MISSING if whole else finished
    found = [
        check(folder / RECIPE, lambda path: reading_damage(read_recipe, folder), MISSING),
        check(folder / ENVIRONMENT, lambda path: reading_damage(read_environment, folder), begun),
        check(folder / HISTORY, lambda path: reading_damage(read_history, folder) or lacking.get(HISTORY, ""), begun),
        check(folder / LOSSES, lambda path: lacking.get(LOSSES, ""), begun),
        check(folder / SESSIONS, lambda path: reading_damage(read_lines, path, "event", SESSION_LINES), None),
        *(checkpoints or [CheckedFile(CHECKPOINTS, finished)]),
        check(folder / BUNDLE, lambda path: bundle_damage(path, watch), finished),
        check(folder / REPORT, lambda path: reading_damage(read_report, folder), None),
        check(folder / PREDICTIONS, archive_damage, None),
    ]
    holder = describe_holder(folder) if is_locked(folder) else ""
    if holder:  # its bundle may just be replaced, in two renames: a second check settles it
        found[-3] = check(folder / BUNDLE, bundle_damage, NOT_YET)
    files = tuple(file for file in found if file is not None)
    return RunVerification(summary, holder, files, Joined("sentences", sentences(summary, holder, files)))


def check(path: Path, damage: Callable[[Path], str], absent: str | None) -> CheckedFile | None:
    """Check a file or folder; a missing one has the state `absent`, or is left out for None."""
    if not path.exists():
        return CheckedFile(path.name, absent) if absent else None
    try:
        problem = damage(path)
    except OSError as error:
        problem = Note("runs.unreadable", reason=error.strerror or error)
    return CheckedFile(path.name, DAMAGED if problem else WHOLE, problem, files.bytes_on_disk(path))


# ── what is damaged: each function returns it in words, "" when nothing is ───────────────────────────────────


def reading_damage(read: Callable[..., object], *arguments: Any) -> str:
    """Check that a file can be read. A torn last line is no damage: the next start cuts it off."""
    try:
        read(*arguments)
    except RunError as error:
        if "line" in error.values:
            return Note("runs.in-line", line=error.values["line"], found=error.values["found"])
        return Note("runs.unreadable", reason=error.values.get("reason") or Note("runs.missing"))
    return ""


def shortfalls(checkpoint: Path) -> dict[str, str]:
    """Return by file name what the history and the losses lack to go on from a checkpoint."""
    run, state = checkpoint.parents[1], read_state(checkpoint)
    found: dict[str, str] = {}
    for name in (HISTORY, LOSSES):
        size, needed = files.bytes_on_disk(run / name), state.get(f"{Path(name).stem}_bytes", 0)
        if size < needed:
            found[name] = Note("runs.too-short", found=size, needed=needed)
    if HISTORY not in found and (needed := state.get("history_bytes", 0)):
        if problem := reading_damage(read_lines, run / HISTORY, "kind", CHECKERS, None, needed):
            found[HISTORY] = problem
        elif not read_file(run / HISTORY)[:needed].endswith(b"\n"):
            found[HISTORY] = Note("runs.no-line-ends", position=needed)
    return found


def bundle_damage(folder: Path, watch: Watch | None = None) -> str:
    """Compare the bundle's files with the sums in its model.json."""
    kind: Kind = {"files?": {f"{name}?": {"sha256": is_text} for name in (WEIGHTS, EXAMPLES, GRAPH)}}
    if problem := reading_damage(read_json, folder / MODEL, kind):
        return Note("runs.file-says", name=MODEL, problem=problem)
    listed = read_json(folder / MODEL, kind).get("files", {})
    if WEIGHTS not in listed:
        return Note("runs.not-listed", listing=MODEL, name=WEIGHTS)
    for name in (name for name in (WEIGHTS, EXAMPLES, GRAPH) if name in listed):  # never one that only the file names
        if not (folder / name).is_file():
            return Note("runs.file-missing", name=name)
        if files.sha256_of(folder / name, watch) != listed[name]["sha256"]:
            return Note("runs.checksum-differs", name=name)
    return ""


def archive_damage(path: Path) -> str:
    """Check the test's predictions by the checksums (CRC-32) of their archive."""
    try:
        with files.open_file(path) as file, zipfile.ZipFile(file) as archive:
            size, most = sum(entry.file_size for entry in archive.infolist()), files.most_unpacked(path.stat().st_size)
            if size > most:
                return Note("runs.too-large", size=size, most=most)
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        return Note("runs.unreadable", reason=error)
    return Note("runs.checksum-inside-differs", name=bad) if bad else ""


def check_checkpoints(run: Path, watch: Watch | None) -> list[CheckedFile]:
    """Check all checkpoints, oldest first: new ones too, without those deleted meanwhile."""
    found: dict[Path, CheckedFile] = {}
    try:
        for _ in range(3):
            new = [folder for folder in list_checkpoints(run) if folder not in found]
            found |= {folder: check_checkpoint(folder, watch) for folder in new}
    except StorageError as error:
        return [CheckedFile(CHECKPOINTS, DAMAGED, Note("runs.unreadable", reason=error.values["reason"]))]
    return [found[folder] for folder in sorted(found, key=age) if folder.is_dir()]


def check_checkpoint(folder: Path, watch: Watch | None) -> CheckedFile:
    """Compare a checkpoint's bytes with its SHA256SUMS, and the kinds of what is read of it here."""
    name, size = f"{CHECKPOINTS}/{folder.name}", files.bytes_on_disk(folder)
    if newer := newer_format(folder):
        return CheckedFile(name, OTHER, Note("runs.other-format", found=newer, known=FORMAT), size)
    problem = damage_of(folder, watch) or reading_damage(read_json, folder / STATE, STATE_KIND)
    return CheckedFile(name, DAMAGED if problem else WHOLE, problem or "", size)


# ── what it means ────────────────────────────────────────────────────────────────────────────────────────────


def sentences(summary: RunSummary, holder: str, files: Sequence[CheckedFile]) -> Iterator[str]:
    """Give what the files' states mean: whether the run can be resumed and its model used."""
    broken = {file.name for file in files if file.state in (DAMAGED, MISSING)}
    if holder:
        yield Note("runs.meaning.in-use", holder=holder)
    elif not broken and summary.status in ENDED:
        yield Note("runs.meaning.whole")
    if not broken and (holder or summary.status in ENDED):
        return
    key, values = resuming(summary.folder, files)
    yield Note(f"runs.meaning.{key}", **values)
    if BUNDLE in broken and key in ("resume", "go-back"):
        yield Note("runs.meaning.bundle")
    elif broken and any(file.name == BUNDLE and file.state == WHOLE for file in files):
        yield Note("runs.meaning.model", bundle=typed(summary.folder / BUNDLE))
        if results := sorted(broken & {REPORT, PREDICTIONS}):
            yield Note("runs.meaning.test", run=typed(summary.folder), names=Joined("both", results))


def resuming(folder: Path, files: Sequence[CheckedFile]) -> tuple[str, dict[str, Any]]:
    """Return the key of the sentence on what resume would do, and its values."""
    states = {file.name: file.state for file in files}
    if states[RECIPE] != WHOLE:
        return "put-back", {"names": RECIPE}
    checkpoints = [folder / name for name in states if name.startswith(f"{CHECKPOINTS}/")]
    usable = [path for path in checkpoints if states[f"{CHECKPOINTS}/{path.name}"] in (WHOLE, OTHER)]
    if not usable:
        if checkpoints or states.get(CHECKPOINTS) != NOT_YET:
            return "no-checkpoint", {}
        return "begin" if states[ENVIRONMENT] == WHOLE else "train", {"command": command(folder)}
    if states[f"{CHECKPOINTS}/{usable[-1].name}"] == OTHER:  # never passed over: it has what was trained last
        return "update", {}
    for path in reversed(usable):
        if not shortfalls(path):
            step = age(path)[0]
            if path == usable[-1]:
                return "resume", {"command": command(folder), "step": step}
            return "go-back", {"command": command(folder, step), "step": step}
    return "put-back", {"names": Joined("both", shortfalls(usable[-1]))}


def command(folder: Path, step: int | None = None) -> str:
    """Return the command that resumes a run, from its newest checkpoint or that of `step`."""
    if any(isinstance(entry, dict) and entry.get("live") for entry in read_recipe(folder).values()):
        key = "runs.meaning.resume-live" if step is None else "runs.meaning.resume-live-from"
        return Note(key, folder=folder, step=step)
    return f"rushlight resume {quoted(typed(folder))}" + ("" if step is None else f" --checkpoint {step}")
