"""The space of a search: what is chosen from what. The spaces of named models and optimizers stand in one table.

A space is a dict from a choice's name to a `Range`, or to a list of values. A name is an option of `train` (lr, batch_size,
schedule, …), "momentum" or "weight_decay", an argument of an option ("loss_arguments.label_smoothing"), or an argument of the
model. In a TOML file: `lr = {log = [1e-4, 1e-1]}`, `dropout = {between = [0.0, 0.5]}`, `batch_size = [32, 64]`.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import UsageError
from rushlight.options import OPTIONS, TAKES

MOST_OF_A_SPACE = 1 << 20  # bytes of a TOML file
OF_OPTIMIZER = ("momentum", "weight_decay")
OF_OPTIONS = ("optimizer_arguments", "schedule_arguments", "loss_arguments", "model_arguments")
PLAIN = (bool, int, float, str)  # values that a list may have
NOT_SEARCHED = (
    "epochs",
    "max_steps",
    "seed",
    "split_seed",
    "val_fraction",
    "test_fraction",
    "study",
    "final_test",
    "resume",
)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers where both bounds are."""

    low: float
    high: float
    is_log: bool = False  # whether as many trials fall between 1 and 10 as between 10 and 100

    def __post_init__(self) -> None:
        numbers = all(
            isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (self.low, self.high)
        )
        if not numbers or not self.low < self.high or (self.is_log and self.low <= 0):
            raise UsageError("space-bad-range", low=self.low, high=self.high, kind="log" if self.is_log else "between")

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = dict[str, Range | list[Any]]


def log(low: float, high: float) -> Range:
    """Return the numbers from `low` to `high` (both above 0) on a logarithmic scale; whole where both bounds are."""
    return Range(low, high, is_log=True)


def between(low: float, high: float) -> Range:
    """Return the numbers from `low` to `high`; whole where both bounds are."""
    return Range(low, high)


# ── the table: each choice's range, and its value where nothing is chosen ────────────────────────────────────────

DROPOUT = (between(0.0, 0.5), 0.0)
DECAY = (log(1e-6, 1e-1), 1e-2)
LITTLE_DECAY = ([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], 0.0)  # of optimizers that have none by default
TABLE: dict[str, dict[str, tuple[Range | list[Any], Any]]] = {
    "all": {"batch_size": ([32, 64, 128, 256], 64), "schedule": (["constant", "cosine", "onecycle"], "cosine")},
    "images": {"augment": (["none", "light", "strong"], "none")},
    # depth: hidden layers of mlp, convolutions of cnn, blocks of each stage of resnet, halvings of unet
    "linear": {},
    "mlp": {"width": (log(32, 1024), 512), "depth": (between(1, 4), 2), "dropout": DROPOUT},
    "cnn": {"width": (log(8, 64), 32), "depth": (between(2, 4), 3), "dropout": DROPOUT},
    "resnet": {"width": (log(8, 64), 32), "depth": (between(1, 3), 1)},
    "unet": {"width": (log(4, 32), 16), "depth": (between(1, 4), 3)},
    "adadelta": {"lr": (log(1e-2, 10.0), 1.0), "weight_decay": LITTLE_DECAY},
    "adafactor": {"lr": (log(1e-4, 1e-1), 1e-2), "weight_decay": LITTLE_DECAY},
    "adagrad": {"lr": (log(1e-3, 1.0), 1e-2), "weight_decay": LITTLE_DECAY},
    "adam": {"lr": (log(1e-4, 3e-2), 1e-3), "weight_decay": LITTLE_DECAY},
    "adamax": {"lr": (log(1e-4, 3e-2), 2e-3), "weight_decay": LITTLE_DECAY},
    "adamw": {"lr": (log(1e-4, 3e-2), 1e-3), "weight_decay": DECAY},
    "asgd": {"lr": (log(1e-3, 1.0), 1e-2), "weight_decay": LITTLE_DECAY},
    "nadam": {"lr": (log(1e-4, 3e-2), 2e-3), "weight_decay": LITTLE_DECAY},
    "radam": {"lr": (log(1e-4, 3e-2), 1e-3), "weight_decay": LITTLE_DECAY},
    "rmsprop": {"lr": (log(1e-5, 1e-1), 1e-2), "momentum": (between(0.0, 0.95), 0.0), "weight_decay": LITTLE_DECAY},
    "sgd": {"lr": (log(1e-3, 1.0), 1e-3), "momentum": (between(0.0, 0.99), 0.0), "weight_decay": LITTLE_DECAY},
}  # fmt: skip
SHAPES: dict[str, Callable[[int, int], dict[str, Any]]] = {  # the arguments of a model from its width and depth
    "mlp": lambda width, depth: {"hidden": [width] * depth},
    "cnn": lambda width, depth: {"channels": [width << layer for layer in range(depth)]},
    "resnet": lambda width, depth: {"width": width, "blocks": [depth] * 3},
    "unet": lambda width, depth: {"width": width, "depth": depth},
}
SHAPED = ("hidden", "channels", "width", "blocks", "depth")


