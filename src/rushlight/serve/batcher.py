"""Requests become batches: at once where nothing runs, together where something does.

Rows are counted, not requests. A batch is padded to one of the model's sizes, so that an answer does not depend on who shared
it. A batch that fails is run again request by request: only who is wrong is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rushlight.errors import ModelError
from rushlight.export import Answers
from rushlight.serve.answers import Refusal
from rushlight.serve.drift import Drift
from rushlight.serve.metrics import Meter
from rushlight.serve.model import Array, Model

QUICK = 2e-3  # seconds: a batch that takes less is run where requests are read, without a change of threads


@dataclass(eq=False)
class QueuedRequest:
    """One request's inputs, and the future of its answers."""

    inputs: Mapping[str, Array]
    rows: int
    future: asyncio.Future[Answers]
    is_live: bool = True  # whether somebody asked; else its rows were made up here
    arrived: float = field(default_factory=time.perf_counter)

    @property
    def shapes(self) -> tuple[Any, ...]:
        """What requests of one batch have in common."""
        return tuple(values.shape[1:] for values in self.inputs.values())


@dataclass
class Executed:
    """A batch that ran: its requests with their answers, its rows, its seconds, and the seconds that each of them waited."""

    results: list[tuple[QueuedRequest, Answers | Exception]]
    rows: int = 0
    seconds: float = 0.0
    waits: Sequence[float] = ()


class Batcher:
    """A version of a model, and the queue in front of it. For one event loop.

    `failure` says why it is no longer asked, where a later proof failed.
    """

    def __init__(self, model: Model, most_waiting: int, meter: Meter | None = None) -> None:
        self.model, self.most_waiting, self.meter = model, most_waiting, meter or Meter()
        self.totals, self.drift = self.meter.totals(model.name, model.version), Drift(model)
        self.failure: str | None = None
        self.loaded = time.time()
        self.waiting: deque[QueuedRequest] = deque()
        self.waiting_rows = 0
        self.is_busy = self.is_scheduled = False
        self.thread = ThreadPoolExecutor(1, "rushlight-model")

    async def submit(
        self, inputs: Mapping[str, Array], rows: int, seconds: float, is_live: bool = True, is_alone: bool = False
    ) -> Answers:
        """Return the outputs on `rows` rows. Refusal where the queue is full, or after `seconds` in it.

        A request that is cancelled before it runs is never run. One that is alone, with no other about to come, waits for none.
        """
        if rows == 0:
            return {
                tensor.name: np.zeros((0, *(side or 0 for side in tensor.shape[1:])), np.float32)
                for tensor in self.model.outputs
            }
        self.check_room(rows)
        if seconds <= 0:
            raise Refusal(504, "serve-too-late", seconds=0.0)
        loop = asyncio.get_running_loop()
        job = QueuedRequest(inputs, rows, loop.create_future(), is_live)
        if is_alone and not self.waiting and not self.is_busy and self.seconds(rows) < QUICK:
            self.settle(execute(self.model, [job]))
            return await job.future
        self.waiting.append(job)
        self.waiting_rows += rows
        if not self.is_busy and not self.is_scheduled:
            self.is_scheduled = True
            loop.call_soon(self.flush)  # after the requests that have come by now were read too
        expiry = loop.call_later(seconds, expire, job, seconds)
        try:
            return await job.future
        finally:
            expiry.cancel()

    def check_room(self, rows: int) -> None:
        """Refuse more rows where the queue is full; an empty one takes any request."""
        if self.waiting_rows and self.waiting_rows + rows > self.most_waiting:
            raise Refusal(503, "serve-busy", rows=self.waiting_rows, headers={"retry-after": "1"})

    def flush(self) -> None:
        """Run what waits: here where that is quick, else in the thread, batch after batch."""
        self.is_scheduled = False
        while self.waiting and not self.is_busy:
            jobs = self.next_batch()
            if not jobs:
                continue
            if self.seconds(sum(job.rows for job in jobs)) < QUICK:
                self.settle(execute(self.model, jobs))
                continue
            self.is_busy = True
            running = asyncio.get_running_loop().run_in_executor(self.thread, execute, self.model, jobs)
            running.add_done_callback(self.finish)

    def finish(self, running: asyncio.Future[list[Executed]]) -> None:
        """Hand out the answers of a batch that ran in the thread, and go on."""
        self.is_busy = False
        self.settle(running.result())
        self.flush()

    def settle(self, batches: list[Executed]) -> None:
        """Give requests their answers; one that was given up in the meantime needs none."""
        for batch in batches:
            if batch.rows:
                self.meter.executed(self.totals, batch.rows, batch.seconds, batch.waits)
            for job, result in batch.results:
                if job.future.done():
                    continue
                if isinstance(result, Exception):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)
                    if job.is_live and self.drift.take_turn():
                        asyncio.get_running_loop().call_soon(self.drift.see, job.inputs, result)

    def next_batch(self) -> list[QueuedRequest]:
        """Take the requests of the next batch from the queue, without those that expired or were given up."""
        jobs: list[QueuedRequest] = []
        rows, most = 0, self.model.sizes[-1]
        while self.waiting:
            job = self.waiting[0]
            fits = not jobs or (rows + job.rows <= most and job.shapes == jobs[0].shapes)
            if not job.future.done() and not fits:
                break
            self.waiting.popleft()
            self.waiting_rows -= job.rows
            if not job.future.done():
                jobs.append(job)
                rows += job.rows
        return jobs

    def seconds(self, rows: int) -> float:
        """Return the time that so many rows take, as it was measured at the start."""
        size = next((size for size in self.model.sizes if size >= rows), self.model.sizes[-1])
        return self.model.seconds.get(size, 0.0) * max(1.0, rows / size)


