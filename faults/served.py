"""A server in a process of its own, and who asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from rushlight.data.spec import FeatureSpec, Normalization, TargetSpec
from rushlight.export.bundle import write_bundle
from rushlight.export.make_graph import add_graph
from rushlight.models import build_model

SIDE, ASKING = 8, 8  # of a picture; connections
PIXELS = np.random.default_rng(1).integers(0, 256, (64, 1, SIDE, SIDE), dtype=np.uint8)
BODY = json.dumps(PIXELS[0, 0].tolist()).encode()


def make_bundle(folder: Path, seed: int, width: int) -> None:
    """Write a bundle with its graph."""
    features = FeatureSpec("image", (1, SIDE, SIDE), "uint8", Normalization("standard", 255.0, (0.5,), (0.3,)))
    model = build_model("mlp", features.shape, 3, {"hidden": (width, width)}, seed=seed)
    write_bundle(
        folder, model, features=features, target=TargetSpec("classification", ("a", "b", "c")), provenance={"run": folder.name},
        architecture={"name": "mlp", "arguments": {"hidden": [width, width]}}, examples=torch.from_numpy(PIXELS[:4]),
    )  # fmt: skip
    assert add_graph(folder, model) is None


def binary_body(
    name: str, array: np.ndarray, datatype: str, is_answer_binary: bool = True
) -> tuple[bytes, dict[str, str]]:
    """Return a body of the Open Inference Protocol whose tensor follows its head, and the headers that it needs."""
    raw = array.tobytes()
    tensor = {"name": name, "shape": array.shape, "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": is_answer_binary}}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


# ── a server, and who asks it ────────────────────────────────────────────────────────────────────────────────


class Served:
    """A server in a process of its own, which is killed at the end of the block."""

    def __init__(self, *arguments: str) -> None:
        options = ["--port", "0", "--threads", "1", "--language", "en"]
        command = [sys.executable, "-m", "rushlight", "serve", *arguments, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = ""
        for line in self.lines():
            if "Ctrl-C" in line:
                break
        own, management = (
            re.search(rf"{name}.*http://127\.0\.0\.1:(\d+)", self.said) for name in ("Try it ", "Management: ")
        )
        if own is None:
            raise RuntimeError(self.said)
        self.port, self.management = int(own[1]), management and int(management[1])
        self.hearing = threading.Thread(target=lambda: [*self.lines()], daemon=True)
        self.hearing.start()

    def lines(self) -> Iterator[str]:
        """Give what it says, line by line, and keep it in `said`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            yield line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.hearing.join()  # until its workers have ended, too
        self.process.stdout.close()

    def connect(self, port: int | None = None) -> http.client.HTTPConnection:
        """Return a connection to a port, else to that of predictions."""
        return http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", headers: Any = ()
) -> tuple[int, dict[str, str], bytes]:
    """Ask, and return status, headers and body."""
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@contextlib.contextmanager
def asking(each: Callable[[int, Any], None], count: int = ASKING, for_ever: bool = True) -> Iterator[list[str]]:
    """Call `each` in threads; where it goes on for ever, tell it when the block is over; collect what fails."""
    failures: list[str] = []
    over = threading.Event()

    def work(number: int) -> None:
        try:
            each(number, over)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        if for_ever:
            over.set()
        for thread in threads:
            thread.join()
