"""Runs on disk: folders, history, checkpoints' files, sessions, lock; listing, verifying and deleting them.

Nothing here imports torch or numpy, so that listing runs is instant.
"""

from rushlight.runs.checkpoint_files import (
    CHECKPOINTS,
    FORMAT,
    MID_EPOCH,
    PLAIN_FORMAT,
    STATE,
    SUMS,
    TENSORS,
    age,
    checksums,
    damage_of,
    list_checkpoints,
    newer_format,
    read_state,
    shard_file,
)
from rushlight.runs.delete import delete_run, describe_deletion, find_run_to_delete
from rushlight.runs.folder import find_run, is_run, new_run, run_folders, slug, started_at, typed
from rushlight.runs.history import History, json_line, read_history, read_losses
from rushlight.runs.lock import is_locked, lock_run
from rushlight.runs.note import NO_NOTE, STOP, ask_to_stop, read_note, rename_run, write_note
from rushlight.runs.read import read_environment, read_recipe, read_report
from rushlight.runs.sessions import inexact_resumes, list_sessions, write_notice, write_session
from rushlight.runs.summary import ENDED, list_runs, summarize_any, summarize_run
from rushlight.runs.values import MEDIA, append_values, keep_values, read_values
from rushlight.runs.verify import verify_run
