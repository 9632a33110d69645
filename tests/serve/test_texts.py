"""Texts and rows of a series, as they are sent: each protocol answers what `predict` says."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tests.serve.client import BUNDLES, Client

from rushlight.export import open_bundle
from rushlight.export.graph import Graph, open_graph

TEXTS = ["a fine film", "不好看", ""]
ROWS: list[dict[str, Any]] = [{"hour": hour, "load": 5 + hour % 3, "rain": hour / 4} for hour in range(7)]
JSON = [("content-type", "application/json")]


@pytest.fixture(scope="module")
def texts() -> Client:
    return Client("text")


@pytest.fixture(scope="module")
def series() -> Client:
    return Client("series")


def shares(answer: Any) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.array([[row["probabilities"][name] for name in ("bad", "good")] for row in answer.json["predictions"]])


def test_texts_in_a_body_are_answered_as_predict_answers_them(texts: Client) -> None:
    expected = np.asarray(open_bundle(BUNDLES / "text").predict(TEXTS))
    rows = [{"review": text} for text in TEXTS]
    for body in (TEXTS, rows, {"instances": TEXTS}, {"inputs": rows}):
        assert shares(texts.post("/predict", body)) == pytest.approx(expected, abs=1e-5)
    assert shares(texts.post("/predict", "a fine film", JSON)) == pytest.approx(expected[:1], abs=1e-5)
    assert shares(texts.post("/predict", rows[0])) == pytest.approx(expected[:1], abs=1e-5)
    plain = texts.post("/predict", "不好看".encode(), [("content-type", "text/plain; charset=utf-8")])
    assert shares(plain) == pytest.approx(expected[1:2], abs=1e-5)
    table = texts.post("/predict", b'id,review\n1,"a fine film"\n', [("content-type", "text/csv")])
    assert shares(table) == pytest.approx(expected[:1], abs=1e-5)
    for instances in (TEXTS, rows):
        found = texts.post("/v1/models/text:predict", {"instances": instances}).json["predictions"]
        assert np.array(found) == pytest.approx(expected, abs=1e-5)


def test_texts_and_their_ids_are_tensors_of_the_open_inference_protocol(texts: Client) -> None:
    expected = np.asarray(open_bundle(BUNDLES / "text").predict(TEXTS))
    ids = np.full((3, 24), 256)
    for row, text in zip(ids, TEXTS, strict=True):
        row[: len(text.encode())] = list(text.encode())
    for tensor in (
        {"name": "review", "datatype": "BYTES", "shape": [3], "data": TEXTS},
        {"name": "inputs", "datatype": "INT64", "shape": [3, 24], "data": ids.flatten().tolist()},
    ):
        answer = texts.post("/v2/models/text/infer", {"inputs": [tensor]})
        found = {output["name"]: output for output in answer.json["outputs"]}["probabilities"]["data"]
        assert np.array(found).reshape(3, 2) == pytest.approx(expected, abs=1e-5)
    (described,) = texts.get("/v2/models/text").json["inputs"]
    assert described == {"name": "review", "datatype": "BYTES", "shape": [-1]}


def test_what_is_no_text_and_ids_beyond_the_vocabulary_are_refused(texts: Client) -> None:
    for body in ([{"text": "a"}], [["a"]], [3], [], {"review": ["a", ["b"]]}, [[257] * 24], [[-1] * 24]):
        answer = texts.post("/predict", body)
        assert answer.status == 400, body
        assert answer.json["error"]


def test_a_graph_of_texts_takes_int64_tokens() -> None:
    graph = open_graph(BUNDLES / "text")
    assert isinstance(graph, Graph)
    (inputs,) = graph.session.get_inputs()
    assert (inputs.name, inputs.type) == ("inputs", "tensor(int64)")


def test_rows_of_a_series_in_any_order_give_its_next_values(series: Client) -> None:
    expected = open_bundle(BUNDLES / "series").predict(ROWS).values
    assert expected is not None
    mixed = random.Random(0).sample(ROWS, len(ROWS))
    lines = "\n".join(["hour,load,rain", *(f"{row['hour']},{row['load']},{row['rain']}" for row in mixed)])
    for body, headers in ((mixed, JSON), (ROWS[-3:], JSON), (lines.encode(), [("content-type", "text/csv")])):
        answer = series.post("/predict", body, headers)
        assert [entry["value"] for entry in answer.json["predictions"]] == [
            pytest.approx(expected[0].tolist(), abs=1e-4)
        ]
    for body in (ROWS[:2], [{"load": 1, "rain": 0}] * 5, [*ROWS, ROWS[0]]):
        assert series.post("/predict", body).status == 400


def test_drift_is_told_of_the_columns_of_a_series_and_not_of_the_ids_of_texts(texts: Client, series: Client) -> None:
    for client, sent, names in ((series, ROWS, ["load", "rain"]), (texts, TEXTS, [])):
        drift = next(iter(client.service.registry.batchers())).drift
        drift.next = 0.0
        assert client.post("/predict", sent, JSON).status == 200
        assert drift.rows > 0
        assert [*drift.deviations()] == names
