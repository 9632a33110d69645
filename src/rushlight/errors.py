"""Everything Rushlight raises on purpose.

RushlightError             the root; `except rushlight.RushlightError` catches all of it
├── UsageError             what was asked for makes no sense: an unknown name, a bad option       (exit code 2)
├── DataError              the data cannot be read or cannot be trained on                        (exit code 2)
├── ModelError             the model cannot be built, or does not fit the data                    (exit code 2)
├── WeightsError           a weights file, a bundle or a checkpoint cannot be loaded              (exit code 2)
├── RunError               no such run, or the run's folder is in use or damaged                  (exit code 2)
├── FetchError             a dataset could not be obtained from any of its sources                (exit code 1)
├── StorageError           the disk refused: no space, no permission, an I/O error                (exit code 1)
└── TrainingError          training itself failed: the loss is not finite, memory ran out         (exit code 1)

Every error has a key into texts/LANGUAGE/errors.toml, where its words are kept, and the values those words need.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from rushlight.texts import Note, text


class RushlightError(Exception):
    """An error that explains itself: `problem` says where, expected and found; `advice` what to do next."""

    exit_code = 2

    def __init__(self, key: str, /, **values: object) -> None:
        self.key = key
        self.values = values
        self.problem = text(f"errors.{key}.problem", **values)
        self.advice = text(f"errors.{key}.advice", **values)
        super().__init__(f"{self.problem}\n{self.advice}" if self.advice else self.problem)

    @property
    def record(self) -> Note:
        """The problem for a run's files: in English, whatever language is shown."""
        return Note(f"errors.{self.key}.problem", **self.values)


class UsageError(RushlightError):
    """What was asked for makes no sense: an unknown name, a bad option."""


class DataError(RushlightError):
    """The data cannot be read or cannot be trained on."""


class ModelError(RushlightError):
    """The model cannot be built, or does not fit the data."""


class WeightsError(RushlightError):
    """A weights file, a bundle or a checkpoint cannot be loaded."""


class RunError(RushlightError):
    """There is no such run, or its folder is in use or damaged."""


class FetchError(RushlightError):
    """A dataset could not be obtained from any of its sources."""

    exit_code = 1


class StorageError(RushlightError):
    """The disk refused: no space, no permission, an input/output error."""

    exit_code = 1


class TrainingError(RushlightError):
    """Training itself failed: the loss is not finite, memory ran out."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_a_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"


def problem_of(error: BaseException) -> str:
    """Return what went wrong in one sentence, in English."""
    return error.record if isinstance(error, RushlightError) else f"{type(error).__name__}: {error}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "mlp"?' for the known name nearest to `name`, or '' when none is near."""
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return Note("words.did-you-mean", name=lowered[near[0]]) if near else ""


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raise UsageError when an option's value is none of its choices, with the nearest that is."""
    if value not in choices:
        raise UsageError(
            "bad-choice",
            option=option,
            value=value,
            choices=", ".join(choices),
            suggestion=suggest(str(value), choices),
        )
