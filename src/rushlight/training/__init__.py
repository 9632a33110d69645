"""Training: the loop, one optimizer step, testing, and the state that a checkpoint holds."""

from rushlight.events import Event, Events
from rushlight.training.distributed import (
    ProcessLost,
    follow_elsewhere,
    joined_world,
    launch,
    launch_on_ray,
    launched_by,
)
from rushlight.training.finish import save_bundle
from rushlight.training.loop import Epoch
from rushlight.training.recipe import Recipe, recipe_from_json
from rushlight.training.reopen import reopen_data, reopen_model, reopen_specs, test_run
from rushlight.training.session import Session
from rushlight.training.setup import build_described, check_importable, data_options, resume_training, start_training
from rushlight.training.state import Training
