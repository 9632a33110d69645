"""The process of `rushlight serve`: it listens, proves the model, answers, and ends without breaking a request off."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError
from rushlight.serve.gate import access_log, protocol
from rushlight.serve.model import Model, Summary, find_model
from rushlight.serve.options import Settings
from rushlight.serve.registry import PAUSE, Registry
from rushlight.texts import Note
from rushlight.web import LOOPBACK, QUIET, listening

USUAL_PORT = 8080
MOST_WORKERS = 256
LAME_SECONDS = (
    0.5  # for which a server that is told to end still takes new requests, while it says that it is not ready
)
CLOSING_SECONDS, CLOSING_MOST = 0.1, 2.0
ATTACH_FILTER = 26  # SO_ATTACH_FILTER, which Python has no name for
LOCAL = (LOOPBACK, "localhost", "::1")


def serve(
    given: Sequence[str], runs: Path, reference: str | None, settings: Settings, is_insecure: bool, language: str,
    tell: Callable[[Note], object], announce: Callable[[str, Sequence[Summary], float], object],
) -> None:  # fmt: skip
    """Serve runs, bundles, ONNX files and a folder of models until SIGTERM or Ctrl-C.

    `tell` is given a sentence before what takes long, and of each change; `announce` is given the address once it answers.

    Raises:
        UsageError: it would listen beyond this machine without a token; the port is in use; there is nothing to serve.
        WeightsError: a model does not repeat its recorded examples.
    """
    settings = replace(settings, host=LOOPBACK if settings.host == "localhost" else settings.host)
    if settings.host not in LOCAL and settings.token is None and not is_insecure:
        raise UsageError("serve-no-token", host=settings.host)
    if settings.name is not None and len(given) > 1:
        raise UsageError("serve-one-name")
    if not 1 <= settings.workers <= MOST_WORKERS:
        raise UsageError("serve-bad-workers", found=settings.workers, most=MOST_WORKERS)
    if settings.log_file is not None:
        settings = replace(settings, log=access_log(settings.log_file, tell))
    if settings.workers > 1:
        from rushlight.serve.workers import serve_by_workers

        serve_by_workers(given, runs, reference, settings, language, tell, announce)
        return
    started = time.perf_counter()
    registry = new_registry(runs, reference, settings, tell)
    load_given(registry, given, runs, reference, settings)
    from rushlight.serve.app import Service  # all that listening needs

    with contextlib.ExitStack() as stack:
        listeners, address = open_ports(settings, stack, tell)
        ports = list(zip(listeners, apps(Service(registry, settings, language)), strict=True))
        gc.collect()
        gc.freeze()  # what is loaded by now stays: collections need not go through it
        models = [batcher.model.summary for batcher in registry.batchers()]
        asyncio.run(serve_until_stopped(ports, tell, lambda: announce(address, models, time.perf_counter() - started)))


def new_registry(runs: Path, reference: str | None, settings: Settings, tell: Callable[[Note], object]) -> Registry:
    """Return a registry without models."""

    def open_version(place: Path, name: str, version: str, measured: list[Any] | None = None) -> Model:
        own = reference if name in registry.given else None
        return find_model(str(place), runs, own, name, settings.threads, tell, version, measured)

    registry = Registry(settings.models, open_version, settings.most_waiting, tell)
    return registry


def load_given(registry: Registry, given: Sequence[str], runs: Path, reference: str | None, settings: Settings) -> None:
    """Open what the command names, and what is in the folder of models."""
    for source in given:
        model = find_model(source, runs, reference, settings.name, settings.threads, registry.tell)
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
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # ours are handled here
    return server


async def serve_until_stopped(
    ports: list[tuple[socket.socket, Any]], tell_note: Callable[[Note], object], announce: Callable[[], object]
) -> None:
    """Answer on all ports until a signal comes; then say not ready, finish, and end. A second signal ends it at once."""
    service, settings = ports[0][1], ports[0][1].settings
    servers = [new_server(own, settings) for _, own in ports]
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        if told.is_set():
            os._exit(1)
        told.set()

    remote = None
    if settings.grpc is not None:
        from rushlight.serve.remote import start

        remote, port = await start(service, in_address(settings.host), settings.grpc)
        tell_note(Note("serve.grpc", address=f"{in_address(settings.host)}:{port}"))
    with handled_signals(loop, tell):
        running = [asyncio.create_task(each.serve([own])) for each, (own, _) in zip(servers, ports, strict=True)]
        await until_started(servers, running)
        watching = asyncio.create_task(watch(service.registry)) if settings.models is not None else None
        service.is_ready = True
        announce()
        await asyncio.wait({*running, asyncio.create_task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
        service.is_ready, service.is_draining = False, True
        if watching is not None:
            watching.cancel()
        await asyncio.sleep(LAME_SECONDS)
        for own, _ in ports:
            let_nobody_in(own)
        await asyncio.sleep(CLOSING_SECONDS)  # who was let in is accepted
        for each in servers:
            for listening_server in each.servers:
                listening_server.close()
        await finish(servers, running, remote, settings.drain)


async def watch(registry: Registry) -> None:
    """Look at the folder of models again and again."""
    while True:
        await asyncio.sleep(PAUSE)
        await registry.watch()


async def until_started(servers: list[Any], running: list[asyncio.Task[None]]) -> None:
    """Wait until each server has started, or failed."""
    while not all(each.started or task.done() for each, task in zip(servers, running, strict=True)):
        await asyncio.sleep(0.005)


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
