"""`rushlight board`: a server on this machine alone, and a browser that is led to it."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from rushlight.board.page import html_page
from rushlight.errors import RunError, UsageError
from rushlight.web import LOOPBACK, QUIET, listening

ANYWHERE = "0.0.0.0"
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")  # a name or an IPv4 address; no pattern
USUAL_FOLDER, USUAL_PORT = Path("runs"), 8642
STOP_SECONDS = 1


def serve_board(
    folder: Path, port: int | None, language: str, announce: Callable[[str], object], opens_browser: bool,
    allowed: str | None = None,
) -> None:  # fmt: skip
    """Show the runs in a folder until Ctrl-C; `announce` is given the address, whose token is good once.

    With a name `allowed` other machines reach it, too, under this name alone.

    Raises:
        RunError: there is no such folder, and it is not the usual one.
        UsageError: the port is in use, or no port; or the name is none.
    """
    if not folder.is_dir() and folder != USUAL_FOLDER:  # the usual one may come when the first training begins
        raise RunError("board-no-folder", runs=folder)
    if allowed is not None and not HOST_NAME.fullmatch(allowed):
        raise UsageError("board-host-bad", name=allowed)
    from uvicorn import Config, Server

    from rushlight.board.app import build_app

    with listening(port, USUAL_PORT, LOOPBACK if allowed is None else ANYWHERE) as listener:
        used = listener.getsockname()[1]
        app = build_app(folder, used, language, allowed)
        address = f"http://{allowed or LOOPBACK}:{used}/?token={app.token}"
        server = Server(Config(app, **QUIET, timeout_graceful_shutdown=STOP_SECONDS))
        thread = threading.Thread(target=server.run, args=([listener],), name="rushlight-board", daemon=True)
        thread.start()  # not here: uvicorn would replace the handlers of signals in the main thread
        gc.freeze()  # what was imported: else it is searched for garbage again and again while rows are read
        try:
            announce(address)
            threading.Thread(target=app.begin, name="rushlight-board-ahead", daemon=True).start()
            # where a browser has no place to open in, a text browser would take the terminal
            has_screen = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
            with door(address) if opens_browser and has_screen else contextlib.nullcontext():
                thread.join()
        except KeyboardInterrupt:
            pass
        finally:
            server.should_exit = True
            app.leave()
            thread.join(2 * STOP_SECONDS)


@contextlib.contextmanager
def door(address: str) -> Iterator[None]:
    """Open the address in the browser through a file that this account alone can read.

    As an argument of the browser's process the token would be seen by every account of the machine.
    """
    with tempfile.TemporaryDirectory(prefix="rushlight-board-") as folder:  # 0700
        page = Path(folder) / "open.html"
        page.write_text(html_page("door", address=address), encoding="utf-8")
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(page.as_uri())
        yield
