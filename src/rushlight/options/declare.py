"""The options, declared once: signatures, help, command line, recipe, checks and the reference derive from these fields.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rushlight import files
from rushlight.errors import UsageError, check_choice
from rushlight.texts import Note

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from rushlight.data import Batch
    from rushlight.events import Event
    from rushlight.training.objective import Loss

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Numerics = Literal["exact", "fast"]
OnNan = Literal["stop", "skip", "rollback"]
Compile = Literal["auto", "first", "never"]
ScheduleBy = Literal["auto", "step", "epoch"]
Task = Literal["classification", "binary", "multilabel", "regression"]
Kind = Literal["image", "array", "tokens"]
Strength = Literal["light", "strong"]
Normalize = Literal["auto", "standard", "unit", "none"]

LEARNING, DATA, MODEL, MACHINE, RUN = PANELS = ("learning", "data", "model", "machine", "run")  # in the order of help
OnResume = Literal["no", "yes", "live", "only"]  # live: where it is an object, which has to be given again


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────

Check = Callable[[str, Any], None]


def rule(key: str, holds: Callable[[Any], bool]) -> Check:
    """Return the check that raises the UsageError of this key for a value of which `holds` is not true."""

    def check(option: str, value: Any) -> None:
        if not holds(value):
            raise UsageError(key, option=option, value=value)

    return check


def is_integer(value: object) -> bool:
    """Tell whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether a value is a finite real number; True and False are none."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def is_fold(value: object) -> bool:
    """Tell whether a value is a fold of the samples: (2, 5) is the second of five."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(is_integer, value))
    return is_pair and 1 <= value[0] <= value[1] and value[1] >= 2  # type: ignore[index]


def is_ray_address(text: str) -> bool:
    """Tell whether a text is the address of a Ray cluster: local, auto or HOST:PORT."""
    return re.fullmatch(r"local|auto|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+", text) is not None


COUNT = rule("not-a-count", lambda value: is_integer(value) and value >= 1)
COUNT_FROM_0 = rule("negative", lambda value: is_integer(value) and value >= 0)
POSITIVE = rule("not-positive", lambda value: is_number(value) and value > 0)
# Infinity passes here: named_optimizer refuses it, as any argument that is not finite.
RATE = rule("option-not-a-number", lambda value: (is_number(value) or value == math.inf) and value >= 0)
FRACTION = rule("bad-fraction", lambda value: is_number(value) and 0 <= value < 1)
SHARE = rule("bad-fraction", lambda value: is_fold(value) or (is_number(value) and 0 <= value < 1))
DECAY = rule("bad-decay", lambda value: is_number(value) and 0 < value < 1)
SEED = rule("bad-seed", lambda value: is_integer(value) and -(2**63) <= value < 2**63)
SETTINGS = rule("option-no-dict", lambda value: isinstance(value, dict))
PATTERNS = rule(
    "patterns-no-list", lambda value: isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
)
GROUPS = rule(
    "groups-no-dicts", lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())
)
ADDRESS = rule("ray-address", lambda value: isinstance(value, str) and is_ray_address(value))
YES_OR_NO = rule("option-no-bool", lambda value: isinstance(value, bool))


# ── one option ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Option:
    """One option, as it is declared."""

    default: Any
    panel: str
    check: Check | None = None  # of the value; bools and choices are checked by their type
    metavar: str | None = None
    flag: str = ""  # on the command line, where it is not made of the name
    on_resume: OnResume = "no"
    python_only: bool = False
    repeats: bool = False  # on the command line, once for each value
    name: str = ""
    source: str = ""  # the type, as it is written

    @property
    def flags(self) -> tuple[str, ...]:
        """The names on the command line; none where the option is for Python only."""
        flag = self.flag or f"--{self.name.replace('_', '-')}"
        return () if self.python_only else tuple(flag.split("/"))

    @property
    def help(self) -> Note:
        """The meaning in one line."""
        return Note(f"help.options.{self.name.replace('_', '-')}")

    @property
    def in_python(self) -> Note | None:
        """The values that Python code may give besides; None where there are none."""
        return found_text("help.python.", self.name)

    @property
    def in_words(self) -> Note | None:
        """The default in words; None where its value tells."""
        return found_text("help.defaults.", self.name)

    @property
    def type(self) -> Any:
        """The type, or its source where that names classes of torch."""
        try:
            return eval(self.source)
        except NameError:
            return self.source

    @property
    def choices(self) -> tuple[str, ...]:
        """The values there are, of an option that is a choice; else none."""
        found = get_args(globals().get(self.source.removesuffix(" | None")))
        return tuple(value for value in found if isinstance(value, str))

    def verify(self, value: Any) -> None:
        """Raise UsageError for a value that this option cannot have; None is one where it is the default."""
        if value is None and self.default is None:
            return
        if self.choices:
            check_choice(self.name, value, self.choices)
        elif self.source == "bool":
            YES_OR_NO(self.name, value)
        elif self.check is not None:
            self.check(self.name, value)


def found_text(section: str, name: str) -> Note | None:
    """Return the text of a name in a section such as "help.options."; None where the section has none."""
    try:
        return Note(f"{section}{name.replace('_', '-')}")
    except KeyError:
        return None


def option(default: Any, panel: str, check: Check | None = None, **more: Any) -> Any:
    """Declare an option as a dataclass field."""
    return field(default=default, metadata={"option": Option(default, panel, check, **more)})


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The options that the recipe keeps as they are."""

    epochs: int = option(5, LEARNING, COUNT, on_resume="yes")
    batch_size: int | None = option(None, LEARNING, COUNT)
    accumulate: int = option(1, LEARNING, COUNT)
    clip_norm: float | None = option(None, LEARNING, POSITIVE)
    early_stopping: int | None = option(None, LEARNING, COUNT, metavar="EPOCHS")
    best: str | None = option(None, LEARNING, metavar="METRIC")
    ema: float | None = option(None, LEARNING, DECAY, metavar="DECAY")
    swa: int | None = option(None, LEARNING, COUNT, metavar="EPOCH")
    augment: Strength | None = option(None, LEARNING)
    mixup: float | None = option(None, LEARNING, POSITIVE, metavar="ALPHA")
    cutmix: float | None = option(None, LEARNING, POSITIVE, metavar="ALPHA")
    max_steps: int | None = option(None, LEARNING, COUNT)
    groups: dict[str, dict[str, Any]] | None = option(
        None, LEARNING, GROUPS, flag="--group", metavar="PATTERN:NAME=VALUE,…", repeats=True
    )
    freeze: Sequence[str] | None = option(None, MODEL, PATTERNS, metavar="PATTERN", repeats=True)
    unfreeze_after: int | None = option(None, MODEL, COUNT, metavar="EPOCHS")
    on_nan: OnNan = option("stop", LEARNING, on_resume="yes")
    seed: int = option(0, LEARNING, SEED)
    device: str = option("auto", MACHINE, on_resume="yes")
    precision: Precision = option("float32", MACHINE)
    numerics: Numerics = option("fast", MACHINE)
    compile: Compile = option("auto", MACHINE)
    study: str | None = option(None, RUN, python_only=True)
    final_test: bool = option(True, RUN, python_only=True)
    keep_epochs: bool = option(False, RUN)
    tensorboard: bool = option(False, RUN)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name in OPTIONS:
                OPTIONS[entry.name].verify(getattr(self, entry.name))


