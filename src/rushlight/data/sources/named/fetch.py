"""Obtaining a dataset's files: from the cache, else from its sources in order, each failure remembered.

Whatever the source, nothing enters the cache before its digest was checked. One process fetches a dataset at a time;
the others wait for it and then find the files in the cache.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import filelock

from rushlight import files
from rushlight.data.sources.named.cache import Progress, Refusal, admit, cache_folder, find_faults, read_record, unpack
from rushlight.data.sources.named.catalog import NamedDataset, RemoteFile
from rushlight.data.sources.named.debian import unpack_package
from rushlight.data.sources.named.download import download
from rushlight.errors import FetchError, StorageError

LEFT_BEHIND = (f"*{files.TEMPORARY}", "*.download")  # by killed processes; the second kind by earlier releases


def fetch_files(
    dataset: NamedDataset, *, cache: Path | None = None, progress: Progress | None = None
) -> tuple[Path, list[str]]:
    """Return the folder that holds the dataset's files, all checked just now, and notes.

    What the cache (default: `cache_folder()`) does not hold is fetched.

    Raises:
        FetchError: no source could give the files; lists every source and why it failed.
        StorageError: the cache cannot be written.
    """
    folder = (cache or cache_folder()) / dataset.name
    notes: list[str] = []
    if find_faults(dataset, folder):  # else the cache is used without the lock: it may be one we can only read
        try:
            files.make_folder(folder)
            with files.explained(folder), filelock.FileLock(folder / "lock"):  # a process that dies releases it
                for path in (path for pattern in LEFT_BEHIND for path in folder.glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                notes = set_damaged_aside(dataset, folder)
                fetch_missing(dataset, folder, notes, progress)
        except StorageError as error:
            if error.key == "disk-full":
                raise StorageError("data-disk-full", folder=folder, name=dataset.name) from error
            if error.key == "no-permission":
                raise StorageError("data-no-permission", folder=folder, name=dataset.name) from error
            raise
    origins = [str(entry.get("source", "")) for entry in read_record(folder).values()]
    # Earlier releases recorded a file's whole address: it is shown without the file's name.
    shown = [origin.rpartition("/")[0] + "/" if "://" in origin else origin for origin in origins if origin]
    came_from = f", where it came from {', '.join(dict.fromkeys(shown))}" if shown else ""
    return folder, [f"Read from {from_home(folder)}{came_from}.", *notes]


def from_home(path: Path) -> str:
    """Return a path as a person writes it, with ~ for their home."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def set_damaged_aside(dataset: NamedDataset, folder: Path) -> list[str]:
    """Rename damaged files, so that the user can inspect them; return a note for each."""
    notes = []
    for name, fault in find_faults(dataset, folder).items():
        if fault:
            (folder / name).replace(folder / f"{name}.damaged")
            notes.append(
                f"The cached file {folder / name} was damaged ({fault}); "
                f"it was set aside as {name}.damaged to be fetched again."
            )
    return notes


def fetch_missing(dataset: NamedDataset, folder: Path, notes: Sequence[str], progress: Progress | None) -> None:
    """Try the sources in turn until no file is missing; the folder itself first, for files copied there by hand."""
    failures = [("the cache", note) for note in notes]
    missing = missing_files(dataset, folder)
    for source in (str(folder), *dataset.sources):
        if not missing:
            return
        try:
            fetch_from(source, missing, folder, progress)
        except (Refusal, OSError) as error:  # OSError: a copy that may not be read, a program that may not be run
            failures.append((describe_source(source, folder), str(error)))
        missing = missing_files(dataset, folder)
    if missing:
        raise FetchError(
            "all-sources-failed",
            title=dataset.title,
            count=len(failures),
            tried="\n".join(f"  {number}. {name}: {reason}" for number, (name, reason) in enumerate(failures, 1)),
            files=", ".join(file.name for file in missing),
            folder=folder,
            homepage=dataset.homepage,
        )


def missing_files(dataset: NamedDataset, folder: Path) -> list[RemoteFile]:
    """Return the downloads of which something is missing or damaged in the cache."""
    faults = find_faults(dataset, folder)
    return [file for file in dataset.files if any(content.name in faults for content in file.contents)]


def fetch_from(source: str, missing: Sequence[RemoteFile], folder: Path, progress: Progress | None) -> None:
    """Bring the missing files from one source into the cache; the first failure is raised."""
    if source.startswith("pickle:"):
        if not Path(source.removeprefix("pickle:")).exists():
            raise Refusal("there is no such folder")
        raise Refusal("this copy is pickled, and reading a pickle can run any code in it: not read")
    if "://" not in source:
        copy_files(Path(source), missing, folder, str(Path(source).absolute()))
        return
    scratch = (folder / f"download.{uuid.uuid4().hex[:8]}{files.TEMPORARY}").absolute()
    files.make_folder(scratch)
    try:
        if source.startswith("apt://"):
            package, _, installed = source.removeprefix("apt://").partition("/")
            root = unpack_package(package, scratch, progress)
            copy_files(root / installed, missing, folder, f"the Debian package {package}")
        else:
            for file in missing:
                packed = download(source, file, scratch, progress)
                unpack(packed, file, folder, source)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_files(place: Path, missing: Sequence[RemoteFile], folder: Path, origin: str) -> None:
    """Copy files that are on this machine, packed or unpacked; only a published digest vouches for an unpacked one."""
    if not place.is_dir():
        raise Refusal("there is no such folder")
    for file in missing:
        if (place / file.name).is_file():
            unpack(place / file.name, file, folder, origin)
            continue
        for content in file.contents:
            copy = place / content.name
            if place == folder or not copy.is_file():
                raise Refusal(f"{file.name} is not there")
            if content.sha256 is None:
                raise Refusal(f"{copy.name} cannot be checked (only the digest of {file.name} is published)")
            try:
                with copy.open("rb") as stream:
                    admit(stream, content, folder, origin)
            except Refusal as refusal:
                raise Refusal(f"{copy.name}: {refusal}") from refusal


def describe_source(source: str, folder: Path) -> str:
    """Name a source for the list of those that failed, paths in full."""
    if source.startswith("apt://"):
        return f"the Debian package {source.split('/')[2]}"
    if "://" in source:
        return source
    return (
        f"the cache {source}"
        if source == str(folder)
        else f"a copy in {Path(source.removeprefix('pickle:')).absolute()}"
    )
