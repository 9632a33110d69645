"""Why a model failed on a batch, in a beginner's words: which layer, what it expects, what it got, what to write."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.data import Batch, Data, TargetSpec, tensors_in, to_device
from rushlight.errors import ModelError, RushlightError, UsageError, first_line, in_a_line
from rushlight.models import call_model, eval_mode, main_output
from rushlight.texts import Note
from rushlight.training.objective import as_module, is_own, returned_loss, tells_scale, with_scale
from rushlight.training.state import Training

ENDS_IN_ACTIVATION = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Sigmoid, nn.Tanh)
ENDS_IN_PROBABILITIES = (nn.Softmax, nn.LogSoftmax)
LIBRARIES = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[2]}{os.sep}")  # no code of the user's


@dataclass
class LayerTrace:
    """The layers that a forward pass entered and did not leave, and the last that gave an output."""

    entered: list[tuple[str, nn.Module, Any]] = field(default_factory=list)  # (name, layer, its input)
    last: tuple[str, nn.Module, Any] | None = None  # (name, layer, its output)


@contextmanager
def traced(model: nn.Module) -> Iterator[LayerTrace]:
    """Follow the forward passes of a block through the model's layers."""
    trace = LayerTrace()
    is_opaque = any(hasattr(each, "_orig_mod") or isinstance(each, torch.jit.ScriptModule) for each in model.modules())
    names = {} if is_opaque else {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        trace.entered.append((names[module], module, inputs[0] if inputs else None))

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        trace.entered.pop()
        trace.last = (names[module], module, output) if not any(module.children()) else trace.last

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def check_model(
    model: nn.Module, data: Data, device: torch.device, loss: object
) -> tuple[TargetSpec | None, tuple[str, ...]]:
    """Run the model on two samples before training, in eval mode, so that nothing in it changes.

    Returns the target spec as the model's outputs and the loss have it, and what there is to say. Lazy layers take their
    shape here.

    Raises:
        ModelError: the model cannot take the data, or gives outputs of another shape than the targets need.
    """
    batch = first_samples(data, device)
    has_several_inputs = data.features is None and data.target is not None and loss is not None
    if batch is None or not (has_several_inputs or data.features):
        return data.target, ()
    asks = data.target is not None and loss is not None and not tells_scale(as_module(loss), data.target)
    gradients = torch.enable_grad() if asks else torch.no_grad()  # the operation behind the outputs tells what they are
    with torch.random.fork_rng(devices=[]), eval_mode(model), gradients, traced(model) as trace:
        try:
            outputs = call_model(model, batch[0])
        except Exception as error:  # whatever is wrong in a forward of the user's own, its line is what they need
            raise explain_forward(error, model, trace, batch[0]) from error
    if loss is not None and not is_own(as_module(loss)):
        outputs = main_output(outputs)
    if data.target is None:
        return None, ()
    if loss is None:
        return data.target, ()
    targets = data.target.for_loss(batch[1]) if isinstance(batch[1], Tensor) else None
    target = fitted_target(outputs, data.target, targets, model, loss)
    if target.task == "other":
        told = {"classification": "training.outputs-unknown", "other": "training.labels-unknown"}.get(data.target.task)
        return target, (Note(told),) if told and is_own(as_module(loss)) else ()
    is_last = trace.last is not None and trace.last[2] is outputs
    target = with_scale(as_module(loss), target, outputs, trace.last[1] if is_last and trace.last else None)
    return target, tuple(last_layer_notes(trace, target, outputs, loss))


def check_own_loss(model: nn.Module, data: Data) -> None:
    """Run the model on a first batch before training, in eval mode; UsageError where it fails, or returns no loss."""
    batch = next(iter(data.train.in_order(2)), None)
    if batch is None:
        return
    with torch.random.fork_rng(devices=[]), eval_mode(model), torch.no_grad():
        try:
            returned_loss(model, batch)
        except RushlightError:
            raise
        except Exception as error:
            name, where = type(model).__name__, user_line(error)
            raise UsageError("model-takes-no-batch", model=name, where=where, reason=in_a_line(error)) from error


def first_samples(data: Data, device: torch.device) -> Batch | None:
    """Return a batch of the first training samples, or None where the batches are not (inputs, targets)."""
    batch = next(iter(data.train.in_order(2)), None)
    is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    return to_device(batch, device) if is_pair else None


def fitted_target(
    outputs: Any, target: TargetSpec, targets: Tensor | None, model: nn.Module, loss: object
) -> TargetSpec:
    """Return the target spec that suits the shape of the outputs; those of an own loss may have any shape."""
    are_flat = any(tensor.dim() == 1 for tensor in tensors_in(outputs))  # one number for each sample
    if target.task != "classification" and target.layout == "rows" and target.outputs == 1 and are_flat:
        target = replace(target, layout="flat")
        if isinstance(outputs, Tensor):
            return target
    if target.task == "other":
        return target
    if not is_own(as_module(loss)):
        check = check_places if target.layout == "dense" else check_outputs
        return check(outputs, target, targets, model)
    trains = isinstance(loss, nn.Module) and any(True for _ in loss.parameters())  # then it turns outputs into scores
    if target.layout == "dense":
        suits = target.task == "regression" and targets is not None and shape_of(outputs) == shape_of(targets)
    else:
        suits = not trains and isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] == target.outputs
    return target if suits else TargetSpec("other", width=target.outputs, name=target.name, layout=target.layout)


