"""After a power cut: what `resume` finds, and whether it is what had been promised."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from faults.log import Operation
from faults.replay import SimulatedDisk, State, write_state
from faults.scenarios import Recorded, is_publication
from faults.small import result_of, resume, timeless_lines
from rushlight.errors import RushlightError
from rushlight.export.bundle import read_bundle
from rushlight.run import Run
from rushlight.runs import list_runs, read_environment, read_recipe
from rushlight.runs.checkpoint_files import age, list_checkpoints
from rushlight.runs.folder import is_run
from rushlight.runs.history import LOSS_BYTES, History
from rushlight.training.checkpoint.checkpoint import latest_checkpoint, restore
from rushlight.training.recipe import recipe_from_json
from rushlight.training.state import new_state

RUN = "run"
RECORDS = (f"{RUN}/recipe.json", f"{RUN}/environment.json")  # there before the first step
RESULTS = (f"{RUN}/report.json", f"{RUN}/predictions.npz")  # there when the run has finished
BUNDLE = f"{RUN}/model"
Found = list[tuple[str, str]]  # what is wrong: lost, accepted_bad or raised; and a sentence


@dataclass(frozen=True)
class Recovered:
    """What `resume` had found at the moment it would have gone on: `problem` is what it raised, if it was refused."""

    checkpoint: str | None = None
    losses: bytes = b""
    lines: tuple[str, ...] = ()
    best: str | None = None  # the checkpoint of the best test, as the state names it
    status: str = ""  # as `rushlight runs` lists the run
    digest: str | None = None  # of the final weights, as the history has it
    problem: str | None = None
    crash: str | None = None  # an exception that explains nothing


class Recovery:
    """Puts states of the disk into a folder and recovers from them with the product's own functions."""

    def __init__(self, run: Recorded, scratch: Path) -> None:
        self.run, self.runs = run, scratch
        self.folder = scratch / RUN

    def place(self, state: State) -> None:
        """Let the folder be as the state says."""
        shutil.rmtree(self.runs, ignore_errors=True)
        self.runs.mkdir(parents=True)
        write_state(self.runs, state)

    def recover(self, state: State) -> Recovered:
        """List the run, read what belongs to it, and restore its newest checkpoint."""
        self.place(state)
        try:
            status = "".join(summary.status for summary in list_runs(self.runs) if summary.name == RUN)
            if not is_run(self.folder):
                return Recovered()
            digest = self.digest() if status == "finished" else None
            recovered = replace(self.restore(), status=status, digest=digest)
            Run(self.folder).report  # noqa: B018  # read for what it may raise
            if (self.folder / "model").is_dir():
                read_bundle(self.folder / "model")
            return recovered
        except RushlightError as error:
            return Recovered(problem=error.problem)
        except Exception as error:
            return Recovered(crash=f"{type(error).__name__}: {error}")

    def digest(self) -> str | None:
        """Return what a finished run's history says of its weights."""
        digest: str | None = Run(self.folder).summary()["state_sha256"]
        return digest

    def restore(self) -> Recovered:
        """Do what `resume` does before the first step, with a model that is there already."""
        recipe_from_json(read_recipe(self.folder))
        read_environment(self.folder)
        with History(self.folder) as history:
            if not list_checkpoints(self.folder):
                return Recovered()
            checkpoint = latest_checkpoint(self.folder)
            training = replace(self.run.training, folder=self.folder, history=history, state=new_state())
            restore(training, checkpoint)
        best = training.state["best"]
        return Recovered(
            checkpoint.name, (self.folder / "losses.f32").read_bytes(), tuple(timeless_lines(self.folder)),
            None if best is None else f"{best['step']:08d}",
        )  # fmt: skip

    def resume(self, state: State) -> Found:
        """Go on from a state to the run's end: nothing may differ from the run that nothing disturbed."""
        self.place(state)
        try:
            result = result_of(resume(self.runs, RUN, **self.run.options))
        except Exception as error:
            return [("raised", f"resume raised {type(error).__name__}: {error}")]
        parts = zip(("weights", "losses", "history"), result, self.run.expected, strict=True)
        return [
            ("accepted_bad", f"the resumed run has other {name}")
            for name, found, expected in parts
            if found != expected
        ]


