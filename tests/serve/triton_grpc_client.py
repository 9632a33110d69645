"""Asks a server over gRPC with NVIDIA's own client, as it is: `python triton_grpc_client.py HOST:PORT MODEL`, tritonclient[grpc] 2.73."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException


def main(url: str, name: str) -> None:
    client = triton.InferenceServerClient(url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name, "1")
    assert client.get_server_metadata().name == "rushlight"
    described = client.get_model_metadata(name, as_json=True)
    shape = [int(side) for side in described["inputs"][0]["shape"][1:]]
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype(np.uint8)

    def inputs(module: Any = triton, values: Any = pixels) -> list[Any]:
        tensor = module.InferInput("inputs", list(values.shape), "UINT8")
        tensor.set_data_from_numpy(values)
        return [tensor]

    expected = client.infer(name, inputs()).as_numpy("probabilities")
    assert expected.shape[0] == 5
    assert np.allclose(expected.sum(1), 1, atol=1e-5)
    alone = [client.infer(name, inputs(values=pixels[i : i + 1])).as_numpy("probabilities") for i in range(5)]
    assert np.array_equal(np.concatenate(alone), expected)
    asked = triton.InferRequestedOutput
    for options in ({}, {"compression_algorithm": "gzip"}, {"model_version": "1", "request_id": "9", "timeout": 5_000_000},
                    {"client_timeout": 20}):  # fmt: skip
        answer = client.infer(name, inputs(), outputs=[asked("probabilities"), asked("outputs")], **options)
        assert np.array_equal(answer.as_numpy("probabilities"), expected)
        assert answer.get_response().id == options.get("request_id", "")
    classes = client.infer(name, inputs(), outputs=[asked("probabilities", class_count=2)]).as_numpy("probabilities")
    assert classes.shape == (5, 2)
    for wrong, status in (
        (lambda: client.infer("other", inputs()), "NOT_FOUND"),
        (lambda: client.infer(name, inputs(values=pixels[:, :, :2])), "INVALID_ARGUMENT"),
        (lambda: client.infer(name, inputs(), client_timeout=1e-9), "DEADLINE_EXCEEDED"),
        (lambda: client.load_model(name), "UNIMPLEMENTED"),
    ):
        found = ""
        try:
            wrong()
        except InferenceServerException as error:
            found = str(error.status())
        assert status in found, (status, found)
    assert client.get_model_repository_index().models[0].state == "READY"
    assert client.get_inference_statistics(name).model_stats[0].inference_count > 0

    async def together() -> None:
        async with triton_aio.InferenceServerClient(url) as other:
            answers = await asyncio.gather(*(other.infer(name, inputs(triton_aio)) for _ in range(40)))
            assert all(np.array_equal(answer.as_numpy("probabilities"), expected) for answer in answers)

    asyncio.run(together())


if __name__ == "__main__":
    main(*sys.argv[1:])
