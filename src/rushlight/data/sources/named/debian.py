"""Getting the files of a Debian or Ubuntu package without installing it and without being root.

Many machines reach a Debian mirror and nothing else. `apt-get download` needs no rights, only package lists;
where the machine has none (containers often delete them) or old ones, private lists are fetched into a
scratch folder.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rushlight import files
from rushlight.data.sources.named.catalog import Refusal
from rushlight.data.sources.named.download import Patience, Progress

POLL_S = 0.05
QUICK = (
    "-o=Acquire::Retries=1",
    "-o=Acquire::http::Timeout=10",
    "-o=Acquire::https::Timeout=10",
    "-o=Acquire::Languages=none",
    # As root, apt fetches as the user _apt, who may not enter a private folder; the digests are checked
    # anyway.
    "-o=APT::Sandbox::User=root",
)


def unpack_package(package: str, scratch: Path, *, patience: Patience, progress: Progress | None = None) -> Path:
    """Download `package` and unpack it under `scratch`; return the folder that stands for '/'.

    Raises:
        Refusal: this is no Debian, its mirror cannot be reached, or lacks the package; says what apt said.
        StorageError: the disk refused.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Refusal(f"{program} is not on this machine (it belongs to Debian and Ubuntu)")
    deadline = time.monotonic() + patience.package_s
    try:
        archive = download_package(package, scratch, (), deadline, progress)
    except Refusal as first:
        if time.monotonic() >= deadline:
            raise
        try:
            options = private_lists(scratch, deadline, progress)
            archive = download_package(package, scratch, options, deadline, progress)
        except Refusal as second:
            reasons = str(first) if str(first) == str(second) else f"{first}; with fresh package lists: {second}"
            raise Refusal(reasons) from second
    root = scratch / "unpacked"
    run(["dpkg-deb", "-x", str(archive), str(root)], scratch, deadline)
    return root


def download_package(
    package: str, scratch: Path, options: Sequence[str], deadline: float, progress: Progress | None
) -> Path:
    """Fetch the package's archive into `scratch`."""
    offered = run(["apt-get", *QUICK, *options, "--print-uris", "download", package], scratch, deadline)
    found = re.search(r"^'[^']*' (\S+) (\d+)", offered, re.MULTILINE)
    if found is None:
        raise Refusal(f"apt-get does not say where {package} is")
    archive, size_bytes = scratch / found[1], int(found[2])

    def watch() -> None:
        if progress and (fetched := bytes_of(archive)):
            progress(archive.name, min(fetched, size_bytes), size_bytes)

    run(["apt-get", *QUICK, *options, "download", package], scratch, deadline, watch)
    if not archive.is_file():
        raise Refusal(f"apt-get said it was done, but {archive.name} is not there")
    watch()
    return archive


def private_lists(scratch: Path, deadline: float, progress: Progress | None) -> list[str]:
    """Fetch the mirrors' package lists into `scratch`; return the options that make apt use them."""
    for folder in ("lists/partial", "cache/archives/partial"):
        files.make_folder(scratch / folder)
    options = [f"-o=Dir::State::lists={scratch / 'lists'}", f"-o=Dir::Cache={scratch / 'cache'}"]

    def watch() -> None:
        if progress:
            progress("package lists", bytes_of(scratch / "lists"), None)

    run(["apt-get", *QUICK, *options, "update"], scratch, deadline, watch)
    return options


def run(command: Sequence[str], scratch: Path, deadline: float, watch: Callable[[], None] | None = None) -> str:
    """Run a program in `scratch` and return what it printed; refuse with the last words of its complaint."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaint,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            start_new_session=True,  # so that Ctrl-C comes to us, and we end its helpers with it
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
                if watch:
                    watch()
        finally:
            is_late = process.poll() is None
            if is_late:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        complaint.seek(0)
        said = complaint.read().decode("utf-8", "replace")
        if is_late:
            raise Refusal(f"{command[0]} took too long and was stopped; it said: {last_words(said)}")
        if process.returncode != 0:
            raise Refusal(f"{command[0]} failed ({process.returncode}): {last_words(said)}")
        return output.read().decode("utf-8", "replace")


def bytes_of(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder that another program is busy with."""
    fetched = 0
    for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
        try:
            fetched += entry.stat().st_size if entry.is_file() else 0
        except FileNotFoundError:  # moved since it was listed
            continue
    return fetched


def last_words(said: str) -> str:
    """Return the errors of apt's complaint, or its last lines when none is marked as one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return " | ".join((errors or lines)[-3:]) or "nothing"
