"""One of several processes behind one socket: it is given connections, and says in shared memory what each of them waits for.

    python -m rushlight.serve.worker CHANNEL DOOR STATES

The three are descriptors from its parent (workers.py): lines of JSON, connections, and a record for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import mmap
import os
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from rushlight.console import print_lines
from rushlight.errors import RushlightError
from rushlight.serve.answers import Refusal
from rushlight.serve.gate import access_log
from rushlight.serve.options import Settings
from rushlight.serve.process import (
    apps,
    beside,
    finish,
    in_address,
    load_given,
    new_registry,
    new_server,
    until_started,
)
from rushlight.serve.registry import Registry
from rushlight.texts import Note, shown

# what a connection waits for: its next request, an answer, the rest of an answer; or nothing more
IDLE, ASKED, ANSWERING, CLOSED = range(4)
# that state; the bytes of the answer that is being sent, 0 where more is to come; those that were sent before
RECORD, SIZE = struct.Struct("=BxxxIQ"), struct.Struct("=I")
MOST_CONNECTIONS = 1 << 16
MOST_LINE = 64 << 20  # bytes of a message
PASSED = 5  # bytes that come with a connection: four of its number, and that of its port
COMMON = {  # methods of the registry that the parent and other workers call
    "open_aside", "put_aside", "follow", "allow", "unload", "set_default", "prove", "judge", "figures", "snapshot", "watch",
}  # fmt: skip
buffer = memoryview(bytearray(256 << 10))  # into which all connections are read, one at a time


def main() -> None:
    """Open the models, and answer until the parent says to end, or is gone."""
    channel, door = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    states = mmap.mmap(int(sys.argv[3]), MOST_CONNECTIONS * RECORD.size)
    told = json.loads(channel.makefile("rb").readline())
    given = told["settings"]
    places = {name: given[name] and Path(given[name]) for name in ("models", "log_file")}
    settings = Settings(**{**given, **places, "hosts": tuple(given["hosts"])})
    if settings.log_file is not None:
        settings = replace(settings, log=access_log(settings.log_file, tell))
    registry = new_registry(Path(told["runs"]), told["reference"], settings, tell)
    try:
        if told["snapshot"] is None:
            load_given(registry, told["given"], Path(told["runs"]), told["reference"], settings)
        else:
            registry.restore(told["snapshot"])
    except RushlightError as error:
        channel.sendall(line(failure_line(error)))
        return
    gc.collect()
    gc.freeze()
    asyncio.run(Worker(registry, settings, states).answer(channel, door, told["language"]))


def tell(note: Note) -> None:
    """Say something on the terminal of the server."""
    print_lines(shown(note))


def line(message: Any) -> bytes:
    """Return a message of the channel."""
    return json.dumps(message).encode() + b"\n"


def failure_line(error: RushlightError) -> dict[str, Any]:
    """Return the message from which the parent raises the same error."""
    values = {name: value if isinstance(value, (int, float)) else shown(value) for name, value in error.values.items()}
    return {"failed": [type(error).__name__, error.key, values]}


class Calls:
    """What is asked over a channel, by number, until it is answered; `say` sends a message."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self.say, self.numbers, self.waiting = say, count(), dict[int, asyncio.Future[Any]]()

    async def ask(self, kind: str, method: str, arguments: Sequence[Any]) -> Any:
        """Ask for a call of a method of the registry, and return the message that answers it."""
        number = next(self.numbers)
        asking = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.say({kind: number, "method": method, "arguments": arguments})
        return await asking

    def answer(self, number: int, message: Any) -> None:
        """Give whoever asked the answer; it may have given up."""
        asking = self.waiting.pop(number)
        if not asking.done():
            asking.set_result(message)


class Turn:
    """Held by one task of one worker at a time: the parent gives it."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self.say, self.lock = say, asyncio.Lock()
        self.given = asyncio.Event()

    async def __aenter__(self) -> None:
        await self.lock.acquire()
        self.given.clear()
        self.say({"turn": True})
        try:
            await self.given.wait()
        except BaseException:
            self.leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next have it."""
        self.say({"turn": False})
        self.lock.release()


