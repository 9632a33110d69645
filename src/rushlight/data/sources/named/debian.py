"""Getting the files of a Debian or Ubuntu package without installing it and without being root.

Many machines reach a Debian mirror and nothing else. `apt-get download` needs no rights, only package lists; where the
machine has none (containers often delete them) or old ones, lists of our own are fetched into a scratch folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rushlight import files
from rushlight.data.sources.named.cache import Progress, SourceRefusal
from rushlight.texts import Note, text

PACKAGE_S = 300.0  # for all of it
OPTIONS = (
    "-o=Acquire::Retries=1",
    "-o=Acquire::http::Timeout=10",
    "-o=Acquire::https::Timeout=10",
    "-o=Acquire::Languages=none",
    # As root, apt fetches as the user _apt, who may not enter a private folder; the digests are checked anyway.
    "-o=APT::Sandbox::User=root",
)


def unpack_package(package: str, scratch: Path, progress: Progress | None = None) -> Path:
    """Download `package` and unpack it under `scratch`, an empty folder; return the folder that stands for '/'.

    Raises:
        SourceRefusal: this is no Debian, its mirror cannot be reached, or lacks the package; quotes apt.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SourceRefusal(Note("data.no-package-manager", program=program))
    deadline = time.monotonic() + PACKAGE_S
    command = ["apt-get", *OPTIONS, "download", package]
    try:
        run(command, scratch, deadline, package, progress)
    except SourceRefusal as first:
        if time.monotonic() >= deadline:
            raise
        for folder in ("lists/partial", "cache/archives/partial"):
            files.make_folder(scratch / folder)
        own_lists = [f"-o=Dir::State::lists={scratch / 'lists'}", f"-o=Dir::Cache={scratch / 'cache'}"]
        try:
            run(["apt-get", *OPTIONS, *own_lists, "update"], scratch, deadline, text("data.package-lists"), progress)
            run([*command, *own_lists], scratch, deadline, package, progress)
        except SourceRefusal as second:
            raise SourceRefusal(Note("data.with-fresh-lists", first=first.note, second=second.note)) from second
    archive = next(scratch.glob("*.deb"), scratch / f"{package}.deb")
    run(["dpkg-deb", "-x", str(archive), str(scratch / "unpacked")], scratch, deadline)
    return scratch / "unpacked"


def run(
    command: Sequence[str], scratch: Path, deadline: float, name: str = "", progress: Progress | None = None
) -> None:
    """Run a program in `scratch`, reporting the bytes that appear there; SourceRefusal with its complaint when it fails."""
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(
            command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaint,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the program with its helpers
        )  # fmt: skip
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                if progress and name:
                    progress(name, files.bytes_on_disk(scratch), None)
        finally:
            is_late = process.poll() is None
            if is_late:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        complaint.seek(0)
        lines = [line.strip() for line in complaint.read().decode("utf-8", "replace").splitlines() if line.strip()]
    output = " | ".join(([line for line in lines if line.startswith("E:")] or lines)[-3:]) or Note("words.nothing")
    if is_late:
        raise SourceRefusal(Note("data.command-too-long", command=command[0], output=output))
    if process.returncode != 0:
        raise SourceRefusal(Note("data.command-failed", command=command[0], code=process.returncode, output=output))
