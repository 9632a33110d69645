"""Reading CSV and Parquet files: which delimiter, which encoding, and what a broken file is told.

A CSV is read with every column as text; what a column is, is decided in `columns.py`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight import files
from rushlight.errors import DataError, UsageError, first_line
from rushlight.texts import Note

if TYPE_CHECKING:
    import polars as pl

CSV_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".csv.gz", ".tsv.gz")
PARQUET_ENDINGS = (".parquet", ".pq")
JSON_ENDINGS = (".jsonl", ".ndjson")
TABLE_ENDINGS = CSV_ENDINGS + PARQUET_ENDINGS + JSON_ENDINGS
BYTES_PER_BYTE = 10  # of memory, that reading a CSV takes, about
CELL_BYTES, BYTES_PER_CELL_BYTE = 8, 4  # of one cell of a Parquet file; of memory for each of them, about
DELIMITERS = (",", ";", "\t", "|")


def polars() -> Any:
    """Return the polars module; UsageError says how to install it."""
    try:
        import polars
    except ImportError as error:
        raise UsageError("polars-missing") from error
    return polars


def read_frame(path: Path) -> pl.DataFrame:
    """Read a CSV (all columns as text) or a Parquet file."""
    return open_frame(path)[0]


def is_frame(source: Any) -> bool:
    """Tell whether a source is a table in memory: a polars or pandas DataFrame, a dict of columns, or a list of rows."""
    if isinstance(source, Mapping):
        return bool(source) and all(isinstance(name, str) and is_column(column) for name, column in source.items())
    if isinstance(source, list):
        return len(source) > 0 and all(isinstance(row, Mapping) and all(map(is_single, row.values())) for row in source)
    return type(source).__module__.partition(".")[0] in ("polars", "pandas") and hasattr(source, "columns")


def is_column(values: Any) -> bool:
    """Tell whether values are those of one column."""
    return isinstance(values, (list, tuple)) or getattr(values, "ndim", 0) == 1


def is_single(value: object) -> bool:
    """Tell whether a value is one cell of a table and not a column of it."""
    return value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__")


def as_frame(source: Any) -> Any:
    """Return a table in memory as a polars DataFrame, pandas' without asking for pyarrow; DataError where polars refuses it."""
    pl = polars()
    if isinstance(source, pl.DataFrame):
        return source
    if hasattr(source, "columns") and hasattr(source, "isna"):
        source = {str(name): without_gaps(source[name]) for name in source.columns}
    elif isinstance(source, Mapping):
        source = {name: values.tolist() if hasattr(values, "tolist") else values for name, values in source.items()}
    try:
        return pl.DataFrame(source, strict=False, infer_schema_length=None if isinstance(source, list) else 100)
    except Exception as error:  # polars refuses odd input with many kinds of exceptions, Python's own among them
        raise DataError("rows-not-readable", found=type(source).__name__, reason=first_line(error)) from error


def without_gaps(series: Any) -> list[Any]:
    """Return a pandas column as a list with None where a value is missing."""
    return [None if gone else value for value, gone in zip(series.tolist(), series.isna().tolist(), strict=True)]


def open_frame(path: Path) -> tuple[pl.DataFrame, list[Note]]:
    """Read a table; return it with what had to be decided on the way."""
    notes: list[Note] = []
    if not path.exists():
        raise DataError("no-table", path=path)
    name = path.name.lower()
    with explained_reading(path):
        if name.endswith(PARQUET_ENDINGS):
            frame = read_parquet(path)
        elif name.endswith(JSON_ENDINGS):
            frame = read_json_lines(path)
        elif name.endswith(CSV_ENDINGS):
            frame, notes = read_text_table(path)
        else:
            raise DataError("not-a-table", path=path, endings=", ".join(TABLE_ENDINGS))
    if len(frame) == 0:
        raise DataError("table-without-rows", path=path)
    return frame, notes


@contextlib.contextmanager
def explained_reading(path: Path) -> Iterator[None]:
    """Turn what reading a table raises into a DataError that names the file."""
    pl = polars()
    try:
        yield
    except csv.Error as error:  # a cell that seems to go on for ever
        raise DataError("table-not-readable", path=path, reason=Note("data.unclosed-quote")) from error
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError("table-not-readable", path=path, reason=reason) from error


def read_text_table(path: Path) -> tuple[pl.DataFrame, list[Note]]:
    """Read a CSV with every column as text; the delimiter and the encoding are found out."""
    content = files.read_bytes(path, most_of_a_text())
    if content.startswith(b"\x1f\x8b"):
        most = min(files.most_unpacked(len(content)), most_of_a_text())
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            content = packed.read(most + 1)
        check_unpacked(path, len(content), most)
    if content.startswith(b"PK\x03\x04"):
        raise DataError("table-is-excel", path=path)
    text, encoding, delimiter = decode_csv(path, content)
    header = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=delimiter))]
    if doubled := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError("table-header-doubled", path=path, name=doubled[0], columns=", ".join(header))
    try:
        frame = polars().read_csv(text.encode(), separator=delimiter, infer_schema_length=0)
    except polars().exceptions.ComputeError as error:
        rows, most = csv.reader(io.StringIO(text), delimiter=delimiter), len(header)
        if (row := next((row for row in rows if len(row) > most), None)) is None:
            raise
        found = {"expected": most, "found": len(row)}
        raise DataError("table-line-too-long", path=path, line=rows.line_num, **found) from error
    frame.columns = header
    notes = [] if encoding == "utf-8" else [Note("data.not-utf-8", name=path.name, encoding=encoding)]
    return frame, notes


