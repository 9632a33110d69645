"""Where a model runs: on the processor or on a card, whichever is faster, or as it is told; without a card in this machine."""

from __future__ import annotations

import asyncio
import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.serve.client import BUNDLES, Client, registry_of, without_graph

from rushlight.cli import main
from rushlight.errors import UsageError, WeightsError
from rushlight.export import graph
from rushlight.serve import Settings, write_deployment
from rushlight.serve import model as serving
from rushlight.serve.cards import Card, cuda_cards
from rushlight.serve.model import Model, find_model
from rushlight.serve.registry import Found, Registry
from rushlight.texts import Note, shown

IMAGE = str(BUNDLES / "image")
CARDS = [Card(0, "NVIDIA One"), Card(1, "NVIDIA Two")]


def opened(device: str, said: list[Note] | None = None, measured: list[Any] | None = None, given: str = IMAGE) -> Model:
    """Open a bundle on one thread of the processor, or on a card."""
    tell = (said if said is not None else []).append
    return find_model(given, Path("runs"), None, None, 1, tell, measured=measured, device=device)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver show two cards."""
    monkeypatch.setattr(serving, "cuda_cards", lambda: CARDS)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, cards: None) -> list[int | None]:
    """Have sessions for a card run on the processor; give the cards that they were opened for."""
    plain, found = graph.open_session, list[int | None]()

    def open_session(content: Any, threads: int, card: int | None = None) -> Any:
        found.append(card)
        return plain(content, threads)

    monkeypatch.setattr(graph, "open_session", open_session)
    return found


def measure_as(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let a row take so many seconds on `cpu` and on `cuda`."""

    def measure(model: Model) -> None:
        model.seconds = {1: seconds[model.device.partition(":")[0]]}

    monkeypatch.setattr(serving, "measure", measure)