def check_places(outputs: Any, target: TargetSpec, targets: Tensor | None, model: nn.Module) -> TargetSpec:
    """Return the spec of targets at places with as many classes as the model gives; raise ModelError for another shape."""
    name = type(model).__name__
    if not isinstance(outputs, Tensor):
        raise ModelError("outputs-no-tensor", model=name, found=type(outputs).__name__)
    if targets is None:
        return target
    found, given = tuple(outputs.shape), tuple(targets.shape)
    if target.task != "classification":
        if found != given:
            raise ModelError("outputs-unlike-targets", model=name, found=found, targets=given)
        return target
    places = given[2:] if target.are_probabilities(targets) else given[1:]
    if len(found) != len(places) + 2 or found[2:] != places:
        wanted = ", ".join(["batch", "classes", *map(str, places)])
        raise ModelError("outputs-not-by-place", model=name, found=found, targets=given, wanted=f"({wanted})")
    return check_outputs(outputs, target, targets, model)


def check_outputs(outputs: Any, target: TargetSpec, targets: Tensor | None, model: nn.Module) -> TargetSpec:
    """Return the spec with as many classes as the model gives; raise ModelError for fewer, or for another shape."""
    name, wanted = type(model).__name__, target.outputs
    if not isinstance(outputs, Tensor):
        raise ModelError("outputs-no-tensor", model=name, found=type(outputs).__name__)
    if outputs.dim() < 2 or outputs.shape[0] == 0 or (outputs.dim() > 2 and target.layout == "rows"):
        raise ModelError("outputs-shape", model=name, found=tuple(outputs.shape), wanted=f"(batch, {wanted})")
    found = int(outputs.shape[1])
    if target.task == "classification" and found > wanted:
        extra = tuple(str(Note("training.class-number", number=number)) for number in range(wanted, found))
        return replace(target, classes=target.classes + extra)
    if found != wanted:
        key = "too-few-outputs" if target.task == "classification" else "wrong-outputs"
        raise ModelError(
            key, model=name, found=found, wanted=wanted, task=target.task, last=found - 1, last_label=wanted - 1
        )  # fmt: skip
    return target


def last_layer_notes(trace: LayerTrace, target: TargetSpec, outputs: Tensor, loss: object) -> Iterator[str]:
    """Say when the network ends in a layer that hampers its loss: a ReLU on the logits, a softmax before cross-entropy."""
    if trace.last is None or not isinstance(trace.last[2], Tensor) or trace.last[2] is not outputs:
        return
    name, layer, _ = trace.last
    kind = type(layer).__name__
    wants_logits = isinstance(loss, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss))
    if wants_logits and isinstance(layer, ENDS_IN_ACTIVATION):
        yield Note("training.ends-in-activation", kind=kind, name=name)
    if wants_logits and isinstance(layer, ENDS_IN_PROBABILITIES):
        yield Note("training.ends-in-probabilities", kind=kind, name=name, loss=type(loss).__name__)
    if target.task == "regression" and isinstance(layer, nn.ReLU):
        yield Note("training.ends-in-relu", name=name)


def explain_step_error(error: Exception, model: nn.Module, batch: Batch | None, training: Training) -> BaseException:
    """Return the error to raise for a step that failed: an explained one, or `error` itself where we know no better."""
    if isinstance(error, RushlightError):
        return error
    text = str(error)
    is_objective = training.objective.loss is None
    if "Expected more than 1 value per channel" in text and batch is not None:
        return ModelError(
            "batch-of-one", batch_size=training.recipe.batch_size, step=training.state["step"] + 1,
            samples=training.data.train.samples,
        )  # fmt: skip
    if "can be implicitly created only for scalar outputs" in text:
        return UsageError("loss-not-scalar")
    if "does not require grad and does not have a grad_fn" in text:
        return UsageError("loss-without-gradient")
    if "does not support dense gradients" in text or "does not support sparse gradients" in text:
        return UsageError("optimizer-gradients", reason=first_line(error))
    if training.objective.step is not None:
        return explain_objective(error)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) else None
    if inputs is None or training.shards is not None:  # the others would not compute it again with this process
        return explain_objective(error) if is_objective else error
    target = training.data.target
    targets = batch[1] if batch is not None and len(batch) > 1 else None
    if isinstance(targets, Tensor) and "out of bounds" in text and target is not None:
        return ModelError(
            "label-beyond-outputs", low=int(targets.min()), high=int(targets.max()), reason=text,
            step=training.state["step"] + 1,
        )  # fmt: skip
    with torch.no_grad(), torch.random.fork_rng(devices=[]), traced(model) as trace:
        try:
            outputs = model(inputs)
        except Exception as again:  # as in `check_model`
            if not is_objective or str(again) == text:  # else it is called otherwise there, and fails otherwise
                return explain_forward(again, model, trace, inputs)
        if training.objective.loss is None:
            return explain_objective(error)
        outputs = outputs if is_own(as_module(training.objective.loss)) else main_output(outputs)
        if not isinstance(outputs, Tensor) and not is_own(as_module(training.objective.loss)):
            return ModelError("outputs-no-tensor", model=type(model).__name__, found=type(outputs).__name__)
        try:
            training.objective.loss(outputs, targets)  # type: ignore[arg-type]
        except Exception as again:
            name, shapes = training.recipe.loss["name"], {"outputs": shape_of(outputs), "targets": shape_of(targets)}
            return UsageError("loss-failed", loss=name, where=user_line(again), reason=in_a_line(again), **shapes)
    return error


