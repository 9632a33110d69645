"""One optimizer step, exactly as the plain loop executes it, and recovery where it fails."""

from rushlight.training.step.exact import Parts, Step, computing, exact_step
from rushlight.training.step.hooks import HOOKS, hooks_in
from rushlight.training.step.memory import Buffers, is_out_of_memory
from rushlight.training.step.pooling import FasterMaxPool, has_images, may_pool
from rushlight.training.step.recovery import roll_back
from rushlight.training.step.runner import Executed, Row, StepFailed, StepRunner, cut, step_generator, steps_done
from rushlight.training.step.shared import SharedStep, share_norms, streams
