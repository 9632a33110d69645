"""Tables: CSV, Parquet and JSON-lines files, and folders of text files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.tables.cells import MISSING, MISSING_AMONG_NUMBERS, encode_rows
    from rushlight.data.sources.tables.columns import describe_columns
    from rushlight.data.sources.tables.frames import cut_csv, decode_csv, read_text_file
    from rushlight.data.sources.tables.parquet import is_table
    from rushlight.data.sources.tables.streamed import stream_like, streamed_rows
    from rushlight.data.sources.tables.tables import TABLE, larger_table, read_other_table, read_rows
    from rushlight.data.sources.tables.texts import decoded_text, tokenizer_json, with_tokenizer


__getattr__, __dir__ = lazy_names(__name__)
