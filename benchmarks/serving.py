"""How many requests a second a server answers, and how soon, against other servers of the same graph.

    python -m benchmarks.serving --peers bentoml=PYTHON,litserve=PYTHON,mlserver=PYTHON,ray=PYTHON,torchserve=PYTHON

`mlp` and `cnn` on pictures of 28×28 bytes, at 1, 16 and 64 connections; Rushlight with JSON and with binary tensors, the others
with the JSON that their documentation shows. Each is started anew in every round, interleaved, and warmed up; `bare` is ONNX
Runtime called in a process, without a server: the overhead is the median at one connection beyond that. What a request takes of
the processors, in all processes of a server, depends far less on what else the machine does.

    python -m benchmarks.serving --device cpu,cuda --clients binary --models mlp,resnet --rounds 1 --seconds 1.5

measures Rushlight on a card beside the processor, in a minute. `--bundles FOLDER` keeps the bundles that are made: where they lie
already, none is made, which needs torch, onnx and onnxscript.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import ProcessFailed, end_group, interleave, run_apart, say, spread, this_machine
from benchmarks.output import figure, markdown, number, rounds_of, standard_options, write_results

CONNECTIONS = (1, 16, 64)
PIXELS = [number * 7 % 256 for number in range(784)]
STARTING = 120.0  # seconds, at the most
BARE = """
import sys, time, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
row = numpy.array([number * 7 % 256 for number in range(784)], numpy.uint8).reshape(1, 1, 28, 28)
took = []
until = time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < until:
    began = time.perf_counter()
    session.run(None, {"inputs": row})
    took.append(time.perf_counter() - began)
