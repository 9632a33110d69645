"""Starts the processes of a run on a Ray cluster by Ray Train, which starts all of them anew where one dies.

The submitting process holds the store through which they find each other: it outlives them, and knows which run they go on
with. In it the first process tells its events, for the screen, and reads whether it is to stop.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from rushlight import files
from rushlight.cluster import connected, cores_of, environment, last_line, threads_each
from rushlight.device import usable_cores
from rushlight.errors import TrainingError
from rushlight.events import Event, Events
from rushlight.texts import Note, language, shown
from rushlight.training.distributed.launcher import RESTARTS

LOOK_SECONDS = 0.2  # between two looks for what the processes tell
STARTS = 5  # tries of Ray, of a minute each, to find room for all processes

_told: list[Callable[[Events], None]] = []  # how this process's events reach the launcher: one entry, under Ray


def launch_on_ray(
    work: Callable[..., Any], arguments: tuple[Any, ...], processes: int, address: str, gpus: int | None, runs: Path,
    events: Events,
) -> Any:  # fmt: skip
    """Call `work(*arguments)` in as many processes of a Ray cluster, and return what it returned in the first one.

    Each has its cores, and sees as many graphics cards as `gpus`, or none. They write into the folder `runs`, which all
    machines see; the first one's events are emitted here too, in this thread.

    Raises:
        UsageError: there is no Ray, or no cluster at the address.
        TrainingError: they died too often, the cluster has no room for them, or does not see the folder.
        KeyboardInterrupt, Terminated, or what the user's function raised: they were told to end, and have saved.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() else max(1, usable_cores() // processes)
    files.make_folder(runs)
    with (
        connected(address, max(usable_cores(), threads * processes)) as ray,
        environment({"RAY_CHDIR_TO_TRIAL_DIR": "0"}),
        tempfile.TemporaryDirectory(prefix=".ray-", dir=runs.resolve(), ignore_cleanup_errors=True) as folder,
    ):
        if not asked and address != "local":
            threads = threads_each(cores_of(ray), processes)
        place = ray.util.get_node_ip_address()
        store = TCPStore(place, 0, None, True, wait_for_workers=False)
        settings = {
            "work": work, "arguments": arguments, "threads": threads, "place": (place, store.port),
            "folder": folder, "current": str(Path.cwd()), "language": language(),
        }  # fmt: skip
        each = {"CPU": float(threads)} | ({} if gpus is None else {"GPU": float(gpus)})
        fitting = Fitting(settings, processes, each, folder)
        fitting.start()
        follow = Following(store, events)
        try:
            while not fitting.has_ended.wait(LOOK_SECONDS):
                follow()
                if events.error is not None:
                    raise events.error
        except BaseException:
            store.set("stop", "1")
            while not fitting.has_ended.wait(LOOK_SECONDS):  # a second Ctrl-C leaves at once
                follow()
            follow()
            raise
        follow()
        if events.error is not None:
            raise events.error
        if fitting.error is not None:
            raise explained_by_ray(fitting.error, processes, threads, gpus or 0) from fitting.error
        return fitting.found


class Fitting(threading.Thread):
    """Ray Train at work, in a thread: in the main one it would answer Ctrl-C by killing the processes."""

    def __init__(self, settings: dict[str, Any], processes: int, each: dict[str, float], folder: str) -> None:
        super().__init__(daemon=True, name="rushlight-ray")
        self.settings, self.processes, self.each, self.folder = settings, processes, each, folder
        self.found: Any = None
        self.error: Exception | None = None
        self.has_ended = threading.Event()  # a thread whose `join` Ctrl-C interrupts counts as one that has ended

    def run(self) -> None:
        """Train to the end."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        try:
            trainer = DataParallelTrainer(
                work_under_ray,
                train_loop_config=self.settings,
                scaling_config=ScalingConfig(
                    num_workers=self.processes, use_gpu="GPU" in self.each, resources_per_worker=self.each
                ),
                run_config=RunConfig(
                    name="processes",
                    storage_path=self.folder,
                    failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=STARTS - 1),
                ),
            )
            self.found = trainer.fit().return_value
        except Exception as error:
            self.error = error
        finally:
            self.has_ended.set()


class Following:
    """Reads the events that the first process has told since the last call, and emits them here."""

    def __init__(self, store: Any, events: Events) -> None:
        self.store, self.events = store, events
        self.attempt = self.count = 0

    def __call__(self) -> None:
        """Emit what is new, of the newest attempt of all that was begun."""
        while True:
            key = f"event/{self.attempt}/{self.count}"
            if self.store.check([key]):
                kind, data = json.loads(self.store.get(key))
                self.events.emit(kind, **data)
                self.store.delete_key(key)
                self.count += 1
            elif self.store.add("attempts", 0) - 1 > self.attempt:
                self.attempt, self.count = self.attempt + 1, 0
            else:
                return


def explained_by_ray(error: Exception, processes: int, threads: int, gpus: int) -> TrainingError:
    """Return the error with which Ray Train ended as ours."""
    from ray.train import WorkerGroupError

    if isinstance(error, WorkerGroupError):
        rank, failure = min(error.worker_failures.items())
        reason = last_line(failure)
        return TrainingError("ray-processes-died", rank=rank, processes=processes, count=RESTARTS + 1, reason=reason)
    cause = getattr(error, "controller_failure", error)
    if type(cause).__name__ in ("WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError"):
        return TrainingError("ray-no-room", processes=processes, threads=threads, gpus=gpus, minutes=STARTS)
    return TrainingError("ray-failed", reason=last_line(cause))


# ── in a process of Ray ──────────────────────────────────────────────────────────────────────────────────────────


def work_under_ray(settings: dict[str, Any]) -> Any:
    """Do a process's work in the environment that torch's launcher would give it; Ray Train calls this in a thread."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    os.chdir(settings["current"])
    Path(settings["folder"]).stat()  # where it is not there, this machine does not share the folder of all runs
    os.environ["RUSHLIGHT_LANGUAGE"] = settings["language"]
    torch.set_num_threads(settings["threads"])  # Ray sets one variable for the process; this one counts for its threads
    context, (host, port) = ray.train.get_context(), settings["place"]
    rank, size = context.get_world_rank(), context.get_world_size()
    attempt = 0
    if rank == 0:
        store = TCPStore(host, port, None, False)
        attempt = store.add("attempts", 1) - 1
        _told.append(lambda events: tell_launcher(events, store, attempt))
    attempt = broadcast_from_rank_zero(attempt)
    given = {
        "RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": host, "MASTER_PORT": port,
        "LOCAL_RANK": context.get_local_rank(), "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "TORCHELASTIC_RESTART_COUNT": attempt, "TORCHELASTIC_USE_AGENT_STORE": True,
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in given.items()})
    return settings["work"](*settings["arguments"])


def tell_launcher(events: Events, store: Any, attempt: int) -> None:
    """Have the launcher follow the events of this process, and tell it to stop."""
    count = 0

    def tell(event: Event) -> None:
        nonlocal count
        store.set(f"event/{attempt}/{count}", json.dumps([event.kind, plain(event.data)]))
        count += 1
        if store.check(["stop"]):
            events.is_stopping = True

    events.followers.append(tell)


def plain(value: Any) -> Any:
    """Return JSON-ready values whose notes are in the launcher's language."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return shown(value) if isinstance(value, Note) else value


def follow_elsewhere(events: Events) -> None:
    """Let the launcher follow the events too, where it is not on this machine."""
    for tell in _told:
        tell(events)
