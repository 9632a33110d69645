"""What training changes outside of the state dict: the global random streams, and what the user's objects hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from rushlight.data import LoaderSplit, step_seed
from rushlight.texts import Note
from rushlight.training.state import Training


def random_streams() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators; a GPU's is seeded per step."""
    version, words, gauss = random.getstate()
    return {
        "python": (version, np.array(words, np.uint32), gauss),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }


def seed_step(generator: torch.Generator, seed: int) -> None:
    """Seed the generators that a step draws from: the device's, and the processor's, from which a model on a card may draw too."""
    generator.manual_seed(seed)
    if generator is not torch.default_generator:
        torch.default_generator.manual_seed(seed)


def begin_random_streams(training: Training) -> None:
    """Set the global random generators as restored; in a new run, by the recipe's seed.

    Right before the first step, since other code before it draws from them too: importing rich does.
    """
    streams = training.state.pop("random", None)
    if streams is not None:
        restore_random_streams(streams)
    elif not training.state["step"]:
        seed = step_seed(training.recipe.seed, 0, 0)
        random.seed(seed)
        np.random.seed(seed)


def restore_random_streams(streams: dict[str, Any]) -> None:
    """Set the global random generators to the states that `random_streams` returned."""
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(streams["numpy"])
    torch.set_rng_state(streams["torch"])


def check_random_streams(streams: dict[str, Any]) -> None:
    """Raise whatever the generators raise for states that are none of theirs; nothing is changed."""
    before = random_streams()
    try:
        restore_random_streams(streams)
    finally:
        restore_random_streams(before)


def held_state(training: Training) -> dict[str, Any]:
    """Return what has changed in the state that model, loss and data hold, for a checkpoint.

    An epoch of a DataLoader is read again from its beginning, so inside one it is the data's state at that beginning.
    """
    held, splits = training.held, training.data.splits
    found = held.changes()
    if training.state["window"] and isinstance(training.data.train, LoaderSplit):
        found = {path: value for path, value in found.items() if path.partition(".")[0] not in splits} | held.noted
    note_inexact(training)
    return found


def note_inexact(training: Training) -> None:
    """Note in the state what a resume cannot restore, and tell what is new of it."""
    unkept = (Note("training.unkept", name=path) for path in training.held.unkept)
    changed = training.held.changes() if training.world.is_shared else ()
    own = (
        Note("training.held-per-process", name=path)
        for path in changed
        if path.partition(".")[0] not in training.data.splits
    )
    for reason in (*training.data.inexact, *unkept, *own):
        if reason not in training.state["inexact"]:
            training.state["inexact"].append(reason)
            training.events.warning(Note("training.resumes-inexactly", reason=reason))