def read_json_lines(path: Path) -> pl.DataFrame:
    """Read a file with a JSON object on each line; a value that is there in some lines only is missing in the others."""
    content = files.read_bytes(path, most_of_a_text())
    rows = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            row = files.parse_json(line) if line.strip() else {}
        except ValueError as error:
            raise DataError("json-line", path=path, line=number, reason=error) from error
        if not isinstance(row, dict):
            raise DataError("json-line", path=path, line=number, reason=Note("data.no-object"))
        rows += [row] if row else []
    frame: pl.DataFrame = as_frame(rows)
    return frame


def read_text_file(path: Path, most: int | None = None) -> str:
    """Return the text of a file of at most `most` bytes, in whatever encoding it is; DataError where there is none."""
    if not path.is_file():
        raise DataError("no-table", path=path)
    return decode_text(path, files.read_bytes(path, most_of_a_text() if most is None else most))[0]


def most_of_a_text() -> int:
    """Return how many bytes of a file, read as text, memory has room for."""
    from rushlight.device import available_memory  # it imports torch, which who cuts a CSV's lines does without

    return available_memory() // BYTES_PER_BYTE


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file. A page that repeats one value has a few bytes for any number of rows, so these are asked first."""
    from rushlight.device import available_memory  # as above

    library = polars()
    columns, rows = parquet_shape(path)
    most = min(files.most_unpacked(path.stat().st_size), available_memory() // BYTES_PER_CELL_BYTE)
    check_unpacked(path, CELL_BYTES * len(columns) * rows, most)
    frame: pl.DataFrame = library.read_parquet(path, glob=False)
    kinds = (library.String, library.Categorical, library.Enum)
    texts = (
        int(frame[name].cast(library.String).str.len_bytes().sum()) for name, kind in columns.items() if kind in kinds
    )
    check_unpacked(path, sum(texts), most)  # cells that share one text have one of their own in Python
    return frame


def parquet_shape(path: Path) -> tuple[Mapping[str, pl.DataType], int]:
    """Return the columns of a Parquet file with their dtypes, and how many rows it says it has."""
    library = polars()
    files.open_file(path).close()
    lazy = library.scan_parquet(path, glob=False)
    return lazy.collect_schema(), lazy.select(library.len()).collect().item()


def check_unpacked(path: Path, size: int, most: int) -> None:
    """Raise DataError for a file that unpacks to more than `most` bytes."""
    if size > most:
        raise DataError("table-not-readable", path=path, reason=Note("data.unpacks-to", size=size, most=most))


def decode_csv(path: Path, content: bytes) -> tuple[str, str, str]:
    """Return a CSV's text with plain line ends, its encoding and its delimiter."""
    text, encoding = decode_text(path, content)
    text = text.replace("\r\n", "\n")
    text = (text if "\n" in text else text.replace("\r", "\n")).lstrip("\n")
    if not text.strip():
        raise DataError("table-empty", path=path)
    return text, encoding, sniff_delimiter(text)


def cut_csv(path: Path, content: bytes) -> list[list[str]]:
    """Return the lines of a CSV as lists of cells, its header among them, without blank lines; polars is not needed."""
    text, _, delimiter = decode_csv(path, content)
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:  # a cell that seems to go on for ever
        raise DataError("table-not-readable", path=path, reason=Note("data.unclosed-quote")) from error


def decode_text(path: Path, content: bytes) -> tuple[str, str]:
    """Return a file's text and its encoding: UTF-8, UTF-16 by its mark, GB18030 where it gives Chinese, else cp1252."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace"), "UTF-16"
    start = content[:4096]
    if b"\0" in start:  # UTF-16 without its mark, if every second byte is mostly nothing
        zeros = {"utf-16-be": start[::2].count(0), "utf-16-le": start[1::2].count(0)}
        encoding = max(zeros, key=lambda name: zeros[name])
        is_text = 4 * zeros[encoding] >= len(start) > 8 * min(zeros.values())
        with contextlib.suppress(UnicodeDecodeError):
            if is_text:
                return content.decode(encoding), "UTF-16"
        raise DataError("table-not-text", path=path)
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        text = content.decode("gb18030")
        if is_chinese(text):
            return text, "GB18030"
    except UnicodeDecodeError:
        pass
    return content.decode("cp1252", "replace"), "Windows-1252 (western European)"


def is_chinese(text: str) -> bool:
    """Tell whether most of what is not ASCII is in GB 2312: western letters read as GB18030 give rare characters."""
    beyond = [character for character in text[:100_000] if ord(character) > 127]
    common = sum(bool(character.encode("gb2312", "ignore")) for character in beyond)
    return common >= 0.8 * len(beyond)


def sniff_delimiter(text: str) -> str:
    """Return the delimiter that cuts the first lines into equally many fields, and into more than one."""

    def score(delimiter: str) -> tuple[float, int]:
        try:
            reader = csv.reader(io.StringIO(text[:65_536]), delimiter=delimiter)
            widths = [len(row) for row, _ in zip(reader, range(30), strict=False) if row]
        except csv.Error:
            return 0.0, 0
        if not widths or widths[0] == 1:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    return max(DELIMITERS, key=score)  # the comma comes first and wins when nothing cuts
