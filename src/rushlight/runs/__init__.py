"""Runs on disk: their folders, their history, the index that lists them, the lock that guards them.

Nothing here imports torch or numpy, so that listing runs is instant.
"""

from rushlight.runs.delete import delete_run, find_run_to_delete
from rushlight.runs.folder import create_run, find_run, new_run, read_json, read_recipe
from rushlight.runs.history import History, read_history, read_losses
from rushlight.runs.lock import is_locked, lock_run
from rushlight.runs.summary import RunSummary, list_runs, summarize
from rushlight.runs.verify import Verification, meaning, verify_run

__all__ = [
    "History",
    "RunSummary",
    "Verification",
    "create_run",
    "delete_run",
    "find_run",
    "find_run_to_delete",
    "is_locked",
    "list_runs",
    "lock_run",
    "meaning",
    "new_run",
    "read_history",
    "read_json",
    "read_losses",
    "read_recipe",
    "summarize",
    "verify_run",
]
