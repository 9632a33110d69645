"""The only place that writes to disk, and that opens files to read them.

A file is written beside its final name, synced, renamed over it, and its folder is synced: a reader sees the
old content or the new, never a part, even after a power cut. Whatever the operating system refuses becomes a
`StorageError` that names the path. Only files are read, no pipes and no devices, and only up to a stated length.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, Any

from rushlight import texts
from rushlight.errors import StorageError, UsageError
from rushlight.kinds import Kind, wrong_entry

texts.read_room(texts.language(), "errors")  # before the disk refuses: the words of its errors are on it

TEMPORARY = ".part"  # what an unpublished file or folder ends in; safe to delete when nothing runs
TEMPORARY_NAME = re.compile(r".+\.[0-9a-f]{8}" + re.escape(TEMPORARY))
HELD: dict[
    Path, tuple[Path, tuple[int, int]]
] = {}  # folders that this process works in: the lock in each, and its identity
MOST_JSON = 64 << 20  # bytes of a JSON file that is read
MOST_UNPACKED, MOST_RATIO = 256 << 20, 100  # what any file may unpack to, and a larger one for each of its bytes
MOST_OF_RECORD = 64 << 20  # bytes: a million files that users named
DEEPEST = 100  # levels of values in one
FORM = bytes.maketrans(b"123456789E", b"000000000e")  # of numbers
PERHAPS_INFINITE = (b"e000", b"e+000", b"0" * 300)  # such a number may be larger than any that a float holds
TO_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
TO_SYNC = "rb+" if os.name == "nt" else "rb"  # Windows syncs for who may write; elsewhere who may read is enough


class Disk:
    """All that changes a disk, one operation of the operating system each.

    `python -m faults` puts others in its place: one that keeps a log, and one that refuses the n-th operation.
    """

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """Open a file to write it ("xb", "wb"), to append to it ("ab"), to change it ("rb+") or to sync it (TO_SYNC)."""
        return path.open(mode)

    def save(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let a library write a new file of its own at `path`."""
        write(path)

    def sync(self, file: IO[bytes]) -> None:
        """Wait until what was written to the file is on the disk."""
        file.flush()
        os.fsync(file.fileno())

    def truncate(self, file: IO[bytes], length: int) -> None:
        """Cut the file back to `length` bytes."""
        file.truncate(length)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name, in one step; a file of that name is replaced."""
        os.replace(source, target)

    def make_folder(self, path: Path) -> None:
        """Make one folder."""
        path.mkdir()

    def sync_folder(self, path: Path) -> None:
        """Wait until the folder's entries are on the disk. Windows syncs them by itself and offers no call."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete_file(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def delete_tree(self, path: Path) -> None:
        """Delete a folder with all in it, or as much of it as can be deleted."""
        shutil.rmtree(path, ignore_errors=True)


disk = Disk()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, content: object) -> None:
    """Replace the file at `path` by strict, indented JSON; NaN and infinity are refused with ValueError."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))  # a name that is no UTF-8: JSON's own escape


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file into a folder that is not published yet, piece by piece, and wait until it is on the disk."""
    with explained(path), disk.open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        disk.sync(file)


def save_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library write a file into a folder that is not published yet, and wait until it is on the disk."""
    with explained(path):
        with disk.open(path, "xb"):
            mode = path.stat().st_mode  # as this account's files have it; a library may make its own for itself alone
        disk.save(path, write)
        path.chmod(mode)
        with disk.open(path, "rb+") as file:
            disk.sync(file)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends without an error."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    with explained(path):
        try:
            with disk.open(temporary, "wb") as file:
                yield file
                disk.sync(file)
            disk.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.delete_file(temporary)
            raise
        disk.sync_folder(path.parent)


def append_bytes(path: Path, content: bytes) -> None:
    """Append to the file at `path`, creating it if needed. Not synced: use `sync_file` at a boundary."""
    with explained(path), disk.open(path, "ab") as file:
        file.write(content)


def truncate_file(path: Path, length: int) -> None:
    """Cut the file at `path` back to `length` bytes, and wait until that is on the disk."""
    with explained(path), disk.open(path, "rb+") as file:
        disk.truncate(file, length)
        disk.sync(file)


def sync_file(path: Path) -> None:
    """Wait until the file's content, and its entry in the folder, are on the disk. What is not to be written is synced too."""
    with explained(path):
        with disk.open(path, TO_SYNC) as file:
            disk.sync(file)
        disk.sync_folder(path.parent)


def delete_file(path: Path) -> bool:
    """Delete the file; return False where it is not there or the operating system refuses."""
    try:
        disk.delete_file(path)
    except OSError:
        return False
    return True


# ── files that the user names ────────────────────────────────────────────────────────────────────────────────


