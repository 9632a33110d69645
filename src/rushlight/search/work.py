"""The work of a study: trials one after the other in this process, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from typing import Any

from rushlight.errors import TrainingError, UsageError
from rushlight.search.cluster import RayProcess
from rushlight.search.study import Figure, Trial
from rushlight.search.trial import Job, serve_trials, train_trial

MOST_DEATHS = 3  # of the process of one trial
SECONDS_TO_SAVE = 6.0  # a process that is told to end has

Next = Callable[[], Job | None]
Judge = Callable[[int, int, Figure], bool]  # of a trial's epoch
Tell = Callable[[int, str], Trial]


def work(jobs: int, next_job: Next, judge: Judge, tell: Tell, ray: Any = None) -> None:
    """Train all jobs, `jobs` at a time; on the cluster that the module `ray` is connected to, where it is given."""
    if ray is not None:
        work_in_processes(jobs, next_job, judge, tell, partial(start_on_ray, ray))
    elif jobs == 1:
        while (job := next_job()) is not None:
            tell(job.number, train_trial(job, partial(judge, job.number)))
    else:
        work_in_processes(jobs, next_job, judge, tell)


@dataclass
class Worker:
    """A process that serves trials, and the job that it has."""

    process: Any
    pipe: Any
    job: Job | None = None


def work_in_processes(
    count: int, next_job: Next, judge: Judge, tell: Tell, start: Callable[[Job], Worker] | None = None
) -> None:
    """Train jobs in `count` processes. A killed one's trial goes on in a new one, from its newest checkpoint.

    Raises:
        UsageError: a job cannot be sent to another process.
        TrainingError: the processes of one trial were killed again and again.
    """
    start, workers = start or start_worker, list[Worker]()
    deaths: dict[int, int] = {}
    try:
        for _ in range(count):
            if (job := next_job()) is not None:
                workers.append(start(job))
        while workers:
            ready = connection.wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                assert worker.job is not None
                number = worker.job.number
                try:
                    kind, *said = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    workers.remove(worker)
                    worker.process.join()
                    if worker.process.exitcode == 0:  # it was asked to stop, by Ctrl-C or on the board
                        raise KeyboardInterrupt from None
                    deaths[number] = deaths.get(number, 0) + 1
                    if deaths[number] >= MOST_DEATHS:
                        raise TrainingError(
                            "trial-killed", trial=number, count=deaths[number], code=worker.process.exitcode
                        ) from None
                    workers.append(start(worker.job))
                    continue
                if kind == "judge":
                    worker.pipe.send(judge(number, *said))
                elif kind == "error":
                    error, key, values = said
                    raise error(key, **values)
                else:
                    tell(number, *said)
                    worker.job = next_job()
                    worker.pipe.send(worker.job)
                    if worker.job is None:
                        workers.remove(worker)
                        worker.process.join()
    finally:
        end(workers)


def start_worker(job: Job) -> Worker:
    """Start a process with its first job."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    check_sendable(job)
    process = context.Process(target=serve_trials, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    ours.send(job)
    return Worker(process, ours, job)


def check_sendable(job: Job) -> None:
    """Raise UsageError for a job that cannot be sent to another process."""
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError("jobs-need-names", reason=error) from error


def start_on_ray(ray: Any, job: Job) -> Worker:
    """Start a process on a cluster with its first job."""
    check_sendable(job)
    process = RayProcess(ray, job.threads)
    process.pipe.send(job)
    return Worker(process, process.pipe, job)


def end(workers: list[Worker]) -> None:
    """Have processes save what they train, and end."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(SECONDS_TO_SAVE)
        worker.process.kill()
        worker.process.join()
