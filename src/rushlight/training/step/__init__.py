"""One optimizer step, exactly as the plain loop takes it, and what to do when it fails."""

from rushlight.training.step.exact import Parts, Step, computing, exact_step, windows
from rushlight.training.step.pooling import FasterMaxPool, has_images, may_pool
from rushlight.training.step.recovery import Rescue, roll_back

__all__ = [
    "FasterMaxPool",
    "Parts",
    "Rescue",
    "Step",
    "computing",
    "exact_step",
    "has_images",
    "may_pool",
    "roll_back",
    "windows",
]
