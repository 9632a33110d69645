"""Reading idx files: the format of MNIST and its family.

Two zero bytes, one byte for the type of the numbers, one byte for how many dimensions there are; then the
dimensions and the numbers themselves, big-endian (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rushlight import files
from rushlight.errors import DataError
from rushlight.texts import Note

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
MOST_DIMENSIONS = 32  # numpy 1.26's own limit
CHUNK = 1 << 20


def read_idx(path: Path | str) -> NDArray[Any]:
    """Read the array in an idx file, plain or gzipped (told by its content, not its name).

    Returns an array of the file's shape and type, in this machine's byte order.

    Raises:
        DataError: the file cannot be opened, is no idx file, is torn, or is longer than its header says.
    """
    path = Path(path)
    try:
        with files.open_file(path) as raw:
            size = os.fstat(raw.fileno()).st_size
            is_packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if is_packed:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    return read_open_idx(path, unpacked, None, files.most_unpacked(size))
            return read_open_idx(path, raw, size, size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("idx-unreadable", path=path, reason=error) from error


def read_open_idx(path: Path, file: Any, file_bytes: int | None, most: int) -> NDArray[Any]:
    """Read an idx stream of at most `most` bytes; `file_bytes` is its length where that is known before reading."""
    dtype, shape, header_bytes = read_idx_header(path, file)
    expected = math.prod(shape) * dtype.itemsize
    if file_bytes is not None:
        check_length(path, shape, dtype, expected, file_bytes - header_bytes)
        numbers: bytes | bytearray | NDArray[Any] = np.fromfile(file, np.uint8, expected)
    else:  # grown as it is read: a lying header must not make us allocate what is not there
        numbers = bytearray().join(read_at_most(file, min(expected, most) + 1))
        if len(numbers) > most:
            raise DataError("idx-unreadable", path=path, reason=Note("data.unpacks-to", size=len(numbers), most=most))
    check_length(path, shape, dtype, expected, len(numbers))
    array: NDArray[Any] = np.frombuffer(numbers, dtype)
    return array.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def read_idx_header(path: Path, file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the numbers' type, the shape, and how many bytes the header has."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] > MOST_DIMENSIONS:
        raise DataError("idx-magic", path=path, found=magic.hex(" ") or "nothing")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(
            "idx-truncated", path=path, expected=4 + 4 * magic[3], found=4 + len(sizes), what=Note("data.header")
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if math.prod(size for size in shape if size) >= 1 << 62:  # such a shape overflows numpy even when a size is 0
        raise DataError("idx-magic", path=path, found=(magic + sizes).hex(" "))
    return np.dtype(DTYPES[magic[2]]), shape, 4 + len(sizes)


def read_at_most(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """Give the stream in pieces, `limit` bytes of it at most."""
    while limit > 0 and (piece := file.read(min(CHUNK, limit))):
        limit -= len(piece)
        yield piece


def check_length(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], expected: int, found: int) -> None:
    """Raise unless there are as many bytes of numbers as the header says."""
    if found != expected:
        key = "idx-truncated" if found < expected else "idx-too-long"
        described = Note("data.idx-content", shape="x".join(map(str, shape)) or "1", dtype=dtype.name)
        raise DataError(key, path=path, what=described, expected=expected, found=found)
