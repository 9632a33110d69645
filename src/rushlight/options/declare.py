"""The options, declared once: signatures, help, command line, recipe, checks and the reference derive from these fields.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rushlight.errors import UsageError, check_choice

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from rushlight.data import Batch
    from rushlight.training.objective import Loss

Precision = Literal["float32", "bfloat16"]
Numerics = Literal["exact", "fast"]
OnNan = Literal["stop", "skip", "rollback"]
Compile = Literal["auto", "first", "never"]
Task = Literal["classification", "binary", "multilabel", "regression"]
Kind = Literal["image", "array", "tokens"]
Normalize = Literal["auto", "standard", "unit", "none"]

OnResume = Literal["no", "yes", "live", "only"]

LEARNING, DATA, MACHINE, RUN = "Learning", "Data", "Machine", "Run"
PANELS = (LEARNING, DATA, MACHINE, RUN)
Check = Callable[[str, Any], None]


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────


def is_number(value: object) -> bool:
    """Tell whether a value is a finite real number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def rule(key: str, holds: Callable[[Any], bool]) -> Check:
    """Return the check that raises the UsageError of this key for a value of which `holds` is not true."""

    def check(option: str, value: Any) -> None:
        if not holds(value):
            raise UsageError(key, option=option, value=value)

    return check


def one_of(choices: object) -> Check:
    """Return the check that a value is one of a Literal's."""
    return lambda option, value: check_choice(option, value, get_args(choices))


COUNT = rule("not-positive", lambda value: is_whole(value) and value >= 1)
COUNT_FROM_0 = rule("negative", lambda value: is_whole(value) and value >= 0)
POSITIVE = rule("not-positive", lambda value: is_number(value) and value > 0)
RATE = rule("option-not-a-number", lambda value: is_number(value) and value >= 0)
FRACTION = rule("bad-fraction", lambda value: is_number(value) and 0 <= value < 1)
SEED = rule("bad-seed", lambda value: is_whole(value) and -(2**63) <= value < 2**63)
YES_OR_NO = rule("option-no-bool", lambda value: isinstance(value, bool))
SETTINGS = rule("option-no-dict", lambda value: isinstance(value, dict))


# ── the declaration ──────────────────────────────────────────────────────────────────────────────────────────


