"""Other servers of the same graph, each as its documentation tunes it: `SERVER="NAME PORT GRAPH" PYTHON servers.py`.

It runs in an environment of the server's own, which has onnxruntime and NumPy, and needs neither torch nor Rushlight.
A request is `{"input": [784 numbers]}`, an answer the probabilities. Classes stand at the top level, since workers import them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NAME, PORT, GRAPH = os.environ["SERVER"].split(" ", 2)  # which workers have, too
MOST_ROWS = 64


def open_graph() -> Any:
    """Open the graph on one thread, as Rushlight's server does where that is the fastest."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(GRAPH, options, ["CPUExecutionProvider"])


def read(numbers: list[int]) -> Any:
    """Return a picture as the graph takes it."""
    return np.array(numbers, np.uint8).reshape(1, 28, 28)


if NAME == "litserve":
    import litserve

    class Api(litserve.LitAPI):
        """Batches of what has come within a millisecond."""

        def setup(self, device: str) -> None:
            """Open the graph, in each worker."""
            self.session = open_graph()

        def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe goes by its annotations
            """Read a request."""
            return read(request["input"])

        def batch(self, inputs: Any) -> Any:
            """Stack pictures."""
            return np.stack(inputs)

        def predict(self, x: Any) -> Any:
            """Run the graph."""
            return self.session.run(["probabilities"], {"inputs": x})[0]

        def unbatch(self, output: Any) -> Any:
            """Give each request its row."""
            return list(output)

        def encode_response(self, output: Any) -> Any:
            """Write an answer."""
            return {"output": output.tolist()}


if NAME == "ray":
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(max_ongoing_requests=256)
    class Model:
        """Batches of what has come within a millisecond."""

        def __init__(self) -> None:
            self.session = open_graph()

        @serve.batch(max_batch_size=MOST_ROWS, batch_wait_timeout_s=0.001)
        async def run(self, inputs: list[Any]) -> list[Any]:
            """Run the graph."""
            return list(self.session.run(["probabilities"], {"inputs": np.stack(inputs)})[0].tolist())

        async def __call__(self, request: Request) -> Any:
            """Answer one request."""
            return {"output": await self.run(read((await request.json())["input"]))}


if NAME == "bentoml":
    import bentoml

    @bentoml.service(workers=1)
    class Service:
        """Batches whose size and wait BentoML learns."""

        def __init__(self) -> None:
            self.session = open_graph()

        @bentoml.api(batchable=True, max_batch_size=MOST_ROWS)
        def predict(self, input: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # BentoML goes by its annotations
            """Run the graph on rows of 784 numbers."""
            pictures = input.astype(np.uint8).reshape(-1, 1, 28, 28)
            found: Any = self.session.run(["probabilities"], {"inputs": pictures})[0]
            return found  # type: ignore[no-any-return]


if NAME == "mlserver":
    from mlserver import MLModel, types

    class Runtime(MLModel):
        """Batches of what has come within a millisecond, which MLServer makes."""

        async def load(self) -> bool:
            """Open the graph."""
            self.session = open_graph()
            return True

        async def predict(self, payload: Any) -> Any:
            """Run the graph."""
            (given,) = payload.inputs
            pictures = np.array(given.data.root, np.uint8).reshape(-1, 1, 28, 28)
            found = self.session.run(["probabilities"], {"inputs": pictures})[0]
            output = types.ResponseOutput(
                name="probabilities", datatype="FP32", shape=list(found.shape), data=found.reshape(-1).tolist()
            )
            return types.InferenceResponse(model_name=self.name, outputs=[output])


if NAME == "torchserve":

    def handle(rows: list[dict[str, Any]], context: Any, opened: list[Any] = []) -> list[Any]:  # noqa: B006  # one for each worker
        """Run the graph on a batch of requests, which TorchServe makes; the first call, at its start, has none."""
        opened[:] = opened or [open_graph()]
        pictures = np.stack([read(row["body"]["input"]) for row in rows or ()] or [read([0] * 784)])
        return list(opened[0].run(["probabilities"], {"inputs": pictures})[0].tolist())


def run_torchserve() -> None:
    """Pack this file as a handler, and serve it: one worker, batches of what has come within a millisecond."""
    place = Path(GRAPH).parent / f"torchserve-{PORT}"
    place.mkdir()
    os.chdir(place)  # where it writes its logs
    words = ["--model-name", "m", "--version", "1.0", "--handler", __file__, "--export-path", str(place)]
    own = Path(sys.executable).parent
    subprocess.run([own / "torch-model-archiver", *words], check=True)
    model = {
        "defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": MOST_ROWS,
        "maxBatchDelay": 1, "responseTimeout": 60,
    }  # fmt: skip
    names = ("inference", "management", "metrics")
    lines = [f"{name}_address=http://127.0.0.1:{int(PORT) + number}" for number, name in enumerate(names)]
    lines += ["load_models=m.mar", f"models={json.dumps({'m': {'1.0': model}})}"]
    (place / "config.properties").write_text("\n".join(lines))
    words = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", str(place)]
    os.execv(own / "torchserve", ["torchserve", *words, "--ts-config", str(place / "config.properties")])


def main() -> None:
    """Serve until the process is ended."""
    if NAME == "litserve":
        api = Api(max_batch_size=MOST_ROWS, batch_timeout=0.001)
        litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
            port=int(PORT), log_level="error", generate_client_file=False
        )
    elif NAME == "bentoml":
        words = ["serve", "servers:Service", "--working-dir", str(Path(__file__).parent), "--port", PORT]
        os.execv(sys.executable, [sys.executable, "-m", "bentoml", *words])
    elif NAME == "mlserver":
        import asyncio

        from mlserver import MLServer, ModelSettings, Settings

        ports = {"http_port": int(PORT), "grpc_port": int(PORT) + 1, "metrics_port": int(PORT) + 2}
        server = MLServer(Settings(host="127.0.0.1", parallel_workers=0, debug=False, **ports))
        model = ModelSettings(name="m", implementation=Runtime, max_batch_size=MOST_ROWS, max_batch_time=0.001)
        asyncio.run(server.start([model]))
    elif NAME == "ray":
        import threading

        serve.start(http_options={"port": int(PORT)})
        serve.run(Model.bind(), route_prefix="/")
        threading.Event().wait()
    elif NAME == "torchserve":
        run_torchserve()


if __name__ == "__main__":
    main()
