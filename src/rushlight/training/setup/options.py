"""The options of training, by keyword: one list for the Python verbs, the command line and the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rushlight.data import Batch, Task
from rushlight.errors import UsageError, suggest
from rushlight.training.events import Event
from rushlight.training.objective import Loss

OwnObjective = Callable[[nn.Module, Batch], Tensor]


class Options(TypedDict, total=False):
    """Everything that can be chosen beside the model and the data; all of it has a default."""

    epochs: int  # how often every sample is seen (5)
    batch_size: int  # samples per micro-batch (64, or the DataLoader's own)
    accumulate: int  # micro-batches whose gradients make one update (1)
    loss: str | Loss | None  # a torch.nn loss by name, or live (by the task: cross-entropy, MSE, BCE with logits)
    objective: OwnObjective | None  # f(model, batch) -> mean loss, instead of loss(model(x), y)
    optimizer: str | Optimizer  # a torch.optim class by name, or live ("AdamW")
    lr: float | None  # the learning rate (torch's default for the optimizer)
    optimizer_arguments: dict[str, Any]  # what else the optimizer takes, {"momentum": 0.9}
    schedule: str | LRScheduler  # "constant", "cosine", "onecycle", or live ("auto": see `default_schedule`)
    warmup: int  # steps over which the learning rate rises to its value (0)
    clip_norm: float | None  # the gradient's greatest norm (None: not clipped)
    precision: str  # "float32" or "bfloat16" ("float32")
    numerics: str  # "exact": bit for bit the plain loop; "fast": only rounding may differ ("fast")
    compile: str  # steps in one piece: "auto" when it pays, "first" before training begins, "never" ("auto")
    early_stopping: int | None  # stop after so many epochs without a better test, and keep the best (None)
    seed: int  # of the order, the initial weights, dropout and augmentation (0)
    device: str  # "auto", "cpu", "cuda", "cuda:1", "mps", "xpu" ("auto")
    model_arguments: dict[str, Any]  # for a model by name, {"hidden": (512, 512)}
    test_data: Any  # what to test on, where `data` does not bring it
    val_data: Any  # validation data, which early stopping and plateau schedules choose by
    val_fraction: (
        float | None
    )  # the share of the training samples set aside for validation (0.1 where something chooses)
    target: str | None  # tables: the column to predict
    task: Task | None  # "classification", "regression", …, where the data could be read in two ways
    kind: str | None  # arrays: "image", "array" or "tokens" (whole numbers that are ids), where the shape does not tell
    classes: Sequence[str] | None  # the classes' names, where the data has none
    normalize: str  # "auto", "standard", "unit", "none" ("auto")
    image_size: tuple[int, int] | None  # resize images to (height, width)
    test_fraction: float  # what is set aside where there is no test split (0.2)
    skip_bad: bool  # leave unreadable images out (False)
    workers: int  # processes that read streamed data (0)
    on_nan: (
        str  # a loss or gradient that is not finite: "stop", "skip" the step, "rollback" with half the rate ("stop")
    )
    keep_epochs: bool  # keep the checkpoint of each epoch, not just the last two and the best (False)
    resume: bool  # go on with the newest unfinished run of this very recipe, where there is one (False)
    inexact: bool  # resuming: go on although something changed that the bits depend on (False)
    checkpoint: str | Path | None  # resuming: go back to this one (the newest that is whole)
    tensorboard: bool  # write TensorBoard event files into the run folder too (False)
    on_event: Callable[[Event], object] | None  # called with every event of the run; what it raises ends the run
    profile: bool  # say where the time of a step goes, and go on (False)
    runs: str | Path  # the folder of all runs ("runs")
    name: str | None  # the run's name (made of date, model and data)
    quiet: bool  # print nothing (False)
    to_stderr: bool  # print to standard error, so that standard output is free (False)


LIVE = ("loss", "objective", "optimizer", "schedule", "test_data")  # may be objects, which stay as they are

OTHER_NAMES = {  # what other libraries call an option of ours
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "hidden": 'model_arguments={"hidden": …}',
    "dropout": 'model_arguments={"dropout": …}',
    "momentum": 'optimizer_arguments={"momentum": …}',
    "weight_decay": 'optimizer_arguments={"weight_decay": …}',
    "criterion": "loss",
    "loss_fn": "loss",
    "scheduler": "schedule",
    "validation_split": "val_fraction",
    "validation_data": "val_data",
    "patience": "early_stopping",
    "num_workers": "workers",
    "verbose": "quiet",
    "accumulate_grad_batches": "accumulate",
    "gradient_clip_val": "clip_norm",
}


def check_options(options: Options) -> Options:
    """Return the options that were chosen: one that is None was not. UsageError names an option there is not."""
    for option in options:
        if option not in Options.__annotations__:
            known = list(Options.__annotations__)
            ours = OTHER_NAMES.get(option)
            suggestion = f" Here it is called {ours}." if ours else suggest(option, known)
            raise UsageError("unknown-option", option=option, known=", ".join(known), suggestion=suggestion)
    given: dict[str, Any] = dict(options)
    chosen: Any = {
        option: value if option in LIVE else plain(value) for option, value in given.items() if value is not None
    }
    return cast(Options, chosen)


def plain(value: Any) -> Any:
    """Return NumPy's numbers, one-element tensors and devices as the Python values that JSON and torch agree on."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return value.tolist() if isinstance(value, np.ndarray) or not getattr(value, "ndim", 0) else value
    return value


def default_schedule(options: Options, knows_length: bool) -> str:
    """Return the schedule where none was chosen.

    The defaults come as a set: AdamW with a cosine schedule. Who chooses an optimizer or a learning rate gets just
    that, constant, as the plain loop would have it; so does data that does not tell its length.
    """
    has_chosen = "optimizer" in options or "lr" in options or bool(options.get("optimizer_arguments"))
    return "constant" if has_chosen or not knows_length else "cosine"