def option(
    default: Any,
    help: str,
    panel: str,
    check: Check | None = None,
    *,
    in_python: str = "",
    shown: str | None = None,
    metavar: str | None = None,
    flag: str | None = None,
    on_resume: OnResume = "no",
    python_only: bool = False,
) -> Any:
    """Declare an option.

    `help` is one line; `in_python` tells what else Python code may give. `shown` is the default in words, `flag` the name on
    the command line where that is another. `on_resume`: whether a run that goes on may change it, or takes it where it is live.
    """
    return field(
        default=default,
        metadata={
            "help": help, "panel": panel, "check": check, "in_python": in_python, "shown": shown, "metavar": metavar,
            "flag": flag, "on_resume": on_resume, "python_only": python_only,
        },
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The options that the recipe keeps as they are."""

    epochs: int = option(5, "How often every sample is seen.", LEARNING, COUNT, on_resume="yes")
    batch_size: int | None = option(
        None, "Samples per micro-batch.", LEARNING, COUNT, shown="64, or the DataLoader's own"
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
        LEARNING, one_of(OnNan), on_resume="yes",
    )  # fmt: skip
    seed: int = option(0, "Of the order, the initial weights, dropout, augmentation and splits.", LEARNING, SEED)
    device: str = option(
        "auto", "auto (the best there is), cpu, cuda, cuda:1, xpu or mps.", MACHINE, in_python="Or a torch.device.", on_resume="yes"
    )  # fmt: skip
    precision: Precision = option(
        "float32", "float32, or bfloat16: half the memory, where the hardware has it.", MACHINE, one_of(Precision)
    )
    numerics: Numerics = option(
        "fast", "exact: bit for bit the plain loop; fast: only rounding may differ.", MACHINE, one_of(Numerics)
    )
    compile: Compile = option(
        "auto", "auto: compile steps during training, when that will pay; first: before it begins; never. For SGD, Adam and AdamW.",
        MACHINE, one_of(Compile),
    )  # fmt: skip
    keep_epochs: bool = option(
        False, "Keep each epoch's checkpoint, not only the last two and the best.", RUN, YES_OR_NO
    )
    tensorboard: bool = option(False, "Write TensorBoard event files into the run folder too.", RUN, YES_OR_NO)

    def __post_init__(self) -> None:
        for entry in fields(self):
            check, value = entry.metadata.get("check"), getattr(self, entry.name)
            if check is not None and (value is not None or entry.default is not None):
                check(entry.name, value)


@dataclass(frozen=True, kw_only=True)
class Options(RecipeOptions):
    """Everything that can be chosen besides the model and the data; every option has a default."""

    lr: float | None = option(None, "The learning rate.", LEARNING, RATE, shown="torch's for the optimizer")
    optimizer: str | Optimizer | None = option(
        None, "Any class of torch.optim: AdamW, SGD, Adam, RMSprop, …", LEARNING, in_python="Or a live optimizer.",
        shown="AdamW", on_resume="live",
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
        in_python="Or a live loss: f(outputs, targets).", shown="by the task", on_resume="live",
    )  # fmt: skip
    objective: Callable[[nn.Module, Batch], Tensor] | None = option(
        None, "f(model, batch) returns the mean loss, instead of loss(model(inputs), targets).", LEARNING,
        python_only=True, on_resume="live",
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
        None, "Share of the training split set aside for validation.", DATA, FRACTION, shown="0.1 where something is chosen by it"
    )  # fmt: skip
    target: str | None = option(None, "Tables: the column to predict.", DATA, metavar="COLUMN")
    task: Task | None = option(
        None, "classification, binary, multilabel or regression.", DATA, one_of(Task), shown="by the target's kind"
    )
    kind: Kind | None = option(
        None, "Arrays: image, array or tokens (whole numbers that are ids).", DATA, one_of(Kind), shown="by the shape"
    )
    classes: Sequence[str] | None = option(
        None, "Class names, where the data has none: cat,dog.", DATA, metavar="NAMES"
    )
    normalize: Normalize = option(
        "auto", "standard (mean 0, std 1), unit (÷255, as ToTensor does), none, or auto.", DATA, one_of(Normalize)
    )
    image_size: tuple[int, int] | None = option(
        None, "Resize images: 64, or 48x64 (height x width).", DATA, in_python="As (height, width).", metavar="SIZE"
    )
    skip_bad: bool = option(False, "Leave unreadable images out and go on.", DATA, YES_OR_NO)
    workers: int = option(0, "Processes that read data which does not fit in memory.", DATA, COUNT_FROM_0)
    name: str | None = option(None, "The run's name.", RUN, shown="date, model and data")
    runs: str | Path = option("runs", "The folder that holds all runs.", RUN, metavar="FOLDER", on_resume="yes")
    resume: bool = option(
        False, "Go on with the newest unfinished run of this very recipe; begin one where there is none.", RUN, YES_OR_NO
    )  # fmt: skip
    inexact: bool = option(
        False, "When resuming, go on although something changed that the bits depend on; the run records it.",
        RUN, YES_OR_NO, on_resume="yes",
    )  # fmt: skip
    checkpoint: str | int | Path | None = option(
        None, "Go back to this checkpoint; newer ones are deleted.", RUN, shown="the newest that is whole",
        metavar="STEP|NAME", on_resume="only",
    )  # fmt: skip
    profile: bool = option(
        False, "Tell where the time of a step goes and what limits it, then train on.", RUN, YES_OR_NO, on_resume="yes"
    )  # fmt: skip
    on_event: Callable[[dict[str, Any]], object] | None = option(
        None, "f(event) is called for everything that happens: steps, epochs, notices.", RUN, python_only=True, on_resume="yes"
    )  # fmt: skip
    quiet: bool = option(False, "Print nothing but errors.", RUN, YES_OR_NO, flag="--quiet/-q", on_resume="yes")
    to_stderr: bool = option(
        False, "Print to standard error, so that standard output is free.", RUN, YES_OR_NO, python_only=True, on_resume="yes"
    )  # fmt: skip


# ── derived ──────────────────────────────────────────────────────────────────────────────────────────────────


class Option:
    """One option as it is declared."""

    def __init__(self, entry: Field[Any]) -> None:
        self.name = entry.name
        self.default: Any = entry.default
        self.source = str(entry.type)
        self.help: str = entry.metadata["help"]
        self.in_python: str = entry.metadata["in_python"]
        self.panel: str = entry.metadata["panel"]
        self.metavar: str | None = entry.metadata["metavar"]
        self.shown: str = str(entry.metadata["shown"] or entry.default)  # the default in words
        self.on_resume: OnResume = entry.metadata["on_resume"]
        flag = entry.metadata["flag"] or f"--{entry.name.replace('_', '-')}"
        self.flags: tuple[str, ...] = () if entry.metadata["python_only"] else tuple(flag.split("/"))

    @property
    def type(self) -> Any:
        """The type, or its source text where that names classes of torch."""
        try:
            return eval(self.source)
        except NameError:
            return self.source


FIRST = (  # of their panel
    "epochs", "batch_size", "lr", "optimizer", "optimizer_arguments", "schedule", "warmup", "loss", "objective", "model_arguments",
    "name", "runs",
)  # fmt: skip
OPTIONS: dict[str, Option] = {
    option.name: option
    for option in sorted(
        map(Option, fields(Options)),
        key=lambda option: (PANELS.index(option.panel), FIRST.index(option.name) if option.name in FIRST else len(FIRST)),
    )
}  # fmt: skip
OF_DATA = (*(option.name for option in OPTIONS.values() if option.panel == DATA), "seed", "quiet")
TAKES: dict[str, tuple[str, ...]] = {  # the options of each verb
    "train": tuple(option.name for option in OPTIONS.values() if option.on_resume != "only"),
    "resume": tuple(option.name for option in OPTIONS.values() if option.on_resume != "no"),
    "open_data": OF_DATA,
    "test": (*OF_DATA, "loss"),
}
