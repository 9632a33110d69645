"""The options, declared once: signatures, help, command line, recipe, checks and the reference derive from these fields.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rushlight.errors import UsageError, check_choice

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from rushlight.data import Batch
    from rushlight.training.events import Event
    from rushlight.training.objective import Loss

Precision = Literal["float32", "bfloat16"]
Numerics = Literal["exact", "fast"]
OnNan = Literal["stop", "skip", "rollback"]
Compile = Literal["auto", "first", "never"]
Task = Literal["classification", "binary", "multilabel", "regression"]
Kind = Literal["image", "array", "tokens"]
Normalize = Literal["auto", "standard", "unit", "none"]

LEARNING, DATA, MACHINE, RUN = PANELS = ("Learning", "Data", "Machine", "Run")
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


COUNT = rule("not-positive", lambda value: is_integer(value) and value >= 1)
COUNT_FROM_0 = rule("negative", lambda value: is_integer(value) and value >= 0)
POSITIVE = rule("not-positive", lambda value: is_number(value) and value > 0)
RATE = rule("option-not-a-number", lambda value: is_number(value) and value >= 0)
FRACTION = rule("bad-fraction", lambda value: is_number(value) and 0 <= value < 1)
SEED = rule("bad-seed", lambda value: is_integer(value) and -(2**63) <= value < 2**63)
SETTINGS = rule("option-no-dict", lambda value: isinstance(value, dict))
YES_OR_NO = rule("option-no-bool", lambda value: isinstance(value, bool))


# ── one option ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Option:
    """One option, as it is declared."""

    default: Any
    help: str  # one line
    panel: str
    check: Check | None = None  # of the value; bools and choices are checked by their type
    in_python: str = ""  # what else Python code may give
    in_words: str = ""  # the default, where its value does not tell
    metavar: str | None = None
    flag: str = ""  # on the command line, where it is not made of the name
    on_resume: OnResume = "no"
    python_only: bool = False
    name: str = ""
    source: str = ""  # the type, as it is written

    @property
    def flags(self) -> tuple[str, ...]:
        """The names on the command line; none where the option is for Python only."""
        flag = self.flag or f"--{self.name.replace('_', '-')}"
        return () if self.python_only else tuple(flag.split("/"))

    @property
    def shown(self) -> str:
        """The default in words."""
        return self.in_words or str(self.default)

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


def option(default: Any, help: str, panel: str, check: Check | None = None, **more: Any) -> Any:
    """Declare an option as a dataclass field."""
    return field(default=default, metadata={"option": Option(default, help, panel, check, **more)})


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The options that the recipe keeps as they are."""

    epochs: int = option(5, "How often every sample is seen.", LEARNING, COUNT, on_resume="yes")
    batch_size: int | None = option(
        None, "Samples per micro-batch.", LEARNING, COUNT, in_words="64, or the DataLoader's own"
    )
    accumulate: int = option(
        1, "Micro-batches whose gradients make one step: a large batch in little memory.", LEARNING, COUNT
    )
    clip_norm: float | None = option(
        None, "Scale the gradient down to this norm where it is larger.", LEARNING, POSITIVE
    )
    early_stopping: int | None = option(
        None, "Stop after this many epochs without a better one, and keep the best.", LEARNING, COUNT, metavar="EPOCHS"
    )
    on_nan: OnNan = option(
        "stop", "When a loss or gradient is not finite: stop, skip the step, or rollback to the epoch's start with half the rate.",
        LEARNING, on_resume="yes",
    )  # fmt: skip
    seed: int = option(0, "Of the order, the initial weights, dropout, augmentation and splits.", LEARNING, SEED)
    device: str = option(
        "auto", "auto (the best there is), cpu, cuda, cuda:1, xpu or mps.", MACHINE, in_python="Or a torch.device.",
        on_resume="yes",
    )  # fmt: skip
    precision: Precision = option(
        "float32", "float32, or bfloat16: half the memory, where the hardware has it.", MACHINE
    )
    numerics: Numerics = option(
        "fast", "exact: bit for bit the plain loop; fast: only rounding may differ.", MACHINE
    )  # fmt: skip
    compile: Compile = option(
        "auto", "auto: compile steps during training, when that will pay; first: before it begins; never. For SGD, Adam and AdamW.",
        MACHINE,
    )  # fmt: skip
    keep_epochs: bool = option(False, "Keep each epoch's checkpoint, not only the last two and the best.", RUN)
    tensorboard: bool = option(False, "Write TensorBoard event files into the run folder too.", RUN)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name in OPTIONS:
                OPTIONS[entry.name].verify(getattr(self, entry.name))


