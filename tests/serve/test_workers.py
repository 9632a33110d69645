"""Several workers behind one socket: they are one server to who asks, and one that is killed takes its own requests alone."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.serve.client import BUNDLES
from tests.serve.test_protocols import PIXELS
from tests.serve.test_server import BODY, Server

from rushlight.errors import UsageError
from rushlight.serve.metrics import added
from rushlight.serve.options import Settings
from rushlight.serve.server import serve
from rushlight.serve.workers import Workers

needs_unix = pytest.mark.skipif(os.name == "nt", reason="passes connections between processes")


@contextlib.contextmanager
def two_workers(*arguments: str) -> Any:
    with Server("--workers", "2", "--management-port", "0", *arguments) as server:
        assert server.management is not None
        yield server, server.management


def manage(port: int, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def workers_of(port: int, name: str) -> list[int]:
    return [worker["pid"] for worker in manage(port, "GET", f"/models/{name}")[1][0]["workers"]]


def kill(port: int, name: str, victim: int) -> None:
    """Kill a worker, and wait until another one has taken its place."""
    os.kill(victim, signal.SIGKILL)
    until = time.monotonic() + 20
    while victim in (now := workers_of(port, name)) or len(now) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)


def figure(server: Server, name: str) -> float:
    text = server.ask("/metrics")[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


@needs_unix
@pytest.mark.slow
def test_workers_are_one_server_to_who_asks(tmp_path: Path) -> None:
    for version in ("pets/1", "pets/2", "cats"):
        shutil.copytree(BUNDLES / "image", tmp_path / "models" / version)
    log = tmp_path / "log.jsonl"
    with two_workers("--models", str(tmp_path / "models"), "--access-log", str(log)) as (server, port):
        held = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(4)]  # two of each

        def asked(path: str) -> set[tuple[int, str]]:
            """Ask over each connection, and so each worker."""
            found = set()
            for connection in held:
                connection.request("POST", path, BODY)
                answer = connection.getresponse()
                answer.read()
                found.add((answer.status, answer.getheader("x-model-version") or ""))
            return found

        assert asked("/predict?model=pets") == {(200, "2")}
        assert figure(server, "nv_inference_request_success") == 4
        stats = json.loads(server.ask("/v2/models/pets/versions/2/stats")[1])["model_stats"]
        assert [each["inference_count"] for each in stats] == [4 * len(PIXELS)]
        assert json.loads(server.ask("/drift?model=pets")[1])["rows"] >= 2  # at least one of each worker
        assert server.ask("/selftest")[0] == 200
        (described,) = manage(port, "GET", "/models/pets")[1]
        assert described["maxWorkers"] == 2
        first, second = (worker["pid"] for worker in described["workers"])

        # what changes one changes all, also one that comes later
        assert manage(port, "PUT", "/models/pets/1/set-default")[0] == 200
        assert asked("/predict?model=pets") == {(200, "1")}
        assert manage(port, "DELETE", "/models/cats")[0] == 200
        assert asked("/predict?model=cats") == {(404, "")}
        before = figure(server, "nv_inference_request_success")
        time.sleep(1.2)  # until the figures are kept
        for victim in (first, second):
            kill(port, "pets", victim)
        assert asked("/predict?model=pets") == {(200, "1")}
        assert asked("/predict?model=cats") == {(404, "")}
        assert figure(server, "nv_inference_request_success") == before + 4
        assert manage(port, "POST", "/models?url=cats")[0] == 200
        assert asked("/predict?model=cats") == {(200, "1")}

        # the folder is looked at by one, and all follow
        shutil.copytree(BUNDLES / "image", tmp_path / "models" / "pets" / ".3")
        (tmp_path / "models" / "pets" / "serve.json").write_text('{"default": "3"}')
        (tmp_path / "models" / "pets" / ".3").rename(tmp_path / "models" / "pets" / "3")
        until = time.monotonic() + 20
        while asked("/predict?model=pets") != {(200, "3")}:
            assert time.monotonic() < until
            time.sleep(0.2)
        for connection in held:
            connection.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(entry["path"] == "/predict" and entry["status"] == 200 for entry in entries) >= 20


@needs_unix
@pytest.mark.slow
def test_of_a_killed_worker_requests_are_answered_503_and_connections_go_on() -> None:
    with two_workers(str(BUNDLES / "image")) as (server, port):
        half, idle = (socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2))
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n[[1, 2")
        time.sleep(0.3)
        victims = workers_of(port, "image")
        began = time.monotonic()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        answer = half.makefile("rb").read()
        assert time.monotonic() - began < 1
        assert b" 503 " in answer
        assert b"retry-after: 1" in answer
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")  # which the next worker reads
        assert b"200 OK" in idle.recv(4096)
        assert server.ask("/predict", BODY)[0] == 200
        assert len({*workers_of(port, "image")} - {*victims}) > 0
        for connection in (half, idle):
            connection.close()


@needs_unix
@pytest.mark.slow
def test_a_worker_that_would_answer_differently_is_not_started(tmp_path: Path) -> None:
    shutil.copytree(BUNDLES / "image", tmp_path / "image")
    with two_workers(str(tmp_path / "image")) as (server, port):
        os.utime(tmp_path / "image" / "graph.onnx", (1, 1))
        first, last = workers_of(port, "image")
        os.kill(first, signal.SIGKILL)
        assert server.ask("/predict", BODY)[0] == 200
        os.kill(last, signal.SIGKILL)
        assert server.process.wait(30) == 2
        server.hearing.join()
        assert "no longer those that were proven" in server.said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="shares a port among processes")
def test_calls_of_grpc_are_shared_among_workers() -> None:
    grpc = pytest.importorskip("grpc")
    with two_workers(str(BUNDLES / "image"), "--grpc-port", "0") as (server, _):
        address = re.search(r"gRPC: (\S+)", server.said)
        assert address
        for _ in range(10):
            with grpc.insecure_channel(address[1], [("grpc.use_local_subchannel_pool", 1)]) as channel:
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                assert live(b"", timeout=10) == b"\x08\x01"
        text = server.ask("/metrics")[1].decode()
        assert 'rushlight_requests_total{protocol="grpc",status="200"} 10.0' in text


class PlayedProcess:
    """In the place of subprocess.Popen: a worker that says what a test lets it say."""

    def __init__(self, command: list[str], pass_fds: list[int]) -> None:
        self.channel = socket.socket(fileno=os.dup(pass_fds[0]))

    def say(self, message: Any) -> None:
        self.channel.sendall(json.dumps(message).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.channel.recv(1 << 16).splitlines()]

    def kill(self) -> None:
        self.channel.close()

    def wait(self) -> int:
        self.kill()
        return -int(signal.SIGKILL)


@contextlib.asynccontextmanager
async def played_workers(count: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Workers, list[Any]]]:
    """Workers that answer, and have been asked once for their figures, as call 0."""
    monkeypatch.setattr("rushlight.serve.workers.subprocess.Popen", PlayedProcess)
    with contextlib.closing(Workers(Settings(workers=count), {}, print)) as workers:
        starting = [asyncio.create_task(workers.start()) for _ in range(count)]
        await asyncio.sleep(0)
        for each in workers.workers:
            each.process.say({"ready": {"served": [], "snapshot": {}}})
        started = await asyncio.gather(*starting)
        for each in started:
            each.process.heard()
        yield workers, started
        for each in started:
            each.process.kill()
            await each.gone.wait()


@needs_unix
def test_figures_of_a_worker_that_ends_after_it_told_them_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told() -> list[float]:
        async with played_workers(3, monkeypatch) as (workers, (asks, ends, last)):
            relaying = asyncio.create_task(workers.relay(asks, {"ask": 0, "method": "figures", "arguments": []}))
            await asyncio.sleep(0.05)
            for each, number in ((asks, 1), (ends, 10)):
                each.process.say({"reply": 1, "value": {"counts": {"answers": number}, "now": {}}})
            await asyncio.sleep(0.05)
            ends.process.kill()
            await ends.gone.wait()
            last.process.say({"reply": 1, "value": {"counts": {"answers": 100}, "now": {}}})
            await relaying
            *_, answer = asks.process.heard()
            return [each["counts"].get("answers", 0) for each in answer["values"]]

    assert sorted(asyncio.run(told())) == [10, 100]


@needs_unix
def test_figures_are_kept_while_another_worker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost() -> float:
        async with played_workers(2, monkeypatch) as (workers, (ends, _)):
            ends.process.say({"reply": 0, "value": {"counts": {"answers": 1}, "now": {}}})
            await asyncio.sleep(2 * KEPT)
            ends.process.say({"reply": 1, "value": {"counts": {"answers": 2}, "now": {}}})
            await asyncio.sleep(0.05)
            ends.process.kill()
            await ends.gone.wait()
            return workers.lost["counts"]["answers"]

    monkeypatch.setattr("rushlight.serve.workers.KEPT", KEPT := 0.2)
    assert asyncio.run(lost()) == 2


@needs_unix
def test_a_worker_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reply() -> object:
        async with played_workers(2, monkeypatch) as (_, (first, _)):
            first.process.kill()
            await first.gone.wait()
            return await asyncio.wait_for(first.call("snapshot"), 1)

    assert asyncio.run(reply()) is None


@needs_unix
def test_a_worker_that_is_killed_amid_a_message_is_seen_to_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def left() -> int:
        async with played_workers(2, monkeypatch) as (workers, (first, _)):
            first.process.channel.sendall(b'{"reply": 0, "val')
            first.process.kill()
            await asyncio.wait_for(first.gone.wait(), 1)
            return len(workers.workers)

    assert asyncio.run(left()) == 1


@needs_unix
def test_nothing_is_said_of_a_worker_that_is_ended_before_it_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def end_while_one_starts() -> None:
        async with played_workers(2, monkeypatch) as (workers, (first, _)):
            keeping = asyncio.create_task(workers.keep(first))
            first.process.kill()
            await first.gone.wait()
            await asyncio.sleep(0.05)
            *_, new = workers.workers
            workers.is_ending = True
            new.process.kill()
            await new.gone.wait()
            await asyncio.sleep(0.05)
            keeping.cancel()

    asyncio.run(end_while_one_starts())
    assert "No worker could be started" not in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, -1, 1000])
def test_a_number_of_workers_that_cannot_be_is_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=f"--workers is {workers}"):
        serve(["latest"], Path("runs"), None, Settings(workers=workers), False, "en", print, print)


def test_where_connections_cannot_be_passed_on_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "send_fds", raising=False)
    with pytest.raises(UsageError, match="Linux or macOS"):
        serve(["latest"], Path("runs"), None, Settings(workers=2), False, "en", print, print)


@needs_unix
def test_where_nothing_tells_what_a_connection_waits_for_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(UsageError, match="httptools"):
        serve(["latest"], Path("runs"), None, Settings(workers=2), False, "en", print, print)


def test_figures_of_processes_are_added_and_what_one_of_them_has_alone_stays() -> None:
    one = {"requests": {"grpc": {"200": 1}}, "latency": [1, 2.5], "lost": 1}
    other = {"requests": {"grpc": {"200": 2, "503": 1}, "other": {"404": 1}}, "latency": [0, 0.5]}
    both = {"requests": {"grpc": {"200": 3, "503": 1}, "other": {"404": 1}}, "latency": [1, 3.0], "lost": 1}
    assert added(one, other) == added(other, one) == both
