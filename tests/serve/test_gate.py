"""Nobody else: who is refused, what is too much, and what is never done with a request."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import socket
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serve.client import BUNDLES, HOST, Client
from tests.serve.test_protocols import PIXELS, PREDICT, binary, npy, png

from rushlight.errors import UsageError, WeightsError
from rushlight.serve.options import Settings
from rushlight.serve.server import serve

TOKEN = "a-secret-of-the-tests"
ADDRESSES = [
    ("POST", "/predict"), ("POST", "/invocations"), ("POST", "/predictions/image"), ("POST", PREDICT), ("GET", "/v2"),
    ("POST", "/v1/models/image:predict"), ("GET", "/v1/models/image"), ("GET", "/metrics"), ("GET", "/openapi.json"),
    ("DELETE", "/v2/models/image"), ("PUT", "/predict"), ("OPTIONS", "/"), ("GET", "/signature"), ("GET", "/selftest"), ("GET", "/drift"), ("POST", "/explanations/image"), ("POST", "/v2/repository/index"),
]  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Client:
    return Client("image")


@pytest.fixture(autouse=True)
def no_pickle_and_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request ever unpickles anything, or makes the server connect to anything."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a request made the server do this")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_every_address_needs_the_token_where_there_is_one(method: str, path: str) -> None:
    client = Client("image", token=TOKEN)
    for headers in ((), [("authorization", "Bearer wrong")], [("authorization", TOKEN)], [("cookie", TOKEN)]):
        answer = client.get(path, headers, method) if method != "POST" else client.post(path, b"{}", headers)
        assert answer.status == 401
        assert TOKEN not in answer.body.decode()
    allowed = client.get(path, [("authorization", f"Bearer {TOKEN}")], method)
    assert allowed.status != 401


def test_health_and_the_page_are_open_and_tell_nothing_of_the_model() -> None:
    client = Client("image", token=TOKEN)
    for path in ("/ping", "/v2/health/live", "/v2/health/ready", "/health", "/", "/assets/try.js"):
        answer = client.get(path)
        assert answer.status == 200
        assert "猫" not in answer.body.decode()
        assert "dog" not in answer.body.decode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("evil.example", []), ("127.0.0.1.evil.example", []), ("localhost@evil.example", []), (None, []), ("192.168.0.7", []),
        ("127.0.0.1:8080", [("origin", "http://evil.example")]), ("127.0.0.1:8080", [("origin", "null")]),
        ("127.0.0.1:8080", [("origin", "http://127.0.0.1:8642")]), ("127.0.0.1:8080", [("sec-fetch-site", "cross-site")]),
    ],
)  # fmt: skip
def test_other_names_and_other_pages_are_refused_by_every_method(
    client: Client, method: str, host: str | None, headers: list[tuple[str, str]]
) -> None:
    for path in ("/predict", PREDICT, "/v2/health/ready"):
        answer = client.get(path, headers, method, ("host", host) if host else None)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_server_for_other_machines_answers_to_its_addresses_and_to_the_names_given() -> None:
    client = Client("image", host="0.0.0.0", hosts=("models.example",))
    assert client.get("/v2", host=("host", "10.1.2.3:8080")).status == 200
    assert client.get("/v2", host=("host", "models.example")).status == 200
    assert client.get("/v2", host=("host", "evil.example")).status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
def test_no_server_listens_beyond_this_machine_without_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="no token is set"):
        serve(["latest"], Path("runs"), None, Settings(host=host), False, "en", print, print)


# ── how much comes ───────────────────────────────────────────────────────────────────────────────────────────


def test_bodies_are_bounded_packed_and_unpacked() -> None:
    client = Client("image", most_bytes=100_000)
    assert client.post("/predict", b"[" * 100_001).status == 413
    assert client.post("/predict", b"", [("content-length", "99999999999999999999")]).status == 413
    for packed, coding in ((gzip.compress(b"0" * 10**8), "gzip"), (zlib.compress(b"0" * 10**8), "deflate")):
        assert client.post("/predict", packed, [("content-encoding", coding)]).status == 413
    good = json.dumps(PIXELS.tolist()).encode()
    for packed, coding in ((gzip.compress(good), "gzip"), (zlib.compress(good), "deflate")):
        assert client.post("/predict", packed, [("content-encoding", coding)]).status == 200
        assert client.post("/predict", packed[:-6], [("content-encoding", coding)]).status == 400
        assert client.post("/predict", packed + b"x", [("content-encoding", coding)]).status == 400
    assert client.post("/predict", good, [("content-encoding", "br")]).status == 415
    assert client.service.app.held == 0


def test_many_small_pieces_are_one_body(client: Client) -> None:
    body = json.dumps(PIXELS[:1].tolist()).encode()
    assert client.post("/predict", [body[i : i + 1] for i in range(len(body))] + [b" "] * 100_000).status == 200


def test_a_body_that_does_not_come_is_given_up() -> None:
    client = Client("image", receive=0.05)

    async def never() -> Any:
        import asyncio

        await asyncio.sleep(60)

    import asyncio

    assert asyncio.run(client.ask("POST", "/predict", receive=never)).status == 408


def test_rows_are_bounded() -> None:
    client = Client("image", most_rows=2)
    body, headers = binary(PIXELS[:, None])
    assert client.post(PREDICT, body, headers).status == 413
    assert client.post("/predict", PIXELS.tolist()).status == 413
    assert client.post("/v1/models/image:predict", {"instances": PIXELS.tolist()}).status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 50_000, b"[1e999]", b"[NaN]", b"\xff\xfe", b"{", b"[]", b"{}", b"null", b"7", b'"x"', b"[[1,2],[3]]",
        b'[{"a": 1}]', b"[[[99999999999999999999999]]]", b"\x00" * 100, b"a,b\n1,2\n", b"--\r\n", b'["/etc/passwd"]', b'"/etc/passwd"',
        b"\x89PNG broken", b"\xff\xd8\xff broken", b"\x93NUMPY broken", b"BM", b"RIFF",
    ],
)  # fmt: skip
def test_what_fits_no_model_is_an_error_that_teaches_at_every_address(client: Client, body: bytes) -> None:
    for path in ("/predict", "/predictions/image", PREDICT, "/v1/models/image:predict"):
        answer = client.post(path, body)
        assert answer.status == 400, (path, answer.body)
        assert not {"Traceback", "root:", str(Path.cwd()), "site-packages"} & {*answer.body.decode().split()}


def test_no_array_is_unpickled_and_none_is_larger_than_it_says(client: Client) -> None:
    objects = npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 2**40)})
    for body in (objects, huge.getvalue(), huge.getvalue() + b"\0" * 100):
        assert client.post("/predict", body).status == 400
    for kind in ("application/x-pickle", "application/python-pickle", "application/zip", "application/x-tar"):
        assert client.post("/predict", b"x", [("content-type", kind)]).status == 415


def test_a_picture_that_claims_too_many_pixels_is_not_decoded(client: Client) -> None:
    header = bytearray(png(np.zeros((8, 8), np.uint8)))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    answer = client.post("/predict", bytes(header))
    assert answer.status == 400
    assert "pixels" in answer.json["error"]
    large = io.BytesIO()
    Image.new("L", (3000, 2000)).save(large, "png")
    assert client.post("/predict", large.getvalue()).status == 200


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────


def test_identities_are_passed_on_and_nothing_else_of_a_request(client: Client) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = client.get("/v2", [("x-request-id", "abc-1"), ("traceparent", trace)])
    assert (answer.headers["x-request-id"], answer.headers["traceparent"]) == ("abc-1", trace)
    evil = client.get("/v2", [("x-request-id", "a\r\nset-cookie: x=y"), ("traceparent", "\x1b[2J")])
    assert len(evil.headers["x-request-id"]) == 32
    assert "traceparent" not in evil.headers


@pytest.mark.parametrize("file", ["graph.onnx", "examples.safetensors", "weights.safetensors"])
def test_one_flipped_bit_and_it_is_never_ready(tmp_path: Path, file: str) -> None:
    import shutil

    shutil.copytree(BUNDLES / "image", tmp_path / "bundle")
    content = bytearray((tmp_path / "bundle" / file).read_bytes())
    content[len(content) * 2 // 3] ^= 1
    (tmp_path / "bundle" / file).write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        serve([str(tmp_path / "bundle")], tmp_path, None, Settings(port=0), False, "en", print, print)


def test_other_examples_than_the_graph_answers_are_no_proof(tmp_path: Path) -> None:
    import hashlib
    import shutil

    import safetensors.numpy

    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / "image", folder)
    examples = safetensors.numpy.load_file(folder / "examples.safetensors")
    examples["outputs"][1, 0] += 0.5
    content = safetensors.numpy.save(examples)
    (folder / "examples.safetensors").write_bytes(content)
    described = json.loads((folder / "model.json").read_text())
    described["files"]["examples.safetensors"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match="is not served"):
        serve([str(folder)], tmp_path, None, Settings(port=0, threads=1), False, "en", print, print)


def test_names_of_files_in_an_address_are_names_of_no_model(client: Client) -> None:
    for name in (
        "..",
        "%2e%2e",
        "%252e%252e%252fetc",
        "a\\b",
        "image%00",
        "http:%2f%2fevil.example%2fm.mar",
        "file:%2f%2f%2fetc",
    ):
        assert client.get(f"/v2/models/{name}").status == 404
        assert client.post(f"/predictions/{name}", b"x").status == 404
    assert client.post("/models?url=http://evil.example/m.mar", b"").status == 404
    assert client.get("/assets/..%2fserver.py", host=HOST).status == 404