@dataclass(frozen=True, kw_only=True)
class Options(RecipeOptions):
    """Everything that can be chosen besides the model and the data; every option has a default."""

    lr: float | None = option(None, LEARNING, RATE)
    optimizer: str | Optimizer | None = option(None, LEARNING, on_resume="live")
    optimizer_arguments: dict[str, Any] | None = option(
        None, LEARNING, SETTINGS, flag="--optimizer-arg", metavar="NAME=VALUE", repeats=True
    )
    schedule: str | LRScheduler = option("auto", LEARNING, on_resume="yes")
    schedule_by: ScheduleBy = option("auto", LEARNING, on_resume="yes")
    schedule_arguments: dict[str, Any] | None = option(
        None, LEARNING, SETTINGS, flag="--schedule-arg", metavar="NAME=VALUE", repeats=True, on_resume="yes"
    )
    warmup: int = option(0, LEARNING, COUNT_FROM_0)
    loss: str | Loss | None = option(None, LEARNING, on_resume="live")
    loss_arguments: dict[str, Any] | None = option(
        None, LEARNING, SETTINGS, flag="--loss-arg", metavar="NAME=VALUE", repeats=True
    )
    objective: Callable[[nn.Module, Batch], Any] | None = option(None, LEARNING, python_only=True, on_resume="live")
    step: Callable[[Batch], Any] | None = option(None, LEARNING, python_only=True, on_resume="live")
    metrics: Sequence[Any] | Mapping[str, Any] | None = option(
        None, LEARNING, flag="--metric", metavar="METRIC", repeats=True, on_resume="live"
    )
    model_arguments: dict[str, Any] | None = option(
        None, MODEL, SETTINGS, flag="--model-arg", metavar="NAME=VALUE", repeats=True
    )
    weights: str | Path | None = option(None, MODEL, metavar="FILE")
    target: str | None = option(None, DATA, metavar="COLUMN")
    text_column: str | None = option(None, DATA, metavar="COLUMN")
    text_length: int | None = option(None, DATA, COUNT)
    tokenizer: Any = option(None, DATA, metavar="FILE", on_resume="live")
    window: int | None = option(None, DATA, COUNT)
    horizon: int = option(1, DATA, COUNT)
    time_column: str | None = option(None, DATA, metavar="COLUMN")
    shuffle_window: int | None = option(None, DATA, COUNT)
    test_data: Any = option(None, DATA, metavar="NAME|PATH", on_resume="live")
    test_fraction: float = option(0.2, DATA, SHARE)
    val_data: Any = option(None, DATA, metavar="NAME|PATH", on_resume="live")
    val_fraction: float | None = option(None, DATA, FRACTION)
    split_seed: int | None = option(None, DATA, SEED)
    task: Task | None = option(None, DATA)
    kind: Kind | None = option(None, DATA)
    classes: Sequence[str] | None = option(None, DATA, metavar="NAMES")
    normalize: Normalize = option("auto", DATA)
    image_size: tuple[int, int] | None = option(None, DATA, metavar="SIZE")
    skip_bad: bool = option(False, DATA)
    workers: int = option(0, DATA, COUNT_FROM_0)
    processes: int | None = option(None, MACHINE, COUNT, on_resume="yes")
    ray: str | None = option(None, MACHINE, ADDRESS, metavar="ADDRESS", on_resume="yes")
    gpus_per_process: int | None = option(None, MACHINE, COUNT, on_resume="yes")
    shard: bool = option(False, MACHINE, on_resume="yes")
    sync_batchnorm: bool = option(False, MACHINE, on_resume="yes")
    keep: Sequence[Any] | None = option(None, RUN, python_only=True, on_resume="live")
    name: str | None = option(None, RUN)
    runs: str | Path = option(
        "runs", RUN, lambda option, value: files.check_local(value), metavar="FOLDER", on_resume="yes"
    )
    resume: bool = option(False, RUN)
    inexact: bool = option(False, RUN, on_resume="yes")
    checkpoint: str | int | Path | None = option(None, RUN, metavar="STEP|NAME", on_resume="only")
    profile: bool = option(False, RUN, on_resume="yes")
    on_event: Callable[[Event], object] | None = option(None, RUN, python_only=True, on_resume="yes")
    quiet: bool = option(False, RUN, flag="--quiet/-q", on_resume="yes")
    to_stderr: bool = option(False, RUN, python_only=True, on_resume="yes")


