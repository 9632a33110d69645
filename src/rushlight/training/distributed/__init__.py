"""Several processes that train one run together."""

from rushlight.training.distributed.cluster import follow_elsewhere, launch_on_ray
from rushlight.training.distributed.dropout import WholeDropout
from rushlight.training.distributed.launcher import launch
from rushlight.training.distributed.shards import Shards, local, own_rows, units
from rushlight.training.distributed.world import (
    ALONE,
    STEP_SECONDS,
    ProcessLost,
    World,
    joined_world,
    launched_by,
    remember_run,
    remembered_run,
)
