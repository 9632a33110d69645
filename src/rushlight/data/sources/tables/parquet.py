"""Parquet files as one table: a file, or the files in a folder in the order of their names; read whole, or some rows of it.

Polars reads the row groups that the rows lie in, and decodes their pages only; it tells nobody where row groups begin.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight import files
from rushlight.data.sources.kind import refuse_folder
from rushlight.data.sources.tables.frames import (
    BYTES_PER_CELL_BYTE,
    CELL_BYTES,
    PARQUET_ENDINGS,
    TABLE_ENDINGS,
    check_unpacked,
    explained_reading,
    parquet_shape,
    polars,
    read_parquet,
)
from rushlight.data.sources.tables.text_folder import split_folders
from rushlight.errors import DataError
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

CHUNK_CELLS = 1 << 22  # that are read at once where all rows are read once
LEAST_CHUNK = 1024  # rows


def is_table(path: str | Path) -> bool:
    """Tell a table by its ending, and a folder by the Parquet files in it."""
    return Path(path).name.lower().endswith(TABLE_ENDINGS) or is_parquet_folder(Path(path))


def is_parquet_folder(path: Path) -> bool:
    """Tell whether Parquet files lie in a folder, or in the folder of one of its splits."""
    return path.is_dir() and any(map(parquet_files, split_folders(path).values()))


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder in the order of their names, without hidden ones."""
    try:
        found = [path for path in folder.iterdir() if path.name.lower().endswith(PARQUET_ENDINGS)]
    except OSError as error:
        refuse_folder(error)
    return sorted(path for path in found if not path.name.startswith((".", "_")) and not path.is_dir())


@dataclass(frozen=True)
class ParquetTable:
    """The rows of some Parquet files with the same columns, one file after another."""

    path: Path  # the file, or the folder
    files: tuple[Path, ...]
    ends: tuple[int, ...]  # how many rows there are up to the end of each file
    columns: Mapping[str, Any]  # the dtype of each

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.ends[-1]

    @property
    def bytes(self) -> int:
        """How many bytes of memory reading all of it may take."""
        packed = sum(file.stat().st_size for file in self.files)
        return max(CELL_BYTES * len(self.columns) * self.rows, packed) * BYTES_PER_CELL_BYTE

    def read(self, first: int, count: int, columns: Sequence[str]) -> pl.DataFrame:
        """Read `count` rows from row `first` (from 0) on, or as many as there are; DataError where a file is another by now."""
        library = polars()
        end, parts = min(first + count, self.rows), []
        for number in range(bisect.bisect_right(self.ends, first), len(self.files)):
            begin = self.ends[number - 1] if number else 0
            if begin >= end:
                break
            wanted = slice(max(first - begin, 0), min(end, self.ends[number]) - begin)
            with explained_reading(self.files[number]):
                lazy = library.scan_parquet(self.files[number], glob=False).select(columns)
                part = lazy.slice(wanted.start, wanted.stop - wanted.start).collect()
            if len(part) != wanted.stop - wanted.start:
                raise DataError("table-not-readable", path=self.files[number], reason=Note("data.has-changed"))
            parts.append(part)
        frame: pl.DataFrame = library.concat(parts)
        return frame

    def chunks(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Give all rows, some at a time, with the number (from 0) of the first."""
        size = max(LEAST_CHUNK, CHUNK_CELLS // max(1, len(columns)))
        for first in range(0, self.rows, size):
            yield first, self.read(first, size, columns)

    def read_whole(self) -> pl.DataFrame:
        """Read all rows; DataError where memory has no room for them."""
        from rushlight.device import available_memory

        check_unpacked(self.path, self.bytes // BYTES_PER_CELL_BYTE, available_memory() // BYTES_PER_CELL_BYTE)
        parts = []
        for file in self.files:
            with explained_reading(file):
                parts.append(read_parquet(file))
        frame: pl.DataFrame = polars().concat([part.select(list(self.columns)) for part in parts])
        return frame

    def name_of(self, row: int) -> Note:
        """Return the name of a row (from 1): its file, and its number there."""
        number = bisect.bisect_left(self.ends, row)
        return Note(
            "data.row-of-file", row=row - (self.ends[number - 1] if number else 0), file=self.files[number].name
        )


def open_parquet(path: Path) -> ParquetTable:
    """Return the table that a Parquet file, or those in a folder, hold; nothing but what they say of themselves is read.

    Raises DataError for a file that cannot be read, that claims more than its size can hold, or whose columns are not those
    of the first one; and where there is no file or no row.
    """
    if not path.exists():
        raise DataError("no-table", path=path)
    found = tuple(parquet_files(path)) if path.is_dir() else (path,)
    if not found:
        raise DataError("no-parquet", path=path)
    columns: dict[str, Any] = {}
    rows = []
    for file in found:
        with explained_reading(file):
            own, count = parquet_shape(file)
            check_unpacked(file, CELL_BYTES * len(own) * count, files.most_unpacked(file.stat().st_size))
        if file is found[0]:
            columns = dict(own)
        check_same_columns(file, own, found[0], columns)
        rows.append(count)
    if not sum(rows):
        raise DataError("table-without-rows", path=path)
    return ParquetTable(path, found, tuple(accumulate(rows)), columns)


def check_same_columns(path: Path, own: Mapping[str, Any], first: Path, columns: Mapping[str, Any]) -> None:
    """Raise DataError that names the first column of a file that the first file has not, or has with other values."""
    for name in dict.fromkeys([*columns, *own]):
        if own.get(name) != columns.get(name):
            kinds = {"found": own.get(name), "expected": columns.get(name)}
            said = {key: Note("data.no-such-column") if kind is None else str(kind) for key, kind in kinds.items()}
            raise DataError("parts-differ", path=path, column=name, first=first.name, **said)


def fingerprint_of(tables: Sequence[ParquetTable], counts: Sequence[int]) -> str:
    """Return a SHA-256 over the files of some tables, names and bytes, and over the rows of each split."""
    digest = hashlib.sha256(repr(list(counts)).encode())
    for table in tables:
        for file in table.files:
            with explained_reading(file):
                digest.update(f"\n{file.name}\0{files.sha256_of(file)}".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
