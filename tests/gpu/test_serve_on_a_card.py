"""Serving on an NVIDIA card: ONNX Runtime and torch there answer as recorded, from a process of their own, and say where they run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.served import Served, ask
from tests.serve.client import BUNDLES, without_graph

from rushlight.cli import main
from rushlight.serve.model import Model, find_model
from rushlight.texts import Note

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card")]
RESIDUAL = Path(__file__).parent / "bundles" / "residual"
KINDS = {"residual": RESIDUAL, **{kind: BUNDLES / kind for kind in ("image", "array", "table", "text", "series")}}
CLOSE = {"rtol": 1e-4, "atol": 5e-5}  # float32 on a card beside float32 on the processor


def why_no_provider() -> str:
    """Return why the installed onnxruntime cannot be tested here; "" where it can."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime is not installed ({error})"
    providers = onnxruntime.get_available_providers()
    found = f"onnxruntime {onnxruntime.__version__} has no CUDA provider, only {', '.join(providers)}"
    return "" if "CUDAExecutionProvider" in providers else found


with_provider = pytest.mark.skipif(bool(why_no_provider()), reason=why_no_provider())


@pytest.fixture(autouse=True)
def plain_convolutions() -> Iterator[None]:
    """Undo what serving with torch on a card sets for its process."""
    found = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = found


def opened(bundle: Path, device: str, said: list[Note] | None = None) -> Model:
    """Open a bundle on one thread of the processor, or on a card."""
    tell = (said if said is not None else []).append
    return find_model(str(bundle), Path("runs"), None, None, 1, tell, device=device)


def rows_of(model: Model, count: int) -> dict[str, np.ndarray]:
    """Return a batch of recorded inputs."""
    recorded = model.examples["inputs"]
    return {model.inputs[0].name: recorded[np.arange(count) % len(recorded)]}


def check_close(model: Model, other: Model) -> None:
    """Compare the answers of two models at several sizes."""
    for size in (1, 3, 64):
        found, expected = model.run(rows_of(model, size)), other.run(rows_of(other, size))
        assert set(found) == set(expected)
        for name, values in found.items():
            assert isinstance(values, np.ndarray)
            np.testing.assert_allclose(values, expected[name], **CLOSE, err_msg=f"{name} of {size} rows")


@with_provider
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_on_a_card_answers_as_recorded_and_as_the_processor(kind: str) -> None:
    model = opened(KINDS[kind], "cuda")
    assert (model.device, model.engine) == ("cuda:0", f"ONNX Runtime ({torch.cuda.get_device_name(0)})")
    assert model.prove() is None
    session = model.run.__self__.session  # type: ignore[attr-defined]
    options = session.get_provider_options()["CUDAExecutionProvider"]
    assert (options["device_id"], options["use_tf32"], options["cudnn_conv_algo_search"]) == ("0", "0", "HEURISTIC")
    check_close(model, opened(KINDS[kind], "cpu"))


@with_provider
def test_onnx_runtime_on_a_card_answers_with_the_same_bits_each_time_it_is_opened() -> None:
    one, other = (opened(RESIDUAL, "cuda") for _ in range(2))
    for size in one.sizes:
        for name, values in one.run(rows_of(one, size)).items():
            np.testing.assert_array_equal(values, other.run(rows_of(other, size))[name], err_msg=f"{name}, {size} rows")
    assert one.sizes == other.sizes


@with_provider
def test_the_faster_of_both_is_kept_said_and_followed() -> None:
    said: list[Note] = []
    model = opened(RESIDUAL, "auto", said)
    card = torch.cuda.get_device_name(0)
    if model.device == "cpu":
        assert card in "".join(said), said
        assert "it would take" in "".join(said), said
    else:
        assert (model.engine, said) == (f"ONNX Runtime ({card})", [])
    measured = json.loads(json.dumps(model.measured))
    again = find_model(str(RESIDUAL), Path("runs"), None, None, 1, print, measured=measured)
    assert (again.device, again.sizes, again.seconds) == (model.device, model.sizes, model.seconds)


@pytest.mark.parametrize("kind", ["image", "residual"])
def test_torch_on_a_card_answers_as_recorded_and_as_the_processor(kind: str, tmp_path: Path) -> None:
    folder = without_graph(tmp_path / kind, KINDS[kind])
    expected = opened(folder, "cpu")
    model = opened(folder, "cuda")
    assert (model.device, model.engine) == ("cuda:0", f"torch ({torch.cuda.get_device_name(0)})")
    assert model.prove() is None
    assert torch.cuda.memory_allocated() > 0
    assert not torch.backends.cudnn.allow_tf32
    check_close(model, expected)


@pytest.mark.parametrize(
    ("engine", "workers"),
    [pytest.param("ONNX Runtime", "1", marks=with_provider), pytest.param("ONNX Runtime", "2", marks=with_provider),
     ("torch", "1")],
)  # fmt: skip
def test_a_server_on_a_card_answers_a_request_as_recorded_and_names_the_card(
    engine: str, workers: str, tmp_path: Path
) -> None:
    folder = RESIDUAL if engine == "ONNX Runtime" else without_graph(tmp_path / "residual", RESIDUAL)
    expected = opened(RESIDUAL if engine == "ONNX Runtime" else folder, "cpu")
    recorded = expected.examples["inputs"]
    tensor = {"name": "inputs", "shape": recorded.shape, "datatype": "UINT8", "data": recorded.ravel().tolist()}
    named = f"{engine} ({torch.cuda.get_device_name(0)})"
    with Served(str(folder), "--device", "cuda", "--workers", workers) as server, contextlib.ExitStack() as held:
        assert named in server.said, server.said
        for _ in range(int(workers)):  # each connection comes to the worker that has the fewest
            connection = held.enter_context(contextlib.closing(server.connect()))
            status, _, body = ask(connection, "GET", "/v2/models/residual")
            assert (status, json.loads(body)["properties"]["engine"]) == (200, named)
            asked = json.dumps({"inputs": [tensor]}).encode()
            status, _, body = ask(connection, "POST", "/v2/models/residual/infer", asked)
            assert status == 200, body
            outputs = {each["name"]: each for each in json.loads(body)["outputs"]}
            for name, values in expected.examples.items():
                if name != "inputs":
                    found = np.array(outputs[name]["data"], np.float32).reshape(outputs[name]["shape"])
                    np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-4, err_msg=name)
        status, _, body = ask(connection, "GET", "/selftest")  # of all workers
        assert status == 200, body


def test_a_card_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(RESIDUAL), "--device", "cuda:99"])
    refused = capsys.readouterr().err
    assert "cuda:99" in refused
    assert torch.cuda.get_device_name(0) in refused