def default_space(
    model: str, options: Mapping[str, Any], has_images: bool, own_batch_size: bool
) -> tuple[Space, dict[str, Any]]:
    """Return the space of a named model with its optimizer, less what `options` decide, and the defaults in it.

    Raises UsageError for an optimizer that has none.
    """
    optimizer = options.get("optimizer") or "AdamW"
    name = optimizer.lower() if isinstance(optimizer, str) else ""
    if name not in TABLE or name in SHAPES or name == "linear":
        shown = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
        raise UsageError("space-unknown", name=shown)
    rows = {**TABLE["all"], **(TABLE["images"] if has_images else {}), **TABLE.get(model, {}), **TABLE[name]}
    fixed = {*options, *(name for each in OF_OPTIONS for name in options.get(each) or {})}
    fixed |= {"batch_size"} if own_batch_size else set()
    fixed |= {"width", "depth"} if fixed & set(SHAPED) else set()
    kept = {name: row for name, row in rows.items() if name not in fixed}
    defaults = {name: usual for name, (_, usual) in kept.items()}
    defaults |= {"schedule": usual_schedule(options)} if "schedule" in defaults else {}
    return {name: found for name, (found, _) in kept.items()}, defaults


def usual_schedule(options: Mapping[str, Any]) -> str:
    """Return the schedule of a training with these options, as `train` chooses it."""
    has_chosen = any(options.get(name) for name in ("optimizer", "lr", "optimizer_arguments"))
    return "constant" if has_chosen else "cosine"


def known_defaults(model: Any, space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value that each choice of a user's space has where nothing is chosen; {} where one has none in its range.

    `model` is a model's name, or a function, whose signature tells.
    """
    optimizer = str(options.get("optimizer") or "AdamW").lower()
    table = {**TABLE["all"], **TABLE["images"], **TABLE.get(optimizer, {})}
    usual = {name: value for name, (_, value) in table.items()} | {"schedule": usual_schedule(options)}
    if isinstance(model, str):
        usual |= {name: value for name, (_, value) in TABLE.get(model, {}).items()}
    else:
        parameters = inspect.signature(model).parameters.values()
        usual |= {entry.name: entry.default for entry in parameters if entry.default is not entry.empty}
    found = {name: usual[name] for name in space if name in usual and contains(space[name], usual[name])}
    return found if len(found) == len(space) else {}


def contains(choice: Range | list[Any], value: Any) -> bool:
    """Tell whether a choice has this value."""
    if isinstance(choice, list):
        return value in choice
    return (
        isinstance(value, (int, float))
        and choice.low <= value <= choice.high
        and (not choice.is_whole or value == int(value))
    )


# ── a space as the user gives it, and as it is written ───────────────────────────────────────────────────────────


def read_space(path: Path) -> Space:
    """Return the space in a TOML file. UsageError names what is wrong with it."""
    try:
        content = tomllib.loads(files.read_bytes(path, MOST_OF_A_SPACE).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("space-no-toml", path=path, reason=error) from error
    return check_space(content)


def check_space(given: Mapping[str, Any]) -> Space:
    """Return a space whose entries are ranges and lists of plain values; UsageError names an entry that is neither."""
    found: Space = {}
    for name, entry in given.items():
        kind = next(iter(entry)) if isinstance(entry, Mapping) and len(entry) == 1 else ""
        if kind in ("log", "between") and isinstance(entry[kind], (list, tuple)) and len(entry[kind]) == 2:
            low, high = entry[kind]
            entry = Range(low, high, kind == "log")
        is_list = isinstance(entry, (list, tuple)) and len(entry) > 1
        if not isinstance(entry, Range) and not (is_list and all(isinstance(each, PLAIN) for each in entry)):
            raise UsageError("space-bad-entry", name=name, found=repr(entry))
        entry = entry if isinstance(entry, Range) else list(entry)
        whole, _, inner = name.partition(".")
        if name in NOT_SEARCHED or (inner and whole not in OF_OPTIONS):
            raise UsageError("space-not-searched", name=name)
        for value in entry if name in TAKES["train"] and isinstance(entry, list) else ():
            OPTIONS[name].verify(None if value == "none" else value)
        found[name] = entry
    if not found:
        raise UsageError("space-empty")
    return found


def space_to_json(space: Space) -> dict[str, Any]:
    """Return a space as it stands in a TOML file or in study.json."""
    return {
        name: {"log" if entry.is_log else "between": [entry.low, entry.high]} if isinstance(entry, Range) else entry
        for name, entry in space.items()
    }


def chosen_options(model: Any, choices: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `train` with a trial's choices in them; those of the model are its "model_arguments"."""
    found: dict[str, Any] = {**options, **{each: dict(options.get(each) or {}) for each in OF_OPTIONS}}
    for name, value in choices.items():
        whole, _, inner = name.partition(".")
        if inner:
            found[whole][inner] = value
        elif name in OPTIONS:
            found[name] = None if value == "none" and OPTIONS[name].default is None else value
        else:
            found["optimizer_arguments" if name in OF_OPTIMIZER else "model_arguments"][name] = value
    arguments = found["model_arguments"]
    if model in SHAPES and {"width", "depth"} & set(choices):
        usual = {name: TABLE[model][name][1] for name in ("width", "depth")}
        shape = {name: arguments.pop(name, usual[name]) for name in usual}
        arguments |= SHAPES[model](shape["width"], shape["depth"])
    return {name: value for name, value in found.items() if value not in (None, {})}
