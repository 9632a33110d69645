"""Requests with anything changed in them, to a server of every kind of input: none may be answered 5xx, or not at all."""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import json
import random
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults.outcome import Outcome, Say, case_random
from faults.served import Served, ask, asking, binary_body

BUNDLES = Path(__file__).parents[1] / "tests" / "serve" / "bundles"
SENDERS, EACH = 6, 2000  # connections at a time; requests of one before good ones are asked again
MOST_FAILURES = 20  # after which a campaign ends
RAW = 0.02  # the share of requests of which the head is changed too
JSON = {"Content-Type": "application/json"}
ODD_BYTES = (
    b"",
    b"[" * 40,
    b"-1",
    b"1e999",
    b'"',
    b"null",
    b"{",
    b"9" * 30,
    b"\xff\xfe",
    b"\0",
    b"\\ud800",
    b"NaN",
    b",,,",
    b"\r\n\r\n",
)
ODD_VALUES = (
    None, True, -1, 0, 2**63, 2**80, 1e308, -0.0, "", "a" * 5000, "\0", "\ud800", "NaN", "inf", "0x10", "1e999", "2001-02-30",
    [], [[]], [None], [[1, [2]]], {}, {"": 0}, {"b64": "!"}, {"b64": "AAAA"}, [2**40, 2**40], [-1], [1.5],
)  # fmt: skip
HEADERS: dict[str, tuple[str, ...]] = {
    "Inference-Header-Content-Length": ("-1", "0", "7", str(2**63), "x", ""),
    "Content-Type": ("application/json", "text/csv", "text/plain; charset=utf-16", "multipart/form-data; boundary=x", "image/png", "application/octet-stream", "a/b", ""),
    "Content-Encoding": ("gzip", "deflate", "br", "identity", "gzip, gzip"),
    "X-Timeout-Ms": ("0", "-1", "10000", "9" * 30, "nan"),
    "Accept-Encoding": ("gzip", "*;q=0", "br"),
    "X-Request-Id": ("a" * 5000, "\t"),
    "Traceparent": ("00-1-2-01", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"),
    "Expect": ("100-continue", "x"),
    "Range": ("bytes=0-",),
}  # fmt: skip


def campaign(count: int, seed: int, work: Path, say: Say) -> Outcome:
    """Send `count` requests, each a function of the seed and its number, and good ones among them."""
    figures: Counter[str] = Counter()
    told: list[str] = []
    kinds = sorted(folder.name for folder in BUNDLES.iterdir())
    with contextlib.ExitStack() as closing, Served(*(str(BUNDLES / kind) for kind in kinds)) as server:
        good = {kind: answered(server, kind) for kind in kinds}
        counting = threading.Lock()

        def each(sender: int, over: threading.Event) -> None:
            connection = closing.enter_context(contextlib.closing(server.connect()))
            for number in range(sender, count, SENDERS):
                draw = case_random("fuzz", seed, number)
                request = drawn(draw, draw.choice(kinds))
                try:
                    if draw.random() < RAW:
                        status = sent_raw(server.port, request, draw)
                    else:
                        connection.request(*request)
                        answer = connection.getresponse()
                        answer.read()
                        status = answer.status
                    is_late = request[3].get("X-Timeout-Ms") == "0" and status == 504
                    wrong = str(status) if status >= 500 and not is_late else ""
                except (http.client.HTTPException, OSError) as error:
                    status, wrong = 0, repr(error)
                    connection.close()  # the next request makes it anew
                with counting:
                    figures["requests"] += 1
                    figures[f"answered {status // 100}xx" if status else "closed without an answer"] += 1
                    if wrong:
                        told.append(f"case {number} of seed {seed}: {wrong}: {[str(part)[:300] for part in request]}")
                if number % EACH < SENDERS:
                    say(f"fuzz: {figures['requests']:,} of {count:,}")
                    if {kind: answered(server, kind) for kind in kinds} != good:
                        told.append(f"after case {number} of seed {seed} a good request has another answer")
                if len(told) >= MOST_FAILURES:
                    break

        with asking(each, SENDERS, for_ever=False) as broken:
            pass
        told += broken
        if server.process.poll() is not None:
            told.append(f"the server ended: {server.said[-2000:]}")
        if "Traceback" in server.said:
            told.append(f"the server told a traceback: {server.said[server.said.index('Traceback') :][:2000]}")
    return Outcome("fuzz", figures["requests"], tuple(told), dict(figures))


def answered(server: Served, kind: str) -> bytes:
    """Ask what has an answer, and return it."""
    body, headers = CORPUS[kind][0]
    with contextlib.closing(server.connect()) as connection:
        status, _, answer = ask(connection, "POST", f"/predict?model={kind}", body, headers)
    if status != 200:
        raise RuntimeError(f"{kind}: {status} {answer!r}")
    return answer


def drawn(draw: random.Random, kind: str) -> tuple[str, str, bytes, dict[str, str]]:
    """Return a request's method, address, body and headers."""
    body, headers = draw.choice(CORPUS[kind])
    own = next(
        (path for beginning, path in OWN.items() if body.startswith(beginning)),
        f"/{draw.choice(('predict', 'invocations'))}?model=NAME",
    )
    body = changed_json(draw, body) if headers == JSON and draw.random() < 0.5 else changed(draw, body)
    headers = headers | {name: draw.choice(values) for name, values in HEADERS.items() if draw.random() < 0.03}
    path = (own if draw.random() < 0.7 else draw.choices(PATHS, WEIGHTS)[0]).replace("NAME", kind)
    if draw.random() < 0.03:
        path = "/" + changed(draw, path.encode()).decode("latin-1").translate(UNSENT)[1:]
    method = draw.choices(("POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE"), (30, 4, 1, 1, 1, 1))[0]
    return method, path, body, headers


def changed(draw: random.Random, content: bytes) -> bytes:
    """Replace, insert and take away bytes, at no place or at up to 30."""
    made = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 3, 30))):
        place = draw.randrange(len(made) + 1)
        made[place : place + draw.choice((0, 1, 1, 20))] = draw.choice((bytes([draw.randrange(256)]), *ODD_BYTES))
    return bytes(made)


