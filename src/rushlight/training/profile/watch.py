"""Times the first steps of a training by part, and traces a few; only clocks are read, so no bit changes."""

from __future__ import annotations

import bisect
import contextlib
import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import Batch, Feed, Split
from rushlight.device import wait_for
from rushlight.errors import StorageError
from rushlight.texts import Note
from rushlight.training.loop import Epoch
from rushlight.training.objective import Objective, make_objective
from rushlight.training.profile.figures import PARTS, WARM_UP, Operator, summarize
from rushlight.training.state import Training

TRACED_STEPS, TIMED_STEPS, TIMED_SECONDS = 5, 100, 30.0  # timing ends with the first of the two
RANGE = "rushlight: "  # before the name of a part in the trace


def profiled(training: Training, train: Callable[[Training], Generator[Epoch]]) -> Generator[Epoch]:
    """Train as `train` does, and tell where the time of the first steps goes."""
    watch = Watch(training)
    data = replace(training.data, train=watch.wrap_split(training.data.train))
    try:
        yield from train(replace(training, data=data, objective=watch.wrap_objective(training.objective)))
    finally:
        watch.tell()


class Watch:
    """Owns the clock of the step in progress, the times of the steps before it, and the trace.

    A step lasts from the request for its first batch to the request for the next step's. One in which an execution
    mode is compared with the exact one updates several times, and is not counted.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.process, self.began = training, os.getpid(), time.perf_counter()
        self.steps: list[dict[str, float]] = []  # seconds by part, of each timed step
        self.part: str | None = None  # of the step in progress; None between steps
        self.lap: dict[str, float] = {}  # its seconds by part
        self.entered: Counter[str | None] = Counter()  # how often each of its parts began
        self.since, self.first_step, self.traced_steps = 0.0, 0, 0
        self.traced_kinds: set[bool | None] = set()  # whether eager; None: compared with the exact execution
        self.is_tracing = self.is_over = False
        self.range: Any = None  # of the part, in the trace
        self.stack = contextlib.ExitStack()  # what is to be removed
        self.stack.callback(training.optimizer.register_step_pre_hook(lambda *_: self.switch("update")).remove)
        self.stack.callback(training.optimizer.register_step_post_hook(lambda *_: self.switch("rest")).remove)
        self.profiler: torch.profiler.profile | None = None
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            training.events.warning(Note("training.no-trace"))  # a second profiler would end the user's own
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes to standard error
            schedule = torch.profiler.schedule(wait=WARM_UP - 1, warmup=1, active=TRACED_STEPS, repeat=1)
            profiler = torch.profiler.profile(schedule=schedule, acc_events=True)  # else torch warns at the cycle's end
            self.profiler = self.stack.enter_context(profiler)
        self.stack.callback(self.enter, None)

    def enter(self, part: str | None) -> None:
        """Start timing a part, which ends the one before; None ends the step."""
        wait_for(self.training.device)
        now = time.perf_counter()
        if self.part is not None:
            self.lap[self.part] += now - self.since
        self.part, self.since = part, now
        self.entered[part] += 1
        if self.range is not None:
            self.range.__exit__(None, None, None)
        self.range = torch.profiler.record_function(RANGE + part) if part is not None and self.is_tracing else None
        if self.range is not None:
            self.range.__enter__()

    def switch(self, part: str | None) -> None:
        """Start timing another part of the step in progress, if a step is being timed."""
        if self.part is not None:
            self.enter(part)

    def wrap_split(self, split: Split) -> Split:
        """Return the split with the requests for its training batches timed."""
        watched, open_feed = copy.copy(split), split.batches

        def batches(size: int, **named: Any) -> Feed:
            self.switch(None)  # no step reaches into another epoch
            feed = open_feed(size, **named)
            take = feed.take

            def timed_take(count: int = 1) -> Batch | None:
                done = self.training.state["step"] - self.first_step
                if self.part is not None and done:
                    self.end_step(done)
                if self.part is None and not self.is_over:
                    self.first_step = self.training.state["step"]
                    self.lap, self.entered = dict.fromkeys(PARTS, 0.0), Counter()
                if not self.is_over:
                    self.enter("data")
                batch = take(count)
                self.switch("rest" if batch is not None or self.lap["data"] else None)  # None: no step follows
                return batch

            feed.take = timed_take  # type: ignore[method-assign]
            return feed

        object.__setattr__(watched, "batches", batches)  # of this instance alone
        return watched

    def wrap_objective(self, objective: Objective) -> Objective:
        """Return the objective with its forward pass and its loss timed."""
        plain, loss = objective.compute, objective.loss

        def timed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            self.enter("loss")
            assert loss is not None
            return loss(outputs, targets)

        in_parts = plain if loss is None else make_objective(timed_loss, mixing=objective.mixing).compute

        def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
            if self.part is None or os.getpid() != self.process:  # a fork that compiles this must see no clock
                return plain(model, batch)
            self.enter("forward")
            result = in_parts(model, batch)
            self.enter("backward")
            return result

        return replace(objective, compute=compute)

    def end_step(self, count: int) -> None:
        """Count the step that ends, or the `count` that were executed at once; tell what was found after enough."""
        self.enter(None)
        kind = bool(self.entered["forward"]) if self.entered["update"] in (0, count) else None
        if self.is_tracing:
            self.traced_steps += count
            self.traced_kinds.add(kind)
        elif kind is not None:
            self.steps += [{part: seconds / count for part, seconds in self.lap.items()}] * count
        if self.profiler is not None:
            self.profiler.step()
            self.is_tracing = self.profiler.current_action.name.startswith("RECORD")
        is_long = len(self.steps) > WARM_UP and time.perf_counter() - self.began > TIMED_SECONDS
        if is_long or len(self.steps) >= WARM_UP + TIMED_STEPS:
            self.tell()

    def operators(self) -> list[Operator]:
        """Return the traced operators by part; none where steps differ in kind, or the profiler does not time them."""
        own = {"cpu": "self_cpu_time_total", "cuda": "self_device_time_total"}.get(self.training.device.type)
        if self.profiler is None or own is None or self.traced_kinds not in ({True}, {False}):
            return []
        events = [event for event in self.profiler.events() if event.device_type.name == "CPU"]  # type: ignore[no-untyped-call]
        spans = [(event.time_range.start, event.time_range.end, event.name) for event in events]
        ranges = sorted(span for span in spans if span[2].startswith(RANGE))
        calls, microseconds, steps = Counter[tuple[str, str]](), Counter[Any](), self.traced_steps
        for event, (start, _, name) in zip(events, spans, strict=True):
            _, end, part = ranges[max(0, bisect.bisect(ranges, (start, float("inf"), "")) - 1)]  # whatever the thread
            if "::" in name and "autograd::" not in name and not event.is_user_annotation and start <= end:
                key = name, part.removeprefix(RANGE)
                calls[key] += 1
                microseconds[key] += getattr(event, own)
        return [Operator(*key, count / steps, microseconds[key] * 1e-6 / steps) for key, count in calls.items()]

    def tell(self) -> None:
        """Stop watching; write and emit what was found, once. A run that ends early gives what there is."""
        if self.is_over:
            return
        self.is_over, training = True, self.training
        self.stack.close()
        if not self.steps:
            training.events.message(Note("training.no-profile"))
            return
        trace = self.profiler if self.traced_steps else None
        content = summarize(training, self.steps, self.operators())
        content |= {"traced_steps": self.traced_steps, "trace": None if trace is None else "trace.json"}
        folder, body = training.folder / "profile", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            with files.replacing_folder(folder) as place:
                files.write_new(place / "profile.json", [f"{body}\n".encode()])
                if trace is not None:
                    files.save_with(place / "trace.json", lambda path: trace.export_chrome_trace(str(path)))
        except StorageError as error:  # a measurement must not cost the run its end
            training.events.warning(Note("training.profile-not-written", problem=error.record))
        training.events.emit("profile", **content, folder=str(folder))
