"""The board: runs and their curves in a page of this machine's browser.

Starlette, uvicorn and NumPy are imported when a board is served, never before; torch not at all.
"""

from rushlight.board.serve import serve_board
from rushlight.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__, {"rushlight.board.export": ["export_run"], "rushlight.board.notebook": ["run_html"]}
)
