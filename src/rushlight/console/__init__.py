"""Everything a person sees: progress, tables, curves, errors.

rich and plotext are imported when something is printed, never before; torch and numpy not at all.
"""

from rushlight.console.delete import ask_to_delete, print_deletion
from rushlight.console.output import new_table, open_console, print_error, print_json, print_lines, print_marked
from rushlight.console.progress import Progress, fetch_progress
from rushlight.console.report import print_report, print_summary, print_titled
from rushlight.console.runs import print_run, print_runs
from rushlight.console.study import StudyScreen, print_rate_test, print_size_test, print_study
from rushlight.console.verify import checking, print_verification, print_verifications
