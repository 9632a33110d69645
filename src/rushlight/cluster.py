"""The connection to a Ray cluster: to one that runs, or to one of this machine alone that is started for a block.

Ray is imported here, never before, with its usage statistics off: it tells nobody anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rushlight.errors import UsageError, first_line


def import_ray() -> Any:
    """Return the module `ray`, told to report nothing. Raises UsageError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it is read when Ray is imported
    try:
        import ray
    except ImportError as error:
        raise UsageError("ray-missing") from error
    return ray


@contextlib.contextmanager
def connected(address: str, cores: int) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster for the block; "local" starts one of `cores` cores on this machine.

    A cluster that the program itself is connected to is used, and stays connected. One that is started asks everybody for the
    secret in this account's `~/.ray/auth_token` (Ray's own default from 2.60 on): its ports are open to the network.

    Raises UsageError where Ray is not installed, or no cluster answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as stack:
        given: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            room = "/tmp" if Path("/tmp").is_dir() else None  # the name of a socket may have about 100 characters
            folder = tempfile.TemporaryDirectory(prefix="rushlight-", dir=room, ignore_cleanup_errors=True)
            given |= {
                "num_cpus": cores,
                "include_dashboard": False,
                "_temp_dir": str(Path(stack.enter_context(folder), "ray")),  # to which Ray lets everybody write
            }
        # it tells of processes that died on standard output, where JSON may be asked for
        printing = ray._private.worker
        stack.callback(setattr, printing, "print_to_stdstream", getattr(printing, "print_to_stdstream", None))
        printing.print_to_stdstream = lambda *told, **more: None
        stack.callback(ray.shutdown)
        with own_handlers():
            try:
                with environment(
                    {"RAY_worker_niceness": "0"}
                ):  # else a training waits for whatever else the machine does
                    ray.init(address, **given)
            except (OSError, RuntimeError, ValueError) as error:
                raise UsageError("ray-unreachable", address=address, reason=first_line(error)) from error
        yield ray


def cores_of(ray: Any) -> list[int]:
    """Return the cores of each machine of the cluster that `ray` is connected to."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def threads_each(cores: list[int], processes: int) -> int:
    """Return the most threads that each process can have on machines with so many cores; 1 where there is no room yet."""
    fitting = (count for count in range(max(cores, default=1), 1, -1) if sum(n // count for n in cores) >= processes)
    return next(fitting, 1)


def last_line(error: BaseException) -> str:
    """Return the last line of an error, where the error of another process stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Put back the handler of SIGTERM that the block replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
