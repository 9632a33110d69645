"""The board: runs and their curves in a page of this machine's browser.

Starlette, uvicorn and NumPy are imported when a board is served, never before; torch not at all.
"""

from typing import TYPE_CHECKING

from rushlight.board.serve import serve_board
from rushlight.lazy import lazy_names

if TYPE_CHECKING:
    from rushlight.board.compare import compare_numbers, read_predictions
    from rushlight.board.export import export_run
    from rushlight.board.notebook import run_html
    from rushlight.board.recipes import welch


__getattr__, __dir__ = lazy_names(__name__)
