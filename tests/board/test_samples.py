"""Why a model is wrong: a cell's samples are those it counts, and lists find what was planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.board.client import Client
from tests.board.folders import make_run, write_tested

import rushlight
from rushlight.board.listing import id_of
from rushlight.board.samples import Viewer, choose, list_samples, read_tested, thresholds_of
from rushlight.data import Column, DataOptions, FeatureSpec, Normalization, ResidentSplit, open_source
from rushlight.data.look.samples import cells_of, described_samples
from rushlight.data.sources.images.folder import open_image_folder
from rushlight.export import open_bundle
from rushlight.export.explain import explain_sample, parts_of, shares_and_features, stacked

CLASSES = 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, "run", np.ones(10))


def lists(folder: Path, which: str, *cell: int) -> list[int]:
    tested = read_tested(folder)
    assert tested is not None
    found: list[int] = choose(tested, which, *(cell or (None, None))).tolist()
    return found


def test_every_cell_opens_as_many_samples_as_it_counts(run: Path) -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, CLASSES, (2, 500))
    write_tested(run, truth, predicted)
    counts = np.bincount(truth * CLASSES + predicted, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    opened = [[lists(run, "cell", t, p) for p in range(CLASSES)] for t in range(CLASSES)]
    assert [[len(cell) for cell in row] for row in opened] == counts.tolist()
    assert all(
        (truth[cell] == t).all() and (predicted[cell] == p).all()
        for t, row in enumerate(opened)
        for p, cell in enumerate(row)
    )


def test_what_was_learnt_and_lost_is_forgotten_and_what_was_never_believed_is_suspect(run: Path) -> None:
    truth = [0, 0, 0, 0, 1]
    rows = [[0.9, 0.1, 0.01, 0.9, 0.9], [0.2, 0.2, 0.01, 0.9, 0.9]]
    write_tested(run, truth, [1, 1, 1, 0, 1], rows)
    assert lists(run, "forgotten") == [0]
    assert lists(run, "suspects") == [2, 1]
    assert lists(run, "hardest")[0] == 2
    assert lists(run, "wrong") == [2, 1, 0]  # the surest first


def test_flipped_labels_are_the_first_suspects(run: Path) -> None:
    random = np.random.default_rng(0)
    count, epochs = 2000, 5
    truth = random.integers(0, 10, count)
    flipped = random.choice(count, 20, replace=False)
    hard = random.choice(np.setdiff1d(np.arange(count), flipped), 200, replace=False)
    rows = np.full((epochs, count), 0.95)
    rows[:, hard] = random.random((epochs, 200)) * 0.4
    rows[:, flipped] = 10 ** -random.uniform(3, 6, (epochs, 20))
    predicted = truth.copy()
    predicted[[*flipped, *hard]] += 1
    write_tested(run, truth, predicted, rows)
    assert len(set(lists(run, "suspects")[:20]) & set(flipped.tolist())) >= 18


def test_a_list_is_given_by_pages_with_names_and_the_probability_over_the_epochs(run: Path) -> None:
    rows = np.linspace(0, 1, 100)[:, None].repeat(30, axis=1)
    write_tested(run, [0] * 30, [1] * 30, rows, names=[f"row {number}" for number in range(30)])
    tested = read_tested(run)
    assert tested is not None
    page = list_samples(tested, "cell", 0, 1, 24)
    assert (page["count"], len(page["samples"])) == (30, 6)
    assert page["samples"][0]["name"] == "row 5"  # the surest are the last here
    assert (page["epochs"][0], page["epochs"][-1], len(page["epochs"])) == (1, 100, 60)
    assert page["samples"][0]["probabilities"][-1] == 1.0


@pytest.mark.parametrize(
    "described",
    [b"", b"[]", b'{"split": "validation", "truth": [0, 0]}', b'{"split": "test", "truth": [0, 1]}', b'{"split": "test", "truth": 3}', b"{" * 9999],
)  # fmt: skip
def test_probabilities_of_other_samples_are_left_out(run: Path, described: bytes) -> None:
    write_tested(run, [0, 0], [1, 0], [[0.1, 0.9]])
    (run / "samples.json").write_bytes(described)
    assert lists(run, "suspects") == []
    assert lists(run, "wrong") == [0]


def test_a_row_that_is_not_known_or_torn_is_no_epoch(run: Path) -> None:
    write_tested(run, [0, 0], [1, 0], [[np.nan, np.nan], [0.25, 0.75]])
    with (run / "samples.f16").open("ab") as file:
        file.write(b"x")
    tested = read_tested(run)
    assert tested is not None
    assert tested.rows.tolist() == [[0.25, 0.75]]


def test_the_page_gets_samples_by_id_and_nothing_for_what_does_not_exist(run: Path) -> None:
    write_tested(run, [0, 1], [1, 1])
    client, identity = Client(run.parent), id_of("run")
    found = client.get(f"/api/runs/{identity}/samples?list=cell&truth=0&predicted=1").json
    assert [sample["index"] for sample in found["samples"]] == [0]
    for target in (f"{identity}/samples?list=all", f"{identity}/samples", "0123456789ab/samples?list=wrong"):
        assert client.get(f"/api/runs/{target}").status == 404
    (run / "predictions.npz").write_bytes(b"PK")
    assert client.get(f"/api/runs/{identity}/samples?list=wrong").json is None


def test_data_that_was_an_object_is_said_to_be_one(run: Path) -> None:
    assert "object of the program" in Viewer().ask(run, {"indices": [0]})["error"]


def test_samples_are_shown_as_pictures_and_as_rows_with_their_own_values(tmp_path: Path) -> None:
    digits = open_source("digits")
    pictures = described_samples(digits.features, digits.test, [0, 5])
    assert (pictures["kind"], len(pictures["items"])) == ("image", 2)
    table = tmp_path / "pets.csv"
    table.write_text(
        "weight,kind,y\n"
        + "".join(
            f"{number / 4},{'cat' if number % 3 else 'dog'},{'a' if number % 2 else 'b'}\n" for number in range(60)
        )
    )
    data = open_source(str(table), options=DataOptions(target="y"))
    (row,) = described_samples(data.features, data.test, [3])["items"]
    assert dict(row)["kind"] in ("cat", "dog")
    assert dict(row)["weight"] % 0.25 == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures_that_memory_does_not_hold_are_shown_as_those_that_it_holds(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 256, (8, 6, 5, len(mode)), dtype=np.uint8)
    for number, pixels in enumerate(values):
        folder = tmp_path / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels.squeeze()).save(folder / f"{number}.png")
    held, streamed = (open_image_folder(tmp_path, memory_limit=limit, test_fraction=0.0) for limit in (1 << 30, 0))
    assert (held.train.kind, streamed.train.kind) == ("resident", "streamed")
    places = [held.train.names.index(streamed.train.names[index]) for index in (5, 0)]
    shown = described_samples(streamed.features, streamed.train, [5, 0])
    assert shown == described_samples(held.features, held.train, places)
    assert shown["kind"] == "image"
    received = (stacked(streamed.features, streamed.train, [5, 0]), stacked(held.features, held.train, places))
    assert torch.equal(*received)


def test_a_missing_number_is_shown_as_missing() -> None:
    from rushlight.data.spec import Column

    columns = (Column("age", "number", flags_missing=True), Column("kind", "category", ("cat", "dog")))
    features = FeatureSpec("table", (4,), "float32", columns=columns)
    assert dict(cells_of(torch.tensor([7.0, 1, 0, 1]), features)) == {"age": None, "kind": "dog"}
    assert dict(cells_of(torch.tensor([7.0, 0, 0, 0]), features)) == {"age": 7.0, "kind": None}


@pytest.mark.slow
def test_the_process_opens_the_data_finds_planted_twins_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    inputs, targets = random.integers(0, 255, (400, 1, 8, 8)).astype(np.uint8), random.integers(0, 3, 400)
    test = random.integers(0, 255, (100, 1, 8, 8)).astype(np.uint8)
    test[:50] = inputs[random.choice(400, 50, replace=False)]
    np.savez(tmp_path / "train.npz", x=inputs, y=targets)
    np.savez(tmp_path / "test.npz", x=test, y=targets[:100])
    described = {
        "name": "train",
        "source": str(tmp_path / "train.npz"),
        "test": str(tmp_path / "test.npz"),
        "options": {},
    }
    folder = make_run(tmp_path / "runs", "run", data=described)
    viewer = Viewer()
    found = viewer.ask(folder, {"twins": True})
    assert (found["twins"]["count"], {index for _, index in found["twins"]["pairs"]}) == (50, set(range(50)))
    assert viewer.ask(folder, {"indices": [0, 99]})["kind"] == "image"
    assert "error" in viewer.ask(folder, {"indices": [1000]})
    process = viewer.process
    assert process is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    other = make_run(tmp_path / "runs", "other", data={"name": "mnist", "source": "mnist", "options": {}})
    assert viewer.ask(other, {"indices": [0]})["error"]
    assert process.poll() is not None
    viewer.close()


def test_why_a_sample_is_answered_so_comes_from_the_model_and_its_training_samples(tmp_path: Path) -> None:
    folder = rushlight.train("mlp", "digits", epochs=1, quiet=True, runs=tmp_path).folder
    data, described = open_source("digits"), {"bundle": str(folder / "model")}
    shown = explain_sample(data, described, {"indices": [3, 4]})
    assert [round(sum(share for _, share in two), 1) <= 1 for two in shown["choices"]] == [True, True]
    found = explain_sample(data, described, {"explain": 3})
    saved = open_bundle(folder / "model")
    shares = saved.predict(data.test.inputs[3:4].numpy()).top(3)[0]
    assert [name for name, _ in found["choices"]] == [name for name, _ in shares]
    assert found["choices"][0][1] == pytest.approx(shares[0][1], abs=1e-5)
    assert len(found["drops"]) == found["grid"] ** 2
    train = open_source("digits").train
    assert [saved.classes[int(train.targets[one["index"]])] for one in found["similar"]] == [
        one["class"] for one in found["similar"]
    ]
    twins = ResidentSplit(
        torch.cat([train.inputs, data.test.inputs[3:4]]),
        torch.cat([train.targets, data.test.targets[3:4]]),
        train.prepare,
    )
    nearest = explain_sample(replace(data, train=twins), {"bundle": described["bundle"]}, {"explain": 3})["similar"][0]
    assert (nearest["index"], round(nearest["cosine"], 4)) == (len(train.inputs), 1)  # its twin


def test_the_part_on_which_an_answer_hangs_is_found() -> None:
    """A model that sees one corner of an image: without that corner its answer is gone."""
    features = FeatureSpec("image", (1, 14, 14), "uint8", Normalization("standard", 255.0, (0.5,), (0.5,)))
    masks = parts_of(features, torch.Size((1, 14, 14)))
    assert masks.shape == (49, 1, 14, 14)
    assert masks.any(0).all()
    assert masks[0].nonzero().max() == 2
    table = FeatureSpec(
        "table",
        (4,),
        "float32",
        columns=(Column("size", "number", flags_missing=True), Column("colour", "category", ("a", "b"))),
    )
    assert parts_of(table, torch.Size((4,))).tolist() == [[True, True, False, False], [False, False, True, True]]


def test_a_column_that_is_covered_has_the_mean_of_its_own_training_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = np.stack([random.normal(0.4, 0.1, 60), random.normal(8, 3, 60)], 1)  # of unlike sizes
    lines = [f"{age:.3f},{income:.3f},{'old' if age > 0.4 else 'young'}" for age, income in rows]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(["age,income,group", *lines]))
    given = {"target": "group", "normalize": "none"}
    run = rushlight.train("mlp", table, **given, epochs=1, quiet=True, runs=tmp_path / "runs")
    data, bundle = open_source(table, options=DataOptions(**given)), run.folder / "model"
    found = explain_sample(data, {"bundle": str(bundle)}, {"explain": 2})
    saved, sample = open_bundle(bundle), data.test.inputs[2:3]
    shares = shares_and_features(saved, sample)[0][0]
    for column, drop in enumerate(found["drops"]):
        covered = sample.clone()
        covered[0, column] = data.train.inputs[:, column].mean()
        now = shares_and_features(saved, covered)[0][0, shares.argmax()]
        assert drop == pytest.approx(float(shares.max() - now), abs=1e-5)
    assert len(found["drops"]) == 2
    assert max(map(abs, found["drops"])) > 0.001


def test_a_category_that_is_covered_is_none_that_is_known(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    colours = random.choice(["red", "green", "blue"], 90, p=(0.6, 0.3, 0.1))  # with a mean unlike any of them, or none
    lines = [f"{random.normal():.3f},{colour},{'warm' if colour == 'red' else 'cold'}" for colour in colours]
    table = tmp_path / "paints.csv"
    table.write_text("\n".join(["size,colour,group", *lines]))
    run = rushlight.train("mlp", table, target="group", epochs=2, quiet=True, runs=tmp_path / "runs")
    data, bundle = open_source(table, options=DataOptions(target="group")), run.folder / "model"
    found = explain_sample(data, {"bundle": str(bundle)}, {"explain": 2})
    saved, row, features = open_bundle(bundle), data.test.inputs[2], data.features
    assert features is not None
    size = float(row[0]) * features.normalization.std[0] + features.normalization.mean[0]
    colour = features.columns[1].categories[int(row[1:].argmax())]
    shares = saved.predict({"size": [size], "colour": [colour]}).probabilities[0]
    assert found["choices"][0][1] == pytest.approx(shares.max(), abs=1e-5)
    unknown = saved.predict({"size": [size], "colour": ["purple"]}).probabilities[0]
    assert found["drops"][1] == pytest.approx(shares.max() - unknown[shares.argmax()], abs=1e-5)
    assert abs(found["drops"][1]) > 0.001


def test_the_area_under_roc_is_the_share_of_pairs_in_the_right_order(run: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 300)
    score = np.round(np.clip(truth * 0.2 + random.random(300) * 0.8, 0, 1), 2)  # many are equal
    predicted = (score > 0.5).astype(int)
    write_tested(run, truth, predicted)
    arrays = dict(np.load(run / "predictions.npz"))
    np.savez_compressed(run / "predictions.npz", **{**arrays, "confidence": np.where(predicted, score, 1 - score)})
    found = thresholds_of(read_tested(run))
    assert found is not None
    pairs = np.sign(score[truth == 1][:, None] - score[truth == 0])
    assert found["area"] == pytest.approx(((pairs + 1) / 2).mean())
    assert found["roc"][-1] == [1, 1]
    assert found["pr"][-1] == [1, pytest.approx(truth.mean())]
    write_tested(run, [0, 1, 2], [0, 1, 2])
    assert thresholds_of(read_tested(run)) is None
