"""Several processes behind one socket: their parent accepts connections, and passes each to the worker that has the fewest.

The parent reads no request. It keeps every connection open beside the worker, so that when one is killed, a connection that
waits for its next request goes on at another worker, and a request without an answer is answered 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rushlight import errors
from rushlight.errors import RushlightError, UsageError
from rushlight.serve.answers import Refusal, json_answer
from rushlight.serve.metrics import Figures, added
from rushlight.serve.model import Summary
from rushlight.serve.options import Settings
from rushlight.serve.process import (
    CLOSING_MOST,
    beside,
    in_address,
    open_ports,
    stop_letting_in,
    told_to_end,
)
from rushlight.serve.registry import PAUSE
from rushlight.serve.worker import ANSWERING, ASKED, IDLE, MOST_CONNECTIONS, MOST_LINE, RECORD, Calls, line
from rushlight.texts import Note
from rushlight.web import HEADERS, listening

KEPT = 1.0  # seconds between two looks at a worker's figures: as many may be lost with it
HUNG = 30.0  # seconds in which a worker that lives answers its parent
LINGER = 2.0  # seconds in which who is answered 503 may take it
MOST_PAUSE = 30.0  # seconds between two attempts to start a worker that does not come up
AT_ONCE = 64  # connections accepted before others are heard


def serve_by_workers(
    given: Sequence[str], runs: Path, reference: str | None, settings: Settings, language: str,
    tell: Callable[[Note], object], announce: Callable[[str, Sequence[Summary], float], object],
) -> None:  # fmt: skip
    """Serve in several processes, as `serve` does in one. UsageError where the system cannot pass connections on."""
    if not hasattr(socket, "send_fds"):
        raise UsageError("serve-no-workers")
    if settings.grpc is not None and sys.platform != "linux":
        raise UsageError("serve-no-shared-port")
    try:
        import httptools  # noqa: F401  # by its callbacks a worker knows what a connection waits for
    except ImportError as error:
        raise UsageError("serve-missing", package="httptools") from error
    import resource

    with contextlib.suppress(ValueError, OSError):  # else there are fewer connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    number, started = settings.workers, time.perf_counter()
    own = replace(
        settings, threads=settings.threads or max(1, (os.cpu_count() or 1) // number), log=None,
        most_waiting=max(1, settings.most_waiting // number), most_held=settings.most_held // number,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        if settings.grpc is not None:
            port = stack.enter_context(shared_port(settings.host, settings.grpc))
            own = replace(own, grpc=port)
            tell(Note("serve.grpc", address=f"{in_address(settings.host)}:{port}"))
        told = {
            "settings": {
                **asdict(own), "models": own.models and str(own.models), "log_file": own.log_file and str(own.log_file),
            },
            "given": list(given), "runs": str(runs), "reference": reference, "language": language,
        }  # fmt: skip
        workers = stack.enter_context(contextlib.closing(Workers(settings, told, tell)))

        def open_door() -> list[socket.socket]:
            listeners, address = open_ports(settings, stack, tell)
            tell(Note("serve.workers", count=number))
            announce(address, [Summary(**each) for each in workers.served], time.perf_counter() - started)
            return listeners

        asyncio.run(workers.run(open_door))


def written(connection: socket.socket) -> int | None:
    """Return the bytes that were ever written into a connection of TCP, sent or not yet; None where the system does not tell.

    https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/tcp.h#L214, struct tcp_info.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, struct.error):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            (unsent,), (sent, repeated) = struct.unpack_from("=I", info, 144), struct.unpack_from("=QQ", info, 200)
            return int(unsent + sent - repeated)
    return None


@contextlib.contextmanager
def shared_port(host: str, port: int) -> Any:
    """Hold a port for the block that nobody else has, and on which several processes may listen."""
    with listening(port, port, host) as found:
        port = found.getsockname()[1]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
        yield port


