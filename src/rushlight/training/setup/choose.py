"""From options to objects: the objective, the optimizer, the schedule; and the model fitted to the data."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from rushlight.data import (
    Augment,
    Data,
    DataOptions,
    ResidentSplit,
    Split,
    StreamedSplit,
    group_inputs,
    retarget,
    streamed_rows,
    takes,
)
from rushlight.errors import ModelError, UsageError
from rushlight.formats import format_names
from rushlight.models import restored
from rushlight.options import Options
from rushlight.texts import Note
from rushlight.training.objective import (
    LOSS_BY_TASK,
    OF_QUANTITIES,
    Mixing,
    Objective,
    as_module,
    balanced,
    balanced_by_counts,
    check_live_optimizer,
    check_steps_alone,
    held_parameters,
    make_objective,
    named_loss,
    named_optimizer,
    own_objective,
    plateau_in,
    returned_loss,
    task_of_loss,
    with_own_step,
)
from rushlight.training.recipe import OBJECTIVE, OWN_LOSS, STEP, USERS
from rushlight.training.setup.explain import check_model

VAL_FRACTION = 0.1  # of the training samples, where something chooses
PROBED = 64  # samples whose targets are looked at where they are streamed


def data_options(options: Options) -> DataOptions:
    """Return the options that say how to open the data."""
    chosen: dict[str, Any] = {entry.name: getattr(options, entry.name) for entry in fields(DataOptions)}
    if options.split_seed is not None:
        chosen["seed"] = options.split_seed
    if options.classes is not None:
        chosen["classes"] = tuple(map(str, options.classes))
    if options.image_size is not None:
        chosen["image_size"] = tuple(options.image_size)
    return DataOptions(**chosen)


def with_text_column(model: object, data: Any, options: Options) -> Options:
    """Return the options with the column of text to be found, where the model reads nothing else."""
    if model != "textcnn" or options.text_column is not None or not takes(data, "text_column"):
        return options
    return replace(options, text_column="auto")


def with_shuffle_window(options: Options, data: Any, opened: Data) -> Options:
    """Return the options with the window that the rows of a table are shuffled in, so that a run that goes on has it."""
    windows = opened.train.windows if isinstance(opened.train, StreamedSplit) else None
    return options if windows is None or isinstance(data, Data) else replace(options, shuffle_window=windows.rows)


def with_validation(data: Any, options: Options) -> Options:
    """Return the options with a tenth of the training samples for validation, where something chooses and none is given.

    A triple and open data bring their own, and a source that brings its own is not cut.
    """
    brings = (
        isinstance(data, Data) or (isinstance(data, (tuple, list)) and len(data) == 3) or options.val_data is not None
    )
    if chooser(options) is None or brings or options.val_fraction is not None:
        return options
    return replace(options, val_fraction=VAL_FRACTION)


def check_validation(options: Options, data: Data) -> None:
    """Raise UsageError where something chooses by a validation split, and the data has none."""
    if data.validation is None and (name := chooser(options)) is not None:
        raise UsageError("no-validation", chooser=name, data=data.name)


def chooser(options: Options) -> str | None:
    """Return the name of what chooses by evaluations: early stopping, `best`, a search, or a plateau schedule; None where nothing does."""
    if options.early_stopping is not None:
        return "early_stopping"
    if options.best is not None:
        return "best"
    if options.study is not None:
        return "tune"
    if plateau_in(options.schedule) is not None:
        return type(options.schedule).__name__
    return "plateau" if options.schedule == "plateau" else None


def check_together(model: object, options: Options) -> None:
    """Raise UsageError for an option that would be ignored, because a live object brings its own."""
    for part, live, ignored in (
        ("optimizer", isinstance(options.optimizer, Optimizer), ("lr", "optimizer_arguments", "groups")),
        ("schedule", not isinstance(options.schedule, str), ("schedule_arguments",)),
        ("model", isinstance(model, nn.Module), ("model_arguments",)),
        ("objective", options.objective is not None, ("mixup", "cutmix")),
        ("loss", not isinstance(options.loss, (str, type(None))) or options.objective is not None, ("loss_arguments",)),
    ):
        for option in ignored:
            if live and getattr(options, option):
                raise UsageError("not-beside-live", option=option, part=part)
    if options.objective is not None and options.loss:
        raise UsageError("loss-beside-objective")
    if options.swa is not None and (
        other := next(
            (name for name in ("ema", "best", "early_stopping", "step") if getattr(options, name) is not None), None
        )
    ):
        raise UsageError("beside-swa", option=other)
    if options.unfreeze_after is not None and not options.freeze:
        raise UsageError("unfreeze-without-freeze")
    if options.step is not None:
        if not isinstance(options.optimizer, Optimizer):
            raise UsageError("step-needs-optimizer")
        others: dict[str, Any] = {
            "mixup": None,
            "cutmix": None,
            "accumulate": 1,
            "precision": "float32",
            "on_nan": "stop",
            "clip_norm": None,
        }
        others |= (
            dict.fromkeys(("test_data", "val_data", "early_stopping", "best", "metrics"))
            if is_step_alone(options)
            else {}
        )
        for option, usual in others.items():
            if getattr(options, option) != usual:
                raise UsageError("not-beside-step", option=option)


def is_step_alone(options: Options) -> bool:
    """Tell whether a function of the user's does the steps, and nothing was given to evaluate by."""
    return options.step is not None and options.loss is None and options.objective is None