class Judge:
    """Follows the log, knows what has been written and promised so far, and holds a recovery against it."""

    def __init__(self, run: Recorded) -> None:
        self.run = run
        self.versions: dict[str, set[bytes]] = {}  # by path: digests of all that was ever written there whole
        self.required: set[str] = set()
        self.reported: str | None = None  # the newest checkpoint that was said to be safe
        self.is_finished = False

    def follow(self, operation: Operation, disk: SimulatedDisk) -> None:
        """Take note of an operation that the disk has just done."""
        if operation.kind == "rename":
            if operation.path == BUNDLE:  # moved aside, for another to take its place
                self.required.discard(BUNDLE)
            if operation.target in (*RECORDS, *RESULTS, BUNDLE) or is_publication(operation):
                self.versions.setdefault(operation.target, set()).add(digest_of(disk.view(operation.target)))
        elif operation.kind == "mark":
            self.promise(operation)

    def promise(self, mark: Operation) -> None:
        """Take note of what the program has reported."""
        self.is_finished = mark.path == "finished"
        if mark.path == "finished":
            self.required |= {*RESULTS, BUNDLE}
        elif mark.path == "started":
            self.required |= set(RECORDS)
        elif mark.path == "goes-back" or (
            mark.path == "checkpoint" and (self.reported is None or age(Path(mark.target)) > age(Path(self.reported)))
        ):  # what is newer is given up
            self.reported = mark.target

    def judge(self, state: State, recovered: Recovered) -> Found:
        """Return what is wrong with what was recovered from a state."""
        if recovered.crash:
            return [("raised", recovered.crash)]
        found: Found = [part for path in (*RECORDS, *RESULTS, BUNDLE) for part in self.judge_path(path, state)]
        if self.is_finished and not (recovered.status == "finished" and recovered.digest):
            found.append(("lost", f"the run was finished; it is {recovered.status}, its weights {recovered.digest}"))
        if recovered.problem and (self.reported or self.required):
            found.append(("lost", recovered.problem))
        elif self.reported and (
            recovered.checkpoint is None or age(Path(recovered.checkpoint)) < age(Path(self.reported))
        ):
            found.append(
                ("lost", f"checkpoint {self.reported} was reported as written, {recovered.checkpoint} was found")
            )
        return found + (self.judge_checkpoint(state, recovered) if recovered.checkpoint else [])

    def judge_path(self, path: str, state: State, *, is_required: bool = False) -> Found:
        """Judge a file or folder that is there whole or not at all."""
        if path not in state:
            return [("lost", f"{path} was written and is gone")] if is_required or path in self.required else []
        whole = digest_of(below(state, path)) in self.versions.get(path, ())
        return [] if whole else [("accepted_bad", f"{path} is not as it was written")]

    def judge_checkpoint(self, state: State, recovered: Recovered) -> Found:
        """Judge the checkpoint that was accepted, with the history and the losses that go with it."""
        name, found = recovered.checkpoint or "", []
        found += self.judge_path(f"{RUN}/checkpoints/{name}", state)
        if recovered.best and self.judge_path(f"{RUN}/checkpoints/{recovered.best}", state, is_required=True):
            found.append(("lost", f"checkpoint {recovered.best}, of the best test, is gone or damaged"))
        _, losses, lines = self.run.expected
        step, is_closed = age(Path(name))
        due = [line for line in lines if step_of(line) < step or (step_of(line) == step and is_closed)]
        if recovered.losses != losses[: step * LOSS_BYTES]:
            found.append(("accepted_bad", f"losses.f32 has not the losses of {step} steps"))
        if list(recovered.lines) not in (
            due,
            lines[: len(due) + 1],
        ):  # at an epoch's last step a line more may be there
            found.append(
                (
                    "accepted_bad",
                    f"history.jsonl is not that of {step} steps: {len(recovered.lines)} lines for {len(due)}",
                )
            )
        return found

    def can_resume(self, recovered: Recovered) -> bool:
        """Tell whether a run would go on from here."""
        return recovered.problem is None and bool(self.required)


def step_of(line: str) -> int:
    """Return the step of a line of history."""
    return int(json.loads(line)["step"])


def below(state: State, path: str) -> State:
    """Return the part of a state that is at or below a path, with paths relative to it."""
    inside = {
        name.removeprefix(path).lstrip("/"): content
        for name, content in state.items()
        if name == path or name.startswith(f"{path}/")
    }
    return {name: content for name, content in inside.items() if name or content is not None}


def digest_of(state: State) -> bytes:
    """Return a digest of all that is on a disk, or in a part of it."""
    digest = hashlib.sha256()
    for path in sorted(state):
        content = state[path]
        digest.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        digest.update(content or b"")
    return digest.digest()
