"""Starts the processes of a run on this machine by torch's elastic launcher, and restarts them where one dies."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from rushlight.cluster import environment
from rushlight.device import usable_cores
from rushlight.errors import TrainingError
from rushlight.signals import Terminated, exit_code, leave_if_told

RESTARTS = 3  # of all processes, where one was killed
LOGGERS = (
    "torch.distributed.elastic",
    "torch.distributed.launcher",
    "torch.multiprocessing",
)  # tell nothing that we do not


def launch(work: Callable[..., Any], arguments: tuple[Any, ...], processes: int) -> list[Any]:
    """Call `work(*arguments)` in as many new processes, and return what it returned in each, by rank.

    They are started by torch's launcher, which sends them `arguments` pickled, and starts all of them anew where one was
    killed. Each has its share of the processor's cores as threads, unless OMP_NUM_THREADS says otherwise.

    Raises:
        TrainingError: they died too often.
        KeyboardInterrupt, Terminated: this process was told to end; so were they.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // processes))
    with (
        tempfile.TemporaryDirectory(prefix="rushlight-") as logs,
        environment({"OMP_NUM_THREADS": threads}),
        as_before(),
        leaving_none(),
    ):
        leave_if_told()
        config = LaunchConfig(
            1, 1, processes, run_id=secrets.token_hex(8), rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
            max_restarts=RESTARTS, logs_specs=DefaultLogsSpecs(log_dir=logs), signals_to_handle="SIGTERM,SIGINT,SIGHUP",
        )  # fmt: skip
        try:
            found = elastic_launch(config, work)(*arguments)
        except SignalException as ended:
            if ended.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise Terminated(exit_code(ended.sigval)) from None
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            raise TrainingError(
                "processes-died",
                rank=rank,
                processes=processes,
                count=RESTARTS + 1,
                code=failure.exitcode,
            ) from failed
    return [found[rank] for rank in range(processes)]


@contextlib.contextmanager
def leaving_none() -> Iterator[None]:
    """Kill, after the block, the processes begun in it that are still there.

    A signal that comes while they are being started leaves torch's launcher without a list of them.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Put back what torch's launcher changes in this process: signal handlers; and let it log nothing for the block."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(LOGGERS)]
    levels = [logger.level for logger in loggers]
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None)) if number]
    handlers = {number: signal.getsignal(number) for number in numbers}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        with contextlib.suppress(ValueError):  # only the main thread has handlers, so nothing was changed
            for number, handler in handlers.items():
                signal.signal(number, handler)