def choose_objective(options: Options, data: Data) -> tuple[Objective, Data, str]:
    """Return the objective, the data with the target as its loss sees it, and the loss's name."""
    if is_step_alone(options):
        assert options.step is not None
        return with_own_step(None, options.step), replace(data.unscaled(), test=None, validation=None), STEP
    if options.step is not None:
        objective, data, name = choose_objective(replace(options, step=None), data)
        return with_own_step(objective, options.step), data, name
    if options.objective is not None:
        return own_objective(options.objective), data.unscaled(), OBJECTIVE
    mixing = Mixing(options.mixup, options.cutmix)
    if data.target is None and data.features is None:
        data = group_inputs(data, options.task, options.classes)
    if data.target is None and (options.loss is not None or options.loss_arguments or any(mixing)):
        raise UsageError("needs-objective", data=data.name)
    if data.target is None:
        return own_objective(returned_loss), data, OWN_LOSS
    given = options.loss or LOSS_BY_TASK[data.target.task]
    loss = named_loss(given, options.loss_arguments, data.target.floats) if isinstance(given, str) else given
    if isinstance(loss, type) or not callable(loss):
        name = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        raise UsageError("no-loss", found=Note("training.the-class", name=name) if isinstance(loss, type) else name)
    if options.mixup is not None and (data.features is None or data.features.dtype == "int64"):
        raise UsageError("mixup-of-no-numbers")
    if options.cutmix is not None and (
        data.features is None or data.features.kind != "image" or data.target.layout == "dense"
    ):
        raise UsageError("cutmix-of-no-images")
    are_labels_checked = all(map(has_class_numbers, data.splits.values()))
    name = getattr(loss, "__name__", type(loss).__name__)
    name = name if name not in USERS else f"{name}()"  # a function may be called so
    return make_objective(loss, are_labels_checked, mixing), aimed(data, loss), name


def with_augmentation(data: Data, options: Options) -> Data:
    """Return the data with training images that change at random; UsageError where there are none in memory."""
    if options.augment is None:
        return data
    if not isinstance(data.train, ResidentSplit) or data.train.inputs.dim() != 4:
        raise UsageError("augment-of-no-images", data=data.name)
    return replace(data, train=replace(data.train, augment=Augment(options.augment)))


def with_weights(options: Options, data: Data) -> Options:
    """Return the options with weights by how often each class occurs, where a loss's "weight" is "balanced"."""
    arguments = dict(options.loss_arguments or {})
    for argument in (name for name in ("weight", "pos_weight") if arguments.get(name) == "balanced"):
        rows = streamed_rows(data.train)
        if rows is not None and rows.class_counts is not None:
            arguments[argument] = balanced_by_counts(argument, torch.from_numpy(rows.class_counts))
            continue
        source = data.train if isinstance(data.train, ResidentSplit) else getattr(data.train, "dataset", None)
        targets = getattr(source, "targets", None)
        if targets is None or data.target is None:
            raise UsageError("balanced-unknown", argument=argument)
        arguments[argument] = balanced(argument, torch.as_tensor(targets), len(data.target.classes))
    return replace(options, loss_arguments=arguments or None)


