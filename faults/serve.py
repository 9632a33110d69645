"""Serving, disturbed: versions swapped under load, bad requests among good ones, too much work, slow clients, signals, flipped bits."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faults.outcome import Outcome, Say, case_random
from faults.serve_workers import killed
from faults.served import BODY, PIXELS, Served, ask, asking, binary_body, make_bundle
from rushlight.errors import RushlightError
from rushlight.serve.model import find_model

SLOW = 50  # swaps from which on slow clients are waited for, which takes 10 s
WIDTHS = {"small": 8, "large": 768}  # of the hidden layers
FILES = ("graph.onnx", "examples.safetensors", "weights.safetensors")


def campaign(count: int, seed: int, work: Path, say: Say) -> Outcome:
    """Swap `count` versions under load, and disturb a server in every other way, in proportion."""
    figures: Counter[str] = Counter()
    failures: list[str] = []
    for name, width in WIDTHS.items():
        make_bundle(work / name, seed, width)
    parts: list[tuple[str, Callable[..., list[str]]]] = [
        ("swaps", swaps), ("one bad among 32", bad_among_good), ("overload", overload),
        ("SIGTERM", ends), ("killed workers", killed), ("flipped bits", flipped), *([("slow clients", slow_clients)] if count >= SLOW else []),
    ]  # fmt: skip
    for number, (name, part) in enumerate(parts):
        say(f"serve: {name}")
        failures += [f"{name}: {failure}" for failure in part(count, case_random("serve", seed, number), work, figures)]
    return Outcome("serve", figures["swaps"] + figures["bits flipped"], tuple(failures), dict(figures))


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────


def swaps(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Put version after version in the place of the last; each answer must be that of the version that it names."""
    models = work / "models" / "m"
    models.mkdir(parents=True)
    shutil.copytree(work / "small", models / "2")  # even versions are small, odd ones large
    expected = {}
    for parity, name in enumerate(WIDTHS):
        model = find_model(str(work / name), work, None, None, 1, lambda note: None)
        expected[parity] = model.run({"inputs": PIXELS[:1]})["probabilities"][0]
    with Served("--models", str(models.parent), "--management-port", "0") as server:

        def each(number: int, over: threading.Event) -> None:
            connection = server.connect()
            while not over.is_set():
                status, headers, body = ask(connection, "POST", "/predict", BODY)
                shares = json.loads(body)["predictions"][0]["probabilities"] if status == 200 else {}
                own = expected[int(headers.get("x-model-version", 0)) % 2]
                if status != 200 or not np.allclose([shares[name] for name in "abc"], own, atol=1e-5):
                    raise RuntimeError(f"{status} {body[:200]!r}")
                figures["answers during swaps"] += 1

        with asking(each) as failures:
            manager = server.connect(server.management)
            for number in range(3, count + 3):
                shutil.copytree(work / [*WIDTHS][number % 2], models / f".{number}")
                (models / f".{number}").rename(models / str(number))
                if draw.random() < 0.1:  # a broken one, which must be refused
                    shutil.copytree(work / "small", models / f".{number}x")
                    flip(models / f".{number}x" / "graph.onnx", draw)
                    (models / f".{number}x").rename(models / f"{number}x")
                    status, _, body = ask(manager, "POST", f"/models?url=m/{number}x")
                    figures["broken versions refused"] += status == 400
                    failures += [f"a broken version: {status} {body!r}"] * (status != 400)
                    shutil.rmtree(models / f"{number}x")
                status, _, body = ask(manager, "POST", f"/models?url=m/{number}")
                if status not in (200, 409):  # 409: the server has seen it by itself
                    failures.append(f"version {number}: {status} {body!r}")
                ask(manager, "DELETE", f"/models/m/{number - 1}")
                shutil.rmtree(models / str(number - 1))
                figures["swaps"] += 1
    return failures


