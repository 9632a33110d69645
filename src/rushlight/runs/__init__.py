"""Runs on disk: folders, history, sessions, lock; listing, verifying and deleting them.

Nothing here imports torch or numpy, so that listing runs is instant. What a checkpoint's files are called and whether
they are whole stands in `checkpoint_files`, which `training.checkpoint` imports too.
"""

from rushlight.runs.checkpoint_files import age, list_checkpoints
from rushlight.runs.delete import delete_run, describe_deletion, find_run_to_delete
from rushlight.runs.folder import find_run, new_run, run_folders, size_of, started_at
from rushlight.runs.history import History, read_history, read_losses
from rushlight.runs.lock import lock_run
from rushlight.runs.read import read_json, read_recipe
from rushlight.runs.sessions import inexact_resumes, list_sessions, write_notice, write_session
from rushlight.runs.summary import list_runs, summarize
from rushlight.runs.values import MEDIA, append_values, keep_values, read_values
from rushlight.runs.verify import verify_run

__all__ = [
    "MEDIA",
    "History",
    "age",
    "append_values",
    "delete_run",
    "describe_deletion",
    "find_run",
    "find_run_to_delete",
    "inexact_resumes",
    "keep_values",
    "list_checkpoints",
    "list_runs",
    "list_sessions",
    "lock_run",
    "new_run",
    "read_history",
    "read_json",
    "read_losses",
    "read_recipe",
    "read_values",
    "run_folders",
    "size_of",
    "started_at",
    "summarize",
    "verify_run",
    "write_notice",
    "write_session",
]