took.sort()
from benchmarks.measure import hand_back
hand_back({"rate": len(took) / sum(took), "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "failed": 0})
"""


def make_bundle(name: str, folder: Path) -> None:
    """Write a bundle with its graph, of a network with fresh weights: what it answers costs what a trained one's costs."""
    import torch

    from rushlight.data.spec import FeatureSpec, Normalization, TargetSpec
    from rushlight.export.bundle import write_bundle
    from rushlight.export.make_graph import add_graph
    from rushlight.models import build_model

    features = FeatureSpec("image", (1, 28, 28), "uint8", Normalization("standard", 255.0, (0.286,), (0.353,)))
    target = TargetSpec("classification", tuple(map(str, range(10))))
    examples = torch.tensor(PIXELS, dtype=torch.uint8).reshape(1, 1, 28, 28).repeat(4, 1, 1, 1)
    model = build_model(name, features.shape, 10, {}, seed=0)
    write_bundle(
        folder, model, features=features, target=target, architecture={"name": name, "arguments": {}},
        provenance={"run": name}, examples=examples,
    )  # fmt: skip
    if (reason := add_graph(folder, model)) is not None:
        raise SystemExit(reason)


def request_of(contender: str, model: str, port: int) -> bytes:
    """Return the request that a contender's clients make."""
    given = [PIXELS] if contender == "bentoml" else PIXELS
    path, kind, body = path_of(contender), "application/json", json.dumps({"input": given}).encode()
    more = ""
    if speaks_v2(contender):
        path = f"/v2/models/{'m' if contender == 'mlserver' else model}/infer"
        tensor: dict[str, Any] = {"name": "inputs", "shape": [1, 1, 28, 28], "datatype": "UINT8"}
        if "binary" in contender:
            asked = [{"name": "probabilities", "parameters": {"binary_data": True}}]
            tensor["parameters"] = {"binary_data_size": len(PIXELS)}
            head = json.dumps({"inputs": [tensor], "outputs": asked}).encode()
            kind, body, more = (
                "application/octet-stream",
                head + bytes(PIXELS),
                f"Inference-Header-Content-Length: {len(head)}\r\n",
            )
        else:
            body = json.dumps({"inputs": [{**tensor, "data": PIXELS}]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def serving(contender: str, python: str, model: str, bundle: Path, port: int) -> Iterator[int]:
    """Start a server, wait until it answers, give its process, and end it with all that it has started after the block."""
    if contender.startswith("rushlight"):
        options = ["--name", model, "--port", str(port), "--threads", "1", "--device", device_of(contender)]
        command = [python, "-m", "rushlight", "serve", str(bundle), *options]
    else:
        command = [python, str(Path(__file__).with_name("servers.py"))]
    environment = {**os.environ, "SERVER": f"{contender} {port} {bundle / 'graph.onnx'}"}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=printed, env=environment, start_new_session=True)
        try:
            body = request_of(contender, model, port).partition(b"\r\n\r\n")[2]
            until = time.monotonic() + STARTING
            while not answers(contender, model, port, body):
                if process.poll() is not None or time.monotonic() > until:
                    printed.seek(0)
                    lines = printed.read().decode("utf-8", "replace").strip().splitlines()
                    raise ProcessFailed(lines[-1] if lines else "it never answered")
                time.sleep(0.2)
            yield process.pid
        finally:
            end_group(process)


def ours(clients: str, devices: str) -> list[str]:
    """Return our contenders, named by what their clients send and, where a card is among the devices, by the device."""
    names = [(client, device) for device in devices.split(",") for client in clients.split(",")]
    return [
        f"rushlight, {client}" if devices == "cpu" else f"rushlight, {client}, {device}" for client, device in names
    ]


def device_of(contender: str) -> str:
    """Return the device of one of our contenders."""
    return contender.rpartition(", ")[2] if contender.count(", ") == 2 else "cpu"


def speaks_v2(contender: str) -> bool:
    """Tell whether a contender takes the requests of the Open Inference Protocol."""
    return contender.startswith("rushlight") or contender == "mlserver"


def path_of(contender: str) -> str:
    """Return where a contender that does not speak the Open Inference Protocol is asked."""
    return "/predictions/m" if contender == "torchserve" else "/predict"


def answers(contender: str, model: str, port: int, body: bytes) -> bool:
    """Tell whether a server answers already."""
    if speaks_v2(contender):
        address, body = f"http://127.0.0.1:{port}/v2/health/ready", b""
    else:
        address = f"http://127.0.0.1:{port}{path_of(contender)}"
    asked = urllib.request.Request(address, body or None, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def processor_seconds(server: int) -> float:
    """Return what a server and all that it has started have taken of the processors; Linux tells."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            after = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = (
                server if int(after[3]) == server else int(after[1])
            )  # its session, or its parent
            seconds[int(entry.name)] = (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")

    def is_its(process: int) -> bool:
        return process == server or (process > 1 and is_its(parents.get(process, 0)))

    return sum(took for process, took in seconds.items() if is_its(process))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(contender: str, python: str, model: str, bundle: Path, seconds: float) -> dict[str, Any]:
    """Measure one contender at each number of connections."""
    if contender == "bare":
        return {"1": run_apart(["-c", BARE, str(bundle / "graph.onnx"), str(seconds)], is_module=False).result}
    port, found = free_port(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder, serving(contender, python, model, bundle, port) as server:
        request = Path(folder) / "request.bin"
        request.write_bytes(request_of(contender, model, port))
        if contender.startswith("rushlight"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}", timeout=5) as answer:
                found["served"] = json.load(answer)["properties"]
        run_apart(["benchmarks.load", str(port), str(request), "16", str(seconds)])  # it warms up: Java compiles
        for connections in CONNECTIONS:
            before = processor_seconds(server)
            taken = run_apart(["benchmarks.load", str(port), str(request), str(connections), str(seconds)]).result
            found[str(connections)] = {**taken, "processor": (processor_seconds(server) - before) / taken["requests"]}
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return one model's table."""
    rows = []
    bare = statistics.median(turn["1"]["p50"] for turn in results["bare"]) if results.get("bare") else None
    for contender, turns in results.items():
        for connections in map(str, CONNECTIONS):
            taken = [turn[connections] for turn in turns if connections in turn]
            if not taken:
                continue
            processor = spread([each["processor"] for each in taken]) if "processor" in taken[0] else None
            p50 = spread([each["p50"] for each in taken])
            is_first = connections == "1" and contender != "bare" and device_of(contender) == "cpu"
            rows.append([
                contender, connections, figure(spread([each["rate"] for each in taken])), figure(p50, 1e3, 2),
                figure(spread([each["p99"] for each in taken]), 1e3, 2), figure(processor, 1e6),
                number((p50.median - bare) * 1e6, 0) if is_first and bare is not None else "",
                str(int(sum(each["failed"] for each in taken))),
            ])  # fmt: skip
    served = {name: turns[-1]["served"] for name, turns in results.items() if turns and "served" in turns[-1]}
    engines = [f"- {name}: {each['engine']}, batches of {each['batch_sizes']}" for name, each in served.items()]
    heads = ["", "connections", "requests/s", "p50, ms", "p99, ms", "processor, µs/request", "overhead, µs", "failed"]
    return "\n".join([*engines, "", markdown(heads, rows)])


def main() -> None:
    """Measure, print and write."""
    parser = standard_options("serving", (__doc__ or "").splitlines()[0], 3)
    parser.add_argument(
        "--peers",
        default="",
        help="NAME=PYTHON,…: bentoml, litserve, mlserver, ray and torchserve, in environments of their own",
    )
    parser.add_argument("--models", default="mlp,cnn", help="mlp, cnn, resnet")
    parser.add_argument("--clients", default="binary,JSON", help="what Rushlight is sent: binary, JSON")
    parser.add_argument("--device", default="cpu", help="where Rushlight runs: cpu, cuda, or both, as cpu,cuda")
    parser.add_argument("--bundles", type=Path, default=None, help="a folder in which the bundles are kept, and found")
    parser.add_argument("--seconds", type=float, default=None, help="for each figure (5)")
    options = parser.parse_args()
    rounds, machine = rounds_of(options), this_machine()
    seconds = options.seconds or (0.3 if options.quick else 5.0)
    pythons = dict.fromkeys(("bare", *ours(options.clients, options.device)), sys.executable)
    pythons |= {name: python for name, _, python in (peer.partition("=") for peer in options.peers.split(",") if peer)}
    found, texts = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            bundle = (options.bundles or Path(folder)) / model
            if not bundle.is_dir():
                make_bundle(model, bundle)

            def once(contender: str, model: str = model, bundle: Path = bundle) -> dict[str, Any]:
                say(f"{model}: {contender}")
                return measure(contender, pythons[contender], model, bundle, seconds)

            found[model] = interleave(list(pythons), rounds, once)
            texts.append(f"**{model}**\n\n{table(found[model])}")
    text = f"Rounds: {rounds}; medians, least to most; {seconds:g} s each.\n\n" + "\n\n".join(texts)
    command = " ".join(
        ["python -m benchmarks.serving", *(name for name in sys.argv[1:] if "=" not in name and name != "--peers")]
    )
    write_results(options.out, "serving", command, machine, text, {"rounds": rounds, "models": found})


if __name__ == "__main__":
    main()