def bad_among_good(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Send 31 good requests and a bad one at once: only the bad one may fail, with 400 and its reason."""
    failures: list[str] = []
    with Served(str(work / "large")) as server:
        connections = [server.connect() for _ in range(32)]
        for _ in range(max(1, count // 10)):
            wrong = draw.randrange(32)
            for number, connection in enumerate(connections):
                connection.request("POST", "/predict", b"[[1, 2], [3, 4]]" if number == wrong else BODY)
            answers = [connection.getresponse() for connection in connections]
            found = [(answer.status, answer.read()) for answer in answers]
            statuses = [status for status, _ in found]
            if (
                statuses != [400 if number == wrong else 200 for number in range(32)]
                or b"(2, 2)" not in found[wrong][1]
            ):
                failures.append(f"{statuses}, {found[wrong][1]!r}")
            figures["times 31 good and 1 bad"] += 1
    return failures


def overload(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Compare the rows answered in a second by a few senders with those when five times as many fill the queue."""
    rows, seconds = 512, 1.5 if count < SLOW else 8.0
    body, headers = binary_body("inputs", np.repeat(PIXELS[:1], rows, axis=0), "UINT8", is_answer_binary=False)
    done: Counter[str] = Counter()
    refused: list[float] = []

    with Served(str(work / "large")) as server:

        def each(number: int, over: threading.Event) -> None:
            connection = server.connect()
            while not over.is_set():
                began = time.perf_counter()
                status, given, _ = ask(connection, "POST", "/v2/models/large/infer", body, headers)
                done[str(status)] += 1
                if status == 503:
                    refused.append(time.perf_counter() - began)
                    if "retry-after" not in given:
                        raise RuntimeError("no Retry-After")
                    over.wait(0.25)
                elif status != 200:
                    raise RuntimeError(f"status {status}")

        goodput = []
        for senders in (8, 40):
            done.clear()
            began = time.perf_counter()
            with asking(each, senders) as failures:
                time.sleep(seconds)
                goodput.append(done["200"] * rows / (time.perf_counter() - began))
            if failures:
                return failures
    figures["rows/s at peak"], figures["rows/s at overload"] = round(goodput[0]), round(goodput[1])
    figures["refused"] = len(refused)
    figures["ms until half are refused"] = round(1000 * float(np.median(refused))) if refused else -1
    return [] if refused else ["nothing was refused"]


def ends(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """End a server under load by SIGTERM: what was sent is answered, no connection is reset, and the exit code is 0."""
    failures: list[str] = []
    for _ in range(max(1, count // 20)):
        with Served(str(work / "small")) as server:

            def each(number: int, over: threading.Event, server: Served = server) -> None:
                while not over.is_set():
                    try:
                        status, _, _ = ask(server.connect(), "POST", "/predict", BODY)
                    except ConnectionRefusedError:  # the door is closed
                        return
                    figures["answers until SIGTERM ended it"] += 1
                    if status != 200:
                        raise RuntimeError(f"status {status}")

            with asking(each) as failed:
                time.sleep(0.3 + draw.random() / 2)
                server.process.send_signal(signal.SIGTERM)
                code = server.process.wait(60)
            failures += [*failed, *([f"exit code {code}"] if code else [])]
    return failures


def slow_clients(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Dawdle on many connections: each is closed in time, and others are answered meanwhile."""
    many, failures = min(1000, 5 * count), list[str]()
    half = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    with Served(str(work / "small")) as server:
        began = time.monotonic()
        waiting = {
            socket.create_connection(("127.0.0.1", server.port)): beginning
            for beginning in [b"", half, half + b"\r\n["] * (many // 3 + 1)
        }
        for connection, beginning in waiting.items():
            connection.sendall(beginning)
            connection.setblocking(False)
        asker = server.connect()
        while waiting and time.monotonic() - began < 30:
            for connection in [*waiting]:
                with contextlib.suppress(BlockingIOError):
                    try:
                        if (got := connection.recv(4096)) and b"408" not in got:
                            failures.append(f"answered {got[:100]!r}")
                    except ConnectionResetError:
                        pass
                    waiting.pop(connection)
                    connection.close()
                    figures["slow clients closed"] += 1
            if (status := ask(asker, "POST", "/predict", BODY)[0]) != 200:
                failures.append(f"another was answered {status}")
            time.sleep(0.1)
        if waiting or time.monotonic() - began > 20:
            failures.append(f"{len(waiting)} connections were still open after {time.monotonic() - began:.0f} s")
    return failures


def flipped(count: int, draw: random.Random, work: Path, figures: Counter[str]) -> list[str]:
    """Flip one bit of one file: the model must not be opened."""
    failures: list[str] = []
    for number in range(3 * count):
        folder = work / "flipped"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "small", folder)
        name = FILES[number % len(FILES)]
        where = flip(folder / name, draw)
        try:
            find_model(str(folder), work, None, None, 1, lambda note: None)
            failures.append(f"{name} with bit {where} flipped was opened")
        except RushlightError:
            figures["bits flipped"] += 1
    return failures


def flip(path: Path, draw: random.Random) -> int:
    """Flip one bit of a file; return which."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit
