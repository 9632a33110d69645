"""What each protocol answers is what `rushlight predict` says, for pictures, tables and arrays."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.client import BUNDLES, Answer, Client

from rushlight.export import open_bundle
from rushlight.serve.metrics import escaped

PIXELS = np.random.default_rng(1).integers(0, 256, (3, 8, 8), dtype=np.uint8)
ROWS: list[dict[str, Any]] = [
    {"age": 31, "city": "Rome", "since": "2001-05-09"},
    {"age": None, "city": "北京", "since": ""},
    {"age": "52.5", "city": "nowhere", "since": "1999-12-31"},
]
ARRAY = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
INPUTS: dict[str, Any] = {"image": PIXELS, "table": ROWS, "array": ARRAY}
PREDICT = "/v2/models/image/infer"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def csv(rows: list[dict[str, Any]]) -> bytes:
    cells = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
    return "\n".join([",".join(rows[0]), *cells, ""]).encode()


@pytest.fixture(scope="module", params=["image", "table", "array"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(kind: str) -> Client:
    return Client(kind)


@pytest.fixture(scope="module")
def expected(kind: str) -> np.ndarray:
    return np.asarray(open_bundle(BUNDLES / kind).predict(INPUTS[kind]))


@pytest.fixture(scope="module")
def pictures() -> Client:
    return Client("image")


def numbers(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    rows = answer.json["predictions"]
    return [[*row["probabilities"].values()] if "probabilities" in row else [row["value"]] for row in rows]


def as_lists(kind: str) -> Any:
    return INPUTS[kind] if kind == "table" else INPUTS[kind].tolist()


# ── Rushlight's own, TorchServe, SageMaker ───────────────────────────────────────────────────────────────────


def test_predict_answers_with_names_and_the_probabilities_of_predict(kind: str, client: Client, expected: Any) -> None:
    answer = client.post("/predict", as_lists(kind))
    assert np.allclose(np.sort(numbers(answer)), np.sort(expected), atol=1e-5)
    if kind == "image":
        classes = ("cat", "dog", "猫")
        assert [row["label"] for row in answer.json["predictions"]] == [classes[i] for i in expected.argmax(1)]
        assert [*client.post("/predict?top=1", as_lists(kind)).json["predictions"][0]["probabilities"]] == [
            classes[expected[0].argmax()]
        ]
    assert client.post("/invocations", as_lists(kind)).json == answer.json


def test_a_file_is_answered_as_its_content_says(kind: str, client: Client, expected: Any) -> None:
    bodies = {
        "image": [png(PIXELS[0]), npy(PIXELS[0])],
        "table": [csv(ROWS[:1]), b"31,Rome,2001-05-09\n", json.dumps(ROWS[0]).encode()],
        "array": [npy(ARRAY[0]), npy(ARRAY[:1], allow_pickle=False), (",".join(map(str, ARRAY[0])) + "\n").encode()],
    }
    for body in bodies[kind]:
        assert np.allclose(np.sort(numbers(client.post("/predict", body))), np.sort(expected[:1]), atol=1e-5)
    form = (
        b'--xx\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
        + bodies[kind][0]
        + b"\r\n--xx--\r\n"
    )
    sent = client.post(f"/predictions/{kind}", form, [("content-type", "multipart/form-data; boundary=xx")])
    assert sent.status == 200, sent.body
    found = sent.json if isinstance(sent.json, dict) else {"value": sent.json}
    assert np.allclose(np.sort([*found.values()]), np.sort(expected[0]), atol=1e-5)


def test_health_is_answered_as_each_protocol_has_it(pictures: Client) -> None:
    assert pictures.get("/ping").json == {"status": "Healthy"}
    assert pictures.get("/v2/health/live").json["live"]
    assert pictures.get("/v2/models/image/ready").json["ready"]
    pictures.service.is_ready = False
    try:
        assert [pictures.get(path).status for path in ("/ping", "/v2/health/ready", "/v2/health/live")] == [
            503,
            503,
            200,
        ]
        assert pictures.post("/predict", png(PIXELS[0])).status == 503
    finally:
        pictures.service.is_ready = True


# ── Open Inference Protocol ──────────────────────────────────────────────────────────────────────────────────


def columns() -> list[dict[str, Any]]:
    texts = [["31", "", "52.5"], ["Rome", "北京", "nowhere"], ["2001-05-09", "", "1999-12-31"]]
    return [
        {"name": name, "shape": [3], "datatype": "BYTES", "data": data}
        for name, data in zip(("age", "city", "since"), texts, strict=True)
    ]


def test_tensors_in_give_tensors_out(kind: str, client: Client, expected: Any) -> None:
    name = "values" if kind == "array" else "probabilities"
    given = INPUTS[kind]
    inputs = columns() if kind == "table" else [
        {"name": "inputs", "shape": list(given.shape), "datatype": "UINT8" if kind == "image" else "FP32",
         "data": given.reshape(-1).tolist()}
    ]  # fmt: skip
    answer = client.post(f"/v2/models/{kind}/infer", {"id": "7", "inputs": inputs})
    assert answer.status == 200, answer.body
    assert (answer.json["model_name"], answer.json["id"]) == (kind, "7")
    found = {output["name"]: output for output in answer.json["outputs"]}
    assert found[name]["shape"] == list(expected.shape)
    assert np.allclose(np.reshape(found[name]["data"], expected.shape), expected, atol=1e-5)
    described = client.get(f"/v2/models/{kind}").json
    assert {output["name"] for output in described["outputs"]} == {*found}
    assert {tensor["name"] for tensor in described["inputs"]} == {tensor["name"] for tensor in inputs}


def binary(given: np.ndarray, **parameters: Any) -> tuple[bytes, list[tuple[str, str]]]:
    head = json.dumps({
        "inputs": [{"name": "inputs", "shape": list(given.shape), "datatype": "UINT8",
                    "parameters": {"binary_data_size": given.nbytes}}],
        "parameters": {"binary_data_output": True, **parameters},
    }).encode()  # fmt: skip
    return head + given.tobytes(), [("inference-header-content-length", str(len(head)))]


def test_binary_tensors_go_in_and_out(pictures: Client) -> None:
    body, headers = binary(PIXELS[:, None])
    answer = pictures.post(PREDICT, body, headers)
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    outputs, tail = json.loads(answer.body[:length])["outputs"], answer.body[length:]
    found = {}
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], tail = np.frombuffer(tail[:size], "<f4").reshape(output["shape"]), tail[size:]
    assert tail == b""
    expected = np.asarray(open_bundle(BUNDLES / "image").predict(PIXELS))
    assert np.allclose(found["probabilities"], expected, atol=1e-5)


def test_classes_are_given_as_texts(pictures: Client) -> None:
    body, headers = binary(PIXELS[:, None])
    head = json.loads(body[: int(headers[0][1])])
    head["outputs"] = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}]
    encoded = json.dumps(head).encode()
    answer = pictures.post(
        PREDICT, encoded + PIXELS.tobytes(), [("inference-header-content-length", str(len(encoded)))]
    )
    (output,) = answer.json["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
    value, index, name = output["data"][0].split(":")
    assert ("cat", "dog", "猫")[int(index)] == name
    assert 0 < float(value) <= 1


@pytest.mark.parametrize(
    ("length", "change"),
    [
        ("-1", {}), (str(2**63), {}), ("999999", {}), ("1e3", {}), (None, {"shape": [2**40, 2**40]}), (None, {"shape": [3, 1, 8, 9]}),
        (None, {"shape": [3, 1, 8, 8, *[1] * 80]}), (None, {"shape": [0, 2**62, 2**62], "parameters": {"binary_data_size": 0}}),
        (None, {"shape": [-1, 1, 8, 8]}), (None, {"datatype": "FP32"}), (None, {"datatype": "EVIL"}), (None, {"name": "other"}),
        (None, {"parameters": {"binary_data_size": -1}}), (None, {"parameters": {"binary_data_size": 2**62}}),
        (None, {"parameters": {"binary_data_size": 5}}), (None, {"shape": [0, 1, 8, 8]}), (None, {"shape": "x"}),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_request_is_said_and_is_no_failure(
    pictures: Client, length: Any, change: dict[str, Any]
) -> None:
    body, headers = binary(PIXELS[:, None])
    head = json.loads(body[: int(headers[0][1])])
    head["inputs"][0].update(change)
    encoded = json.dumps(head).encode()
    given = [("inference-header-content-length", length or str(len(encoded)))]
    answer = pictures.post(PREDICT, encoded + PIXELS.tobytes(), given)
    assert answer.status == 400, answer.body
    assert answer.json["error"]
    assert "/" not in answer.json["error"].replace("/v2/", "")


# ── TensorFlow Serving ───────────────────────────────────────────────────────────────────────────────────────


def test_instances_give_predictions_and_inputs_give_outputs(kind: str, client: Client, expected: Any) -> None:
    rows = as_lists(kind)
    by_row = client.post(f"/v1/models/{kind}:predict", {"instances": rows})
    assert by_row.status == 200, by_row.body
    assert np.allclose(by_row.json["predictions"], expected, atol=1e-5)
    by_column = {name: [row[name] for row in rows] for name in rows[0]} if kind == "table" else {"inputs": rows}
    answer = client.post(f"/v1/models/{kind}/versions/1:predict", {"inputs": by_column})
    assert answer.json == {"outputs": by_row.json["predictions"]}
    assert client.post(f"/v1/models/{kind}:predict", {"instances": rows, "inputs": rows}).status == 400


def test_pictures_in_base64_are_read(pictures: Client) -> None:
    sent = [{"b64": base64.b64encode(png(pixels)).decode()} for pixels in PIXELS]
    answer = pictures.post("/v1/models/image:predict", {"instances": sent})
    assert answer.json == pictures.post("/v1/models/image:predict", {"instances": PIXELS.tolist()}).json
    assert pictures.post("/v1/models/image:predict", {"instances": [{"b64": "%%"}]}).status == 400


def test_classify_and_regress_give_results() -> None:
    table, array = Client("table"), Client("array")
    (first, *_) = table.post("/v1/models/table:classify", {"examples": ROWS}).json["results"]
    assert [name for name, _ in first] == ["no", "yes"]
    assert math.isclose(sum(share for _, share in first), 1, abs_tol=1e-6)
    results = array.post("/v1/models/array:regress", {"examples": ARRAY.tolist()}).json["results"]
    assert len(results) == 3
    assert isinstance(results[0], float)
    assert table.post("/v1/models/table:regress", {"examples": ROWS}).status == 400


def test_metadata_and_state_are_told(pictures: Client) -> None:
    state = pictures.get("/v1/models/image").json
    assert state["model_version_status"][0]["state"] == "AVAILABLE"
    assert (state["name"], state["ready"]) == ("image", True)
    definition = pictures.get("/v1/models/image/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert definition["serving_default"]["inputs"]["inputs"]["dtype"] == "DT_UINT8"
    for path in (
        "/v1/models/other",
        "/v1/models/image/versions/2",
        "/v2/models/..%2fimage",
        "/v2/models/image/versions/9/ready",
    ):
        assert pictures.get(path).status == 404


# ── what a server says of itself ─────────────────────────────────────────────────────────────────────────────


def test_figures_are_counted_under_the_names_of_others_too(pictures: Client) -> None:
    pictures.post("/predict", PIXELS.tolist())
    text = pictures.get("/metrics").body.decode()
    for line in (
        'rushlight_requests_total{protocol="rushlight",status="200"}', 'nv_inference_count{model="image",version="1"}',
        'ts_inference_requests_total{model_name="image",model_version="1"}', 'Requests2XX{Level="Host"}', "rushlight_batch_rows_bucket",
    ):  # fmt: skip
        assert line in text
    read = {family.name: family for family in text_string_to_metric_families(text)}  # Prometheus' own reader
    assert read["rushlight_batch_rows"].type == "histogram"
    assert next(text_string_to_metric_families('a{b="' + escaped(odd := 'x"\\\n\\n猫') + '"} 1')).samples[0].labels == {
        "b": odd
    }


def test_every_address_in_the_description_is_answered(pictures: Client) -> None:
    described = pictures.get("/openapi.json").json
    for path, methods in described["paths"].items():
        for method in methods:
            answer = pictures.get(path) if method == "get" else pictures.post(path, b"{}")
            assert str(answer.status) in methods[method]["responses"], (path, answer.body)
            assert answer.status not in (404, 405, 500)
