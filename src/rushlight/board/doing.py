"""What the page may change: a run's note and tags, its name, that it stops, goes on, is served, is deleted."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rushlight.board.listing import id_of
from rushlight.errors import RunError
from rushlight.runs import ask_to_stop, delete_run, find_run_to_delete, is_locked, rename_run, write_note

CHANGES = ("stop", "note", "rename", "delete")
PROCESSES = ("resume", "serve")
START_SECONDS, POLL_SECONDS = 60, 0.1
LONGEST = 600  # characters of what a command said


def change_run(runs: Path, folder: Path, what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Do one of `CHANGES`; return what the page needs to know. RushlightError says why something cannot be done.

    A deletion has to name the run: the page asks the user first. Raises ValueError for a request that the page never makes.
    """
    if what == "stop":
        if is_locked(folder):
            ask_to_stop(folder)
        return {}
    if what == "note":
        note, tags = given.get("note"), given.get("tags")
        if not isinstance(note, str) or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise ValueError(what)
        write_note(folder, note, tags)
        return {}
    if given.get("name" if what == "delete" else "from") != folder.name:
        raise ValueError(what)
    if what == "rename":
        return {"id": id_of(rename_run(folder, str(given.get("name"))).name)}
    freed, rest = delete_run(find_run_to_delete(runs, folder.name))
    return {"freed": freed, "rest": None if rest is None else rest.name}


class Processes:
    """The commands that the page has begun: trainings outlive the board, servers do not."""

    def __init__(self) -> None:
        self.servers: dict[Path, tuple[subprocess.Popen[bytes], str]] = {}  # with their addresses
        self.lock = threading.Lock()

    def begin(self, folder: Path, what: str) -> dict[str, Any]:
        """Begin one of `PROCESSES` for a run, and wait until it works; return {"address"} of a server, {} of a training.

        Raises RunError with the command's last lines where it fails, and where a server has no address after `START_SECONDS`.
        """
        with self.lock, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:  # Windows keeps a file in use
            known = self.servers.get(folder)
            if what == "serve" and known is not None and known[0].poll() is None:
                return {"address": known[1]}
            command = [sys.executable, "-m", "rushlight", what, str(folder.absolute())]
            output = Path(place) / "output"
            with output.open("wb") as written:
                process = subprocess.Popen(
                    [*command, "--port", "0"] if what == "serve" else command, stdin=subprocess.DEVNULL, stdout=written,
                    stderr=written, start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
            threading.Thread(target=process.wait, daemon=True).start()  # so that none is left as a zombie
            for _ in range(int(START_SECONDS / POLL_SECONDS)):
                time.sleep(POLL_SECONDS)
                ended, said = process.poll(), output.read_text("utf-8", "replace")
                if ended or (what == "serve" and ended is not None):
                    break
                if what == "serve" and (address := re.search(r"http://\S+", said)) is not None:
                    self.servers[folder] = process, address[0]
                    return {"address": address[0]}
                if what == "resume" and (is_locked(folder) or ended == 0):
                    return {}
            else:
                if what == "resume":  # it is still on its way
                    return {}
            process.terminate()  # nobody knows where a server without an address is
            raise RunError("board-process-ended", command=what, run=folder.name, said=said.strip()[-LONGEST:])

    def close(self) -> None:
        """End the servers."""
        for process, _ in self.servers.values():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