FIRST = (  # of their panel
    "epochs", "batch_size", "lr", "optimizer", "optimizer_arguments", "schedule", "schedule_by",
    "schedule_arguments", "warmup", "loss", "loss_arguments", "objective", "step", "name", "runs",
)  # fmt: skip


def place(option: Option) -> tuple[int, int]:
    """Return where an option stands in help: by panel, and there those first that a beginner needs."""
    return PANELS.index(option.panel), FIRST.index(option.name) if option.name in FIRST else len(FIRST)


declared = [replace(entry.metadata["option"], name=entry.name, source=str(entry.type)) for entry in fields(Options)]
OPTIONS: dict[str, Option] = {option.name: option for option in sorted(declared, key=place)}
NOT_TUNED = (  # a study's own, or no plain word that each trial can have anew
    "max_steps", "study", "final_test", "resume", "inexact", "profile", "on_event", "step", "keep", "split_seed", "tensorboard", "processes", "ray", "gpus_per_process", "shard", "sync_batchnorm",
)  # fmt: skip
OF_DATA = (*(option.name for option in OPTIONS.values() if option.panel == DATA), "seed", "quiet")
TAKES: dict[str, tuple[str, ...]] = {  # the options of each verb
    "train": tuple(option.name for option in OPTIONS.values() if option.on_resume != "only"),
    "resume": tuple(option.name for option in OPTIONS.values() if option.on_resume != "no"),
    "tune": tuple(
        option.name for option in OPTIONS.values() if option.on_resume != "only" and option.name not in NOT_TUNED
    ),
    "open_data": OF_DATA,
    "test": (*OF_DATA, "loss", "objective", "metrics"),
}