class WorkerProcess:
    """A process that answers, as its parent knows it."""

    def __init__(self, told: dict[str, Any], states: int) -> None:
        self.channel, own = socket.socketpair()
        self.door, inner = socket.socketpair()
        passed = [own.fileno(), inner.fileno(), states]
        command = [sys.executable, "-m", "rushlight.serve.worker", *map(str, passed)]
        # signals are for the parent, which says what is to be done; what is blocked stays so in the new process
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self.process = subprocess.Popen(command, pass_fds=passed)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        own.close()
        inner.close()
        self.door.setblocking(False)
        self.told = told
        self.calls = Calls(self.say)
        self.connections: set[int] = set()
        self.figures: Figures = {"counts": {}, "now": {}}  # at the last look
        self.is_ready, self.gone = False, asyncio.Event()
        self.hello: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.turn: asyncio.Task[Any] | None = None  # that waits for the turn, or has it

    async def connect(self) -> asyncio.StreamReader:
        """Open the channel, say what is to be served, and return what the worker says."""
        reader, self.writer = await asyncio.open_connection(sock=self.channel, limit=MOST_LINE)
        self.say(self.told)
        return reader

    def say(self, message: Any) -> None:
        """Send a message."""
        self.writer.write(line(message))

    async def call(self, method: str, *arguments: Any) -> dict[str, Any] | None:
        """Call a method of its registry, and return the reply; None where the worker ends before that, or has ended."""
        if self.gone.is_set():
            return None
        reply: dict[str, Any] | None = await self.calls.ask("call", method, arguments)
        if method == "figures" and reply is not None and "value" in reply:
            self.figures = reply["value"]
        return reply


