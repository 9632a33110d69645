"""Requests share batches: every answer belongs to its request, whoever was beside it, and who is wrong fails alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.serve.client import Client, model_of

from rushlight.errors import ModelError
from rushlight.serve.answers import Refusal
from rushlight.serve.batcher import Batcher
from rushlight.serve.model import Model, Signature, measure

PIXELS = np.random.default_rng(1).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
PLENTY = 1 << 20


class Recorder:
    """An engine that doubles its inputs, notes its batches, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, list[list[float]]()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.batches.append(inputs["x"][:, 0].tolist())
        if -1.0 in self.batches[-1]:
            raise RuntimeError("/a/secret/path")
        time.sleep(self.seconds)
        return {"y": 2 * inputs["x"]}

    @property
    def rows(self) -> set[float]:
        return {row for batch in self.batches for row in batch}


def model(engine: Any, sizes: tuple[int, ...] = (1, 2, 4, 8)) -> Model:
    tensors = [Signature("x", "float32", (None, 1))], [Signature("y", "float32", (None, 1))]
    seconds = max(getattr(engine, "seconds", 0.0), 1e-3)  # as measured
    return Model("double", engine, "test", *tensors, sizes=sizes, seconds=dict.fromkeys(sizes, seconds))


def rows(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float32)[:, None]}


async def outcome(batcher: Batcher, *values: float, seconds: float = 9.0) -> Any:
    try:
        return (await batcher.submit(rows(*values), len(values), seconds))["y"][:, 0].tolist()
    except (Refusal, ModelError) as error:
        return error


def test_requests_that_come_together_run_together_and_each_gets_its_own() -> None:
    engine = Recorder()
    batcher = Batcher(model(engine), PLENTY)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(outcome(batcher, *range(10 * n, 10 * n + n + 1)) for n in range(5)))

    assert asyncio.run(ask()) == [[2.0 * (10 * n + i) for i in range(n + 1)] for n in range(5)]
    assert len(engine.batches) < 5
    assert all(len(batch) in (1, 2, 4, 8) for batch in engine.batches)


def test_a_request_larger_than_any_batch_is_cut() -> None:
    engine = Recorder()
    found = asyncio.run(outcome(Batcher(model(engine), PLENTY), *range(21)))
    assert found == [2.0 * n for n in range(21)]
    assert [len(batch) for batch in engine.batches] == [8, 8, 8]


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_the_request_that_fails_fails_alone(seconds: float) -> None:
    batcher = Batcher(model(Recorder(seconds)), PLENTY)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(outcome(batcher, -1.0 if n == 3 else n) for n in range(6)))

    found = asyncio.run(ask())
    assert [answer for answer in found if isinstance(answer, list)] == [[0.0], [2.0], [4.0], [8.0], [10.0]]
    assert found[3].status == 500
    assert "secret" not in str(found[3])


def test_31_good_requests_and_a_bad_one_are_31_answers_and_an_error_that_says_what_is_wrong() -> None:
    client = Client("table")
    good = {"age": 30, "city": "Rome", "since": "2001-05-09"}

    async def ask() -> list[Any]:
        bodies = [b"%s" % str({**good, "age": n}).replace("'", '"').encode() for n in range(31)]
        bodies.insert(17, b'{"age": "old", "city": "Rome", "since": "2001-05-09"}')
        return await asyncio.gather(*(client.ask("POST", "/predict", body) for body in bodies))

    found = asyncio.run(ask())
    assert [answer.status for answer in found] == [200] * 17 + [400] + [200] * 14
    assert "age" in found[17].json["error"]


def test_requests_that_were_read_together_are_one_batch_however_quick_the_model_is() -> None:
    client = Client("array")
    served, sizes = client.service.registry.find("array").model, list[int]()
    run, served.run = served.run, lambda inputs: sizes.append(len(inputs["inputs"])) or run(inputs)  # type: ignore[func-returns-value]
    served.sizes, served.seconds = (1, 2, 4, 8), dict.fromkeys((1, 2, 4, 8), 1e-6)

    async def ask(count: int) -> list[Any]:
        client.service.app.tasks = range(count)
        return await asyncio.gather(*(client.ask("POST", "/predict", b"[1, 2, 3, 4, 5]") for _ in range(count)))

    assert [answer.status for answer in asyncio.run(ask(6))] == [200] * 6
    assert sizes == [8]  # as many rows as the batches have whose bits are known
    assert [answer.status for answer in asyncio.run(ask(1))] == [200]
    assert sizes == [8, 1]


