"""How a server is to be run, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What the command line of `rushlight serve` sets, and the limits that it leaves as they are."""

    host: str = "127.0.0.1"
    port: int | None = None  # None: the usual one, or a free one
    name: str | None = None  # of the model in addresses
    token: str | None = None
    hosts: tuple[str, ...] = ()  # further names that a Host header may have
    threads: int = 0  # 0: as many as are measured to be fastest
    device: str = "auto"  # where that is measured too; cpu, cuda, cuda:1, …
    workers: int = 1  # processes that answer
    deadline: float = 30.0  # seconds from a request's arrival until it is dropped unexecuted
    drain: float = 20.0  # seconds that requests get to end once the server is told to
    most_bytes: int = 32 << 20  # of a request's body, also unpacked
    most_rows: int = 4096  # of a request
    most_waiting: int = 8192  # rows that wait to be executed
    most_held: int = 512 << 20  # bytes of bodies in memory at a time
    models: Path | None = None  # the folder of models
    management: int | None = None  # the port of the management API, which is off without one
    grpc: int | None = None  # the port of gRPC, which is off without one
    log: Callable[[dict[str, Any]], object] | None = None  # is given an entry for each request
    log_file: Path | None = None  # gets a line of JSON for each request
    receive: float = 10.0  # seconds in which the headers, and then each 10 MB of the body, must have come
