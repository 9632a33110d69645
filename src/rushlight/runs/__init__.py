"""Runs on disk: their folders, their history, the index that lists them, the lock that guards them.

Nothing here imports torch or numpy, so that listing runs is instant.
"""

from rushlight.runs.folder import create_run, find_run, read_json, read_recipe
from rushlight.runs.history import History, read_history, read_losses
from rushlight.runs.lock import is_locked, lock_run
from rushlight.runs.summary import RunSummary, list_runs, summarize

__all__ = [
    "History",
    "RunSummary",
    "create_run",
    "find_run",
    "is_locked",
    "list_runs",
    "lock_run",
    "read_history",
    "read_json",
    "read_losses",
    "read_recipe",
    "summarize",
]