def test_a_row_of_nan_fails_alone() -> None:
    served = model_of("array")
    run, served.run = served.run, lambda inputs: {
        name: np.where(inputs["inputs"][:, :1] > 1e20, np.nan, values) for name, values in run(inputs).items()
    }  # fmt: skip
    batcher = Batcher(served, PLENTY)

    async def ask(value: float) -> Any:
        try:
            return await batcher.submit({"inputs": np.full((1, 5), value, np.float32)}, 1, 9.0)
        except ModelError as error:
            return error

    async def both() -> Any:
        return await asyncio.gather(ask(0.0), ask(1e30))

    good, bad = asyncio.run(both())
    assert good["values"].shape == (1, 1)
    assert isinstance(bad, ModelError)


def test_what_is_dropped_or_given_up_is_never_run() -> None:
    engine = Recorder(0.05)
    batcher = Batcher(model(engine, (1,)), PLENTY)

    async def ask() -> Any:
        first = asyncio.create_task(outcome(batcher, 1))
        await asyncio.sleep(0.01)
        late, left = asyncio.create_task(outcome(batcher, 2, seconds=0.01)), asyncio.create_task(outcome(batcher, 3))
        last = asyncio.create_task(outcome(batcher, 4))
        await asyncio.sleep(0)
        left.cancel()
        return await asyncio.gather(first, late, last)

    first, late, last = asyncio.run(ask())
    assert (first, last) == ([2.0], [8.0])
    assert late.status == 504
    assert engine.rows == {1.0, 4.0}
    assert batcher.waiting_rows == 0


def test_what_a_client_that_left_had_asked_is_never_run() -> None:
    client = Client("array")
    served, seen = client.service.registry.find("array").model, list[float]()
    run = served.run

    def slow(inputs: Mapping[str, Any]) -> Any:
        seen.extend(inputs["inputs"][:, 0].tolist())
        time.sleep(0.05)
        return run(inputs)

    served.run, served.sizes, served.seconds = slow, (1,), {1: 0.05}

    async def leaves() -> Any:
        if not came:
            came.append(True)
            return {"type": "http.request", "body": b"[2, 0, 0, 0, 0]"}
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    came: list[bool] = []

    async def ask() -> Any:
        first = asyncio.create_task(client.ask("POST", "/predict", b"[1, 0, 0, 0, 0]"))
        await asyncio.sleep(0.01)
        left = asyncio.create_task(client.ask("POST", "/predict", receive=leaves))
        last = asyncio.create_task(client.ask("POST", "/predict", b"[3, 0, 0, 0, 0]"))
        return await asyncio.gather(first, left, last)

    first, left, last = asyncio.run(ask())
    assert (first.status, left.status, last.status) == (200, 400, 200)
    assert seen == [1.0, 3.0]


def test_a_full_queue_refuses_at_once_and_says_when_to_ask_again() -> None:
    batcher = Batcher(model(Recorder(0.05), (1,)), 3)

    async def ask() -> Any:
        return await asyncio.gather(*(outcome(batcher, n) for n in range(6)))

    found = asyncio.run(ask())
    refused = [answer for answer in found if isinstance(answer, Refusal)]
    assert len(refused) == 3
    assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}


def test_an_answer_has_the_same_bits_in_any_company() -> None:
    served = model_of("image")
    batcher = Batcher(served, PLENTY)
    generator = np.random.default_rng(5)

    async def ask(which: np.ndarray) -> bytes:
        return (await batcher.submit({"inputs": PIXELS[which]}, len(which), 9.0))["outputs"].tobytes()

    async def ask_all(groups: list[np.ndarray]) -> list[bytes]:
        return await asyncio.gather(*(ask(group) for group in groups))

    alone = [asyncio.run(ask(np.array([row]))) for row in range(len(PIXELS))]
    for _ in range(20):
        groups = [generator.integers(0, 64, generator.integers(1, 40)) for _ in range(generator.integers(1, 9))]
        for group, found in zip(groups, asyncio.run(ask_all(groups)), strict=True):
            assert found == b"".join(alone[row] for row in group)


def test_a_model_that_computes_a_row_alone_otherwise_never_runs_one_alone() -> None:
    def engine(inputs: Mapping[str, Any]) -> dict[str, Any]:
        alone = np.float32(1e-6) if len(inputs["x"]) == 1 else np.float32(0)
        return {"y": inputs["x"] * 3 + alone}

    served = model(engine)
    served.examples = {"inputs": np.arange(4, dtype=np.float32)[:, None], "y": np.zeros((4, 1), np.float32)}
    measure(served)
    assert served.sizes == (2, 4, 8, 16, 32, 64)


def test_a_model_whose_answers_depend_on_the_company_runs_in_batches_of_one() -> None:
    def engine(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] - inputs["x"].mean()}

    served = model(engine)
    served.examples = {"inputs": np.arange(4, dtype=np.float32)[:, None]}
    measure(served)
    assert served.sizes == (1,)
