"""From options to a training that is ready to run: new, or resumed."""

from rushlight.training.setup.announcement import announce
from rushlight.training.setup.choose import data_choices, data_options
from rushlight.training.setup.explain import explain_step_error
from rushlight.training.setup.options import Options, check_options
from rushlight.training.setup.prepare import start_training
from rushlight.training.setup.rebuild import build_imported, check_rebuildable, rebuild_model
from rushlight.training.setup.resume import keep_recipe, resume_training

__all__ = [
    "Options",
    "announce",
    "build_imported",
    "check_options",
    "check_rebuildable",
    "data_choices",
    "data_options",
    "explain_step_error",
    "keep_recipe",
    "rebuild_model",
    "resume_training",
    "start_training",
]
