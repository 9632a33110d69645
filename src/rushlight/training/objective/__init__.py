"""Losses, optimizers and schedules: the objective of a step, and its update."""

from rushlight.training.objective.average import Average, Switched, averaged, averaging
from rushlight.training.objective.calls import returned_loss
from rushlight.training.objective.lazy_dynamo import leave_compiler_alone, step_hooks
from rushlight.training.objective.losses import (
    LOSS_BY_TASK,
    Loss,
    Mixing,
    Objective,
    Told,
    as_module,
    balanced,
    balanced_by_counts,
    make_objective,
    named_loss,
    own_objective,
    read_answer,
    with_own_step,
)
from rushlight.training.objective.metrics import Measuring, Metrics, check_metrics, choose_metrics, is_gathering
from rushlight.training.objective.optimizers import (
    check_live_optimizer,
    check_steps_alone,
    describe_optimizer,
    held_parameters,
    matching,
    named_optimizer,
    named_parameters,
)
from rushlight.training.objective.schedule import Schedule, plateau_in
from rushlight.training.objective.tasks import OF_QUANTITIES, is_own, task_of_loss, tells_scale, with_scale