def changed_json(draw: random.Random, content: bytes) -> bytes:
    """Replace values of a document by odd ones, at one place or at three; rename, repeat and take away entries."""
    document = {"": json.loads(content)}
    for _ in range(draw.choice((1, 1, 3))):
        places: list[tuple[Any, Any]] = []
        find_places(document, places)
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.7 or key == "":
            holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
        elif kind < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(("", "inputs", "instances", "shape", "data", "a" * 300))] = holder.pop(key)
        else:
            holder.extend(copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 7, 300))))
    return json.dumps(document.get("")).encode("utf-8", "surrogatepass")


def find_places(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Collect every entry of a document, as what holds it and its key."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        places.append((value, key))
        find_places(entry, places)


def sent_raw(port: int, request: tuple[str, str, bytes, dict[str, str]], draw: random.Random) -> int:
    """Send a request whose head is changed too, say that it is all, and return the answer's status: 0 where it is closed without one."""
    method, path, body, headers = request
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    head = changed(draw, "\r\n".join(lines).encode("latin-1", "replace")) + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(head + body)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        except (ConnectionResetError, BrokenPipeError):  # it has read enough
            return 0
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def encode(value: Any) -> tuple[bytes, dict[str, str]]:
    """Return a body of JSON."""
    return json.dumps(value).encode(), JSON


def file_of(kind: str, array: np.ndarray) -> bytes:
    """Return an array as a file: npy, or a picture."""
    buffer = io.BytesIO()
    np.save(buffer, array) if kind == "npy" else Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def multipart(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a form with a file."""
    head = b'--x\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    """Return a tensor of the Open Inference Protocol."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def corpus() -> dict[str, list[tuple[bytes, dict[str, str]]]]:
    """Return good bodies for each kind of input, with their headers; the first is one that `/predict` answers."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
    array = draw.normal(size=(2, 5)).astype(np.float32)
    rows = [{"age": 31, "city": "Rome", "since": "2001-05-09"}, {"age": None, "city": "北京", "since": ""}]
    series = [{"hour": hour, "load": 5 + hour / 2, "rain": hour % 2} for hour in range(5)]
    columns = [
        tensor("age", "FP64", [1], [31]),
        tensor("city", "BYTES", [1], ["Rome"]),
        tensor("since", "BYTES", [1], ["2001-05-09"]),
    ]
    texts = ["a fine film", "不好看"]
    return {
        "image": [
            encode(pixels.tolist()), (file_of("png", pixels), {"Content-Type": "image/png"}), multipart(file_of("jpeg", pixels)),
            (file_of("webp", pixels), {}), (file_of("npy", pixels), {}), binary_body("inputs", pixels.reshape(1, 1, 8, 8), "UINT8"),
            encode({"inputs": [tensor("inputs", "UINT8", [1, 1, 8, 8], pixels.flatten().tolist())]}), encode({"instances": [pixels.tolist()]}),
            encode({"instances": [{"b64": "iVBORw0KGgo="}], "signature_name": "serving_default"}),
        ],
        "table": [
            encode(rows), (b"age,city,since\n31,Rome,2001-05-09\n,Oslo,\n", {"Content-Type": "text/csv"}), encode({"inputs": columns}),
            encode({"instances": rows}), encode({"inputs": {"age": [31], "city": ["Rome"], "since": ["2001-05-09"]}}), encode(rows[0]),
        ],
        "array": [
            encode(array.tolist()), (file_of("npy", array), {}), binary_body("inputs", array, "FP32"), (b"1,2,3,4,5\n", {"Content-Type": "text/csv"}),
            encode({"inputs": [tensor("inputs", "FP32", [2, 5], array.flatten().tolist())]}), encode({"inputs": array.tolist()}),
        ],
        "text": [
            encode(texts), ("不好看".encode(), {"Content-Type": "text/plain; charset=utf-8"}), encode([{"review": text} for text in texts]),
            (b'id,review\n1,"a fine film"\n', {"Content-Type": "text/csv"}), encode({"inputs": [tensor("review", "BYTES", [2], texts)]}),
            encode({"inputs": [tensor("inputs", "INT64", [1, 24], [1] * 24)]}),
        ],
        "series": [
            encode(series), encode({"instances": series}), (b"hour,load,rain\n1,2,3\n2,3,4\n3,4,5\n", {"Content-Type": "text/csv"}),
            encode({"inputs": [tensor("inputs", "FP32", [1, 3, 2], [1] * 6)]}),
        ],
    }  # fmt: skip


CORPUS = corpus()
OWN = {
    b'{"inputs": [{"name"': "/v2/models/NAME/infer",
    b'{"inst': "/v1/models/NAME:predict",
    b'{"inputs"': "/v1/models/NAME:predict",
}
UNSENT = dict.fromkeys((*range(33), *range(127, 256)), "_")  # what http.client does not send in an address
PLACES = {
    "/predict?model=NAME": 30, "/v2/models/NAME/infer": 30, "/v1/models/NAME:predict": 30, "/predictions/NAME": 20, "/invocations?model=NAME": 8,
    "/v1/models/NAME:classify": 8, "/v1/models/NAME:regress": 8, "/v2/models/NAME/versions/1/infer": 4, "/v1/models/NAME/versions/1:predict": 4,
    "/explanations/NAME": 2, "/v1/models/NAME": 2, "/v2/models/NAME": 2, "/v2/models/NAME/stats": 1, "/v1/models/NAME/metadata": 1, "/drift?model=NAME": 1,
    "/v2/repository/index": 1, "/signature?model=NAME": 1, "/openapi.json": 1, "/metrics": 1, "/selftest": 1, "/": 1, "/nowhere": 1,
}  # fmt: skip
PATHS, WEIGHTS = list(PLACES), list(PLACES.values())
