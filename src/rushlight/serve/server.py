"""The process of `rushlight serve`: it listens, proves the model, answers, and ends without breaking a request off."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError
from rushlight.serve.gate import access_log
from rushlight.serve.model import Summary, candidates
from rushlight.serve.options import Settings
from rushlight.serve.process import (
    apps,
    finish,
    in_address,
    load_given,
    new_registry,
    new_server,
    open_ports,
    stop_letting_in,
    told_to_end,
    until_started,
)
from rushlight.serve.registry import PAUSE, Registry
from rushlight.texts import Note
from rushlight.web import LOOPBACK

MOST_WORKERS = 256
LOCAL = (LOOPBACK, "localhost", "::1")


def serve(
    given: Sequence[str], runs: Path, reference: str | None, settings: Settings, is_insecure: bool, language: str,
    tell: Callable[[Note], object], announce: Callable[[str, Sequence[Summary], float], object],
) -> None:  # fmt: skip
    """Serve runs, bundles, ONNX files and a folder of models until SIGTERM or Ctrl-C.

    `tell` is given a sentence before what takes long, and of each change; `announce` is given the address once it answers.

    Raises:
        UsageError: it would listen beyond this machine without a token; the port is in use; there is nothing to serve; the
            device is not there.
        WeightsError: a model does not repeat its recorded examples.
    """
    settings = replace(settings, host=LOOPBACK if settings.host == "localhost" else settings.host)
    if settings.host not in LOCAL and settings.token is None and not is_insecure:
        raise UsageError("serve-no-token", host=settings.host)
    if settings.name is not None and len(given) > 1:
        raise UsageError("serve-one-name")
    if not 1 <= settings.workers <= MOST_WORKERS:
        raise UsageError("serve-bad-workers", found=settings.workers, most=MOST_WORKERS)
    candidates(settings.device, settings.threads)  # which refuses a device that is not there
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


async def serve_until_stopped(
    ports: list[tuple[socket.socket, Any]], tell_note: Callable[[Note], object], announce: Callable[[], object]
) -> None:
    """Answer on all ports until a signal comes; then say not ready, finish, and end. A second signal ends it at once."""
    service, settings = ports[0][1], ports[0][1].settings
    servers = [new_server(own, settings) for _, own in ports]
    remote = None
    if settings.grpc is not None:
        from rushlight.serve.remote import start

        remote, port = await start(service, in_address(settings.host), settings.grpc)
        tell_note(Note("serve.grpc", address=f"{in_address(settings.host)}:{port}"))
    with told_to_end() as told:
        running = [asyncio.create_task(each.serve([own])) for each, (own, _) in zip(servers, ports, strict=True)]
        await until_started(servers, running)
        watching = asyncio.create_task(watch_models(service.registry)) if settings.models is not None else None
        service.is_ready = True
        announce()
        await asyncio.wait({*running, asyncio.create_task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
        service.is_ready, service.is_draining = False, True
        if watching is not None:
            watching.cancel()
        await stop_letting_in([listener for listener, _ in ports])
        for each in servers:
            for listening_server in each.servers:
                listening_server.close()
        await finish(servers, running, remote, settings.drain)


async def watch_models(registry: Registry) -> None:
    """Look at the folder of models again and again."""
    while True:
        await asyncio.sleep(PAUSE)
        await registry.watch()