def expire(job: QueuedRequest, seconds: float) -> None:
    """Refuse a request whose time is over; where it has not begun, it is never run."""
    if not job.future.done():
        job.future.set_exception(Refusal(504, "serve-too-late", seconds=seconds))


# ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────


def execute(model: Model, jobs: list[QueuedRequest]) -> list[Executed]:
    """Run requests as one batch, and each alone where that fails."""
    began = time.perf_counter()
    try:
        answers = run_rows(model, [job.inputs for job in jobs])
    except Exception as error:  # an engine may raise anything
        if len(jobs) > 1:
            return [batch for job in jobs for batch in execute(model, [job])]
        return [Executed([(jobs[0], Refusal(500, "serve-model-failed", reason=type(error).__name__))])]
    results: list[tuple[QueuedRequest, Answers | Exception]] = []
    first = 0
    for job in jobs:
        own = {name: values[first : first + job.rows] for name, values in answers.items()}
        results.append((job, own if model.target is None else checked(own)))
        first += job.rows
    return [Executed(results, first, time.perf_counter() - began, [began - job.arrived for job in jobs])]


def checked(answers: Answers) -> Answers | ModelError:
    """Return the answers, or the error of a model that answers what is no number."""
    for values in answers.values():
        if (
            values.dtype.kind == "f" and values.size and (least := np.minimum.reduce(values, axis=None)) != least
        ):  # which NaN alone is
            return ModelError("predict-broken-model", sample=int(np.argwhere(np.isnan(values))[0][0]))
    return answers


def run_rows(model: Model, given: list[Mapping[str, Array]]) -> Answers:
    """Return the outputs on the rows of all requests, run in batches of the model's sizes."""
    names = list(given[0])
    inputs = {
        name: given[0][name] if len(given) == 1 else np.concatenate([each[name] for each in given]) for name in names
    }
    if model.is_fixed or len(inputs[names[0]]) in model.sizes:
        return model.run(inputs)
    parts = [
        {name: values[:count] for name, values in model.run(batch).items()}
        for batch, count in padded_batches(inputs, model.sizes)
    ]
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def padded_batches(inputs: Mapping[str, Array], sizes: tuple[int, ...]) -> Iterator[tuple[dict[str, Array], int]]:
    """Cut rows into batches, and repeat the last row of the last one up to the next size; yield each with its rows' count."""
    rows = len(next(iter(inputs.values())))
    for first in range(0, rows, sizes[-1]):
        batch = {name: values[first : first + sizes[-1]] for name, values in inputs.items()}
        count = min(sizes[-1], rows - first)
        size = next(size for size in sizes if size >= count)
        if size > count:
            order = np.minimum(np.arange(size), count - 1)
            batch = {name: values[order] for name, values in batch.items()}
        yield batch, count
