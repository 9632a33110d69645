"""Training: the loop, one optimizer step, testing, and the state that a checkpoint holds."""

from rushlight.training.checkpoint import describe_kept, latest_checkpoint, read_model_state, restore
from rushlight.training.evaluation import evaluate
from rushlight.training.events import Event, Events
from rushlight.training.finish import finish_run, save_bundle, save_report
from rushlight.training.loop import Epoch, epochs, evaluation_size, test_batch_size
from rushlight.training.objective import Objective, make_objective, named_loss, task_of_loss
from rushlight.training.profile import profiled, telling_of_waiting
from rushlight.training.recipe import Recipe, recipe_from_json, steps_per_epoch
from rushlight.training.setup import (
    Options,
    announce,
    build_imported,
    check_options,
    check_rebuildable,
    data_choices,
    data_options,
    keep_recipe,
    rebuild_model,
    resume_training,
    start_training,
)
from rushlight.training.state import Origin, Training

__all__ = [
    "Epoch",
    "Event",
    "Events",
    "Objective",
    "Options",
    "Origin",
    "Recipe",
    "Training",
    "announce",
    "build_imported",
    "check_options",
    "check_rebuildable",
    "data_choices",
    "data_options",
    "describe_kept",
    "epochs",
    "evaluate",
    "evaluation_size",
    "finish_run",
    "keep_recipe",
    "latest_checkpoint",
    "make_objective",
    "named_loss",
    "profiled",
    "read_model_state",
    "rebuild_model",
    "recipe_from_json",
    "restore",
    "resume_training",
    "save_bundle",
    "save_report",
    "start_training",
    "steps_per_epoch",
    "task_of_loss",
    "telling_of_waiting",
    "test_batch_size",
]
