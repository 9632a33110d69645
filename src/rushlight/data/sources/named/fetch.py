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
from rushlight.data.sources.named.cache import (
    Progress,
    SourceRefusal,
    admit,
    cache_folder,
    find_faults,
    read_record,
    unpack_published,
)
from rushlight.data.sources.named.catalog import NamedDataset, RemoteFile
from rushlight.data.sources.named.debian import unpack_package
from rushlight.data.sources.named.download import download
from rushlight.errors import FetchError, StorageError
from rushlight.texts import Joined, Note

LEFT_BEHIND = (f"*{files.TEMPORARY}", "*.download")  # by killed processes; the second kind by earlier releases


def fetch_files(
    dataset: NamedDataset, *, cache: Path | None = None, progress: Progress | None = None
) -> tuple[Path, list[Note]]:
    """Return the folder that holds the dataset's files, all checked just now, and notes.

    What the cache (default: `cache_folder()`) does not hold is fetched.

    Raises:
        FetchError: no source could give the files; lists every source and why it failed.
        StorageError: the cache cannot be written.
    """
    folder = (cache or cache_folder()) / dataset.name
    notes: list[Note] = []
    if find_faults(dataset, folder):  # else the cache is used without the lock: it may be one we can only read
        try:
            files.make_folder(folder)
            with files.explained(folder), filelock.FileLock(folder / "lock"):  # a process that dies releases it
                for path in (path for pattern in LEFT_BEHIND for path in folder.glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                for name, fault in find_faults(dataset, folder).items():
                    if fault:  # damaged: renamed, so that the user can inspect it
                        aside = f"{name}.damaged"
                        (folder / name).replace(folder / aside)
                        notes.append(Note("data.cached-file-damaged", path=folder / name, fault=fault, aside=aside))
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
    home = Path.home()
    place = f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else str(folder)
    if not shown:
        return folder, [Note("data.read-from", folder=place), *notes]
    return folder, [Note("data.read-from-origin", folder=place, origin=", ".join(dict.fromkeys(shown))), *notes]


def fetch_missing(dataset: NamedDataset, folder: Path, notes: Sequence[Note], progress: Progress | None) -> None:
    """Try the sources in turn until no file is missing; the folder itself first, for files copied there by hand."""
    failures: list[tuple[str, str]] = [(name_of_source(str(folder), folder), note) for note in notes]
    missing = missing_files(dataset, folder)
    for source in (str(folder), *dataset.sources):
        if not missing:
            return
        try:
            fetch_from(source, missing, folder, progress)
        except (SourceRefusal, OSError) as error:  # OSError: a copy that may not be read, a program that may not be run
            reason = error.note if isinstance(error, SourceRefusal) else str(error)
            failures.append((name_of_source(source, folder), reason))
        missing = missing_files(dataset, folder)
    if missing:
        tried = (
            Note("data.source-and-reason", number=number, name=name, reason=reason)
            for number, (name, reason) in enumerate(failures, 1)
        )
        raise FetchError(
            "all-sources-failed", title=dataset.title, count=len(failures), tried=Joined("lines", tried),
            files=", ".join(file.name for file in missing), folder=folder, homepage=dataset.homepage,
        )  # fmt: skip


def missing_files(dataset: NamedDataset, folder: Path) -> list[RemoteFile]:
    """Return the downloads of which something is missing or damaged in the cache."""
    faults = find_faults(dataset, folder)
    return [file for file in dataset.files if any(content.name in faults for content in file.contents)]


def fetch_from(source: str, missing: Sequence[RemoteFile], folder: Path, progress: Progress | None) -> None:
    """Bring the missing files from one source into the cache; the first failure is raised."""
    if source.startswith("pickle:"):
        is_there = Path(source.removeprefix("pickle:")).exists()
        raise SourceRefusal(Note("data.copy-is-pickled" if is_there else "data.no-such-folder"))
    if "://" not in source:
        copy_files(Path(source), missing, folder, str(Path(source).absolute()))
        return
    scratch = (folder / f"download.{uuid.uuid4().hex[:8]}{files.TEMPORARY}").absolute()
    files.make_folder(scratch)
    try:
        if source.startswith("apt://"):
            package, _, installed = source.removeprefix("apt://").partition("/")
            root = unpack_package(package, scratch, progress)
            copy_files(root / installed, missing, folder, name_of_source(source, folder))
        else:
            for file in missing:
                packed = download(source, file, scratch, progress)
                unpack_published(packed, file, folder, source)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_files(place: Path, missing: Sequence[RemoteFile], folder: Path, origin: str) -> None:
    """Copy files that are on this machine, packed or unpacked; only a published digest vouches for an unpacked one."""
    if not place.is_dir():
        raise SourceRefusal(Note("data.no-such-folder"))
    for file in missing:
        if (place / file.name).is_file():
            unpack_published(place / file.name, file, folder, origin)
            continue
        for content in file.contents:
            copy = place / content.name
            if place == folder or not copy.is_file():
                raise SourceRefusal(Note("data.file-not-there", name=file.name))
            if content.sha256 is None:
                raise SourceRefusal(Note("data.digest-unknown", name=copy.name, published=file.name))
            try:
                with copy.open("rb") as stream:
                    admit(stream, content, folder, origin)
            except SourceRefusal as refusal:
                raise SourceRefusal(Note("data.fault-of-file", name=copy.name, reason=refusal.note)) from refusal


def name_of_source(source: str, folder: Path) -> str:
    """Name a source for the list of those that failed, paths in full."""
    if source.startswith("apt://"):
        return Note("data.in-debian-package", package=source.split("/")[2])
    if "://" in source:
        return source
    if source == str(folder):
        return Note("data.in-cache", path=source)
    return Note("data.in-copy", path=Path(source.removeprefix("pickle:")).absolute())