@dataclass(frozen=True, kw_only=True)
class Options(RecipeOptions):
    """Everything that can be chosen besides the model and the data; every option has a default."""

    lr: float | None = option(None, "The learning rate.", LEARNING, RATE, in_words="torch's for the optimizer")
    optimizer: str | Optimizer | None = option(
        None, "Any class of torch.optim: AdamW, SGD, Adam, RMSprop, …", LEARNING, in_python="Or a live optimizer.",
        in_words="AdamW", on_resume="live",
    )  # fmt: skip
    optimizer_arguments: dict[str, Any] | None = option(
        None, "Any other argument of the optimizer; may be repeated.", LEARNING, SETTINGS, in_python='As {"momentum": 0.9}.',
        flag="--optimizer-arg", metavar="NAME=VALUE",
    )  # fmt: skip
    schedule: str | LRScheduler = option(
        "auto", "Of the learning rate: constant, cosine or onecycle; auto: cosine, or constant once optimizer or lr is chosen.",
        LEARNING, in_python="Or a live scheduler.", on_resume="yes",
    )  # fmt: skip
    warmup: int = option(0, "Steps over which the learning rate rises to its value.", LEARNING, COUNT_FROM_0)
    loss: str | Loss | None = option(
        None, "cross-entropy, mse, l1, huber, bce, or any loss class of torch.nn.", LEARNING,
        in_python="Or a live loss: f(outputs, targets).", in_words="by the task", on_resume="live",
    )  # fmt: skip
    objective: Callable[[nn.Module, Batch], Tensor] | None = option(
        None, "f(model, batch) returns the mean loss, instead of loss(model(inputs), targets).", LEARNING, python_only=True,
        on_resume="live",
    )  # fmt: skip
    model_arguments: dict[str, Any] | None = option(
        None, "A constructor argument of the model by name; may be repeated.", LEARNING, SETTINGS,
        in_python='As {"hidden": (512, 512)}.', flag="--model-arg", metavar="NAME=VALUE",
    )  # fmt: skip
    test_data: Any = option(
        None, "The test split, where the data brings none: asked once, at the end.", DATA, in_python="Whatever data may be.",
        metavar="NAME|PATH", on_resume="live",
    )  # fmt: skip
    test_fraction: float = option(0.2, "Share set aside for testing where there is no test split.", DATA, FRACTION)
    val_data: Any = option(
        None, "The validation split, which chooses the best epoch.", DATA, in_python="Whatever data may be.",
        metavar="NAME|PATH", on_resume="live",
    )  # fmt: skip
    val_fraction: float | None = option(
        None, "Share of the training split set aside for validation.", DATA, FRACTION, in_words="0.1 where something is chosen by it"
    )  # fmt: skip
    target: str | None = option(None, "Tables: the column to predict.", DATA, metavar="COLUMN")
    task: Task | None = option(
        None, "classification, binary, multilabel or regression.", DATA, in_words="by the target's kind"
    )
    kind: Kind | None = option(
        None, "Arrays: image, array or tokens (whole numbers that are ids).", DATA, in_words="by the shape"
    )
    classes: Sequence[str] | None = option(
        None, "Class names, where the data has none: cat,dog.", DATA, metavar="NAMES"
    )  # fmt: skip
    normalize: Normalize = option(
        "auto", "standard (mean 0, std 1), unit (÷255, as ToTensor does), none, or auto.", DATA
    )
    image_size: tuple[int, int] | None = option(
        None, "Resize images: 64, or 48x64 (height x width).", DATA, in_python="As (height, width).", metavar="SIZE"
    )
    skip_bad: bool = option(False, "Leave unreadable images out and go on.", DATA)
    workers: int = option(0, "Processes that read data which does not fit in memory.", DATA, COUNT_FROM_0)
    name: str | None = option(None, "The run's name.", RUN, in_words="date, model and data")
    runs: str | Path = option("runs", "The folder that holds all runs.", RUN, metavar="FOLDER", on_resume="yes")
    resume: bool = option(
        False, "Go on with the newest unfinished run of this very recipe; begin one where there is none.", RUN
    )
    inexact: bool = option(
        False, "When resuming, go on although something changed that the bits depend on; the run records it.", RUN,
        on_resume="yes",
    )  # fmt: skip
    checkpoint: str | int | Path | None = option(
        None, "Go back to this checkpoint; newer ones are deleted.", RUN, in_words="the newest that is whole",
        metavar="STEP|NAME", on_resume="only",
    )  # fmt: skip
    profile: bool = option(
        False, "Tell where the time of a step goes and what limits it, then train on.", RUN, on_resume="yes"
    )
    on_event: Callable[[Event], object] | None = option(
        None, "f(event) is called for everything that happens: steps, epochs, notices.", RUN, python_only=True, on_resume="yes"
    )  # fmt: skip
    quiet: bool = option(False, "Print nothing but errors.", RUN, flag="--quiet/-q", on_resume="yes")
    to_stderr: bool = option(
        False, "Print to standard error, so that standard output is free.", RUN, python_only=True, on_resume="yes"
    )


FIRST = (  # of their panel
    "epochs", "batch_size", "lr", "optimizer", "optimizer_arguments", "schedule", "warmup", "loss", "objective", "model_arguments",
    "name", "runs",
)  # fmt: skip


def place(option: Option) -> tuple[int, int]:
    """Return where an option stands in help: by panel, and there those first that a beginner needs."""
    return PANELS.index(option.panel), FIRST.index(option.name) if option.name in FIRST else len(FIRST)


declared = [replace(entry.metadata["option"], name=entry.name, source=str(entry.type)) for entry in fields(Options)]
OPTIONS: dict[str, Option] = {option.name: option for option in sorted(declared, key=place)}
OF_DATA = (*(option.name for option in OPTIONS.values() if option.panel == DATA), "seed", "quiet")
TAKES: dict[str, tuple[str, ...]] = {  # the options of each verb
    "train": tuple(option.name for option in OPTIONS.values() if option.on_resume != "only"),
    "resume": tuple(option.name for option in OPTIONS.values() if option.on_resume != "no"),
    "open_data": OF_DATA,
    "test": (*OF_DATA, "loss"),
}
