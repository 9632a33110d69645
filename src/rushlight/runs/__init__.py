"""Runs on disk: their folders, their history, the index that lists them, the lock that guards them.

Nothing here imports torch or numpy, so that listing runs is instant.
"""

from rushlight.runs.checkpoint_files import (
    CHECKPOINTS,
    FORMAT,
    MID_EPOCH,
    STATE,
    SUMS,
    TENSORS,
    age,
    checksums,
    damage_of,
    list_checkpoints,
    newer_format,
)
from rushlight.runs.delete import delete_run, find_run_to_delete, strangers
from rushlight.runs.folder import create_run, find_run, new_run, read_json, read_recipe, run_folders, started_at
from rushlight.runs.history import HISTORY, LOSSES, History, read_history, read_losses
from rushlight.runs.lock import is_locked, lock_run
from rushlight.runs.parts import size_of
from rushlight.runs.sessions import inexact_resumes, list_sessions, write_notice, write_session
from rushlight.runs.summary import RunSummary, list_runs, summarize, summarize_files_or_damage
from rushlight.runs.values import MEDIA, append_values, keep_values, read_values
from rushlight.runs.verify import Verification, meaning, typed, verify_run

__all__ = [
    "CHECKPOINTS",
    "FORMAT",
    "HISTORY",
    "LOSSES",
    "MEDIA",
    "MID_EPOCH",
    "STATE",
    "SUMS",
    "TENSORS",
    "History",
    "RunSummary",
    "Verification",
    "age",
    "append_values",
    "checksums",
    "create_run",
    "damage_of",
    "delete_run",
    "find_run",
    "find_run_to_delete",
    "inexact_resumes",
    "is_locked",
    "keep_values",
    "list_checkpoints",
    "list_runs",
    "list_sessions",
    "lock_run",
    "meaning",
    "new_run",
    "newer_format",
    "read_history",
    "read_json",
    "read_losses",
    "read_recipe",
    "read_values",
    "run_folders",
    "size_of",
    "started_at",
    "strangers",
    "summarize",
    "summarize_files_or_damage",
    "typed",
    "verify_run",
    "write_notice",
    "write_session",
]
