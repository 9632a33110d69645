"""A disk that refuses the n-th operation, once or from then on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rushlight import files


class RefusingFile:
    """An open file whose writes may be refused; a full disk takes half of what it refuses."""

    def __init__(self, disk: RefusingDisk, file: IO[bytes], path: Path) -> None:
        self.disk, self.file, self.path = disk, file, path

    def write(self, data: Any) -> int:
        """Write, as far as the disk lets it."""
        try:
            self.disk.ask(self.path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self.file.write(bytes(data)[: len(bytes(data)) // 2])
            raise
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> RefusingFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


class RefusingDisk(files.Disk):
    """Counts the operations on paths that `concerns` picks, and refuses number `at` with `error`; or all from there on.

    `refused` is how many it has refused. Number 0 is none: such a disk only counts.
    """

    def __init__(
        self, at: int, error: int, *, for_ever: bool = False, concerns: Callable[[Path], bool] = lambda path: True
    ) -> None:
        self.at, self.error, self.for_ever, self.concerns = at, error, for_ever, concerns
        self.asked = self.refused = 0
        self.lock = threading.Lock()

    def ask(self, path: Path) -> None:
        """Count an operation; raise OSError if it is refused."""
        if not self.concerns(path):
            return
        with self.lock:
            self.asked += 1
            if self.asked != self.at and not (self.for_ever and self.asked > self.at > 0):
                return
            self.refused += 1
        raise OSError(self.error, os.strerror(self.error), str(path))

    def open(self, path: Path, mode: str) -> IO[bytes]:
        """Ask, then open."""
        self.ask(path)
        return RefusingFile(self, super().open(path, mode), path)  # type: ignore[return-value]

    def save(self, path: Path, write: Callable[[Path], object]) -> None:
        """Ask, then let the library write; a full disk keeps half of it."""
        try:
            self.ask(path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                write(path)
                os.truncate(path, path.stat().st_size // 2)
            raise
        super().save(path, write)

    def sync(self, file: IO[bytes]) -> None:
        """Ask, then sync."""
        self.ask(Path(file.name))
        super().sync(file)

    def truncate(self, file: IO[bytes], length: int) -> None:
        """Ask, then truncate."""
        self.ask(Path(file.name))
        super().truncate(file, length)

    def rename(self, source: Path, target: Path) -> None:
        """Ask, then rename."""
        self.ask(target)
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        """Ask, then make it."""
        self.ask(path)
        super().make_folder(path)

    def sync_folder(self, path: Path) -> None:
        """Ask, then sync."""
        self.ask(path)
        super().sync_folder(path)

    def delete_file(self, path: Path) -> None:
        """Ask, then delete."""
        self.ask(path)
        super().delete_file(path)

    def delete_tree(self, path: Path) -> None:
        """Ask, then delete; a refusal is not raised: as much goes as can go, and that is nothing."""
        try:
            self.ask(path)
        except OSError:
            return
        super().delete_tree(path)
