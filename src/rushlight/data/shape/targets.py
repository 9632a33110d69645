"""Targets as numbers, and what they are: classes, quantities, or labels that hold at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data.spec import FLOATS, TargetSpec, Task
from rushlight.errors import DataError, UsageError
from rushlight.formats import format_names
from rushlight.texts import Note

FEW_CLASSES = 20
MOST_CLASSES = 1_000_000  # of places: more than any vocabulary


def read_targets(
    targets: Any, task: Task | None = None, classes: Sequence[str] | None = None
) -> tuple[Tensor, TargetSpec]:
    """Return targets as numbers, and what they are: told by their dtype and shape unless `task` says it.

    Whole numbers and booleans, (n,) or (n, 1), are classes; texts are, too, by name. Floats are a regression. Zeros and
    ones in several columns are labels that hold at once (multilabel). One-hot rows become classes with
    `task="classification"`. In more dimensions, and whole numbers in several columns, there is a target for each place.
    """
    array = as_array(targets, Note("words.the-targets"), Note("words.targets"))
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biufU":
        raise DataError("targets-not-usable", dtype=array.dtype)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 0 or 0 in array.shape[1:] or (array.ndim > 1 and array.dtype.kind == "U"):
        raise DataError("targets-shape", shape=tuple(array.shape))
    guessed: Task = "multilabel" if array.ndim == 2 and is_zeros_and_ones(array) else "classification"
    chosen = task or ("regression" if array.dtype.kind == "f" else guessed)
    if len(array) == 0:
        array = array.astype(np.int64)  # nothing to look at; build_data says that there are no samples
    if array.ndim > 2 or (array.ndim == 2 and chosen == "classification" and not is_one_hot(array)):
        return read_places(array, chosen, tuple(classes) if classes else None)
    reader = {"classification": read_classes, "binary": read_binary, "multilabel": read_multilabel}.get(chosen)
    return read_quantities(array) if reader is None else reader(array, tuple(classes) if classes else None)


def read_places(array: np.ndarray, task: Task, classes: tuple[str, ...] | None) -> tuple[Tensor, TargetSpec]:
    """Read a target for each place of a sample: class numbers as int64, all else as float32, in the shape they have.

    Which number a loss leaves out is not known here, so the highest one may be no class.
    """
    is_whole_there = array.dtype.kind != "f" or are_whole_numbers(array)
    fits = {"classification": is_whole_there, "binary": is_zeros_and_ones(array), "regression": True}
    if not fits.get(task, False):
        raise UsageError("task-does-not-fit", task=task, found=found(array))
    if task == "classification":
        count = int(array.max(initial=0)) + 1
        if count > MOST_CLASSES:
            raise DataError("labels-too-large", label=count - 1, different=len(np.unique(array)))
        names = classes or tuple(map(str, range(count)))
        return torch.from_numpy(array.astype(np.int64)), TargetSpec(task, names, layout="dense")
    values = as_floats(array, Note("words.the-targets"), Note("words.train-and-test"))
    return values, TargetSpec(task, (classes or ("0", "1")) if task == "binary" else (), layout="dense")


def read_classes(array: np.ndarray, classes: tuple[str, ...] | None) -> tuple[Tensor, TargetSpec]:
    """Read class numbers, class names or one-hot rows as int64, (n,)."""
    if array.dtype.kind == "U" and array.ndim == 1:
        return read_class_names(array, classes)
    width = 0
    if array.ndim == 2:
        width, array = array.shape[1], array.argmax(1)  # one-hot rows: all else is read by places
    if array.dtype.kind == "f" and not are_whole_numbers(array):
        raise UsageError("task-does-not-fit", task="classification", found=found(array))
    labels = array.astype(np.int64)
    count = max(int(labels.max(initial=0)) + 1, width)
    if classes is not None and len(classes) < count:
        raise DataError("too-few-class-names", names=len(classes), classes=count, label=count - 1)
    if count > max(1000, len(labels)):
        raise DataError("labels-too-large", label=count - 1, different=len(np.unique(labels)))
    return torch.from_numpy(labels), TargetSpec("classification", classes or tuple(map(str, range(count))))


def read_class_names(array: np.ndarray, classes: tuple[str, ...] | None) -> tuple[Tensor, TargetSpec]:
    """Read texts as classes: numbered in sorted order, or in the order of `classes`."""
    names, labels = np.unique(array, return_inverse=True)
    if classes is None:
        return torch.from_numpy(labels.astype(np.int64)), TargetSpec("classification", tuple(names.tolist()))
    if strangers := [name for name in names.tolist() if name not in classes]:
        raise DataError("class-not-named", found=strangers[0], classes=format_names(classes, 20))
    number_of = np.array([classes.index(name) for name in names.tolist()], dtype=np.int64)
    return torch.from_numpy(number_of[labels]), TargetSpec("classification", classes)


def read_binary(array: np.ndarray, classes: tuple[str, ...] | None) -> tuple[Tensor, TargetSpec]:
    """Read two classes as float32 0 or 1, (n, 1)."""
    if array.dtype.kind == "U" and array.ndim == 1:
        labels, spec = read_class_names(array, classes)
        if len(spec.classes) != 2:
            raise UsageError("task-does-not-fit", task="binary", found=found(array))
        return labels.float().reshape(-1, 1), TargetSpec("binary", spec.classes)
    if array.ndim != 1 or not is_zeros_and_ones(array):
        raise UsageError("task-does-not-fit", task="binary", found=found(array))
    if classes is not None and len(classes) != 2:
        raise DataError("too-few-class-names", names=len(classes), classes=2, label=1)
    return torch.from_numpy(array.astype(FLOATS.get())).reshape(-1, 1), TargetSpec("binary", classes or ("0", "1"))


def read_multilabel(array: np.ndarray, classes: tuple[str, ...] | None) -> tuple[Tensor, TargetSpec]:
    """Read zeros and ones as float32, (n, labels)."""
    if array.ndim != 2 or not is_zeros_and_ones(array):
        raise UsageError("task-does-not-fit", task="multilabel", found=found(array))
    if classes is not None and len(classes) != array.shape[1]:
        raise DataError("too-few-class-names", names=len(classes), classes=array.shape[1], label=array.shape[1] - 1)
    names = classes or tuple(map(str, range(array.shape[1])))
    return torch.from_numpy(array.astype(FLOATS.get())), TargetSpec("multilabel", names)


def read_quantities(array: np.ndarray) -> tuple[Tensor, TargetSpec]:
    """Read numbers as float32, (n, width)."""
    if array.dtype.kind == "U":
        raise UsageError("task-does-not-fit", task="regression", found=found(array))
    columns = array.reshape(len(array), -1 if array.size else 1)
    return as_floats(columns, Note("words.the-targets"), Note("words.train-and-test")), TargetSpec(
        "regression", width=columns.shape[1]
    )


def target_notes(array: np.ndarray, target: TargetSpec, task: Task | None) -> list[Note]:
    """Say what the targets were taken for, where it might have been meant otherwise."""
    if task is not None or array.size == 0 or target.layout == "dense":
        return []
    if target.task in ("regression", "multilabel") and array.ndim == 2 and array.shape[1] > 1 and is_one_hot(array):
        return [Note("data.looks-one-hot", task=target.task)]
    if (
        target.task == "regression"
        and target.width == 1
        and are_whole_numbers(array)
        and len(np.unique(array)) <= FEW_CLASSES
    ):
        return [Note("data.whole-floats")]
    return []


def are_whole_numbers(array: np.ndarray) -> bool:
    """Tell whether all numbers are finite and whole."""
    return bool(np.isfinite(array).all() and (array == np.floor(array)).all())


def is_zeros_and_ones(array: np.ndarray) -> bool:
    """Tell whether there is nothing but zeros and ones."""
    return array.dtype.kind in "biuf" and bool(((array == 0) | (array == 1)).all())


def is_one_hot(array: np.ndarray) -> bool:
    """Tell whether every row has a single one among zeros."""
    return is_zeros_and_ones(array) and bool((array.sum(1) == 1).all())


def found(array: np.ndarray) -> Note:
    """Describe targets in an error: dtype, shape and the first few values."""
    return Note(
        "data.targets-found", dtype=Note("export.text") if array.dtype.kind == "U" else array.dtype, shape=tuple(array.shape),
        count=len(np.unique(array)), values=", ".join(str(value) for value in array[:3].tolist()),
    )  # fmt: skip


def check_same_shape(name: str, targets: dict[str, np.ndarray]) -> None:
    """Raise DataError when the targets of the splits cannot stand in one array."""
    kinds = {split: (array.dtype.kind in "UO", array.shape[1:]) for split, array in targets.items()}
    for split, array in targets.items():
        if kinds[split] != kinds["train"]:
            train, other = (f"{array.dtype} {tuple(array.shape)}" for array in (targets["train"], array))
            raise DataError("targets-differ", data=name, split=split, train=train, other=other)


def as_floats(array: np.ndarray, name: str, split: str) -> Tensor:
    """Return an array as FLOATS says; DataError for a finite number that float32 cannot hold."""
    with np.errstate(over="ignore"):
        converted = array.astype(FLOATS.get())
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        lost = np.isinf(converted) & np.isfinite(array)
        if lost.any():
            first = int(np.argwhere(lost)[0][0])
            count, value = int(lost.sum()), array[lost][0]
            raise DataError("beyond-float32", data=name, split=split, count=count, first=first, value=value)
    return torch.from_numpy(np.ascontiguousarray(converted))


def as_array(values: Any, name: str, what: str) -> np.ndarray:
    """Return a tensor, an array or a nested list as an array in this machine's byte order."""
    if isinstance(values, Tensor):
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy(force=True))
    if isinstance(values, (list, tuple)):
        values = [as_array(value, name, what) if isinstance(value, Tensor) else value for value in values]
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError("ragged", data=name, what=what, reason=error) from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def owned(array: np.ndarray) -> Tensor:
    """Return a contiguous tensor of the same memory where torch can use it, else of a copy.

    Torch would let a read-only array be written to; and an array of one row is contiguous to NumPy with any stride along
    its rows, also with one that torch refuses.
    """
    array = np.ascontiguousarray(array)
    fits = array.flags.writeable and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return torch.from_numpy(array if fits else array.copy())
