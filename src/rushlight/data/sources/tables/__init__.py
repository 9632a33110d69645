"""Tables: CSV and Parquet files."""

from rushlight.data.sources.tables.columns import describe_columns
from rushlight.data.sources.tables.frames import TABLE_ENDINGS
from rushlight.data.sources.tables.tables import open_table, read_other_table, read_rows

__all__ = ["TABLE_ENDINGS", "describe_columns", "open_table", "read_other_table", "read_rows"]
