"""Several models and versions: loaded beside those that serve, proven, then asked; what is broken is refused, and the old one goes on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.client import BUNDLES, Client, model_of, registry_of
from tests.serve.test_gate import TOKEN
from tests.serve.test_protocols import PIXELS, ROWS, png

from rushlight.errors import UsageError
from rushlight.serve.metrics import Meter, statistics
from rushlight.serve.model import Model, find_model
from rushlight.serve.registry import Registry, drawn, natural
from rushlight.texts import Note

ONE = png(PIXELS[0])


def open_version(place: Path, name: str, version: str) -> Model:
    return find_model(str(place), place, None, name, 1, print, version)


class Folder:
    """A folder of models, and a server of it."""

    def __init__(self, path: Path, *versions: str) -> None:
        self.path, self.said = path, list[Note]()
        for version in versions:
            self.put(version)
        self.registry = Registry(path, open_version, 8192, self.said.append)
        self.registry.load_now()
        self.client = Client(self.registry)

    def put(self, version: str, kind: str = "image") -> Path:
        """Copy a bundle to where a version is looked for."""
        shutil.copytree(BUNDLES / kind, self.path / version, dirs_exist_ok=True)
        return self.path / version

    def plan(self, **plan: Any) -> None:
        (self.path / "pets" / "serve.json").write_text(json.dumps(plan))
        self.look()

    def look(self) -> None:
        asyncio.run(self.registry.load_due())

    def asked(self, path: str = "/predict?model=pets", **headers: str) -> str:
        """Ask, and return the version that answered."""
        answer = self.client.post(path, ONE, [(name.replace("_", "-"), value) for name, value in headers.items()])
        assert answer.status == 200, answer.body
        return answer.headers["x-model-version"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "models", "pets/9", "pets/10", "cats")


def spoil(bundle: Path) -> None:
    content = bytearray((bundle / "graph.onnx").read_bytes())
    content[len(content) * 2 // 3] ^= 1
    (bundle / "graph.onnx").write_bytes(content)


# ── which version ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_newest_answers_and_every_other_by_its_version(folder: Folder) -> None:
    assert {model: [*versions] for model, versions in folder.registry.models.items()} == {
        "cats": ["1"],
        "pets": ["10", "9"],
    }
    assert folder.asked() == "10"
    assert folder.asked("/predict") == "1"
    for path in ("/predictions/pets/9", "/predict?model=pets&version=9"):
        assert folder.asked(path) == "9"
    body = {"instances": PIXELS[:1].tolist()}
    for path, version in (("pets", "10"), ("pets/versions/9", "9"), ("cats", "1")):
        assert folder.client.post(f"/v1/models/{path}:predict", body).headers["x-model-version"] == version
    assert folder.client.get("/v2/models/pets").json["versions"] == ["10", "9"]
    states = folder.client.get("/v1/models/pets").json["model_version_status"]
    assert [state["version"] for state in states] == ["10", "9"]
    for path in (
        "/v1/models/pets/versions/11",
        "/v2/models/dogs",
        "/v1/models/pets/labels/stable",
        "/v2/models/pets/versions/9/../x",
    ):
        assert folder.client.get(path).status == 404
    assert sorted(["10", "9", "v2", "1.5"], key=natural) == ["1.5", "9", "10", "v2"]


def test_labels_the_default_and_shares_are_what_the_plan_says(folder: Folder) -> None:
    folder.plan(labels={"stable": "9", "canary": "10"}, default="stable")
    assert folder.asked() == "9"
    body = {"instances": PIXELS[:1].tolist()}
    assert folder.client.post("/v1/models/pets/labels/canary:predict", body).headers["x-model-version"] == "10"
    folder.plan(labels={"stable": "9", "canary": "10"}, split={"stable": 50, "canary": 50})
    users = {user: folder.asked(x_user_id=user) for user in map(str, range(20))}
    assert {*users.values()} == {"9", "10"}
    assert users == {user: folder.asked(x_user_id=user) for user in users}
    assert {folder.asked() for _ in range(40)} == {"9", "10"}
    assert folder.asked("/predictions/pets/9", x_user_id="0") == "9"
    folder.plan(split={"9": 1, "77": 9})  # one that is not there has no share
    assert {folder.asked() for _ in range(5)} == {"9"}
    shares = [drawn({"a": 90.0, "b": 10.0}, str(number)) for number in range(3000)]
    assert 0.08 < shares.count("b") / 3000 < 0.12


def test_a_plan_that_cannot_be_read_changes_nothing_and_is_told(folder: Folder) -> None:
    folder.plan(default="9")
    for wrong in ("{", "[]", '{"split": {"9": "much"}}', '{"default": 9}'):
        (folder.path / "pets" / "serve.json").write_text(wrong)
        folder.look()
        assert "serve.json of pets" in folder.said.pop()
        assert folder.asked() == "9"


def test_a_shadow_is_asked_too_and_only_compared(folder: Folder) -> None:
    folder.plan(default="9", shadow="10")
    model = folder.registry.find("pets", "10").model
    run = model.run

    async def ask(count: int) -> None:
        for _ in range(count):
            answer = await folder.client.ask("POST", "/predict?model=pets", ONE)
            assert answer.headers["x-model-version"] == "9"
            await asyncio.gather(*folder.client.service.shadows)

    asyncio.run(ask(3))
    model.run = lambda inputs: {name: np.roll(values, 1, axis=1) for name, values in run(inputs).items()}
    asyncio.run(ask(2))
    model.run = lambda inputs: {"other": np.zeros(1)}
    asyncio.run(ask(1))
    assert folder.registry.meter.shadows == {("pets", "same"): 3, ("pets", "other"): 2, ("pets", "failed"): 1}
    served = folder.registry.find("pets", "9")
    folder.registry.unload("pets")
    assert folder.registry.shadow_of(served) is None  # of a request that was in flight
    assert 'rushlight_shadow_total{model="pets",outcome="same"} 3.0' in folder.client.get("/metrics").body.decode()


# ── new versions ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_version_is_asked_from_when_it_is_proven_and_a_broken_one_never(folder: Folder) -> None:
    folder.put("pets/11")
    folder.look()
    assert (folder.asked(), str(folder.said.pop())) == ("11", "pets/11 is loaded.")
    spoil(folder.put("pets/12"))
    spoil(folder.path / "pets" / "11")
    folder.look()
    assert folder.asked() == "11"
    assert [str(note)[:22] for note in folder.said if "refused" in note] == [
        "pets/11 is refused. " + str(folder.path)[:2],
        "pets/12 is refused. " + str(folder.path)[:2],
    ]
    index = folder.client.post("/v2/repository/index", b"").json
    (entry,) = [entry for entry in index if entry["version"] == "12"]
    assert entry["state"] == "UNAVAILABLE"
    assert "SHA-256" in entry["reason"]
    assert str(folder.path) not in json.dumps(index)
    count = len(folder.said)
    folder.look()  # nothing has changed: it is not tried again
    assert len(folder.said) == count
    shutil.rmtree(folder.path / "pets" / "12")
    folder.put("pets/12")
    folder.look()
    assert folder.asked() == "12"


def test_requests_in_flight_are_answered_by_the_version_that_they_came_to(folder: Folder) -> None:
    old = folder.registry.find("pets")

    async def ask() -> Any:
        old.model.seconds = dict.fromkeys(old.model.sizes, 1.0)  # as a slow model: it runs in the thread
        asking = [asyncio.create_task(folder.client.ask("POST", "/predict?model=pets", ONE)) for _ in range(20)]
        await asyncio.sleep(0)
        folder.put("pets/10", "image")
        os.utime(folder.path / "pets" / "10" / "model.json", (1, 1))
        await folder.registry.load_due()
        return await asyncio.gather(*asking)

    assert {answer.status for answer in asyncio.run(ask())} == {200}
    assert folder.registry.find("pets") is not old


def test_a_version_that_is_taken_away_goes_at_the_second_look(folder: Folder) -> None:
    shutil.rmtree(folder.path / "pets" / "10")
    folder.look()
    assert folder.asked() == "10"
    folder.look()
    assert folder.asked() == "9"
    assert [*folder.registry.meter.models] == [("cats", "1"), ("pets", "9")]
    shutil.rmtree(folder.path)
    folder.look()
    folder.look()
    assert folder.client.get("/v2/health/ready").status == 503
    assert folder.client.post("/predict", ONE).status == 404


def test_what_a_link_or_a_name_leads_out_of_the_folder_by_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "models"
    folder = Folder(path, "pets/1", ".hidden/1", "a b/1", "pets/.2", "..x/1")
    if os.name != "nt":
        (path / "evil").symlink_to(BUNDLES / "image")
        (path / "pets" / "3").symlink_to(BUNDLES / "image")
        (path / "pets" / "4").symlink_to(path / "pets" / "1")  # which stays inside
    folder.look()
    assert {name: sorted(own) for name, own in folder.registry.models.items()} == {
        "pets": ["1"] + ["4"] * (os.name != "nt")
    }


def test_an_onnx_file_is_a_version_as_triton_has_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "plus" / "3").mkdir(parents=True)
    shutil.copy(BUNDLES / "array" / "graph.onnx", tmp_path / "models" / "plus" / "3" / "model.onnx")
    folder = Folder(tmp_path / "models")
    assert [*folder.registry.models["plus"]] == ["3"]


def test_a_folder_in_which_nothing_can_be_served_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "models" / "pets" / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match="no model in this folder"):
        Folder(tmp_path / "models")
    elsewhere = Registry(tmp_path / "nowhere", open_version, 8192, print)
    elsewhere.add(model_of("image"))
    with pytest.raises(UsageError, match="no model in this folder"):
        elsewhere.load_now()
    registry = Registry(tmp_path / "models", open_version, 8192, print)
    registry.add(model_of("image"))
    registry.given.add("pets")
    shutil.copytree(BUNDLES / "image", tmp_path / "models" / "pets" / "1", dirs_exist_ok=True)
    registry.load_now()  # a model of the command has the name
    assert "has this name" in str(registry.refused["pets", "1"])


# ── management ───────────────────────────────────────────────────────────────────────────────────────────────


def test_models_are_managed_as_torchserve_does_it(folder: Folder) -> None:
    client = folder.client.managing()
    assert [entry["modelName"] for entry in client.get("/models").json["models"]] == ["cats", "pets"]
    first = client.get("/models?limit=1").json
    assert (
        len(first["models"]),
        client.get(f"/models?next_page_token={first['nextPageToken']}").json["models"][0]["modelName"],
    ) == (1, "pets")
    (described,) = client.get("/models/pets").json
    assert (described["modelVersion"], described["workers"][0]["status"]) == ("10", "READY")
    assert [entry["modelVersion"] for entry in client.get("/models/pets/all").json] == ["10", "9"]
    assert client.get("/models/pets?min_worker=2", method="PUT").status == 202
    assert client.get("/models/pets/9?min_worker=2&synchronous=true", method="PUT").status == 200
    assert client.get("/models/pets/10", method="DELETE").status == 403
    assert client.get("/models/pets/9/set-default", method="PUT").status == 200
    assert folder.asked() == "9"
    assert client.get("/models/pets/10", method="DELETE").status == 200
    folder.look()  # it stays unserved
    assert [*folder.registry.models["pets"]] == ["9"]
    assert client.get("/models/cats", method="DELETE").status == 200
    for path in ("/models/cats", "/models/dogs", "/models/pets/7"):
        for method in ("GET", "PUT", "DELETE"):
            assert client.get(path, method=method).status == 404
    assert client.post("/models?url=pets/10", b"").status == 200
    assert client.post("/models?url=pets", b"").json["code"] == 409
    assert client.post("/models?url=cats&initial_workers=4", b"").status == 200
    assert folder.asked("/predictions/cats") == "1"
    for path in ("/models", "/models/pets", "/models/pets/9/set-default"):
        assert client.get(path, method="PATCH").status == 405


def test_models_are_loaded_and_unloaded_as_triton_does_it(folder: Folder) -> None:
    client = folder.client.managing()
    assert client.post("/v2/repository/models/pets/unload", b"{}").status == 200
    assert folder.client.get("/v2/models/pets").status == 404
    states = {
        (entry["name"], entry["version"]): entry["state"] for entry in client.post("/v2/repository/index", b"").json
    }
    assert states == {("cats", "1"): "READY", ("pets", "9"): "UNAVAILABLE", ("pets", "10"): "UNAVAILABLE"}
    assert client.post("/v2/repository/models/pets/load", b"").status == 200
    assert folder.asked() == "10"
    spoil(folder.path / "cats")
    answer = client.post("/v2/repository/models/cats/load", b"")
    assert (answer.status, "SHA-256" in answer.json["error"], str(folder.path) in answer.json["error"]) == (
        400,
        True,
        False,
    )
    assert folder.asked("/predict?model=cats") == "1"
    for body in (b'{"parameters": {"config": "{}"}}', b'{"parameters": {"file:1/model.onnx": "AAAA"}}'):
        assert client.post("/v2/repository/models/pets/load", body).status == 400
    assert folder.client.post("/v2/repository/models/pets/unload", b"").status == 404  # not at the port of predictions


ELSEWHERE = [
    "http://evil.example/m.mar", "https:%2f%2fevil.example%2fm.mar", "file:///etc", "/etc", "..", "../secret", "pets/../..", "pets%2f..%2f..",
    "pets\\9", "pets%00", ".", "", "%252e%252e", "s3://b/m", "pets/9/x",
]  # fmt: skip


def test_nothing_is_registered_by_an_address_or_a_path(folder: Folder) -> None:
    client = folder.client.managing()
    shutil.copytree(BUNDLES / "image", folder.path.parent / "secret")
    for url in ELSEWHERE:
        assert client.post(f"/models?url={url}", b"").status in (404, 409), url
    assert {*folder.registry.models} == {"cats", "pets"}


MANAGED = [
    ("GET", "/models"), ("POST", "/models?url=pets"), ("GET", "/models/pets"), ("PUT", "/models/pets"), ("DELETE", "/models/pets"),
    ("PUT", "/models/pets/9/set-default"), ("POST", "/v2/repository/models/pets/unload"), ("POST", "/v2/repository/index"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), MANAGED)
def test_every_managing_address_is_for_this_machine_and_asks_for_the_token(method: str, path: str) -> None:
    client = Client(registry_of(model_of("image")), token=TOKEN, host="0.0.0.0").managing()
    good = [("authorization", f"Bearer {TOKEN}")]
    assert client.get(path, method=method).status == 401
    for host, headers in (("10.1.2.3:8081", []), ("evil.example", []), ("127.0.0.1", [("origin", "http://evil.example")]),
                          ("127.0.0.1", [("sec-fetch-site", "cross-site")])):  # fmt: skip
        assert client.get(path, [*good, *headers], method, ("host", host)).status == 403
    assert client.get(path, good, method).status not in (401, 403)


# ── looking at what is served ────────────────────────────────────────────────────────────────────────────────


def test_a_selftest_repeats_the_examples_and_who_fails_it_is_asked_no_more(folder: Folder) -> None:
    answer = folder.client.get("/selftest")
    assert (answer.status, [entry["examples"] for entry in answer.json["models"]]) == (200, [4, 4, 4])
    model = folder.registry.find("cats").model
    run, model.run = model.run, lambda inputs: {name: values + 0.5 for name, values in run(inputs).items()}
    answer = folder.client.get("/selftest")
    assert (answer.status, [entry["ok"] for entry in answer.json["models"]]) == (503, [False, True, True])
    assert folder.client.get("/v2/health/ready").status == folder.client.get("/v2/models/cats/ready").status == 503
    assert folder.client.post("/predict", ONE).status == 503
    assert folder.client.post("/predict?model=pets", ONE).status == 200
    model.run = run
    assert folder.client.get("/selftest").status == folder.client.post("/predict", ONE).status == 200


def test_the_access_log_has_who_asked_what_and_nothing_of_what_was_sent() -> None:
    entries: list[dict[str, Any]] = []
    client = Client("table", log=entries.append, token=TOKEN)
    headers = [("x-request-id", "abc"), ("traceparent", "00-1-2-01"), ("authorization", f"Bearer {TOKEN}")]
    client.post("/predict?secret=1", ROWS, headers)
    client.post("/predict", ROWS)
    good, refused = entries
    assert (good["status"], good["path"], good["model"], good["rows"], good["x-request-id"], good["traceparent"]) == (
        200, "/predict", "table", 3, "abc", "00-1-2-01",
    )  # fmt: skip
    assert refused["status"] == 401
    assert not any(word in json.dumps(entries) for word in ("secret", TOKEN, "Rome"))


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, "Nothing has drifted"), ({"age": 90}, "the mean of age is +5.6"), ({"city": "Bern"}, "100.00% of 300 rows have a city")],
)  # fmt: skip
def test_drift_is_told_against_the_figures_of_the_bundle(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushlight.serve.drift.PAUSE", 0.0)
    client = Client("table")
    row = {"age": 40, "city": "Rome", "since": "1997-05-19", **change}
    assert "from 200 on" in client.get("/drift").json["sentence"]
    assert client.post("/predict", [row] * 300).status == 200
    found = client.get("/drift").json
    assert said in found["sentence"]
    assert found["shares"]["missing:age"] == 0
    assert found["shares"]["unknown:city"] == (change.get("city") == "Bern")


def test_drift_of_classes_is_told_against_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushlight.serve.drift.PAUSE", 0.0)
    monkeypatch.setattr("rushlight.serve.drift.FAR", 99.0)
    model = model_of("image")
    model.tested = {"cat": 0.5, "dog": 0.25, "猫": 0.25}
    client = Client(registry_of(model))
    label = client.post("/predict", PIXELS[:1].tolist()).json["predictions"][0]["label"]
    client.post("/predict", np.repeat(PIXELS[:1], 250, axis=0).tolist())
    assert (
        f"{label} is 100.00% of 251 rows, and {model.tested[label]:.2%} of the test split"
        in client.get("/drift").json["sentence"]
    )


# ── explanations ─────────────────────────────────────────────────────────────────────────────────────────────


def probabilities(client: Client, body: Any) -> dict[str, float]:
    found: dict[str, float] = client.post("/predict", body).json["predictions"][0]["probabilities"]
    return found


def test_a_column_speaks_for_an_answer_by_as_much_as_the_answer_falls_without_it() -> None:
    client = Client("table")
    row = {"age": 55, "city": "Rome", "since": "2001-05-09"}
    found = client.post("/explanations/table?target=yes", row).json
    whole = probabilities(client, row)["yes"]
    for column, hidden in (("age", 40), ("city", "nowhere"), ("since", "1997-05-19")):
        assert found["effects"][column] == pytest.approx(
            whole - probabilities(client, {**row, column: hidden})["yes"], abs=1e-6
        )
    assert len(client.post("/explanations/table", ROWS).json) == 3


def test_a_picture_is_explained_in_its_own_shape_and_an_array_too() -> None:
    client = Client("image")
    found = client.post("/explanations/image", ONE).json
    assert found["target"] == client.post("/predict", ONE).json["predictions"][0]["label"]
    effects = np.array(found["effects"])
    assert effects.shape == (1, 8, 8)
    hidden = PIXELS[0].copy()
    hidden[3, 5] = int(0.3 * 255)
    fall = found["value"] - probabilities(client, hidden.tolist())[found["target"]]
    assert effects[0, 3, 5] == pytest.approx(fall, abs=1e-6)
    assert len(Client("array").post("/explanations/array", [1, 2, 3, 4, 5]).json["effects"]) == 5


def test_a_column_of_a_series_is_hidden_in_all_its_rows() -> None:
    client = Client("series")
    rows = [{"hour": n, "load": 3.0 + n, "rain": n % 2} for n in range(3)]
    found = client.post("/explanations/series?target=0", rows).json
    assert list(found["effects"]) == ["load", "rain"]  # the hour only tells the order
    features = model_of("series").features
    assert features is not None
    fill = features.columns[0].fill
    whole, hidden = (
        client.post("/v1/models/series:predict", {"instances": given}).json["predictions"][-1][0]
        for given in (rows, [{**row, "load": fill} for row in rows])
    )
    assert found["value"] == pytest.approx(whole, abs=1e-5)
    assert found["effects"]["load"] == pytest.approx(whole - hidden, abs=1e-5)


def test_rows_that_are_made_up_to_explain_an_answer_are_no_live_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushlight.serve.drift.PAUSE", 0.0)
    client = Client("table")
    client.post("/explanations/table", ROWS)
    assert "3 rows" in client.get("/drift").json["sentence"]


def test_figures_of_requests_are_of_each_and_of_those_that_were_answered() -> None:
    totals = (meter := Meter()).totals("m", "1")
    meter.executed(totals, 3, 0.5, [0.001, 0.002, 0.003])
    meter.answered("/predict", 200, 0.25, totals)
    meter.answered("/predict", 504, 30.0, totals)
    assert (meter.queue.counts[-1], sum(meter.queue.counts), meter.queue.sum) == (0, 3, pytest.approx(0.006))
    found = statistics(totals, "m", "1")["inference_stats"]
    assert found["success"] == {"count": 1, "ns": 250_000_000}
    assert found["fail"] == {"count": 1, "ns": 30_000_000_000}


@pytest.mark.parametrize(
    ("path", "status"), [("image?target=9", 400), ("image?target=-1", 400), ("image?target=x", 400), ("other", 404)]
)
def test_what_cannot_be_explained_is_said(path: str, status: int) -> None:
    client = Client("image")
    assert client.post(f"/explanations/{path}", ONE).status == status
    assert client.post("/explanations/image", PIXELS.repeat(9, axis=0).tolist()).status == 413
