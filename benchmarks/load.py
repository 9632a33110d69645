"""Asks a server over as many connections as are wanted, each request after the answer to the one before; hands back what that took.

    python -m benchmarks.load PORT REQUEST_FILE CONNECTIONS SECONDS

The file holds one HTTP/1.1 request, byte for byte; the process is one of its own, so that it slows no server down by Python's lock.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

from benchmarks.measure import hand_back

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def is_whole(answer: bytes) -> bool:
    """Tell whether an answer has all that its head announces."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if (length := LENGTH.search(head)) is not None:
        return len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")  # in chunks


class Asker(asyncio.Protocol):
    """One connection, which asks again as soon as it is answered, until `until` (of `time.perf_counter`)."""

    def __init__(self, request: bytes, until: float) -> None:
        self.request, self.until = request, until
        self.seconds: list[float] = []
        self.failed = 0
        self.answer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the request."""
        self.answer, self.began = b"", time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Take what came; once the answer is whole, note how long it took, and ask again."""
        self.answer += data
        if not is_whole(self.answer):
            return
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.failed += self.answer[9:12] != b"200"
        if now < self.until:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is over; a connection that was broken off has failed."""
        self.failed += time.perf_counter() < self.until
        self.done.set_result(None)


async def load(port: int, request: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Ask for so long; return requests a second, the median and the 99th percentile of their seconds, and how many failed."""
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    askers = [Asker(request, began + seconds) for _ in range(connections)]
    for asker in askers:
        await loop.create_connection(lambda asker=asker: asker, "127.0.0.1", port)
    await asyncio.gather(*(asker.done for asker in askers))
    took = sorted(each for asker in askers for each in asker.seconds)
    if not took:
        raise SystemExit("no request was answered")
    return {
        "rate": len(took) / (time.perf_counter() - began), "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100],
        "failed": sum(asker.failed for asker in askers), "requests": len(took),
    }  # fmt: skip


if __name__ == "__main__":
    hand_back(asyncio.run(load(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), float(sys.argv[4]))))
