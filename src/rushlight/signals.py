"""SIGTERM and its kin: which end a process, with which exit code, and by when.

While a model trains, `training/interrupt.py` catches them, saves and leaves; before and after, they end a command where it
is. The clock runs beside all that, in a thread: a step, a disk or a worker that hangs does not hold up the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

DEADLINE_SECONDS = 9.0  # a system that shuts down gives about ten
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


class Terminated(BaseException):  # no SystemExit: a model's file that ends the process is another matter
    """A signal ended the command; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextlib.contextmanager
def ending_in_time() -> Iterator[None]:
    """End the process within the deadline of a signal in `ENDING`, for the block. One that is ignored stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in wanted}
    heard, told = socket.socketpair()
    told.setblocking(False)
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, args=(heard,), name="rushlight-deadline", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()  # the thread reads the end, and ends


def leave(number: int, frame: FrameType | None) -> None:
    """Leave the command, with the exit code of the signal."""
    raise Terminated(exit_code(number))


def exit_code(number: int) -> int:
    """Return the exit code of a process that a signal ended, as a shell has it: 143 for SIGTERM."""
    return 143 if number == getattr(signal, "SIGBREAK", None) else 128 + number


def watch(heard: socket.socket) -> None:
    """Read the numbers of the signals that come; end the process when the first in `ENDING` is long enough ago."""
    with heard:
        while numbers := heard.recv(64):
            ending = [number for number in numbers if number in ENDING]
            if ending:
                time.sleep(DEADLINE_SECONDS)
                with contextlib.suppress(OSError):
                    os.write(2, b"\nIt did not come to an end in time, and was ended: what was saved before stays.\n")
                os._exit(exit_code(ending[0]))