class Worker:
    """A process's models, its connections, and its channel to the parent."""

    def __init__(self, registry: Registry, settings: Settings, states: mmap.mmap) -> None:
        self.registry, self.settings, self.states = registry, settings, states
        self.calls = Calls(self.say)
        self.tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, channel: socket.socket, door: socket.socket, language: str) -> None:
        """Answer until the parent says to end, or is gone."""
        from rushlight.serve.app import Service

        self.door, settings = door, self.settings
        reader, self.writer = await asyncio.open_connection(sock=channel, limit=MOST_LINE)
        self.registry.others, self.registry.turn = self.others, Turn(self.say)
        self.service = Service(self.registry, settings, language)
        self.servers = [
            new_server(own, settings, lambda own: watched(own, self.states, self.say)) for own in apps(self.service)
        ]
        running = [asyncio.create_task(each.serve([])) for each in self.servers]
        await until_started(self.servers, running)
        remote = None
        if settings.grpc is not None:
            from rushlight.serve.remote import start

            try:
                remote, _ = await start(self.service, in_address(settings.host), settings.grpc)
            except RushlightError as error:
                self.say(failure_line(error))
                await self.writer.drain()
                return
        door.setblocking(False)
        asyncio.get_running_loop().add_reader(door, self.let_in)
        self.service.is_ready = True
        served = [asdict(batcher.model.summary) for batcher in self.registry.batchers()]
        self.say({"ready": {"served": served, "snapshot": self.registry.snapshot()}})
        while (message := await reader.readline()).endswith(b"\n") and not self.hear(json.loads(message)):
            pass
        self.drain()
        await finish(self.servers, running, remote, settings.drain)

    def let_in(self) -> None:
        """Take connections from the parent."""
        with contextlib.suppress(BlockingIOError):
            while True:
                passed, descriptors, _, _ = socket.recv_fds(self.door, PASSED, 1)
                if not passed:  # the parent is gone
                    asyncio.get_running_loop().remove_reader(self.door)
                    return
                connection = socket.socket(fileno=descriptors[0])
                beside(self.tasks, self.serve(connection, int.from_bytes(passed[:4]), passed[4]))

    async def serve(self, connection: socket.socket, number: int, port: int) -> None:
        """Answer what is asked over a connection."""
        config, state = self.servers[port].config, self.servers[port].server_state
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it may be gone already
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(config=config, server_state=state, app_state={}, number=number),
                connection,
            )

    # ── the channel ──

    def say(self, message: Any) -> None:
        """Send a message to the parent; where that is gone, this process is about to end."""
        self.writer.write(line(message))

    def hear(self, message: dict[str, Any]) -> bool:
        """Do what the parent says; return whether it is to end."""
        if "call" in message:
            beside(self.tasks, self.reply(message))
        elif "answer" in message:
            self.calls.answer(message["answer"], message)
        elif "turn" in message:
            turn = self.registry.turn
            assert isinstance(turn, Turn)
            turn.given.set()
        elif "shed" in message:
            self.service.to_shed = message["shed"]
        elif "drain" in message:
            self.drain()
        return "end" in message

    async def reply(self, message: dict[str, Any]) -> None:
        """Call a method of the registry for the parent or another worker."""
        name, arguments = message["method"], message["arguments"]
        try:
            if name == "describe":
                from rushlight.serve.management import descriptions

                found: Any = descriptions(self.registry, *arguments)
            else:
                assert name in COMMON
                found = getattr(self.registry, name)(*arguments)
                found = await found if asyncio.iscoroutine(found) else found
            self.say({"reply": message["call"], "value": found})
        except Exception as error:
            if not isinstance(error, Refusal):
                traceback.print_exc()
            self.say({"reply": message["call"], "error": f"{type(error).__name__}: {error}"})

    async def others(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of all other workers' registries, and return what these return."""
        answer = await self.calls.ask("ask", method, arguments)
        if "error" in answer:  # not some of them as if it were all
            raise RuntimeError(answer["error"])
        values: list[Any] = answer["values"]
        return values

    def drain(self) -> None:
        """Say that it is not ready, and close connections after their answers."""
        self.service.is_ready, self.service.is_draining = False, True


def watched(base: type, states: mmap.mmap, say: Callable[[Any], None]) -> type:
    """Return a protocol of HTTP that notes in shared memory what its connection waits for.

    So the parent knows of each connection of a killed worker whether another one can go on with it (IDLE), whether it can still
    answer 503 (ASKED), or must break it off, since a part of an answer is sent (ANSWERING). Whether none or all of it is, the
    numbers of bytes tell.
    """

    class Watched(base, asyncio.BufferedProtocol):  # type: ignore[misc]
        """The same, with notes."""

        def __init__(self, number: int, **options: Any) -> None:
            super().__init__(**options)
            self.place, self.number = number * RECORD.size, number
            self.unanswered, self.is_reading, self.written = 0, False, 0

        def connection_made(self, transport: Any) -> None:
            """Note what is written, before it is."""
            write = transport.write

            def noted(data: bytes) -> None:
                is_whole = self.unanswered == 1 and not self.is_reading and not data.startswith(b"HTTP/1.1 100")
                RECORD.pack_into(states, self.place, ANSWERING, len(data) if is_whole else 0, self.written)
                self.written += len(data)
                write(data)

            transport.write = noted
            super().connection_made(transport)

        def get_buffer(self, hint: int) -> memoryview:
            """Note that a request comes, before any of it is read."""
            self.note()
            if states[self.place] == IDLE:
                states[self.place] = ASKED
            elif states[self.place] == ANSWERING:  # with that answer, the client has not all that it asked for
                SIZE.pack_into(states, self.place + SIZE.size, 0)
            return buffer

        def buffer_updated(self, size: int) -> None:
            """Read what has come."""
            self.data_received(bytes(buffer[:size]))
            self.note()

        def on_message_begin(self) -> None:
            """Count a request."""
            super().on_message_begin()
            self.unanswered, self.is_reading = self.unanswered + 1, True

        def on_message_complete(self) -> None:
            """Note that a request has come whole."""
            super().on_message_complete()
            self.is_reading = False
            self.note()

        def on_response_complete(self) -> None:
            """Count an answer."""
            super().on_response_complete()
            self.unanswered -= 1
            self.note()

        def note(self) -> None:
            """Note that the connection waits for its next request, where it does."""
            is_waiting = not self.unanswered and not self.is_reading
            if is_waiting and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
                states[self.place] = IDLE

        def connection_lost(self, error: Exception | None) -> None:
            """Close it for the parent too, which holds it open."""
            super().connection_lost(error)
            states[self.place] = CLOSED
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            say(self.number)

    return Watched


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be done, and engines take their time
