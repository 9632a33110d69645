"""Optuna's log of a study as a file that survives a kill: `journal.jsonl`, a line for each transaction.

Optuna's own file backend writes an entry at a time: one torn by a kill makes the file unreadable from the next entry on, and
a killed process leaves its lock. Its SQLite storage commits an entry at a time too, so a kill between "this trial passed the
rung" and "it is pruned" changes what the study does. Here one process writes, and the entries of one decision are one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from rushlight import files
from rushlight.errors import RunError
from rushlight.runs import json_line

MOST_BYTES = 1 << 30


class Journal(BaseJournalBackend):
    """The entries of a study's log, in the file `path`. What was appended since the last `commit` is not in the file yet.

    Raises RunError for a file that is damaged elsewhere than in a torn last line, which is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self.pending: list[dict[str, Any]] = []
        if not self.path.exists():
            return
        content = files.read_bytes(self.path, MOST_BYTES)
        whole, _, torn = content.rpartition(b"\n")
        try:
            for line in whole.split(b"\n") if whole else ():
                self.entries += json.loads(line)["entries"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError("run-file-damaged", path=self.path, reason=error) from error
        if torn:
            files.truncate_file(self.path, len(content) - len(torn))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Give the entries from this one on."""
        yield from self.entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, as they will be read again."""
        plain = json.loads(json.dumps(logs))
        self.entries += plain
        self.pending += plain

    def commit(self) -> None:
        """Write the entries since the last commit, all or none of them. Raises StorageError."""
        if self.pending:
            files.append_bytes(self.path, json_line({"entries": self.pending}))
            files.sync_file(self.path)
            self.pending = []
