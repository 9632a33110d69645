"""Losses, optimizers and schedules: the objective of a step, and its update."""

from rushlight.training.objective.calls import returned_loss
from rushlight.training.objective.lazy_dynamo import leave_compiler_alone, step_hooks
from rushlight.training.objective.losses import (
    LOSS_BY_TASK,
    Loss,
    Objective,
    check_loss_fits,
    make_objective,
    named_loss,
    own_objective,
    task_of_loss,
)
from rushlight.training.objective.optimizers import (
    check_live_optimizer,
    check_steps_alone,
    describe_optimizer,
    named_optimizer,
)
from rushlight.training.objective.schedule import Schedule, plateau_in
