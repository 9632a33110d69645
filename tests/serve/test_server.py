"""The process itself: it starts without torch, answers while others dawdle, and ends without breaking a request off."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from faults.served import Served
from onnx import TensorProto, helper
from tests.serve.client import BUNDLES, Client
from tests.serve.test_protocols import PIXELS, png
from torch import Tensor, nn

from rushlight.data.spec import FeatureSpec, Normalization, TargetSpec
from rushlight.errors import WeightsError
from rushlight.export.bundle import write_bundle
from rushlight.serve.model import find_model
from rushlight.serve.process import let_nobody_in

BODY = json.dumps(PIXELS.tolist()).encode()


class Server(Served):
    """A server that tests ask over a new connection each time."""

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def status(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_with_a_graph_imports_no_torch_and_is_small() -> None:
    with Server(str(BUNDLES / "image")) as server:
        assert server.ask("/predict", png(PIXELS[0]))[0] == 200
        assert server.ask("/predict", BODY)[0] == 200
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.status("VmRSS") < 130_000  # kB


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_is_told_to_end_breaks_no_request_off(workers: str) -> None:
    with Server(str(BUNDLES / "image"), "--workers", workers) as server:
        refused, answered, failed = [], [], []

        def ask() -> None:
            while not refused:
                try:
                    status, _ = server.ask("/predict", BODY)
                    (answered if status == 200 else failed).append(status)
                except ConnectionRefusedError:
                    refused.append(True)
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert server.ask("/v2/health/ready")[0] == 503
        assert server.process.wait(20) == 0
        for thread in threads:
            thread.join(20)
        assert failed == []
        assert len(answered) > 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the queue only shrinks")
def test_a_closing_door_lets_in_who_came_before_and_throws_nobody_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = socket.create_connection(listener.getsockname())
        let_nobody_in(listener)
        after = socket.socket()
        after.setblocking(False)
        assert after.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [after], [], 0.3)[1] == []  # it is not let in
        inside, _ = listener.accept()
        before.sendall(b"asked")
        assert inside.recv(10) == b"asked"
        inside.sendall(b"answered")
        assert before.recv(10) == b"answered"
    select.select([], [after], [], 30)  # until it knocks again
    assert after.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    for each in (before, inside, after):
        each.close()


@pytest.mark.slow
def test_a_body_that_is_still_coming_when_it_is_refused_spoils_no_later_request() -> None:
    """What comes after the answer is not read as the head of the next request."""
    half = b" " * 100_000  # more than a head may have
    with Server(str(BUNDLES / "image")) as server:

        def asked(head: str, *pieces: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.settimeout(20)
                for piece in (f"{head}\r\n".encode(), *pieces):
                    connection.sendall(piece)
                    time.sleep(0.1)
                return connection.makefile("rb").read()

        for refused, host in (
            ("DELETE /predict", "127.0.0.1"), ("POST /nowhere", "127.0.0.1"), ("POST /v2/models/none/infer", "127.0.0.1"),
            ("POST /predict", "elsewhere"),
        ):  # fmt: skip
            head = f"{refused} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {2 * len(half)}\r\n"
            answers = asked(
                head, half, half + b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"Connection: close\r\n\r\n"
            )
            first, second = (answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:])
            assert (first in (b"403", b"404", b"405"), second) == (True, b"200"), refused
        waiting = asked("PUT /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n")
        assert waiting.startswith(b"HTTP/1.1 405")
        assert b"connection: close" in waiting


@pytest.mark.slow
def test_slow_clients_are_closed_while_others_are_served() -> None:
    with Server(str(BUNDLES / "image")) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        half = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        started, closed = time.monotonic(), set[int]()
        while len(closed) < len(slow) and time.monotonic() - started < 20:
            for number, connection in enumerate(slow):
                if number in closed:
                    continue
                beginning = (b"", half, half + b"\r\n[1")[number % 3]
                sent = int((time.monotonic() - started) * 10)
                try:
                    connection.sendall(
                        beginning if sent < 1 else b"x: y\r\n" if number % 3 == 1 else b" " * (number % 3 == 2)
                    )
                    connection.setblocking(False)
                    if connection.recv(4096) == b"":
                        closed.add(number)
                except BlockingIOError:
                    pass
                except OSError:
                    closed.add(number)
                finally:
                    connection.setblocking(True)
            assert server.ask("/predict", BODY)[0] == 200
            time.sleep(0.2)
        assert len(closed) == len(slow)
        assert time.monotonic() - started < 13
        for connection in slow:
            connection.close()


@pytest.mark.slow
@pytest.mark.skipif("RUSHLIGHT_TRITON_PYTHON" not in os.environ, reason="names a Python that has tritonclient[http]")
def test_tritons_client_asks_as_it_is() -> None:
    script = Path(__file__).parent / "triton_client.py"
    with Server(str(BUNDLES / "image")) as server:
        address = f"127.0.0.1:{server.port}"
        subprocess.run([os.environ["RUSHLIGHT_TRITON_PYTHON"], str(script), address, "image"], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif("RUSHLIGHT_TRITON_PYTHON" not in os.environ, reason="names a Python that has tritonclient[grpc]")
def test_tritons_client_asks_over_grpc_as_it_is() -> None:
    script = Path(__file__).parent / "triton_grpc_client.py"
    with Server(str(BUNDLES / "image"), "--grpc-port", "0") as server:
        address = re.search(r"gRPC: (\S+)", server.said)
        assert address
        subprocess.run(
            [os.environ["RUSHLIGHT_TRITON_PYTHON"], str(script), address[1], "image"], check=True, timeout=60
        )


# ── other files ──────────────────────────────────────────────────────────────────────────────────────────────


def foreign(path: Path, batch: int | str, location: str = "") -> Path:
    """An ONNX file that another program wrote: x + 1 on (batch, 3), its constant in a file of its own at `location`."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [3], [1.0, 1.0, 1.0])
    if location:
        one = TensorProto(name="one", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
        entry = one.external_data.add()
        entry.key, entry.value = "location", location
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", tensors[:1], tensors[1:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("batch", ["n", 2])
def test_an_onnx_file_from_elsewhere_is_served_as_it_says(
    tmp_path: Path, batch: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(foreign(tmp_path / "plus.one.onnx", batch))
    model = find_model(path, tmp_path, None, None, 1, print)
    assert model.name == "plus.one"
    assert model.is_fixed == (batch == 2)
    monkeypatch.setattr("tests.serve.client.model_of", lambda kind: model)
    client = Client("plus")
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
    answer = client.post("/v2/models/plus.one/infer", {"inputs": [tensor]})
    assert answer.json["outputs"][0]["data"] == [2, 3, 4, 5, 6, 7]
    for change in ({"shape": [3, 2]}, {"datatype": "FP64"}, {"name": "z"}, {"shape": [1, 3], "data": [1, 2, 3]})[
        : 3 + (batch == 2)
    ]:
        assert client.post("/v2/models/plus.one/infer", {"inputs": [{**tensor, **change}]}).status == 400
    assert "takes tensors" in client.post("/predict", b"[1, 2, 3]").json["error"]


def test_data_beside_an_onnx_file_is_read_and_none_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder" / "one.bin", tmp_path / "one.bin"):
        place.write_bytes(np.ones(3, "<f4").tobytes())
    good = foreign(tmp_path / "folder" / "good.onnx", "n", "one.bin")
    assert find_model(str(good), tmp_path, None, None, 1, print).name == "good"
    for location in ("../one.bin", str(tmp_path / "one.bin")):
        bad = foreign(tmp_path / "folder" / "bad.onnx", "n", location)
        with pytest.raises(WeightsError, match="cannot be run"):
            find_model(str(bad), tmp_path, None, None, 1, print)


def test_a_file_that_is_no_graph_or_calls_for_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\x80\x04pickle")
    custom = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["y"], domain="evil.example")], "g",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"),
    )  # fmt: skip
    (tmp_path / "custom.onnx").write_bytes(onnx.helper.make_model(custom).SerializeToString())
    for name in ("no.onnx", "custom.onnx"):
        with pytest.raises(WeightsError, match="cannot be run"):
            find_model(str(tmp_path / name), tmp_path, None, None, 1, print)


