"""Execution modes: how steps are executed, and from which step on.

    exact       torch's eager kernels in the plain loop's order
    eager       the same, with the optimizer's fused kernel, and images laid out channels last
    compiled    forward, backward and update as one piece of machine code, several small steps in one call
    graph       the same as one CUDA graph, on an NVIDIA card

When a mode begins is a matter of time, so each change is written to the disk before it takes effect, and a resumed run
follows the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.kinds import Kind, is_count, is_flag, is_one_of, is_text, wrong_entry
from rushlight.texts import Note
from rushlight.training.state import Training

RECORD = "ways.json"  # file names and entries ("way") are those of earlier releases

MODE: Kind = {  # of a recorded one
    **dict.fromkeys(("step", "spared?", "since?"), is_count), "count?": lambda count: is_count(count) and count > 0, "name": is_one_of("exact", "eager", "compiled", "graph"),
    **dict.fromkeys(("message?", "key?"), is_text), **dict.fromkeys(("fused?", "channels_last?"), is_flag),
}  # fmt: skip
JOINED = ("compiled", "graph")
EAGER = {  # the text of an eager mode, by its fused update and its channels last
    (True, False): "engine.faster.fused",
    (False, True): "engine.faster.channels-last",
    (True, True): "engine.faster.fused-channels-last",
}


@dataclass(frozen=True)
class Mode:
    """How steps are executed from step `step` on (from 0: as many are done before it)."""

    step: int
    name: str  # "exact", "eager", "compiled" or "graph"
    message: str = ""  # for the history; empty where the mode is only verified
    fused: bool = False  # the optimizer's fused kernel; in a joined mode: for the steps that are executed singly
    channels_last: bool = False  # the layout of images, likewise
    spared: int = 0  # threads that are left to a process which compiles
    since: int = 0  # the step it was adopted at; it may be in force again from `step` on, after a verification
    key: str = ""  # compiled: the package; graph: whether its steps draw random numbers
    count: int = 1  # joined: the steps in one call
    products: list[dict[str, Any]] = field(default_factory=list)  # compiled by an earlier release: by another library
    takes: list[Any] = field(default_factory=list)  # joined: the layouts of samples and targets
    gain: float = 1.0  # how many times as fast as the mode before it, when it was adopted
    microseconds: float = 0.0  # of a step, when it was adopted

    @property
    def is_joined(self) -> bool:
        """Whether one call executes whole steps, several where they are short: machine code, or a graph."""
        return self.name in JOINED

    def to_json(self) -> dict[str, Any]:
        """Return the mode as it is once written and read: tuples become lists."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def describe(self) -> str:
        """Return the message of a mode that was adopted: from which step on, and its gain."""
        means = (
            Note(f"engine.faster.{self.name}", count=self.count)
            if self.is_joined
            else Note(EAGER[self.fused, self.channels_last])
        )
        values = {"microseconds": self.microseconds, "gain": self.gain}
        return Note("engine.faster.adopted", step=self.step + 1, means=means, **values)


EXACT = Mode(0, "exact")


class ModeRecord:
    """Keeps the modes of a run, by step: on the disk before they take effect, and in the state."""

    def __init__(self, training: Training) -> None:
        self.path, self.state = training.folder / RECORD, training.state
        written = read_modes(self.path)
        kept = [Mode(**mode) for mode in self.state["ways"]]
        self.modes = written if written[: len(kept)] == kept else kept
        self.save_state()

    def add(self, mode: Mode) -> None:
        """Record a mode that takes effect at its step, and drop those recorded for later steps.

        One that was recorded for the same step is kept and superseded: the history refers to it.

        Raises:
            StorageError: the disk refuses; nothing is recorded.
        """
        modes = [*(earlier for earlier in self.modes if earlier.step <= mode.step), mode]
        files.write_json(self.path, {"ways": [each.to_json() for each in modes]})
        self.modes = modes
        self.save_state()

    def save_state(self) -> None:
        """Have the next checkpoint hold what is recorded."""
        self.state["ways"] = [mode.to_json() for mode in self.modes]

    def at(self, step: int) -> Mode:
        """Return the mode in force at a step."""
        return next((mode for mode in reversed(self.modes) if mode.step <= step), EXACT)

    def after(self, step: int) -> int | None:
        """Return the step of the next mode after a step, if one is recorded."""
        return next((mode.step for mode in self.modes if mode.step > step), None)

    def messages(self, step: int) -> Iterator[dict[str, Any]]:
        """Give the lines of history that tell what changes at a step."""
        for mode in self.modes:
            if mode.step == step and mode.message:
                yield {"event": "way", "step": step, "way": mode.name, "message": mode.message}


def read_modes(path: Path) -> list[Mode]:
    """Return the modes that are recorded for a run; none where there is no record."""
    try:
        content = files.parse_json(files.read_bytes(path, files.MOST_JSON))
        return [Mode(**mode) for mode in content["ways"]] if wrong_entry(content, {"ways": [MODE]}) is None else []
    except (OSError, ValueError, TypeError):
        return []