class Workers:
    """The processes, the connections that they have, and what is passed on between them. For one event loop."""

    def __init__(self, settings: Settings, told: dict[str, Any], tell: Callable[[Note], object]) -> None:
        self.settings, self.told, self.tell = settings, {**told, "snapshot": None}, tell
        self.memory = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.memory.truncate(MOST_CONNECTIONS * RECORD.size)
        self.states = mmap.mmap(self.memory.fileno(), MOST_CONNECTIONS * RECORD.size)
        self.workers: list[WorkerProcess] = []
        self.served: list[dict[str, Any]] = []
        self.connections: dict[int, tuple[socket.socket, int]] = {}  # by number, with the number of the port
        self.written: dict[int, int] = {}  # bytes sent before a worker got the connection; 0 where there were none
        self.free, self.unassigned = list(range(MOST_CONNECTIONS)), list[int]()
        self.lost: Figures = {"counts": {"lost": 0, "requests": {"other": {"503": 0}}}, "now": {}}
        self.turn, self.is_ending = asyncio.Lock(), False
        self.tasks: set[asyncio.Task[Any]] = set()
        refusal = Refusal(503, "serve-worker-lost")
        answer = json_answer({"error": refusal.problem, "advice": refusal.advice}, 503, {"retry-after": "1", **HEADERS})
        head = b"".join(b"%s: %s\r\n" % header for header in answer.headers)
        self.unavailable = b"HTTP/1.1 503 Service Unavailable\r\n%sconnection: close\r\n\r\n%s" % (head, answer.body)

    def close(self) -> None:
        """Close what is still there."""
        for worker in self.workers:
            worker.process.wait()
        for connection, _ in self.connections.values():
            connection.close()
        self.states.close()
        self.memory.close()

    async def run(self, open_door: Callable[[], list[socket.socket]]) -> None:
        """Serve until a signal comes, or until no worker can be started any more, which raises why."""
        loop = asyncio.get_running_loop()
        try:
            first = await self.start()  # measures, and makes a graph where there is none: the others do as it does
            others = await asyncio.gather(*(self.start() for _ in range(self.settings.workers - 1)))
            with told_to_end(self.kill) as told:
                keeping = [asyncio.create_task(self.keep(worker)) for worker in (first, *others)]
                listeners = open_door()
                for port, listener in enumerate(listeners):
                    listener.setblocking(False)
                    loop.add_reader(listener, self.accept, listener, port)
                if self.settings.models is not None:
                    beside(self.tasks, self.watch())
                ended = asyncio.create_task(told.wait())
                await asyncio.wait({ended, *keeping}, return_when=asyncio.FIRST_COMPLETED)
                for task in keeping:
                    if task.done():
                        task.result()  # which raises
                await self.drain(listeners)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the workers that are still there."""
        for worker in self.workers:
            worker.process.kill()

    async def drain(self, listeners: list[socket.socket]) -> None:
        """Say not ready first, then let nobody in, answer who is in, and wait until all workers have ended."""
        self.is_ending = True
        for worker in self.workers:
            if not worker.is_ready:
                worker.process.kill()
        self.say_to_all({"drain": True})
        await stop_letting_in(listeners)
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self.say_to_all({"end": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain + CLOSING_MOST + LINGER):
                await asyncio.gather(*(worker.gone.wait() for worker in self.workers))

    def say_to_all(self, message: Any) -> None:
        """Send a message to all workers that answer."""
        for worker in self.workers:
            if worker.is_ready:
                worker.say(message)

    # ── workers ──

    async def start(self) -> WorkerProcess:
        """Start a worker that serves what the others do; return it once it answers. RushlightError where it does not come up."""
        worker = WorkerProcess(self.told, self.memory.fileno())
        self.workers.append(worker)
        beside(self.tasks, self.listen(worker))
        hello = await worker.hello
        if "failed" in hello:
            kind, key, values = hello["failed"]
            raise getattr(errors, kind)(key, **values)
        worker.is_ready = True
        beside(self.tasks, self.keep_figures(worker))
        if self.told["snapshot"] is None:
            self.told["snapshot"], self.served = hello["ready"]["snapshot"], hello["ready"]["served"]
        share = len(self.connections) // self.settings.workers
        for each in self.workers:
            if (more := len(each.connections) - share) > 0:  # so many are made anew, and come to who has the fewest
                each.say({"shed": more})
        return worker

    async def keep(self, worker: WorkerProcess) -> None:
        """Put another in the place of a worker that has ended, until all are to end."""
        pause = 0.0
        while True:
            await worker.gone.wait()
            if self.is_ending:
                return
            try:
                async with self.turn:  # else it would miss a change
                    worker = await self.start()
                pause = 0.0
            except (RushlightError, OSError) as error:
                if not self.is_ending and not any(each.is_ready for each in self.workers):
                    raise
                reason = error.record if isinstance(error, RushlightError) else str(error)
                if not self.is_ending:
                    self.tell(Note("serve.no-worker", reason=reason))
                pause = min(MOST_PAUSE, 2 * pause + 1)
                await asyncio.sleep(pause)

    async def listen(self, worker: WorkerProcess) -> None:
        """Do what a worker says, until it ends; then see to its connections."""
        reader = await worker.connect()
        with contextlib.suppress(OSError):
            while (message := await reader.readline()).endswith(b"\n"):  # a killed one may have said only a part
                self.hear(worker, json.loads(message))
        worker.is_ready = False
        self.lost = added(self.lost, {"counts": worker.figures["counts"], "now": {}})
        if not self.is_ending:
            worker.process.kill()  # it hears nobody any more
        code = await asyncio.to_thread(worker.process.wait)
        reason = signal.Signals(-code).name if code < 0 else Note("serve.exit-code", code=code)
        self.workers.remove(worker)
        for number in [*worker.calls.waiting]:
            worker.calls.answer(number, None)
        if worker.turn is not None:
            self.leave_turn(worker)
        answered, broken = self.settle_connections(worker)
        if not worker.hello.done():
            worker.hello.set_exception(UsageError("serve-worker-ended", reason=reason))
        elif not self.is_ending and "ready" in worker.hello.result():
            self.lost["counts"]["lost"] += 1
            self.tell(Note("serve.worker-lost", reason=reason, answered=answered, broken=broken))
        worker.writer.close()
        worker.door.close()
        worker.gone.set()

    def hear(self, worker: WorkerProcess, message: Any) -> None:
        """Do what a worker says."""
        if isinstance(message, int):
            self.forget(worker, message)
        elif "reply" in message:
            worker.calls.answer(message["reply"], message)
        elif "ask" in message:
            beside(self.tasks, self.relay(worker, message))
        elif message.get("turn"):
            worker.turn = asyncio.create_task(self.give_turn(worker))
        elif "turn" in message:
            self.leave_turn(worker)
        else:
            worker.hello.set_result(message)

    async def give_turn(self, worker: WorkerProcess) -> None:
        """Let a worker change what is served, once nobody else does."""
        await self.turn.acquire()
        worker.say({"turn": True})

    def leave_turn(self, worker: WorkerProcess) -> None:
        """Let the next one change something, once it is known what a new worker is to serve."""
        waiting, worker.turn = worker.turn, None
        if waiting is not None and not waiting.cancel():  # it has had the turn
            beside(self.tasks, self.release_turn())

    async def release_turn(self) -> None:
        """Keep what is served now, and let the next one have the turn."""
        for each in [each for each in self.workers if each.is_ready]:
            if (reply := await each.call("snapshot")) is not None:
                self.told["snapshot"] = reply["value"]
                break
        self.turn.release()

    async def relay(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        """Ask the other workers what one asks of them all, and tell it what they answer."""
        method = message["method"]  # of figures, what is shown of the one who asks is kept, too
        asked = [each for each in self.workers if each.is_ready and (each is not worker or method == "figures")]
        replies = await asyncio.gather(*(each.call(method, *message["arguments"]) for each in asked))
        found = [reply for each, reply in zip(asked, replies, strict=True) if reply is not None and each is not worker]
        answer: dict[str, Any] = {"answer": message["ask"]}
        if wrong := [reply["error"] for reply in found if "error" in reply]:
            worker.say({**answer, "error": wrong[0]})
        else:
            values = [reply["value"] for reply in found]
            if method == "figures":  # each worker's once: one may have ended since its reply, and be among the lost
                values = [each.figures for each in self.workers if each.is_ready and each is not worker] + [self.lost]
            worker.say({**answer, "values": values})

    async def keep_figures(self, worker: WorkerProcess) -> None:
        """Ask a worker again and again what it has counted; one that does not answer any more is killed, and replaced."""
        while worker.is_ready:
            try:
                async with asyncio.timeout(HUNG):
                    await worker.call("figures")
            except TimeoutError:
                worker.process.kill()
            await asyncio.sleep(KEPT)

    async def watch(self) -> None:
        """Let one worker look at the folder of models again and again: it tells the others what has changed."""
        while True:
            await asyncio.sleep(PAUSE)
            for each in [each for each in self.workers if each.is_ready][:1]:
                await each.call("watch")

    # ── connections ──

    def accept(self, listener: socket.socket, port: int) -> None:
        """Let in who knocks, and pass them on."""
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            if not self.free:
                break
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # there are too many: they wait
                break
            connection.setblocking(False)
            number = self.free.pop()
            self.connections[number] = connection, port
            self.assign(number)
        else:
            return
        loop.remove_reader(listener)
        loop.call_later(0.1, self.accept_again, listener, port)

    def accept_again(self, listener: socket.socket, port: int) -> None:
        """Let others in again, after there were too many."""
        if listener.fileno() != -1:
            asyncio.get_running_loop().add_reader(listener, self.accept, listener, port)

    def assign(self, number: int) -> None:
        """Pass a connection to the worker that has the fewest; it waits where there is none that can take it."""
        connection, port = self.connections[number]
        ready = [each for each in self.workers if each.is_ready]
        worker = min(ready, key=lambda each: len(each.connections), default=None)
        RECORD.pack_into(self.states, number * RECORD.size, IDLE, 0, 0)
        try:
            if worker is None:
                raise BlockingIOError
            socket.send_fds(worker.door, [number.to_bytes(4) + bytes([port])], [connection.fileno()])
            worker.connections.add(number)
        except OSError:  # there is none, it is gone, or has not yet taken those before
            if not self.unassigned:
                asyncio.get_running_loop().call_later(0.01, self.assign_waiting)
            self.unassigned.append(number)

    def assign_waiting(self) -> None:
        """Pass on the connections that wait for a worker."""
        waiting, self.unassigned = self.unassigned, []
        for number in waiting:
            self.assign(number)

    def forget(self, worker: WorkerProcess | None, number: int) -> None:
        """Close a connection here, too."""
        if worker is not None:
            worker.connections.discard(number)
        connection, _ = self.connections.pop(number)
        self.written.pop(number, None)
        connection.close()
        self.free.append(number)

    def settle_connections(self, worker: WorkerProcess) -> tuple[int, int]:
        """See to the connections of a worker that has ended; return how many requests are answered 503, and how many broken off."""
        answered = broken = 0
        for number in sorted(worker.connections):
            state = self.state(number)
            if state == IDLE and not (self.is_ending and not self.workers):
                self.written[number] = written(self.connections[number][0]) or 0
                self.assign(number)
            elif state == ASKED:
                answered += 1
                beside(self.tasks, self.dismiss(number))
            else:
                broken += state == ANSWERING
                self.forget(None, number)
        return answered, broken

    def state(self, number: int) -> int:
        """Return what a killed worker's connection waits for."""
        state, size, before = RECORD.unpack_from(self.states, number * RECORD.size)
        if state == ANSWERING and (total := written(self.connections[number][0])) is not None:
            sent = total - self.written.get(number, 0) - before
            if sent in (0, size):
                return IDLE if sent else ASKED
        return int(state)

    async def dismiss(self, number: int) -> None:
        """Answer 503, and close the connection after its client has taken that."""
        connection, loop = self.connections[number][0], asyncio.get_running_loop()
        self.lost["counts"]["requests"]["other"]["503"] += 1
        with contextlib.suppress(OSError, TimeoutError):
            if self.settings.log is not None:  # what was asked, only the worker has read
                client = connection.getpeername()[0]
                self.settings.log({"time": round(time.time(), 6), "status": 503, "client": client})
            async with asyncio.timeout(LINGER):
                await loop.sock_sendall(connection, self.unavailable)
                connection.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(connection, 1 << 16):  # else what is unread would take the answer back
                    pass
        self.forget(None, number)
