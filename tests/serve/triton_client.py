"""Asks a server with NVIDIA's own client, as it is: `python triton_client.py HOST:PORT MODEL`, with tritonclient[http] 2.73."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

PACKED = ({}, {"request_compression_algorithm": "gzip"}, {"request_compression_algorithm": "deflate"},
          {"response_compression_algorithm": "gzip"}, {"model_version": "1", "request_id": "9", "timeout": 5_000_000})  # fmt: skip


def main(url: str, name: str) -> None:
    client = triton.InferenceServerClient(url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name, "1")
    shape = client.get_model_metadata(name)["inputs"][0]["shape"][1:]
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype(np.uint8)

    def inputs(module: Any = triton, binary: bool = True, values: Any = pixels) -> list[Any]:
        tensor = module.InferInput("inputs", list(values.shape), "UINT8")
        tensor.set_data_from_numpy(values, binary_data=binary)
        return [tensor]

    expected = client.infer(name, inputs()).as_numpy("probabilities")
    asked = triton.InferRequestedOutput
    for options in PACKED:
        for binary in (True, False):
            for outputs in (
                None,
                [asked("probabilities", binary_data=True)],
                [asked("probabilities", binary_data=False), asked("outputs")],
            ):
                answer = client.infer(name, inputs(binary=binary), outputs=outputs, **options)
                assert np.array_equal(answer.as_numpy("probabilities"), expected)
    (first, *_) = client.infer(name, inputs(), outputs=[asked("probabilities", class_count=2)]).as_numpy(
        "probabilities"
    )
    assert first.shape == (2,)
    for wrong in (lambda: client.infer("other", inputs()), lambda: client.infer(name, inputs(values=pixels[:, :, :2]))):
        status = ""
        try:
            wrong()
        except InferenceServerException as error:
            status = f"{error.status()} {error.message()}"
        assert status[:5] in ("400 t", "404 T"), status
    assert client.get_model_repository_index()[0]["state"] == "READY"
    assert client.get_inference_statistics(name)["model_stats"][0]["inference_count"] > 0
    futures = [client.async_infer(name, inputs()) for _ in range(10)]
    assert all(np.array_equal(future.get_result().as_numpy("probabilities"), expected) for future in futures)

    async def together() -> None:
        async with triton_aio.InferenceServerClient(url) as other:
            answers = await asyncio.gather(*(other.infer(name, inputs(triton_aio)) for _ in range(40)))
            assert all(np.array_equal(answer.as_numpy("probabilities"), expected) for answer in answers)

    asyncio.run(together())


if __name__ == "__main__":
    main(*sys.argv[1:])