def check_replaceable(paths: Iterable[Path], force: bool) -> None:
    """Raise UsageError for a folder at a path, and, unless `force`, for files that are not as `write_named` wrote them."""
    there = [path for path in paths if path.exists()]
    for path in there:
        if path.is_dir():
            raise UsageError("folder-for-file", path=path)
    if force or not there:
        return
    try:
        known = set(read_bytes(written_record(), MOST_OF_RECORD).split())
    except OSError:
        known = set()
    foreign = [path for path in there if file_digest(path) not in known]
    if foreign:
        raise UsageError("file-not-ours", count=len(foreign), listed=texts.Joined("list", map(str, foreign)))


def write_named(path: Path, content: bytes) -> None:
    """Write a file that the user named, and note its digest: `check_replaceable` lets it be replaced while it is unchanged."""
    write_bytes(path, content)
    with contextlib.suppress(OSError, StorageError):  # without the note, replacing it takes `force`
        make_folder(written_record().parent)
        append_bytes(written_record(), hashlib.sha256(content).hexdigest().encode() + b"\n")


def written_record() -> Path:
    """Return where the digests of this account's named files are."""
    import platformdirs

    return Path(platformdirs.user_state_dir("rushlight", appauthor=False)) / "written-here"


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, in hexadecimal digits; b"" for what is none, or cannot be read."""
    try:
        return sha256_of(path).encode()
    except OSError:
        return b""


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block ends without an error.

    A folder that is there already is replaced in two renames: after an error it is back, after a power cut between
    the two it lies beside as a temporary one. What must survive that too gets a name of its own.
    """
    make_folder(path.parent)
    temporary = temporary_beside(path)
    with explained(path):
        disk.make_folder(temporary)
        try:
            yield temporary
            disk.sync_folder(temporary)
            if path.exists():  # a folder cannot be renamed over another: move the old one aside first
                aside = temporary_beside(path)
                disk.rename(path, aside)
                try:
                    disk.rename(temporary, path)
                except BaseException:
                    disk.rename(aside, path)
                    raise
                disk.sync_folder(path.parent)
                disk.delete_tree(aside)
            else:
                disk.rename(temporary, path)
        except BaseException:
            disk.delete_tree(temporary)
            raise
        disk.sync_folder(path.parent)


def delete_folder(path: Path) -> bool:
    """Delete the folder with all in it; return False where the operating system refuses, and it stays whole.

    It is renamed first, so that no reader ever sees a part of it; what then cannot be deleted is left to `sweep`.
    """
    aside = temporary_beside(path)
    try:
        disk.rename(path, aside)
    except OSError:
        return False
    disk.delete_tree(aside)
    return True


def sweep(folder: Path) -> None:
    """Delete what a killed process left unpublished in the folder; what cannot be deleted stays.

    Only for who alone writes there: another process's file in the making looks the same.
    """
    for path in folder.glob(f"*{TEMPORARY}"):
        if not TEMPORARY_NAME.fullmatch(path.name):
            continue
        if path.is_dir():
            disk.delete_tree(path)
        else:
            delete_file(path)


def check_local(path: Path | str) -> None:
    """Raise UsageError for an address such as s3://bucket/runs: as a path it would name a folder called "s3:"."""
    if found := re.match(r"([A-Za-z][\w.+-]+):/+", str(path)):  # one letter alone is a drive of Windows
        raise UsageError("address-for-folder", address=f"{found[1]}://{str(path)[found.end() :]}")


def make_folder(path: Path) -> None:
    """Create the folder and its parents; an existing one is fine, an address none."""
    check_in_place(path)
    if path.is_dir():
        return
    check_local(path)
    if path.parent != path:  # a drive that is not there is its own parent
        make_folder(path.parent)
    if not create_folder(path) and not path.is_dir():
        raise StorageError("file-for-folder", path=path)


def create_folder(path: Path) -> bool:
    """Create the folder, and its parents where needed; return False if something is there already."""
    make_folder(path.parent)
    with explained(path):
        try:
            disk.make_folder(path)  # the one call that makes a folder or fails: two processes never get the same one
        except FileExistsError:
            return False
        disk.sync_folder(path.parent)
    return True


def temporary_beside(path: Path) -> Path:
    """Return a name beside `path` that nobody else uses and that says what it is: unpublished."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")


def bytes_on_disk(path: Path) -> int:
    """Return the bytes in a file or a folder; links are not followed, a missing file counts 0."""
    try:
        status = path.lstat()
        return sum(map(bytes_on_disk, path.iterdir())) if stat.S_ISDIR(status.st_mode) else status.st_size
    except OSError:
        return 0


def is_ours_alone(path: Path) -> bool:
    """Tell whether a file or folder belongs to this account and nobody else may write it. Raises OSError."""
    status = path.stat()
    return os.name == "nt" or (status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries, and those that are gone, are on the disk."""
    with explained(path):
        disk.sync_folder(path)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def open_file(path: Path, follows: bool = True) -> BufferedReader:
    """Open a file to read it. OSError for what is none: a pipe keeps its reader waiting, a device has no end.

    Where a link is not to be followed, one is none either, as far as the system can tell.
    """
    return os.fdopen(open_descriptor(path, follows)[0], "rb")


