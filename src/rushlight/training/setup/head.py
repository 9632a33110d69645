"""Fits the last layer of a model from a function to the data: a ready-made network has the outputs of its own task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from rushlight.data import Data
from rushlight.models import HEADS, call_model, eval_mode, main_output, replace_head
from rushlight.texts import Note
from rushlight.training.objective import as_module, is_own
from rushlight.training.setup.explain import first_samples, traced


def fit_head(
    model: nn.Module, described: dict[str, Any], data: Data, loss: object, device: torch.device
) -> tuple[Note, ...]:
    """Replace the last layer of a model that a function returned where the data needs another number of outputs; say so.

    Only where it is plain which layer that is: a Linear, or for targets at places a convolution, whose output the model returns
    as it is, whose weights nothing else uses, and whose size none of the function's arguments names. Else nothing changes, and
    `check_model` judges the model as it is. What was replaced stands in `described`.
    """
    is_of_function = (
        "import" in described and type(model).__name__ != described["name"]
    )  # a class is the user's own network
    is_unknown = data.target is None or data.target.task == "other" or loss is None or is_own(as_module(loss))
    if not is_of_function or is_unknown or any(isinstance(each, UninitializedParameter) for each in model.parameters()):
        return ()
    assert data.target is not None
    batch = first_samples(data, device)
    if batch is None:
        return ()
    model.to(device)
    with torch.random.fork_rng(devices=[]), eval_mode(model), torch.no_grad(), traced(model) as trace:
        try:
            outputs = main_output(call_model(model, batch[0]))
        except Exception:  # `check_model` says in which layer, and why
            return ()
    name, layer, last = trace.last or ("", model, None)
    is_dense = data.target.layout == "dense"
    is_plain = last is outputs and isinstance(outputs, Tensor) and type(layer) in HEADS and name != ""
    if not is_plain or isinstance(layer, nn.Linear) == is_dense or getattr(layer, "groups", 1) > 1:
        return ()
    found, wanted = len(layer.weight), data.target.outputs  # type: ignore[arg-type]
    is_shared = sum(each is layer.weight for _, each in model.named_parameters(remove_duplicate=False)) > 1
    if found == wanted or is_shared or found in described["arguments"].values():
        return ()
    replace_head(model, name, wanted, described["seed"])
    described["head"] = {"name": name, "found": found, "outputs": wanted}
    kind = type(layer).__name__
    return (Note("training.head-replaced", name=name, kind=kind, found=found, wanted=wanted),)
