"""Whether a run on disk is whole, and what that means for who wants to use it or go on with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushlight.errors import StorageError
from rushlight.runs.checkpoint_files import CHECKPOINTS, FORMAT, Watch
from rushlight.runs.folder import ENVIRONMENT, RECIPE
from rushlight.runs.history import HISTORY, LOSSES
from rushlight.runs.lock import describe, is_locked, read_holder
from rushlight.runs.parts import (
    BUNDLE,
    DAMAGED,
    LEFTOVER,
    MISSING,
    NOT_YET,
    OTHER,
    TORN,
    WHOLE,
    Checkpoint,
    Part,
    check_bundle,
    check_checkpoints,
    check_json,
    leftovers,
    none_yet,
)
from rushlight.runs.records import (
    ENVIRONMENT_NEEDS,
    LINE_NEEDS,
    PREDICTIONS,
    RECIPE_NEEDS,
    check_history,
    check_losses,
    check_predictions,
    check_report,
    check_sessions,
    read_lines,
)
from rushlight.runs.sessions import SESSIONS
from rushlight.runs.summary import REPORT, RunSummary, summarize_files_or_damage


@dataclass(frozen=True)
class Verification:
    """What verifying one run found; `holder` names the living process that uses it, '' when none does."""

    summary: RunSummary
    holder: str
    parts: tuple[Part, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    history_whole: int = 0  # bytes of its lines up to the first that is damaged or torn
    history_damage_at: int | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.summary.name

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged or missing."""
        return all(part.is_whole for part in self.parts)

    @property
    def bytes(self) -> int:
        """The size of all that was read."""
        return sum(part.bytes for part in self.parts)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints, oldest first."""
        return [part for part in self.parts if isinstance(part, Checkpoint)]

    @property
    def lost(self) -> list[str]:
        """Which of the files that grow lack something that the newest whole checkpoint builds on."""
        return [name for name in (HISTORY, LOSSES) if self.broken(name) and not self.is_cut_back(name)]

    @property
    def fallback(self) -> Checkpoint | None:
        """The newest checkpoint that what is left of the history and the losses is enough for."""
        sizes = {part.name: part.bytes for part in self.parts}
        enough = [
            part for part in self.checkpoints
            if part.state == WHOLE and part.history_bytes <= self.history_whole and part.losses_bytes <= sizes[LOSSES]
        ]  # fmt: skip
        return enough[-1] if enough else None

    @property
    def can_go_on(self) -> bool:
        """Whether resume would work."""
        return self.newest is not None and not self.broken(RECIPE) and not self.lost

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end, as far as that can be told."""
        bundle = self.part(BUNDLE)  # there is none before, and what a damaged history says of the end is not known
        return self.summary.status == "finished" or (
            self.summary.status == "damaged" and bundle is not None and bundle.state != NOT_YET
        )

    @property
    def is_trained(self) -> bool:
        """Whether all its epochs are done, or as many as early stopping wanted."""
        early = self.recipe.get("early_stopping") is not None
        return early or self.summary.epochs is None or self.summary.epochs_done >= self.summary.epochs

    def is_cut_back(self, name: str) -> bool:
        """Tell whether what is damaged in a file that grows lies behind the newest checkpoint: resume cuts that off."""
        if self.newest is None:
            return False
        if name == HISTORY:
            return self.history_damage_at is not None and self.history_damage_at >= self.newest.history_bytes
        part = self.part(LOSSES)
        return part is not None and part.state == DAMAGED and part.bytes >= self.newest.losses_bytes

    def broken(self, name: str) -> str:
        """Return "damaged" or "missing" for a part that is, else ''."""
        part = self.part(name)
        return "" if part is None or part.is_whole else part.state

    def part(self, name: str) -> Part | None:
        """Return the part of that name, if there is one."""
        return next((part for part in self.parts if part.name == name), None)

    @property
    def newest(self) -> Checkpoint | None:
        """The checkpoint that resume goes on from: the newest that is whole. Another version's is not passed over."""
        newest = self.newest_undamaged
        return newest if newest is not None and newest.state == WHOLE else None

    @property
    def newest_undamaged(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or of another version of Rushlight."""
        return next((part for part in reversed(self.checkpoints) if part.state in (WHOLE, OTHER)), None)


def verify_run(folder: Path, watch: Watch = lambda count: None) -> Verification:
    """Read all of the run and say of each part how it is. Changes nothing.

    A run in use is read as far as it stands: what its process writes or deletes meanwhile is no damage.
    """
    holder = holder_of(folder)
    summary = summarize_files_or_damage(folder)
    is_finished = summary.status == "finished" or (summary.status == "damaged" and (folder / BUNDLE).is_dir())
    checkpoints, unreadable = look_at_checkpoints(folder, watch)  # first: the history only grows beyond them
    whole = [part for part in checkpoints if part.state == WHOLE]
    needs = whole[-1] if whole else Checkpoint("", WHOLE)
    history = read_lines(folder / HISTORY, LINE_NEEDS)
    recipe, recipe_part = check_json(folder / RECIPE, RECIPE_NEEDS)
    is_begun = bool(checkpoints or history.bytes)
    held: list[Part] = [*checkpoints] or [unreadable or none_yet(CHECKPOINTS, is_finished)]
    parts = [
        recipe_part,
        check_json(folder / ENVIRONMENT, ENVIRONMENT_NEEDS)[1],
        check_history(folder / HISTORY, history, needs.history_bytes, is_finished),
        check_losses(folder / LOSSES, history, needs.losses_bytes, is_finished),
        check_sessions(folder / SESSIONS),
        *held,
        check_bundle(folder / BUNDLE, is_finished, watch),
        check_report(folder / REPORT),
        check_predictions(folder / PREDICTIONS, watch),
        *leftovers(folder),
    ]
    found = [part for part in parts if part is not None]
    if not is_begun:
        found = [
            none_yet(part.name, False) if part.state == MISSING and part.name != RECIPE else part for part in found
        ]
    holder = holder or holder_of(folder)  # who began meanwhile
    if holder:
        found = while_in_use(folder, found)
    damage_at = history.problem_at if history.problem else None
    return Verification(summary, holder, tuple(found), recipe, history.whole_bytes, damage_at)


def look_at_checkpoints(folder: Path, watch: Watch) -> tuple[list[Checkpoint], Part | None]:
    """Return the checkpoints, oldest first; where their folder cannot be looked into, none, and what to say of it."""
    try:
        return check_checkpoints(folder, watch), None
    except StorageError as error:
        return [], Part(CHECKPOINTS, DAMAGED, f"cannot be read: {error.values['reason']}")


def holder_of(folder: Path) -> str:
    """Return in words which living process uses the run, '' when none does."""
    return describe(read_holder(folder)) if is_locked(folder) else ""


def while_in_use(folder: Path, parts: list[Part]) -> list[Part]:
    """Return the parts without what only shows that a process is writing."""
    found = []
    for part in parts:
        if part.name == BUNDLE and not part.is_whole:  # it is replaced in two renames: a second look settles it
            part = check_bundle(folder / BUNDLE, False, lambda count: None)
        if part.state == TORN:
            part = Part(part.name, WHOLE, "being written", part.bytes)
        if part.state != LEFTOVER:
            found.append(part)
    return found


# ── what it means ────────────────────────────────────────────────────────────────────────────────────────────


def meaning(found: Verification) -> str:
    """Return in a sentence or two what was found means: what still works, and what puts the rest right."""
    said = " ".join([*about_going_on(found), *about_results(found), *about_records(found)])
    if found.holder:
        start = "nothing is damaged so far" if found.is_whole else "verified as far as it is written"
        return f"It is in use by {found.holder}; {start}.{'' if found.is_whole else ' ' + said}"
    return said or "Everything is whole."


def about_going_on(found: Verification) -> Iterator[str]:
    """Give what resume would do, where that is worth a word."""
    newest, again = found.newest, resuming(found)
    if broken := found.broken(RECIPE):
        yield f"The run cannot be resumed while {RECIPE} is {broken}: put it back from a copy of the run."
    elif found.broken(CHECKPOINTS) == DAMAGED:
        yield f"The run cannot be resumed while {CHECKPOINTS} cannot be read."
    elif newest is None:
        yield without_checkpoint(found, again)
    elif found.lost:
        yield f"Put {' and '.join(found.lost)} back from a copy of the run: until then it cannot be resumed."
        if found.fallback is not None:
            back = resuming(found, found.fallback.step)
            yield f"Or {back} goes back to step {found.fallback.step:,}, for which what is left is enough."
    elif newest is not found.checkpoints[-1]:
        yield f"The newest checkpoint is damaged: {again} uses the one after step {newest.step:,}, which is whole."
    elif not found.is_finished or any(part.state == DAMAGED for part in found.checkpoints):
        count = sum(part.state == WHOLE for part in found.checkpoints)
        whole = "1 checkpoint is whole" if count == 1 else f"{count} checkpoints are whole"
        yield f"{whole}: {again} goes on after step {newest.step:,}."


def without_checkpoint(found: Verification, again: str) -> str:
    """Return what it means that there is no checkpoint to go on from."""
    if found.newest_undamaged is not None:
        return of_another_version(found.newest_undamaged, again)
    if found.checkpoints:
        return "No checkpoint is whole, so the run cannot be resumed."
    if found.is_finished:
        return "Without a checkpoint it cannot be trained further."
    environment = found.part(ENVIRONMENT)
    if environment is not None and environment.state != WHOLE:
        return "It was stopped before it trained: start again with rushlight train."
    return f"No checkpoint was written yet: {again} begins anew."


def of_another_version(newest: Checkpoint, again: str) -> str:
    """Return what it means that another version of Rushlight wrote the newest checkpoint."""
    if newest.format < FORMAT:
        return (
            "Its checkpoints are of another version of Rushlight, an older one: only that one can go on with this run."
        )
    update = "update with pip install --upgrade rushlight"
    return f"A newer Rushlight wrote its newest checkpoint: {update}, then {again} goes on after step {newest.step:,}."


def about_results(found: Verification) -> Iterator[str]:
    """Give what becomes of the model and its test."""
    broken = [name for name in (BUNDLE, REPORT, PREDICTIONS) if found.broken(name)]
    listed = " and ".join(f"the bundle ({name}/)" if name == BUNDLE else name for name in broken)
    bundle = found.part(BUNDLE)
    if BUNDLE in broken and found.can_go_on:
        first = "" if found.is_trained else f"trains on to epoch {found.recipe.get('epochs')} and "
        yield f"{resuming(found)} {first}writes {listed} anew."
    elif BUNDLE in broken:
        yield "Its model cannot be brought back from here."
    elif bundle is not None and bundle.state == WHOLE and not found.can_go_on:
        yield f"Its model is whole: rushlight predict {quoted(found.summary.folder / BUNDLE)} FILE uses it."
    if broken and BUNDLE not in broken:
        yield f"rushlight test {typed(found.summary.folder)} writes {listed} anew."


def about_records(found: Verification) -> Iterator[str]:
    """Give what becomes of the history, and of what is only there to be read."""
    repaired = [name for name in (HISTORY, LOSSES) if found.broken(name) and found.is_cut_back(name)]
    if repaired and found.can_go_on:
        yield f"{resuming(found)} cuts {' and '.join(repaired)} back to that step, and so repairs what is damaged."
    idle = [name for name in (ENVIRONMENT, SESSIONS) if found.broken(name)]
    if idle and found.can_go_on:
        yield f"Neither going on nor the model needs {' or '.join(idle)}."


def resuming(found: Verification, step: int | None = None) -> str:
    """Return what to type to go on with the run, from its newest checkpoint or from the one after `step`."""
    folder = found.summary.folder
    parts = [found.recipe.get(name) for name in ("model", "data", "loss", "optimizer", "schedule")]
    if any(isinstance(part, Mapping) and part.get("live") for part in parts):
        chosen = "" if step is None else f', checkpoint="{step}"'
        return f'rushlight.resume("{folder}"{chosen}, …), with what it was trained with,'
    return f"rushlight resume {typed(folder)}" + ("" if step is None else f" --checkpoint {step}")


def typed(folder: Path) -> str:
    """Return a run as it is typed in a command: its name where runs are looked for anyway, else its path."""
    return folder.name if folder.parent == Path("runs") else quoted(folder)


def quoted(path: Path) -> str:
    """Return a path as it is typed into a shell."""
    return f'"{path}"' if " " in str(path) else str(path)
