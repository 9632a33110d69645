"""Obtaining a dataset's files: from the cache, else from its sources in order, each failure remembered.

Whatever the source, nothing enters the cache before its digest was checked. One process fetches a dataset at
a time; the others wait for it and then find the files in the cache.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from rushlight import files
from rushlight.data.sources.named.cache import (
    admit,
    cache_folder,
    find_fault,
    read_pieces,
    read_record,
    set_aside,
    sweep,
    unpack,
)
from rushlight.data.sources.named.catalog import (
    Content,
    DebianPackage,
    Folder,
    Mirror,
    NamedDataset,
    PickledCopy,
    Refusal,
    RemoteFile,
    Source,
)
from rushlight.data.sources.named.debian import unpack_package
from rushlight.data.sources.named.download import Patience, Progress, download
from rushlight.errors import FetchError, StorageError

PARTIAL = ".download"  # what a download ends in until it is whole and checked
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """A dataset's files in the cache: all there, all checked just now."""

    folder: Path
    origin: str  # where they came from, in words; '' where that was not recorded
    notes: tuple[str, ...] = ()  # what happened on the way that a user should know

    def path(self, content: Content) -> Path:
        """Return where one of the files is."""
        return self.folder / content.name


def fetch_files(
    dataset: NamedDataset,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    patience: Patience = PATIENCE,
) -> Fetched:
    """Return the dataset's files, fetching what the cache (default: `cache_folder()`) does not hold.

    Raises:
        FetchError: no source could give them; lists every source and what it said.
        StorageError: the cache cannot be written.
    """
    folder = (cache or cache_folder()) / dataset.name
    if not find_faults(dataset, folder):  # without the lock: the cache may be one we can only read
        return Fetched(folder, origin_of(dataset, folder))
    try:
        with locked(folder):
            sweep(folder)
            notes = set_damaged_aside(dataset, folder)
            fetch_missing(dataset, folder, notes, progress, patience)
    except StorageError as error:
        if error.key == "disk-full":
            raise StorageError("data-disk-full", folder=folder, name=dataset.name) from error
        if error.key == "no-permission":
            raise StorageError("data-no-permission", folder=folder, name=dataset.name) from error
        raise
    return Fetched(folder, origin_of(dataset, folder), notes)


def fetch_missing(
    dataset: NamedDataset,
    folder: Path,
    notes: Sequence[str],
    progress: Progress | None,
    patience: Patience,
) -> None:
    """Try the sources in turn until no file is missing."""
    failures = [("the cache", note) for note in notes]
    for source in (Folder(str(folder)), *dataset.sources):  # files put into the cache by hand come first
        missing = missing_files(dataset, folder)
        if not missing:
            return
        try:
            take(source, missing, folder, progress, patience)
        except Refusal as refusal:
            failures.append((describe_source(source, folder), str(refusal)))
        except OSError as error:  # a copy that may not be read, a program that may not be run
            failures.append((describe_source(source, folder), str(error)))
    missing = missing_files(dataset, folder)
    if missing:
        raise FetchError(
            "all-sources-failed",
            title=dataset.title,
            count=len(failures),
            tried="\n".join(f"  {number}. {name}: {said}" for number, (name, said) in enumerate(failures, 1)),
            files=", ".join(file.name for file in missing),
            folder=folder,
            homepage=dataset.homepage,
        )


def take(
    source: Source,
    missing: Sequence[RemoteFile],
    folder: Path,
    progress: Progress | None,
    patience: Patience,
) -> None:
    """Bring the missing files from one source into the cache; the first one that fails ends it."""
    match source:
        case Folder(path):
            take_copies(Path(path), missing, folder, str(source_path(path)))
        case PickledCopy(path):
            refuse_pickles(Path(path))
        case Mirror(url):
            for file in missing:
                take_download(url.rstrip("/") + "/" + file.name, file, folder, progress, patience)
        case DebianPackage(package, installed):
            with scratch_folder(folder) as scratch:
                root = unpack_package(package, scratch, patience=patience, progress=progress)
                origin = f"the Debian package {package}"
                take_copies(root / installed.lstrip("/"), missing, folder, origin)


def take_copies(place: Path, missing: Sequence[RemoteFile], folder: Path, origin: str) -> None:
    """Copy files that are already on this machine, packed or unpacked."""
    if not place.is_dir():
        raise Refusal("there is no such folder")
    for file in missing:
        if (place / file.name).is_file():
            unpack(place / file.name, file, folder, origin)
            continue
        for content in file.contents:
            take_unpacked_copy(place, file, content, folder, origin)


