"""Options as a caller gives them: names checked, values made plain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushlight.errors import UsageError, suggest
from rushlight.options.declare import OPTIONS, TAKES, Options
from rushlight.texts import Note

LIVE = (
    "loss",
    "metrics",
    "objective",
    "step",
    "optimizer",
    "schedule",
    "test_data",
    "val_data",
    "tokenizer",
    "keep",
    "on_event",
)  # objects stay as they are
OTHER_NAMES = {  # of other libraries, for an option of ours
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
    "callbacks": "on_event",
}


def check_options(given: Mapping[str, Any]) -> Options:
    """Return the options of a training, checked one by one; those that are None were not chosen."""
    return Options(**plain_options(given))


def plain_options(given: Mapping[str, Any], verb: str | None = None) -> dict[str, Any]:
    """Return the options that were given, as plain values. UsageError names one that this verb does not take."""
    taken = OPTIONS if verb is None else TAKES[verb]
    for name in given:
        if name not in OPTIONS:
            ours = OTHER_NAMES.get(name)
            suggestion = Note("training.called-here", name=ours) if ours else suggest(name, taken)
            raise UsageError("unknown-option", option=name, known=", ".join(taken), suggestion=suggestion)
        if name not in taken:
            raise UsageError("option-of-other-verb", option=name, verb=verb, known=", ".join(taken))
    return {name: value if name in LIVE else plain_value(value) for name, value in given.items() if value is not None}


def plain_value(value: Any) -> Any:
    """Return NumPy's numbers, one-element tensors and devices as the Python values that JSON and torch agree on."""
    if isinstance(value, dict):
        return {key: plain_value(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain_value, value))
    library = type(value).__module__.partition(".")[0]  # told by name: neither is imported for the command line
    if library == "numpy" or (library == "torch" and getattr(value, "ndim", None) == 0):
        return value.tolist() if hasattr(value, "tolist") else value
    return str(value) if library == "torch" and type(value).__name__ == "device" else value