class Way(nn.Module):
    """A network that decides on its numbers: it has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out if out.sum() > 1e9 else -out


def test_a_model_without_a_graph_is_run_by_torch_and_that_is_said(tmp_path: Path) -> None:
    features = FeatureSpec("image", (1, 8, 8), "uint8", Normalization("standard", 255.0, (0.3,), (0.2,)))
    target, model = TargetSpec("classification", ("cat", "dog", "猫")), Way()
    raw = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    code = (tmp_path / "way.py").write_text("from tests.serve.test_server import Way\n")
    assert code
    write_bundle(
        tmp_path / "way", model, features=features, target=target, architecture={"import": "way.py:Way", "arguments": {}},
        provenance={"run": "way"}, examples=raw,
    )  # fmt: skip
    described = json.loads((tmp_path / "way" / "model.json").read_text())
    described["graph"] = {"reason": "it decides on numbers"}
    (tmp_path / "way" / "model.json").write_text(json.dumps(described))
    served = find_model(str(tmp_path / "way"), tmp_path, f"{tmp_path / 'way.py'}:Way", None, 1, print)
    assert (served.engine, served.prove()) == ("torch", None)
    assert "it decides on numbers" in str(served.note)
    with pytest.raises(WeightsError, match=r"way\.py:Way"):
        find_model(str(tmp_path / "way"), tmp_path, None, None, 1, print)