def aimed(data: Data, loss: object) -> Data:
    """Return the data with the target as the loss sees it; its targets are as they came, until the model is known.

    Only losses of quantities may have them standardised.
    """
    assert data.target is not None
    found = task_of_loss(as_module(loss), data.target, some_targets(data))
    target = replace(found, floats=data.target.floats)
    scales = isinstance(as_module(loss), OF_QUANTITIES) and target.task == "regression"
    return replace(data if scales else data.unscaled(), target=target)


def some_targets(data: Data) -> Tensor | None:
    """Return targets as they came: all that are trained on, or those of a first batch; None where these are no tensors."""
    if isinstance(data.train, ResidentSplit):
        return data.train.targets
    if data.target is not None and data.target.task == "classification" and data.target.layout == "rows":
        return None  # nothing more is to be known
    batch = next(iter(data.train.in_order(PROBED)), None)
    return batch[1] if isinstance(batch, (tuple, list)) and isinstance(batch[1], Tensor) else None


def has_class_numbers(split: Split | None) -> bool:
    """Tell whether no label of a split is below 0, as ignored labels are; False where that is not known."""
    if isinstance(split, StreamedSplit):
        return split.is_random is False  # a folder of images: its labels are the numbers of its folders
    return split is None or (isinstance(split, ResidentSplit) and bool((split.targets >= 0).all()))


def choose_optimizer(options: Options, module: nn.Module, loss: object) -> Optimizer:
    """Return the live optimizer, checked, or a new one by name, over what trains in the model and its loss."""
    given = options.optimizer or "AdamW"
    if isinstance(given, Optimizer):
        check_live_optimizer(given, module, loss)
        made = given
    elif isinstance(given, str):
        rate = {} if options.lr is None else {"lr": options.lr}
        groups = {
            name: {key: restored(each) for key, each in own.items()} for name, own in (options.groups or {}).items()
        }
        made = named_optimizer(given, module, {**(options.optimizer_arguments or {}), **rate}, loss, groups)
    else:
        raise UsageError("no-optimizer", found=type(given).__name__)
    if options.step is None:
        check_steps_alone(made)
    return made


def check_unfreezes(optimizer: Optimizer, module: nn.Module, names: list[str]) -> None:
    """Raise UsageError where a live optimizer does not have the parameters that are to train later."""
    held = set(map(id, held_parameters(optimizer)))
    missing = [name for name in names if id(module.get_parameter(name)) not in held]
    if missing:
        raise UsageError("unfreezes-others", optimizer=type(optimizer).__name__, names=format_names(missing, 4))


def default_schedule(options: Options, knows_length: bool) -> str:
    """Return the schedule where none was chosen.

    The defaults come as a set: AdamW with a cosine schedule. Who chooses an optimizer or a learning rate gets just
    that, constant, as the plain loop would have it; so does data that does not tell its length.
    """
    has_chosen = options.optimizer is not None or options.lr is not None or bool(options.optimizer_arguments)
    return "constant" if has_chosen or not knows_length else "cosine"


def fit(
    module: nn.Module, data: Data, objective: Objective, device: torch.device, seed: int | None
) -> tuple[Data, tuple[str, ...]]:
    """Move the model and the data to the device and run one on the other; return the data with targets that suit both.

    Lazy layers get their shape and their weights here: from `seed`, or, for a live model, from torch's own stream.
    """
    module.to(device)
    if isinstance(objective.loss, nn.Module):
        objective.loss.to(device)
    is_lazy = any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters())
    if objective.loss is None and not is_lazy:  # only its objective knows how to call this model
        return data.to(device), ()
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        target, notes = check_model(module, data, device, objective.loss)
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ModelError("lazy-layer", name=name)
    fitted = data if target is None or objective.loss is None else retarget(data, target)
    return fitted.to(device), notes
