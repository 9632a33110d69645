"""The process of `rushlight serve`: it listens, proves the model, answers, and ends without breaking a request off."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError
from rushlight.serve.model import Model, find_model
from rushlight.serve.options import Settings
from rushlight.texts import Note
from rushlight.web import LOOPBACK, QUIET, listening

USUAL_PORT = 8080
LAME_SECONDS = (
    0.5  # for which a server that is told to end still takes new requests, while it says that it is not ready
)
CLOSING_SECONDS = 0.1
LOCAL = (LOOPBACK, "localhost", "::1")


def serve(
    given: str, runs: Path, reference: str | None, settings: Settings, is_insecure: bool, language: str,
    tell: Callable[[Note], object], announce: Callable[[str, Model, float], object],
) -> None:  # fmt: skip
    """Serve a run, a bundle or an ONNX file until SIGTERM or Ctrl-C; `announce` is given the address once it answers.

    `tell` is given a sentence before what takes long.

    Raises:
        UsageError: it would listen beyond this machine without a token; the port is in use.
        WeightsError: the model does not repeat its recorded examples.
    """
    settings = replace(settings, host=LOOPBACK if settings.host == "localhost" else settings.host)
    if settings.host not in LOCAL and settings.token is None and not is_insecure:
        raise UsageError("serve-no-token", host=settings.host)
    started = time.perf_counter()
    model = find_model(given, runs, reference, settings.name, settings.threads, tell)
    from rushlight.serve.app import Service  # starlette

    with listening(settings.port, USUAL_PORT, settings.host) as listener:
        service = Service(model, settings, language)
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{port}"
        gc.collect()
        gc.freeze()  # what is loaded by now stays: collections need not go through it
        asyncio.run(answer(service, listener, lambda: announce(address, model, time.perf_counter() - started)))


async def answer(service: Any, listener: Any, announce: Callable[[], object]) -> None:
    """Answer until a signal comes; then say not ready, finish, and end. A second signal ends it at once."""
    from uvicorn import Config, Server

    from rushlight.serve.gate import protocol

    settings = service.settings
    options = {**QUIET, "timeout_keep_alive": 60, "timeout_graceful_shutdown": int(settings.drain)}
    server = Server(Config(service.app, http=protocol(settings.receive), **options))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # ours are handled here
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        if told.is_set():
            os._exit(1)
        told.set()

    with handled_signals(loop, tell):
        running = asyncio.create_task(server.serve([listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        service.is_ready = True
        announce()
        await asyncio.wait({running, asyncio.create_task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
        service.is_ready, service.is_draining = False, True
        await asyncio.sleep(LAME_SECONDS)
        listener.listen(0)  # who knocks from here on waits until the door is closed, and is then told so
        await asyncio.sleep(CLOSING_SECONDS)  # who was let in gets to ask
        for listening_server in server.servers:
            listening_server.close()
        await asyncio.sleep(CLOSING_SECONDS)
        server.should_exit = True
        await running
    service.batcher.close()


@contextlib.contextmanager
def handled_signals(loop: asyncio.AbstractEventLoop, tell: Callable[[], None]) -> Any:
    """Call `tell` in the loop at SIGTERM and Ctrl-C, for the block."""
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, tell)  # instead of the clock of `signals`, which ends commands in 9 s
        except NotImplementedError:  # on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(tell))
    yield
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
