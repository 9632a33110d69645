"""gRPC of the Open Inference Protocol: the same answers as over HTTP, the same refusals, and the caller's deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.serve.client import Client
from tests.serve.test_gate import TOKEN
from tests.serve.test_protocols import PIXELS, PREDICT

from rushlight.errors import UsageError
from rushlight.serve.remote import CONTENTS, HEALTH, HEALTH_MESSAGES, INFERENCE, MESSAGES, messages, start

grpc = pytest.importorskip("grpc", reason="the extra grpc")
MADE = messages("inference", MESSAGES) | messages("grpc.health.v1", HEALTH_MESSAGES)
TENSOR = {"name": "inputs", "datatype": "UINT8", "shape": [3, 1, 8, 8]}
RAW = {"inputs": [TENSOR], "raw_input_contents": [PIXELS.tobytes()], "model_name": "image"}


def calling(client: Client, *calls: tuple[str, dict[str, Any], dict[str, Any]]) -> list[Any]:
    """Make calls of a server, each by its name, message and options; return answers, and the codes of errors."""

    async def make() -> list[Any]:
        server, port = await start(client.service, "127.0.0.1", 0)
        found: list[Any] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for name, message, options in calls:
                service, kind = (HEALTH, "HealthCheck") if name == "Check" else (INFERENCE, name)
                method = channel.unary_unary(
                    f"/{service}/{name}", MADE[f"{kind}Request"].SerializeToString, MADE[f"{kind}Response"].FromString
                )
                try:
                    found.append(await method(MADE[f"{kind}Request"](**message), **options))
                except grpc.aio.AioRpcError as error:
                    found.append(error.code().name)
        await server.stop(0)
        return found

    return asyncio.run(make())


def test_the_answers_are_those_of_http() -> None:
    client = Client("image")
    contents = [{**TENSOR, "contents": {CONTENTS["UINT8"]: PIXELS.reshape(-1).tolist()}}]
    raw, plain, metadata, health = calling(
        client, ("ModelInfer", {**RAW, "id": "7"}, {}), ("ModelInfer", {"model_name": "image", "inputs": contents}, {}),
        ("ModelMetadata", {"name": "image"}, {}), ("Check", {}, {}),
    )  # fmt: skip
    tensor = {**TENSOR, "data": PIXELS.reshape(-1).tolist()}
    expected = {output["name"]: output for output in client.post(PREDICT, {"inputs": [tensor]}).json["outputs"]}
    for answer in (raw, plain):
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True):
            assert [*output.shape] == expected[output.name]["shape"]
            assert np.array_equal(np.frombuffer(content, "<f4"), np.array(expected[output.name]["data"], np.float32))
    assert (raw.id, raw.model_name, raw.model_version) == ("7", "image", "1")
    assert [*metadata.inputs[0].shape] == [-1, 1, 8, 8]
    assert health.status == 1


def test_what_is_wrong_is_refused_by_its_code() -> None:
    two = {**RAW, "raw_input_contents": [PIXELS.tobytes()] * 2}
    short = {**RAW, "raw_input_contents": [b"x"]}
    huge = {**RAW, "inputs": [{**TENSOR, "shape": [2**40, 2**40]}]}
    negative = {**RAW, "inputs": [{**TENSOR, "shape": [-1, 1, 8, 8]}]}
    bad = [("ModelInfer", message, {}) for message in (two, short, huge, negative, {"model_name": "image"})]
    found = calling(
        Client("image"), *bad, ("ModelInfer", {**RAW, "model_name": "../x"}, {}), ("Check", {"service": "x"}, {})
    )
    assert found == ["INVALID_ARGUMENT"] * 5 + ["NOT_FOUND"] * 2
    client = Client("image", token=TOKEN, most_bytes=100)
    good = {"metadata": (("authorization", f"Bearer {TOKEN}"),)}
    names = ("ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStatistics", "RepositoryIndex")
    assert calling(client, *((name, {}, {}) for name in names)) == ["UNAUTHENTICATED"] * 5
    assert (
        calling(client, ("ServerLive", {}, {}), ("ServerMetadata", {}, good), ("ModelInfer", RAW, good))[2]
        == "RESOURCE_EXHAUSTED"
    )


@pytest.mark.parametrize("port", [99_999, -1])
def test_a_port_that_there_is_not_is_an_error(port: int) -> None:
    with pytest.raises(UsageError, match="port"):
        asyncio.run(start(Client("image").service, "127.0.0.1", port))


def test_a_request_whose_deadline_is_over_is_never_run() -> None:
    client = Client("image")
    model, seen = client.service.registry.find("image").model, list[int]()
    run = model.run

    def slow(inputs: Mapping[str, Any]) -> Any:
        seen.append(len(inputs["inputs"]))
        time.sleep(0.5)
        return run(inputs)

    model.run, model.sizes, model.seconds = slow, (1, 2, 4), {4: 0.5}

    async def together() -> list[Any]:
        server, port = await start(client.service, "127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary(
                f"/{INFERENCE}/ModelInfer",
                MADE["ModelInferRequest"].SerializeToString,
                MADE["ModelInferResponse"].FromString,
            )
            first = asyncio.ensure_future(infer(MADE["ModelInferRequest"](**RAW)))
            while not seen:
                await asyncio.sleep(0.01)
            late = infer(MADE["ModelInferRequest"](**RAW), timeout=0.1)
            found = await asyncio.gather(first, late, return_exceptions=True)
        await server.stop(0)
        return found

    first, late = asyncio.run(together())
    assert len(first.outputs) == 2
    assert late.code().name == "DEADLINE_EXCEEDED"
    assert seen == [4]
