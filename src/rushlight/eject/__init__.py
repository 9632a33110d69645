"""A run as one plain PyTorch script, which ends with the run's own weights."""

from rushlight.eject.script import write_script