def open_descriptor(path: Path, follows: bool = True) -> tuple[int, int]:
    """Return the descriptor and the size of a file that `open_file` opens."""
    try:
        descriptor = os.open(path, TO_READ if follows else TO_READ | NO_LINK)
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, texts.Note("runs.no-file"), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Return a file's bytes. OSError for more than `most` of them, and for what is no file."""
    descriptor, size = open_descriptor(path)
    with FileIO(descriptor) as file:  # without a buffer: half the time for a small file
        if size > most:
            raise OSError(errno.EFBIG, texts.Note("runs.too-large", size=size, most=most), str(path))
        return file.readall()


def sha256_of(path: Path, watch: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits. Raises OSError.

    `watch` is called with the number of bytes that were just read: few at a time, since memory may be scarce.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(1 << 18):
            digest.update(piece)
            if watch is not None:
                watch(len(piece))
    return digest.hexdigest()


def most_unpacked(packed: int) -> int:
    """Return how many bytes a compressed file of `packed` bytes may unpack to; a small one can be made to fill the memory."""
    return max(MOST_UNPACKED, MOST_RATIO * packed)


def parse_json(content: bytes) -> Any:
    """Return the values in JSON. ValueError for NaN and infinity, and for values nested deeper than `DEEPEST`."""
    try:
        found = DECODER.decode(content.decode(json.detect_encoding(content), "surrogatepass"))
    except RecursionError as error:
        raise ValueError(texts.Note("runs.too-deep", most=DEEPEST)) from error
    form = content.translate(FORM)
    if content.count(b"[") + content.count(b"{") > DEEPEST or any(part in form for part in PERHAPS_INFINITE):
        check_values(found)
    return found


def readable_json(path: Path, kind: Kind, most: int = MOST_JSON) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where it cannot be read, or an entry is absent or of another kind."""
    try:
        content = parse_json(read_bytes(path, most))
    except (OSError, ValueError):
        return None
    return content if wrong_entry(content, kind) is None else None


def refuse_constant(name: str) -> None:
    """Raise ValueError for a number that strict JSON does not have."""
    raise ValueError(texts.Note("runs.no-number", name=name))


DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def check_values(value: Any) -> None:
    """Raise ValueError for infinite numbers, and for values nested deeper than `DEEPEST`: what follows them runs out of stack."""
    level = [value]
    for _ in range(DEEPEST):
        if any(isinstance(entry, float) and math.isinf(entry) for entry in level):
            refuse_constant("1e999")
        inner = [entry for entry in level if isinstance(entry, (dict, list))]
        level = [each for entry in inner for each in (entry.values() if isinstance(entry, dict) else entry)]
        if not level:
            return
    raise ValueError(texts.Note("runs.too-deep", most=DEEPEST))


# ── errors and values ────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError that names `path`; check first that it is where it was."""
    check_in_place(path)
    try:
        yield
    except OSError as error:
        check_in_place(path)  # it may have gone in the meantime
        raise explanation(error, path) from error


@contextlib.contextmanager
def held_by(lock: Path) -> Iterator[None]:
    """Write in the folder of a lock that this process has, for the block, only while that lock is in its place.

    A folder that was moved, renamed or deleted in the meantime must not be made anew, nor another of its name be written to.
    """
    status = lock.stat()
    HELD[lock.parent] = lock, (status.st_dev, status.st_ino)
    try:
        yield
    finally:
        HELD.pop(lock.parent, None)


def check_in_place(path: Path) -> None:
    """Raise StorageError where a path lies in a folder whose lock is not in its place any more."""
    for folder, (lock, identity) in list(HELD.items()):
        if path != folder and folder not in path.parents:
            continue
        try:
            status = lock.stat()
            is_there = (status.st_dev, status.st_ino) == identity
        except OSError:
            is_there = False
        if not is_there:
            raise StorageError("folder-gone", folder=folder, lock=lock.name)


def explanation(error: OSError, path: object) -> StorageError:
    """Return what the operating system refused, as an error that names `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("disk-full", path=path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError("no-permission", path=path)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError("too-many-files", path=path)
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
        return StorageError("path-refused", path=path, reason=error.strerror)
    return StorageError("disk-error", path=path, reason=error.strerror or error)


def without_nan(value: Any) -> Any:
    """Return JSON-ready values with None for every NaN and infinity, which strict JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return value
