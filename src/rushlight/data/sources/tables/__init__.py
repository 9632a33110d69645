"""Tables: CSV and Parquet files."""

from rushlight.data.sources.tables.columns import describe_columns
from rushlight.data.sources.tables.frames import is_table
from rushlight.data.sources.tables.tables import TABLE, read_other_table, read_rows
