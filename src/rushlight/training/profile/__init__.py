"""Where the time of a step goes."""

from rushlight.training.profile.waiting import telling_of_waiting
from rushlight.training.profile.watch import profiled
