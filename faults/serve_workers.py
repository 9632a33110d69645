"""Several workers behind one socket, of which one is killed again and again under load."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from faults.served import BODY, PIXELS, Served, ask, asking
from rushlight.serve.model import find_model

WORKERS, SOON = 3, 1.0  # processes; seconds in which a request of a killed worker is answered 503
MISSING = 1.5  # seconds of all answers, which with a killed worker may go uncounted: its last second
REPLACED = 10.0  # seconds, at the most, until another worker answers in its place


def killed(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Kill workers with SIGKILL while others answer: its requests alone may fail, with 503, and it is replaced."""
    model = find_model(str(work / "small"), work, None, None, 1, lambda note: None)
    expected = model.run({"inputs": PIXELS[:1]})["probabilities"][0]
    failures: list[str] = []
    seconds: list[float] = []
    with Served(str(work / "small"), "--workers", str(WORKERS), "--management-port", "0") as server:

        def each(number: int, over: threading.Event) -> None:
            connection = server.connect()
            while not over.is_set():
                began = time.monotonic()
                try:
                    status, _, body = ask(connection, "POST", "/predict", BODY)
                except (http.client.HTTPException, OSError):  # a part of its answer was sent
                    figures["answers broken off"] += 1
                    connection.close()
                    status = 0
                if status == 200:
                    shares = json.loads(body)["predictions"][0]["probabilities"]
                    if not np.allclose([shares[name] for name in "abc"], expected, atol=1e-5):
                        raise RuntimeError(f"another answer: {shares}")
                    figures["answers beside kills"] += 1
                elif status == 503:
                    figures["answered 503"] += 1
                elif status:
                    raise RuntimeError(f"status {status}: {body[:200]!r}")
                if status != 200 and time.monotonic() - began > SOON:
                    raise RuntimeError(f"{status} after {time.monotonic() - began:.1f} s")

        started = time.monotonic()
        with asking(each) as failed:
            manager = server.connect(server.management)
            for _ in range(max(2, count // 5)):
                time.sleep(draw.random() / 4)
                victim = draw.choice(workers_of(manager))
                os.kill(victim, signal.SIGKILL)
                figures["workers killed"] += 1
                began = time.monotonic()
                while victim in (now := workers_of(manager)) or len(now) < WORKERS:
                    if time.monotonic() - began > REPLACED:
                        failures.append(f"worker {victim} was not replaced: {now}")
                        break
                    time.sleep(0.02)
                seconds.append(time.monotonic() - began)
        lasted = time.monotonic() - started
        failures += failed
        if (
            figures["answers broken off"] and sys.platform == "linux"
        ):  # elsewhere nothing tells whether an answer was sent
            failures.append(f"{figures['answers broken off']} requests were not answered at all")
        figures["ms until half were replaced"] = round(1000 * float(np.median(seconds)))
        counted = counted_answers(server)
    answered = figures["answers beside kills"]
    most = figures["workers killed"] * MISSING * answered / lasted
    if not answered - most <= counted <= answered:
        failures.append(f"{counted} of {answered} answers were counted, and at most {most:.0f} may be missing")
    return failures


def workers_of(manager: http.client.HTTPConnection) -> list[int]:
    """Return the processes that answer."""
    while True:
        with contextlib.suppress(http.client.HTTPException, OSError):  # of the killed one
            status, _, body = ask(manager, "GET", "/models/small")
            if status == 200:
                return [worker["pid"] for worker in json.loads(body)[0]["workers"]]
        manager.close()


def counted_answers(server: Served) -> int:
    """Return how many predictions all workers together have counted."""
    text = ask(server.connect(), "GET", "/metrics")[2].decode()
    lines = [line for line in text.splitlines() if line.startswith("nv_inference_request_success{")]
    return round(sum(float(line.split()[-1]) for line in lines))
