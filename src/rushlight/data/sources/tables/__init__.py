"""Tables: CSV, Parquet and JSON-lines files, and folders of text files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.data.sources.tables.cells import MISSING, MISSING_AMONG_NUMBERS, encode_rows
    from rushlight.data.sources.tables.columns import describe_columns
    from rushlight.data.sources.tables.frames import cut_csv, decode_csv, is_table, read_text_file
    from rushlight.data.sources.tables.tables import TABLE, read_other_table, read_rows
    from rushlight.data.sources.tables.texts import decoded_text, tokenizer_json, with_tokenizer


__getattr__, __dir__ = lazy_names(__name__)
