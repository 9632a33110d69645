"""The disk with a log: every operation that rushlight asks for is done, and written down in order."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rushlight import files


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of the disk, or a mark that says what the program had reported by then.

    `kind` is open, write, truncate, sync, rename, make-folder, sync-folder, delete or mark. Paths are relative to the
    logged folder, "/" between their parts; `file` is the number of an open file.
    """

    kind: str
    path: str = ""
    target: str = ""
    file: int = 0
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        if self.kind == "rename":
            return f"rename {self.path} -> {self.target}"
        if self.kind in ("write", "truncate", "sync"):
            size = {"write": f" {len(self.data)} bytes at {self.offset}", "truncate": f" to {self.offset} bytes"}
            return f"{self.kind} #{self.file}{size.get(self.kind, '')}"
        return " ".join(
            filter(None, (self.kind, self.path or "(the runs)", self.file and f"as #{self.file}", self.target))
        )


class LoggedFile:
    """An open file whose writes are logged with their places; all else is the file's own."""

    def __init__(self, disk: LoggedDisk, file: IO[bytes], number: int) -> None:
        self.disk, self.file, self.number = disk, file, number

    def write(self, data: Any) -> int:
        """Write, and log where."""
        content = bytes(data)
        with self.disk.logging(Operation("write", file=self.number, offset=self.file.tell(), data=content)):
            return self.file.write(content)

    def truncate(self, length: int | None = None) -> int:
        """Truncate, and log it."""
        length = self.file.tell() if length is None else length
        with self.disk.logging(Operation("truncate", file=self.number, offset=length)):
            return self.file.truncate(length)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> LoggedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


class LoggedDisk(files.Disk):
    """Does what the disk does and logs what lies below `root`. Threads may share it.

    `after` is called after each operation, in the thread that asked for it: a test's way to act at a certain moment.
    """

    def __init__(self, root: Path, operations: Iterable[Operation] = ()) -> None:
        self.root = root
        self.operations = list(operations)
        self.lock = threading.RLock()
        self.opened = max((operation.file for operation in self.operations), default=0)
        self.after: Callable[[Operation], None] | None = None

    def is_logged(self, path: Path) -> bool:
        """Tell whether a path is below the root; what an account remembers of its runs is not."""
        return path.absolute().is_relative_to(self.root.absolute())

    def relative(self, path: Path) -> str:
        """Return the path as the log has it."""
        relative = path.absolute().relative_to(self.root.absolute()).as_posix()
        return "" if relative == "." else relative

    @contextlib.contextmanager
    def logging(self, operation: Operation) -> Iterator[None]:
        """Do the block and log it as `operation`, if it raises nothing."""
        with self.lock:
            yield
            self.operations.append(operation)
        if self.after is not None:
            self.after(operation)

    def mark(self, name: str, value: str = "") -> None:
        """Log what the program has reported: from here on, it is promised."""
        with self.lock:
            self.operations.append(Operation("mark", name, value))

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """Open, and log what is written."""
        if not self.is_logged(path):
            return super().open(path, mode)
        with self.lock:
            self.opened += 1
            number = self.opened
            with self.logging(Operation("open", self.relative(path), mode, number)):
                file = super().open(path, mode)
        return LoggedFile(self, file, number)  # type: ignore[return-value]

    def sync(self, file: IO[bytes]) -> None:
        """Sync, and log it."""
        with self.logging(Operation("sync", file=file.number)):  # type: ignore[attr-defined]
            super().sync(file)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, and log it."""
        with self.logging(Operation("rename", self.relative(source), self.relative(target))):
            super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        """Make a folder, and log it."""
        if not self.is_logged(path):
            return super().make_folder(path)
        with self.logging(Operation("make-folder", self.relative(path))):
            super().make_folder(path)

    def sync_folder(self, path: Path) -> None:
        """Sync a folder, and log it."""
        if not self.is_logged(path):
            return super().sync_folder(path)
        with self.logging(Operation("sync-folder", self.relative(path))):
            super().sync_folder(path)

    def delete_file(self, path: Path) -> None:
        """Delete, and log it."""
        with self.logging(Operation("delete", self.relative(path))):
            super().delete_file(path)

    def delete_tree(self, path: Path) -> None:
        """Delete, and log each thing that is gone, the innermost first."""
        with self.lock:
            inside = [
                Path(folder) / name
                for folder, folders, names in os.walk(path, topdown=False)
                for name in (*names, *folders)
            ]
            super().delete_tree(path)
            gone = [deleted for deleted in (*inside, path) if not deleted.exists()]
            self.operations.extend(Operation("delete", self.relative(deleted)) for deleted in gone)

    def save(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let the library write, and log what it wrote."""
        with self.lock:
            self.opened += 1
            number = self.opened
            super().save(path, write)
            self.operations.append(Operation("open", self.relative(path), "wb", number))
            self.operations.append(Operation("write", file=number, data=path.read_bytes()))
