"""From texts to a model that is tested, used, saved and resumed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.data.sources.test_texts import TEXTS, write_folder, write_reviews
from tests.processes import Process

import rushlight
from rushlight.data.look.samples import described_samples, opened
from rushlight.errors import DataError, UsageError
from rushlight.runs import read_recipe

SMALL = {"embedding": 8, "channels": 8, "widths": (3, 4)}


def words(text: str) -> list[int]:
    return [1 + sum(word.encode()) % 300 for word in text.split()]


words.vocab_size = 301  # type: ignore[attr-defined]


def train(data: Any, folder: Path, **options: Any) -> rushlight.Run:
    options = {"model_arguments": SMALL, "epochs": 2, "batch_size": 8, "lr": 0.02, "quiet": True, **options}
    return rushlight.train("textcnn", data, runs=folder / "runs", **options)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("texts") / "reviews.csv", stars=[number % 5 for number in range(40)])


@pytest.fixture(scope="module")
def run(reviews: Path) -> rushlight.Run:
    return train(reviews, reviews.parent, target="label", epochs=6)


def test_a_model_of_texts_takes_the_text_column_and_learns(run: rushlight.Run) -> None:
    assert run.report is not None
    assert run.report.accuracy == 1.0
    assert run.recipe.data["options"]["text_column"] == "auto"
    assert run.recipe.model["arguments"] | SMALL == {**SMALL, "vocabulary": 257, "padding": 256}


def test_texts_come_to_predict_in_every_form(run: rushlight.Run, tmp_path: Path) -> None:
    texts = ["a fine film", "poor, very poor", "猫"]
    expected = np.asarray(run.predict(texts))
    (tmp_path / "one.txt").write_text(texts[0], encoding="utf-8")
    table = write_reviews(tmp_path / "table.csv")
    frame = pl.DataFrame({"review": texts})
    for given in (
        texts,
        np.array(texts),
        frame,
        frame["review"],
        {"review": texts},
        [{"review": text} for text in texts],
    ):
        assert np.asarray(run.predict(given)).tolist() == expected.tolist()
    for given in (texts[0], tmp_path / "one.txt", {"review": texts[0]}):
        assert np.asarray(run.predict(given)) == pytest.approx(expected[:1], abs=1e-6)
    assert len(run.predict(table)) == len(TEXTS)
    tokens = run.bundle.examples["inputs"]
    assert len(run.predict(tokens)) == len(tokens)
    saved = rushlight.open_bundle(run.folder / "model")
    assert np.asarray(saved.predict(texts)).tolist() == expected.tolist()
    assert np.asarray(rushlight.open_run(run.folder).predict(texts)).tolist() == expected.tolist()


@pytest.mark.parametrize("wrong", [[[0, 1]], np.full((1, 44), 257), np.full((1, 44), -1), Path("nowhere.txt"), 3.5])
def test_what_is_neither_text_nor_its_ids_is_refused(run: rushlight.Run, wrong: Any) -> None:
    with pytest.raises(DataError):
        run.predict(wrong)


def test_a_mistake_is_listed_with_the_beginning_of_its_text_made_visible(tmp_path: Path) -> None:
    texts = [f"a \x1b[31m text {number} with as many words as this one has, {'so ' * 50}" for number in range(40)]
    run = train({"text": texts, "y": [number % 2 for number in range(40)]}, tmp_path, target="y", text_column="text")
    assert run.report is not None
    name = str(run.report.most_wrong[0]["name"])
    assert "a \\x1b[31m text" in name
    assert len(name) < 120
    kept = np.load(run.folder / "predictions.npz")["names"]
    assert str(kept[0]).startswith("row ")


def test_the_board_shows_the_text_of_a_sample(run: rushlight.Run) -> None:
    described = {**read_recipe(run.folder)["data"], "is_raw": False, "folder": str(run.folder)}
    data = opened(described)
    (item,) = described_samples(data.features, data.test, [0])["items"]
    assert item[0][0] == "review"
    assert item[0][1] in TEXTS


def test_a_folder_of_texts_is_trained_on_and_tested_elsewhere(tmp_path: Path, reviews: Path) -> None:
    run = train(write_folder(tmp_path / "texts"), tmp_path, epochs=1)
    assert run.test().n == 8
    frame = pl.read_csv(reviews).rename({"review": "text"})
    assert rushlight.open_run(run.folder).test(frame).n == 40


def test_a_function_has_to_be_given_again_and_must_be_the_same(tmp_path: Path, reviews: Path) -> None:
    run = train(reviews, tmp_path, target="label", tokenizer=words)
    expected = np.asarray(run.predict("a fine film"))
    again = rushlight.open_run(run.folder)
    for call in (lambda: again.predict("a fine film"), again.test, lambda: rushlight.resume(run.folder, epochs=3)):
        with pytest.raises(UsageError, match=r"own \(words\)"):
            call()
    with pytest.raises(UsageError, match="not the tokenizer"):
        again.predict("a fine film", tokenizer=lambda text: [1])
    assert np.asarray(again.predict("a fine film", tokenizer=words)).tolist() == expected.tolist()
    assert run.report is not None
    assert again.test(tokenizer=words).accuracy == run.report.accuracy
    longer = rushlight.resume(run.folder, epochs=3, schedule="constant", tokenizer=words, quiet=True)
    assert longer.summary()["epochs"] == 3


def test_a_tokenizer_of_hugging_face_is_kept_by_the_run(tmp_path: Path, reviews: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "film": 1, "fine": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    run = train(reviews, tmp_path, target="label", tokenizer=own)
    expected = np.asarray(run.predict("a fine film"))
    again = rushlight.open_run(run.folder)
    assert np.asarray(again.predict("a fine film")).tolist() == expected.tolist()
    assert run.report is not None
    assert again.test().accuracy == run.report.accuracy
    assert rushlight.resume(run.folder, epochs=3, schedule="constant", quiet=True).summary()["epochs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [None, words])
def test_a_killed_run_of_texts_resumes_to_the_same_bits(tmp_path: Path, reviews: Path, tokenizer: Any) -> None:
    code = f"""
import os, signal, sys
import rushlight
from tests.training.test_texts import SMALL, train, words
from pathlib import Path
def die(event):
    if event.kind == "epoch" and event.data["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
train(Path({str(reviews)!r}), Path({str(tmp_path)!r}), target="label", epochs=4, name="killed", on_event=die,
      tokenizer={"None" if tokenizer is None else "words"})
"""
    killed = Process(["-c", code])
    assert killed.wait(120) == -signal.SIGKILL
    options = {} if tokenizer is None else {"tokenizer": tokenizer}
    resumed = rushlight.resume(tmp_path / "runs" / "killed", quiet=True, **options)
    whole = train(reviews, tmp_path, target="label", epochs=4, name="whole", **options)
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.losses.tobytes() == whole.losses.tobytes()


def test_a_script_of_texts_is_refused_in_words(run: rushlight.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not read by a script: texts"):
        run.eject(tmp_path / "script.py")