def take_unpacked_copy(place: Path, file: RemoteFile, content: Content, folder: Path, origin: str) -> None:
    """Copy one unpacked file; only a published digest can tell that it is the right one."""
    copy = place / content.name
    if place == folder or not copy.is_file():
        raise Refusal(f"{file.name} is not there")
    if content.digest is None:
        raise Refusal(f"{copy.name} cannot be checked (only the digest of {file.name} is published)")
    try:
        admit(read_pieces(copy), content, folder, origin)
    except Refusal as refusal:
        raise Refusal(f"{copy.name}: {refusal}") from refusal


def refuse_pickles(place: Path) -> None:
    """Say why a pickled copy is not used, or that there is none."""
    if not place.exists():
        raise Refusal("there is no such folder")
    raise Refusal("this copy is pickled, and reading a pickle can run any code in it: not read")


def take_download(url: str, file: RemoteFile, folder: Path, progress: Progress | None, patience: Patience) -> None:
    """Download one file, going on from an earlier part, and unpack it."""
    partial = folder / (file.name + PARTIAL)
    was_begun_before = partial.exists()
    download(url, partial, file.size_bytes, patience=patience, progress=progress)
    try:
        unpack(partial, file, folder, url)
    except Refusal:
        with files.explained(partial):
            partial.unlink(missing_ok=True)
        if not was_begun_before:
            raise
        # The earlier part may be what is wrong (another mirror's, a damaged disk's): once more from the
        # beginning.
        download(url, partial, file.size_bytes, patience=patience, progress=progress)
        try:
            unpack(partial, file, folder, url)
        finally:
            with files.explained(partial):
                partial.unlink(missing_ok=True)
    with files.explained(partial):
        partial.unlink(missing_ok=True)


def find_faults(dataset: NamedDataset, folder: Path) -> dict[str, str]:
    """Return, by name, what is wrong with the cached files; empty when all are whole."""
    record = read_record(folder)
    contents = [content for file in dataset.files for content in file.contents]
    faults = {content.name: find_fault(folder, content, record) for content in contents}
    return {name: fault for name, fault in faults.items() if fault is not None}


def missing_files(dataset: NamedDataset, folder: Path) -> list[RemoteFile]:
    """Return the downloads of which something is not, or not rightly, in the cache."""
    faults = find_faults(dataset, folder)
    return [file for file in dataset.files if any(content.name in faults for content in file.contents)]


def set_damaged_aside(dataset: NamedDataset, folder: Path) -> tuple[str, ...]:
    """Move damaged files out of the way and say so."""
    notes = []
    for name, fault in find_faults(dataset, folder).items():
        if fault:
            aside = set_aside(folder / name)
            notes.append(
                f"The cached file {folder / name} was damaged ({fault}); "
                f"it was set aside as {aside.name} to be fetched again."
            )
    return tuple(notes)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a dataset's lock: one process fetches, the others wait. A process that dies lets go of it."""
    files.make_folder(folder)
    lock = filelock.FileLock(folder / "lock")
    with files.explained(folder):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside the cached files that is deleted afterwards, by `sweep` if we are killed."""
    scratch = folder / f"package.{uuid.uuid4().hex[:8]}{files.TEMPORARY}"
    files.make_folder(scratch)
    try:
        yield scratch.absolute()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def origin_of(dataset: NamedDataset, folder: Path) -> str:
    """Say where the cached files were fetched from."""
    record = read_record(folder)
    names = [content.name for file in dataset.files for content in file.contents]
    origins = [str(record.get(name, {}).get("source", "")) for name in names]
    return ", ".join(dict.fromkeys(trimmed_url(origin) for origin in origins if origin))


def trimmed_url(origin: str) -> str:
    """Return an address without the file's name, anything else as it is."""
    return origin.rpartition("/")[0] + "/" if "://" in origin else origin


def describe_source(source: Source, folder: Path) -> str:
    """Name a source for the list of what was tried."""
    match source:
        case Folder(path) | PickledCopy(path):
            return f"the cache {path}" if path == str(folder) else f"a copy in {source_path(path)}"
        case Mirror(url):
            return url
        case DebianPackage(package):
            return f"the Debian package {package}"


def source_path(path: str) -> Path:
    """Return the path in full, so that a message says which folder was looked into."""
    return Path(path).absolute()