class Driver:
    """The driver of two cards, or one that fails."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def cuInit(self, flags: int) -> int:  # as it names them
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, card: Any, number: int) -> int:
        card._obj.value = 10 + number
        return 0

    def cuDeviceGetName(self, name: Any, size: int, card: Any) -> int:
        name.value = f"NVIDIA {card.value}".encode()[: size - 1]
        return 0


def test_cards_are_named_by_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_cards() == [(0, "NVIDIA 10"), (1, "NVIDIA 11")]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(100))
    assert cuda_cards() == []  # there is a driver and no card, or it is hidden
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(803))
    assert "803" in cuda_cards()[0].name


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "auto, cpu, cuda"),
        ("cuda:x", "auto, cpu, cuda"),
        ("cuda:2", "cuda:1 (NVIDIA Two)"),
        ("cuda:999", "cuda:0"),
    ],
)
def test_a_device_that_is_none_or_is_not_there_is_refused_with_those_that_are(
    device: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", IMAGE, "--device", device])
    assert words in capsys.readouterr().err


def test_without_a_card_auto_is_the_processor_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "cuda_cards", list)
    said: list[Note] = []
    model = opened("auto", said)
    assert (model.device, model.engine, said) == ("cpu", "ONNX Runtime", [])
    with pytest.raises(UsageError, match="these: none"):
        opened("cuda")


@pytest.mark.parametrize(("on_processor", "on_card"), [(1e-3, 1e-4), (1e-4, 1e-3)])
def test_the_faster_of_processor_and_card_is_kept_and_named(
    on_processor: float, on_card: float, sessions: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_as(monkeypatch, cpu=on_processor, cuda=on_card)
    said: list[Note] = []
    model = opened("auto", said)
    assert sessions == [None, 0]
    if on_card < on_processor:
        assert (model.device, model.engine, said) == ("cuda:0", "ONNX Runtime (NVIDIA One)", [])
    else:
        assert (model.device, model.engine) == ("cpu", "ONNX Runtime")
        assert shown(said[0]).endswith("a row takes 100.0 µs; on NVIDIA One it would take 1000.0 µs.")
    described = Client(registry_of(model)).get("/v2/models/image").json
    assert described["properties"]["engine"] == model.engine
    assert described["platform"] == "onnxruntime_onnx"


def test_what_is_named_is_used_though_it_is_slower(sessions: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    measure_as(monkeypatch, cpu=1e-4, cuda=1e-3)
    assert (opened("cuda:1").engine, sessions) == ("ONNX Runtime (NVIDIA Two)", [1])
    assert (opened("cpu").device, sessions[1:]) == ("cpu", [None])


def test_what_another_process_measured_is_followed_to_the_same_place(
    sessions: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_as(monkeypatch, cpu=1e-4, cuda=1e-3)
    for device, card in (("cuda:1", 1), ("cpu", None)):
        measured = json.loads(json.dumps([[1, 4], [[1, 0.5], [4, 0.25]], device]))
        model = opened("auto", measured=measured)
        assert (model.device, model.sizes, model.seconds) == (device, (1, 4), {1: 0.5, 4: 0.25})
        assert json.loads(json.dumps(model.measured)) == measured
        assert sessions.pop() == card
        assert sessions == []


def test_a_version_is_opened_in_a_second_worker_as_the_first_has_measured_it(tmp_path: Path) -> None:
    asked: list[Any] = []

    def open_version(place: Path, name: str, version: str, measured: list[Any] | None = None) -> Model:
        asked.append(measured)
        return find_model(str(place), place, None, name, 1, print, version, measured, "cpu")

    first, second = (Registry(tmp_path, open_version, 8192, print) for _ in range(2))

    async def others(method: str, *arguments: Any) -> list[Any]:
        found = getattr(second, method)(*json.loads(json.dumps(arguments)))
        return [await found if asyncio.iscoroutine(found) else found]

    first.others = others
    entry = Found("image", "1", IMAGE, "as it is")
    asyncio.run(first.load_entry(entry))
    one, other = (registry.models["image"]["1"].model for registry in (first, second))
    assert asked == [None, json.loads(json.dumps(one.measured))]
    assert (one.sizes, one.seconds, one.device) == (other.sizes, other.seconds, other.device)


@pytest.mark.usefixtures("cards")
def test_an_onnxruntime_without_cuda_is_told_with_the_way_out_and_refused_where_a_card_is_named() -> None:
    assert graph.ON_CARD not in onnxruntime.get_available_providers()  # in the environment of these tests
    said: list[Note] = []
    assert opened("auto", said).device == "cpu"
    assert "not on NVIDIA One" in said[0]
    assert "pip install" in said[1]
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        opened("cuda")


def test_a_session_that_would_run_on_the_processor_in_silence_is_an_error(
    cards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = onnxruntime.InferenceSession, list[Any]()

    def session(content: Any, options: Any, providers: list[Any], **more: Any) -> Any:
        asked.extend(providers)
        return plain(content, options, providers=providers[-1:], **more)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [graph.ON_CARD, graph.ON_PROCESSOR])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(graph, "load_cuda", lambda: "Failed to load libcublas.so.13")
    with pytest.raises(UsageError, match=r"cuda:1: Failed to load libcublas\.so\.13"):
        opened("cuda:1")
    assert asked[0] == (graph.ON_CARD, {"device_id": 1, "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    assert asked[1] == graph.ON_PROCESSOR


def test_a_card_that_answers_otherwise_is_left_or_refused_where_it_is_named(
    sessions: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    proves = Model.prove
    monkeypatch.setattr(Model, "prove", lambda model: "they differ" if model.device != "cpu" else proves(model))
    said: list[Note] = []
    assert opened("auto", said).device == "cpu"
    assert "they differ" in said[0]
    with pytest.raises(WeightsError, match="on cuda:0: they differ"):
        opened("cuda")


def test_a_model_without_a_graph_is_where_torch_can_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(serving, "cuda_cards", lambda: CARDS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = str(without_graph(tmp_path / "image"))
    said: list[Note] = []
    model = opened("auto", said, given=folder)
    assert (model.engine, model.device) == ("torch", "cpu")
    assert "not available to this torch" in said[0]
    with pytest.raises(UsageError, match="not available to this torch"):
        opened("cuda", given=folder)
    row = {"inputs": model.examples["inputs"]}
    np.testing.assert_allclose(model.run(row)["outputs"], model.examples["outputs"], rtol=1e-3, atol=1e-4)


def test_files_of_a_deployment_are_for_the_processor(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cuda is not written"):
        write_deployment("docker", tmp_path, IMAGE, Path("runs"), None, Settings(device="cuda"), "en", print)
