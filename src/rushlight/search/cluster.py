"""Trials on a Ray cluster. Optuna decides in the process of the study; an actor of Ray only trains what it is sent.

The study speaks to an actor as to a process of this machine: a thread passes on what goes through the pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from pathlib import Path
from typing import Any

from rushlight.cluster import last_line
from rushlight.errors import RushlightError, TrainingError
from rushlight.runs import ask_to_stop, is_run
from rushlight.search.trial import Job, serve_jobs

STOPPED, DIED = "stopped", "died"  # the last word of an actor whose trial was told to stop, or whose code failed


class TrialActor:
    """Trains jobs in a process of Ray, in a thread: `exchange` gives it what it waits for, and returns what it says next."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # of the study: the folder of its runs is relative to it
        self.given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Train until no more jobs come."""
        end = DIED
        try:
            serve_jobs(self.given.get, self.said.put)
        except KeyboardInterrupt:  # all is saved
            end = STOPPED
        finally:
            self.said.put((end,))

    def exchange(self, value: Any) -> Any:
        """Give a job, or the answer to a question; return the next message."""
        self.given.put(value)
        return self.said.get()


class RayProcess(threading.Thread):
    """An actor of Ray in the place of a process that serves trials; `pipe` leads to it, as to a process."""

    def __init__(self, ray: Any, threads: int) -> None:
        super().__init__(daemon=True, name="rushlight-trial")
        self.ray, self.exitcode = ray, -1
        self.pipe, self.inner = multiprocessing.Pipe()
        self.job: Job | None = None
        self.actor = ray.remote(num_cpus=threads)(TrialActor).remote(str(Path.cwd()))
        self.start()

    def run(self) -> None:
        """Pass on what is sent, and what the actor says, until one of them has ended; what fails in it would fail anew."""
        errors = self.ray.exceptions
        with self.inner, contextlib.suppress(EOFError, OSError, errors.RayError):
            try:
                self.pass_on()
            except (errors.RayTaskError, errors.RayActorError) as error:
                if isinstance(error, errors.RayTaskError) or error.actor_init_failed:
                    self.inner.send(("error", TrainingError, "ray-failed", {"reason": last_line(error)}))
        self.kill()

    def pass_on(self) -> None:
        """Give the actor what comes through the pipe, and return what it says, to its last word."""
        while (value := self.inner.recv()) is not None:
            self.job = value if isinstance(value, Job) else self.job
            message = self.ray.get(self.actor.exchange.remote(value))
            if message[0] in (STOPPED, DIED):
                self.exitcode = 0 if message[0] == STOPPED else 1
                return
            self.inner.send(message)

    def terminate(self) -> None:
        """Ask the trial to save and stop, where its run has begun; one that waits for an answer is as saved as it can be."""
        if self.job is not None:
            folder = Path(self.job.options["runs"]) / self.job.options["name"]
            with contextlib.suppress(RushlightError):
                ask_to_stop(folder) if is_run(folder) else self.kill()
        self.pipe.close()

    def kill(self) -> None:
        """End the actor at once."""
        self.ray.kill(self.actor)
