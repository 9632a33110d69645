"""A server that is asked again and again, over connections that come and go: it must not grow, and its answers must not change."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults.outcome import Outcome, Say
from faults.served import BODY, PIXELS, Served, binary_body, make_bundle

CONNECTIONS, EACH = 64, 100  # at a time; requests of one before it is closed
WARM, MOST_GROWTH = 0.2, 0.02  # shares: of the requests, before memory is looked at; of memory, from then on
LEAST_WARM = 10_000  # requests of a server; of fewer, memory is told and not judged
SERVERS = {"one process": (), "two workers": ("--workers", "2")}
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def campaign(count: int, seed: int, work: Path, say: Say) -> Outcome:
    """Send `count` requests, half of them to one process and half to workers."""
    make_bundle(work / "small", seed, 8)
    figures: Counter[str] = Counter()
    failures: list[str] = []
    for name, arguments in SERVERS.items():
        with Served(str(work / "small"), *arguments) as server:
            began = time.perf_counter()
            failures += [f"{name}: {failure}" for failure in asyncio.run(soak(server, count // 2, name, figures, say))]
            figures[f"requests/s, {name}"] = round(count // 2 / (time.perf_counter() - began))
    return Outcome("soak", figures["requests"], tuple(failures), dict(figures))


async def soak(server: Served, count: int, name: str, figures: Counter[str], say: Say) -> list[str]:
    """Send `count` requests; return what failed."""
    budget, loop = iter(range(count)), asyncio.get_running_loop()
    first: dict[int, bytes] = {}
    failures: list[str] = []

    async def ask() -> None:
        is_over = False
        while not is_over and len(failures) < 10:
            asker = Asker(budget, first, failures, figures)
            await loop.create_connection(lambda asker=asker: asker, "127.0.0.1", server.port)
            is_over = await asker.done

    before, sizes = figures["requests"], list[tuple[int, int]]()
    asking = [asyncio.create_task(ask()) for _ in range(CONNECTIONS)]
    while not all(task.done() for task in asking):
        await asyncio.wait(asking, timeout=0.5)
        sent = figures["requests"] - before
        sizes.append((sent, kilobytes(server.process.pid)))
        say(f"soak, {name}: {sent:,} of {count:,}, {sizes[-1][1]:,} kB")
    for task in asking:
        task.result()
    warm = [size for sent, size in sizes if sent >= max(LEAST_WARM, WARM * count)]
    if warm and warm[0]:
        growth = warm[-1] / warm[0] - 1
        figures[f"MB, {name}"] = round(warm[-1] / 1000)
        figures[f"growth in %, {name}"] = round(100 * growth, 2)  # type: ignore[assignment]
        if growth > MOST_GROWTH:
            failures.append(f"memory grew by {growth:.1%}, from {warm[0]:,} to {warm[-1]:,} kB")
    return failures


class Asker(asyncio.Protocol):
    """One connection, which asks again as soon as it is answered, and closes after EACH requests."""

    def __init__(
        self, budget: Iterator[int], first: dict[int, bytes], failures: list[str], figures: Counter[str]
    ) -> None:
        self.budget, self.first, self.failures, self.figures = budget, first, failures, figures
        self.answer, self.answered = b"", 0
        # whether there is nothing left to ask
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the next request, or end."""
        number = None if self.answered == EACH else next(self.budget, None)
        if number is None:
            self.done.set_result(self.answered < EACH)
            self.transport.close()
            return
        self.answer, self.kind = b"", number % len(REQUESTS)
        self.transport.write(REQUESTS[self.kind])

    def data_received(self, data: bytes) -> None:
        """Compare what came with the first answer to the same request, and ask again."""
        self.answer += data
        head, _, body = self.answer.partition(b"\r\n\r\n")
        if (length := LENGTH.search(head)) is None or len(body) < int(length[1]):
            return
        if not head.startswith(b"HTTP/1.1 200") or body != self.first.setdefault(self.kind, body):
            self.failures.append(f"{REQUESTS[self.kind][:60]!r}: {self.answer[:300]!r}")
        self.answered += 1
        self.figures["requests"] += 1
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is over; a connection that is broken off has failed."""
        if not self.done.done():
            self.failures.append(f"broken off after {self.answered} answers: {error}")
            self.done.set_result(True)


def post(path: str, body: bytes, more: str = "") -> bytes:
    """Return a request of HTTP."""
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def requests() -> list[bytes]:
    """Return what is asked in turn: bytes, JSON, and both of several rows."""
    made = [post("/predict", BODY), post("/v1/models/small:predict", b'{"instances": [%s, %s]}' % (BODY, BODY))]
    for rows in (1, 3):
        body, headers = binary_body("inputs", PIXELS[:rows], "UINT8")
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        made.append(post("/v2/models/small/infer", body, more))
    return made


REQUESTS = requests()


def kilobytes(server: int) -> int:
    """Return the memory that a server and its workers hold; 0 where the system does not tell as Linux does."""
    if not Path("/proc/self/statm").exists():
        return 0
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    pages = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in (server, *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") // 1000
