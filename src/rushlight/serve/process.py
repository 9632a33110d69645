"""What each process of a server does: it opens models, answers at ports, and ends without breaking a request off."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError
from rushlight.serve.gate import protocol
from rushlight.serve.model import Model, find_model
from rushlight.serve.options import Settings
from rushlight.serve.registry import Registry
from rushlight.texts import Note
from rushlight.web import LOOPBACK, QUIET, listening

USUAL_PORT = 8080
# for which a server that is told to end still takes new requests, while it says that it is not ready
LAME_SECONDS = 0.5
CLOSING_SECONDS, CLOSING_MOST = 0.1, 2.0
ATTACH_FILTER = 26  # SO_ATTACH_FILTER, which Python has no name for


def new_registry(runs: Path, reference: str | None, settings: Settings, tell: Callable[[Note], object]) -> Registry:
    """Return a registry without models."""

    def open_version(place: Path, name: str, version: str, measured: list[Any] | None = None) -> Model:
        own = reference if name in registry.given else None
        return find_model(str(place), runs, own, name, settings.threads, tell, version, measured, settings.device)

    registry = Registry(settings.models, open_version, settings.most_waiting, tell)
    return registry


def load_given(registry: Registry, given: Sequence[str], runs: Path, reference: str | None, settings: Settings) -> None:
    """Open what the command names, and what is in the folder of models."""
    for source in given:
        model = find_model(
            source, runs, reference, settings.name, settings.threads, registry.tell, device=settings.device
        )
        if model.name in registry.models:
            raise UsageError("serve-name-twice", name=model.name)
        registry.add(model)
        registry.given.add(model.name)
    registry.load_now()


def open_ports(
    settings: Settings, stack: contextlib.ExitStack, tell: Callable[[Note], object]
) -> tuple[list[socket.socket], str]:
    """Listen, until the stack is left; return the listeners, of predictions and of management, and the address of the first."""
    listeners = [stack.enter_context(listening(settings.port, USUAL_PORT, settings.host))]
    address = f"http://{in_address(settings.host)}:{listeners[0].getsockname()[1]}"
    if settings.management is not None:
        listeners.append(stack.enter_context(listening(settings.management, USUAL_PORT)))
        tell(Note("serve.management", address=f"http://{LOOPBACK}:{listeners[1].getsockname()[1]}"))
    return listeners, address


def beside(tasks: set[asyncio.Task[Any]], coroutine: Any) -> None:
    """Run a coroutine beside the rest; `tasks` holds it until it ends, which the loop does not."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def apps(service: Any) -> list[Any]:
    """Return what answers at each port."""
    if service.settings.management is None:
        return [service]
    from rushlight.serve.management import Management

    return [service, Management(service)]


def in_address(host: str) -> str:
    """Return a host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def new_server(own: Any, settings: Settings, wrap: Callable[[type], type] = lambda own: own) -> Any:
    """Return uvicorn's server of what answers at a port; `wrap` gives it another protocol."""
    from uvicorn import Config, Server

    options = {**QUIET, "timeout_keep_alive": 60, "timeout_graceful_shutdown": int(settings.drain)}
    server = Server(Config(own.app, http=wrap(protocol(settings.receive)), **options))
    own.app.tasks = server.server_state.tasks
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # ours are handled here
    return server


async def until_started(servers: list[Any], running: list[asyncio.Task[None]]) -> None:
    """Wait until each server has started, or failed."""
    while not all(each.started or task.done() for each, task in zip(servers, running, strict=True)):
        await asyncio.sleep(0.005)


async def stop_letting_in(listeners: Sequence[socket.socket]) -> None:
    """Let in who has not heard yet that the server is not ready, then nobody, and leave time to accept who was let in."""
    await asyncio.sleep(LAME_SECONDS)
    for listener in listeners:
        let_nobody_in(listener)
    await asyncio.sleep(CLOSING_SECONDS)


async def finish(servers: list[Any], running: list[asyncio.Task[None]], remote: Any, drain: float) -> None:
    """Answer who was let in, and end."""
    for _ in range(int(CLOSING_MOST / CLOSING_SECONDS)):  # who was accepted gets to ask
        connections: list[Any] = [own for each in servers for own in each.server_state.connections]
        if all(own.clock is None for own in connections):
            break
        await asyncio.sleep(CLOSING_SECONDS)
    if remote is not None:
        await remote.stop(drain)
    for each in servers:
        each.should_exit = True
    await asyncio.gather(*running)


def let_nobody_in(listener: socket.socket) -> None:
    """Let who knocks from here on wait until the door is closed, and then be told so, instead of being let in and thrown out.

    On Linux the listener drops what begins a connection (SYN without ACK, in byte 13 of TCP's header); elsewhere its queue shrinks.
    """
    listener.listen(0)
    if sys.platform == "linux":
        steps = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HL", len(steps), ctypes.addressof(code)))


@contextlib.contextmanager
def told_to_end(before_exit: Callable[[], object] = lambda: None) -> Iterator[asyncio.Event]:
    """Set an event at SIGTERM and Ctrl-C, for the block; end the process at the second one, at once after `before_exit`."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        if told.is_set():
            before_exit()
            os._exit(1)
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, tell)  # instead of the clock of `signals`, which ends commands in 9 s
        except NotImplementedError:  # on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(tell))
    yield told
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