def explain_objective(error: Exception) -> BaseException:
    """Return the error of the user's objective with its own line; `error` itself where it was raised on purpose."""
    frames, where = traceback.extract_tb(error.__traceback__), user_line(error)
    is_meant = not where or (
        (frames[-1].line or "").startswith("raise") and not frames[-1].filename.startswith(LIBRARIES)
    )
    return error if is_meant else UsageError("objective-failed", where=where, reason=in_a_line(error))


def explain_forward(error: Exception, model: nn.Module, trace: LayerTrace, inputs: Any) -> ModelError:
    """Return the error that names the layer a forward pass failed in, what it expects, and what it got."""
    name, layer, given = trace.entered[-1] if trace.entered else ("", model, inputs)
    kind = type(layer).__name__
    place = Note("training.layer", name=name, kind=kind) if name else f"{type(model).__name__}.forward"
    shape = shape_of(given)
    is_torchs_own = isinstance(error, (RuntimeError, ValueError, TypeError, IndexError))
    own = next((parameter.dtype for parameter in layer.parameters(recurse=False)), None)
    if isinstance(given, Tensor) and given.is_floating_point() and is_torchs_own and own not in (None, given.dtype):
        return ModelError("weights-of-other-dtype", place=place, dtype=str(own).removeprefix("torch."), shape=shape)
    if isinstance(given, Tensor) and is_torchs_own:
        if isinstance(layer, nn.Linear) and given.shape[-1] != layer.in_features:
            return linear_mismatch(layer, place, given, inputs)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if given.dim() - 2 != len(layer.kernel_size) and given.dim() - 1 != len(layer.kernel_size):
                return ModelError("conv-dimensions", place=place, shape=shape, dimensions=len(layer.kernel_size) + 2)
            channels = given.shape[1] if given.dim() - 2 == len(layer.kernel_size) else given.shape[0]
            if channels != layer.in_channels:
                return ModelError(
                    "conv-channels", place=place, expected=layer.in_channels, found=channels, shape=shape,
                    kind=kind, outputs=layer.out_channels,
                )  # fmt: skip
        features = getattr(layer, "num_features", None)
        if features is not None and given.dim() > 1 and given.shape[1] != features:
            return ModelError(
                "norm-features", place=place, expected=features, found=given.shape[1], shape=shape, kind=kind
            )  # fmt: skip
        if isinstance(layer, nn.Embedding):
            found = str(given.dtype).removeprefix("torch.")
            low, high = (float(given.min()), float(given.max())) if given.numel() else (0, 0)
            return ModelError(
                "embedding", place=place, size=layer.num_embeddings, last=layer.num_embeddings - 1, low=f"{low:g}",
                high=f"{high:g}", found=found,
            )  # fmt: skip
    return ModelError(
        "forward-failed", place=place, shape=shape, reason=in_a_line(error), where=user_line(error),
        batch=shape_of(inputs),
    )  # fmt: skip


def linear_mismatch(layer: nn.Linear, place: str, given: Tensor, inputs: Tensor) -> ModelError:
    """Return the error for a linear layer whose input has another size, with the line to write."""
    found, sample, flattened = int(given.shape[-1]), tuple(inputs.shape[1:]), prod(given.shape[1:])
    if given.dim() > 2 and flattened == layer.in_features:
        return ModelError("needs-flatten", place=place, expected=layer.in_features, shape=shape_of(given))
    if given.dim() > 2 and given is inputs:
        return ModelError(
            "linear-on-image", place=place, expected=layer.in_features, shape=shape_of(given), flat=flattened,
            outputs=layer.out_features,
        )  # fmt: skip
    origin = (
        Note("training.flattened", shape="×".join(map(str, sample)))
        if prod(sample) == found and len(sample) > 1
        else ""
    )
    return ModelError(
        "linear-features", place=place, expected=layer.in_features, found=found, origin=origin, outputs=layer.out_features
    )  # fmt: skip


def shape_of(value: Any) -> str:
    """Return a tensor's shape as a person writes it, '(64, 1, 28, 28) float32', or the type of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def user_line(error: Exception) -> str:
    """Return ' at net.py, line 12: x = x.view(-1, 784)' for the last line outside torch and Rushlight, or ''."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(LIBRARIES):
            return Note("training.at-line", path=frame.filename, line=frame.lineno, text=frame.line)
    return ""
