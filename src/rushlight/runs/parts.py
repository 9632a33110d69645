"""The parts of a run that carry checksums, each checked: checkpoints and the bundle, where any flipped bit is found.

`records` checks the others.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError
from rushlight.runs.checkpoint_files import (
    CHECKPOINTS,
    FORMAT,
    SUMS,
    Watch,
    age,
    damage_of,
    list_checkpoints,
    newer_format,
    read_state,
    sha256,
)
from rushlight.runs.folder import read_json

BUNDLE, BUNDLE_JSON, BUNDLE_FORMAT, BUNDLE_VERSION = "model", "model.json", "rushlight-bundle", 1
BUNDLE_FILES = {"weights.safetensors": True, "examples.safetensors": False}  # whether every bundle has it

WHOLE, DAMAGED, MISSING = "whole", "damaged", "missing"
TORN, LEFTOVER, NOT_YET, OTHER = "torn", "leftover", "not yet", "other version"  # in order, and to be explained


@dataclass(frozen=True)
class Part:
    """One file or folder of a run, and how it was found.

    `state` is "whole", "damaged" or "missing"; or, in order but worth a word: "torn" (the next start repairs it),
    "leftover", "not yet" written, "other version" (of Rushlight). `detail` says what and where.
    """

    name: str
    state: str
    detail: str = ""
    bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing about it is wrong."""
        return self.state not in (DAMAGED, MISSING)


@dataclass(frozen=True)
class Checkpoint(Part):
    """A checkpoint; `history_bytes` and `losses_bytes` are what the run's files must have on disk to go on from it."""

    history_bytes: int = 0
    losses_bytes: int = 0
    format: int = FORMAT

    @property
    def step(self) -> int:
        """The optimizer steps done."""
        return age(Path(self.name))[0]


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_json(path: Path, needs: Mapping[str, Any]) -> tuple[dict[str, Any], Part]:
    """Return the object in a JSON file, {} when it is damaged, and how it was found."""
    try:
        content = read_json(path)
    except RunError as error:
        if error.key == "run-file-missing":
            return {}, Part(path.name, MISSING)
        return {}, Part(path.name, DAMAGED, f"cannot be read: {error.values['reason']}", size_of(path))
    problem = lacks(content, needs)
    if problem:
        return {}, Part(path.name, DAMAGED, problem, size_of(path))
    return content, Part(path.name, WHOLE, "", size_of(path))


def lacks(content: Any, needs: Mapping[str, Any]) -> str:
    """Return which entry an object lacks, or has as something else than it must be; '' when it has all."""
    if not isinstance(content, dict):
        return "holds no JSON object"
    for name, kind in needs.items():
        if name not in content:
            return f'lacks "{name}"'
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            return f'has {str(content[name])[:20]!r} as "{name}"'
    return ""


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────


def check_checkpoints(run: Path, watch: Watch) -> list[Checkpoint]:
    """Check all checkpoints, oldest first. One that its process deletes meanwhile does not count, a new one does."""
    found: dict[Path, Checkpoint] = {}
    for _ in range(3):
        new = [folder for folder in list_checkpoints(run) if folder not in found]
        found |= {folder: check_checkpoint(folder, watch) for folder in new}
    return [found[folder] for folder in sorted(found, key=age) if folder.is_dir()]


def check_checkpoint(folder: Path, watch: Watch) -> Checkpoint:
    """Compare a checkpoint's bytes with its SHA256SUMS."""
    name, size, newer = f"{CHECKPOINTS}/{folder.name}", size_of(folder), newer_format(folder)
    content = read_state(folder)
    is_older = content.get("format", FORMAT) < FORMAT and not (folder / SUMS).exists()  # else a bit of it has flipped
    if newer is not None or is_older:
        found = content["format"]
        written = (
            f"written by {'an older' if is_older else 'a newer'} Rushlight: of format {found}, this one reads {FORMAT}"
        )
        return Checkpoint(name, OTHER, written, size, format=found)
    problem = damage_of(folder, watch)
    if problem:
        return Checkpoint(name, DAMAGED, problem, size)
    return Checkpoint(name, WHOLE, "", size, content.get("history_bytes", 0), content.get("losses_bytes", 0))


# ── bundle, leftovers ────────────────────────────────────────────────────────────────────────────────────────


def check_bundle(folder: Path, is_finished: bool, watch: Watch) -> Part:
    """Compare the bundle's files with the sums in its model.json."""
    if not folder.is_dir():
        return none_yet(folder.name, is_finished)
    size = size_of(folder)
    content, described = check_json(folder / BUNDLE_JSON, {"format": str, "version": int, "files": dict})
    if described.state != WHOLE:
        return Part(folder.name, DAMAGED, f"{BUNDLE_JSON} {described.detail or 'is missing'}", size)
    if content["format"] != BUNDLE_FORMAT:
        return Part(folder.name, DAMAGED, f'{BUNDLE_JSON} does not say "format": "{BUNDLE_FORMAT}"', size)
    if content["version"] > BUNDLE_VERSION:
        return Part(folder.name, OTHER, f"it is of version {content['version']}, this Rushlight reads 1", size)
    problems = (bundle_problem(folder, name, content["files"], watch) for name in BUNDLE_FILES)
    problem = next(filter(None, problems), "")
    return Part(folder.name, DAMAGED if problem else WHOLE, problem, size)


def bundle_problem(folder: Path, name: str, listed: Mapping[str, Any], watch: Watch) -> str:
    """Return what is wrong with one of the bundle's files, '' when nothing is."""
    if name not in listed:
        return f"{BUNDLE_JSON} does not list {name}" if BUNDLE_FILES[name] else ""
    if not (folder / name).is_file():
        return f"{name} is missing"
    try:
        found = sha256(folder / name, watch)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    recorded = listed[name].get("sha256") if isinstance(listed[name], dict) else None
    return "" if found == recorded else f"the checksum of {name} is not the recorded one"


def leftovers(folder: Path) -> list[Part]:
    """Return what a stopped process left unpublished in the run."""
    places = (folder, folder / CHECKPOINTS)
    found = sorted(path for place in places for path in place.glob(f"*{files.TEMPORARY}"))
    return [
        Part(
            path.relative_to(folder).as_posix(),
            LEFTOVER,
            "half written when a process was stopped; the next start deletes it",
            size_of(path),
        )
        for path in found
    ]


def none_yet(name: str, is_finished: bool) -> Part:
    """Return a part that is not there: missing once the run is finished."""
    return Part(name, MISSING if is_finished else NOT_YET)


def size_of(path: Path) -> int:
    """Return the bytes in a file, or in all files of a folder; links are not followed, what is gone counts nothing."""
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size
        return sum(map(size_of, path.iterdir()))
    except OSError:
        return 0
