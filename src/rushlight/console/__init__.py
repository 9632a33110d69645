"""Everything a person sees: progress, tables, curves, errors.

rich and plotext are imported when something is printed, never before; torch and numpy not at all.
"""

from rushlight.console.formats import format_bytes, format_count, format_duration, format_step
from rushlight.console.output import print_error, print_json
from rushlight.console.progress import Progress, fetch_progress
from rushlight.console.report import print_report, print_summary
from rushlight.console.runs import print_run, print_runs

__all__ = [
    "Progress",
    "fetch_progress",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_step",
    "print_error",
    "print_json",
    "print_report",
    "print_run",
    "print_runs",
    "print_summary",
]
