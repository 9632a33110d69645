"""Texts: which column is read, what ids become of it, and that a folder of files is the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rushlight.data import FeatureSpec, open_like, open_source
from rushlight.data.look import describe_data
from rushlight.data.open import DataOptions
from rushlight.data.sources.tables.tables import open_table
from rushlight.data.sources.tables.texts import decoded_text, encode_texts, is_running_text, learn_tokens
from rushlight.data.spec import Tokens
from rushlight.errors import DataError, UsageError

TEXTS = [f"review {number} of a {'fine' if number % 2 else 'poor'} film, {number * 37} words" for number in range(40)]
LABELS = ["good" if number % 2 else "bad" for number in range(40)]


def write_reviews(path: Path, **columns: list[Any]) -> Path:
    table = {"review": TEXTS, **columns, "label": LABELS}
    rows = list(zip(*table.values(), strict=True))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([table, *rows])
    return path


def write_folder(root: Path) -> Path:
    for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        folder = root / ("test" if number % 5 == 0 else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return root


def rows_of(split: Any) -> list[list[int]]:
    rows: list[list[int]] = split.inputs.tolist()
    return rows


# ── which column ─────────────────────────────────────────────────────────────────────────────────────────────


def test_text_is_read_where_nothing_else_can_be_learnt_from_or_where_it_is_asked_for(tmp_path: Path) -> None:
    alone = open_table(write_reviews(tmp_path / "alone.csv"), target="label")
    assert [column.kind for column in alone.features.columns] == ["text"]  # type: ignore[union-attr]
    beside = write_reviews(tmp_path / "beside.csv", stars=[number % 5 for number in range(40)])
    numbers = open_table(beside, target="label")
    assert [column.name for column in numbers.features.columns] == ["stars"]  # type: ignore[union-attr]
    assert any("--text-column review" in note for note in numbers.notes)
    for asked in ("review", "auto"):
        text = open_table(beside, target="label", text_column=asked)
        assert [column.name for column in text.features.columns] == ["review"]  # type: ignore[union-attr]
        assert any("Left out" in note and '"stars"' in note for note in text.notes)


@pytest.mark.parametrize(("values", "expected"), [
    (TEXTS, True), (["这部电影很好看", "不好看，太长了", None], True), (["red", "blue"] * 9, False),
    ([f"id-{number}" for number in range(40)], False), (["it is not new", "it is not new"] * 9, False), ([], False),
])  # fmt: skip
def test_a_text_has_three_words_and_is_said_once(values: list[str | None], expected: bool) -> None:
    assert is_running_text(values) is expected


def test_a_text_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "reviews.csv")
    with pytest.raises(DataError, match=r'no text column "revue".*Did you mean "review"'):
        open_table(path, target="label", text_column="revue")
    with pytest.raises(DataError, match="no column holds text"):
        open_table({"stars": [1, 2] * 9, "y": [0, 1] * 9}, target="y", text_column="auto")


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bytes_are_those_of_utf_8_cut_and_filled() -> None:
    ids = encode_texts(["ab", "猫é", "", None, "abcdefgh", 7], Tokens(6))
    assert ids.dtype == np.int16
    cat = list("猫é".encode())
    empty = [256] * 6
    assert ids.tolist() == [
        [97, 98, *[256] * 4], [*cat, 256], empty, empty, list(b"abcdef"), [55, *[256] * 5],
    ]  # fmt: skip
    assert decoded_text(ids[1], Tokens(6)) == "猫é"


def test_the_length_is_that_of_the_longest_training_text_and_what_is_cut_is_said(tmp_path: Path) -> None:
    data = open_table(write_reviews(tmp_path / "reviews.csv"), target="label")
    assert data.features is not None
    longest = max(len(decoded_text(row.numpy(), data.features.columns[0].tokens)) for row in data.train.inputs)  # type: ignore[union-attr,arg-type]
    assert (data.features.shape, data.features.dtype) == ((longest,), "int64")
    cut = open_table(tmp_path / "reviews.csv", target="label", text_length=12)
    assert cut.features is not None
    assert cut.features.shape == (12,)
    assert any("32 of 32 training texts are longer and are cut" in note for note in cut.notes)
    assert learn_tokens(["x" * 9000], None, None)[0].length == 512


def test_ids_have_two_bytes_in_memory_and_reach_the_model_as_int64(tmp_path: Path) -> None:
    data = open_table(write_reviews(tmp_path / "reviews.csv"), target="label")
    assert data.train.inputs.dtype == torch.int16  # type: ignore[union-attr]
    inputs, _ = next(iter(data.train.in_order(4)))
    assert inputs.dtype == torch.int64
    assert data.examples is not None
    assert data.examples.dtype == torch.int64


def test_a_function_of_the_users_has_its_own_vocabulary_and_one_more_id_for_padding() -> None:
    def lengths(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    tokens, longer = learn_tokens(["a bb ccc", "dddd"], lengths, None)
    assert (tokens.length, tokens.vocabulary, tokens.padding, longer) == (3, 6, 5, 0)
    assert encode_texts(["bb"], tokens).tolist() == [[2, 5, 5]]
    with pytest.raises(DataError, match=r'gave 6 for the text "seldom".*up to 5'):
        encode_texts(["seldom"], tokens)
    lengths.vocab_size, lengths.pad_token_id = 30, 0  # type: ignore[attr-defined]
    tokens, _ = learn_tokens(["a bb"], lengths, 4)
    assert (tokens.vocabulary, tokens.padding) == (30, 0)


@pytest.mark.parametrize("wrong", [lambda text: text, lambda text: [0.5], lambda text: [-1], lambda text: 1 / 0])
def test_a_function_that_gives_no_ids_is_told_with_the_text(wrong: Any) -> None:
    with pytest.raises(DataError, match='failed on the text "the a is not'):
        learn_tokens(["a"], wrong, None)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dict is no tokenizer"):
        learn_tokens(["a"], {}, None)
    with pytest.raises(UsageError, match="No such file"):
        learn_tokens(["a"], tmp_path / "tokenizer.json", None)


def test_a_tokenizer_of_hugging_face_keeps_its_last_token_where_it_cuts_and_travels_as_json(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    special = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3}
    words = {word: 4 + number for number, word in enumerate("abcdef")}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({**special, **words}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    own.enable_truncation(5)
    own.enable_padding(length=100)
    own.save(str(tmp_path / "tokenizer.json"))
    for given in (own, tmp_path / "tokenizer.json"):
        tokens, longer = learn_tokens(["a b", "a b c d e f"], given, None)
        assert (tokens.length, tokens.vocabulary, tokens.padding, longer) == (5, 10, 0, 1)
        again = FeatureSpec.from_json(json.loads(json.dumps(spec_of(tokens).to_json())))
        assert again == spec_of(tokens)
        assert encode_texts(["a zz", "a b c d e f"], again.tokens).tolist() == [[2, 4, 0, 3, 0], [2, 4, 5, 6, 3]]  # type: ignore[arg-type]


def spec_of(tokens: Tokens) -> FeatureSpec:
    from rushlight.data import Column

    return FeatureSpec("table", (tokens.length,), "int64", columns=(Column("text", "text", tokens=tokens),))


# ── other files ──────────────────────────────────────────────────────────────────────────────────────────────


def test_json_lines_are_the_same_table(tmp_path: Path) -> None:
    stars: list[Any] = [number % 5 if number != 7 else None for number in range(40)]
    from_csv, from_json = (
        open_table(write_reviews(tmp_path / f"r.{ending}", stars=stars), target="label") for ending in ("csv", "jsonl")
    )
    assert from_csv.fingerprint == from_json.fingerprint


@pytest.mark.parametrize("line", ["{", "[1]", '{"a": NaN}'])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1, "y": "u"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 3:"):
        open_table(path, target="y")


def test_a_folder_of_text_files_has_a_class_for_each_folder_and_its_own_splits(tmp_path: Path) -> None:
    data = open_source(write_folder(tmp_path / "texts"))
    assert data.name == "texts"
    assert data.target is not None
    assert data.target.classes == ("bad", "good")
    assert (data.train.samples, data.test.samples) == (32, 8)  # type: ignore[union-attr]
    assert data.test.names[0] == f"bad/00.txt: “{TEXTS[0]}”"  # type: ignore[union-attr,index]
    assert describe_data(data)["splits"]["test"]["counts"] == {"bad": 4, "good": 4}
    again = open_like(tmp_path / "texts", data.features, data.target, DataOptions())
    assert rows_of(again) == rows_of(data.test)


def test_a_folder_of_pictures_with_a_text_file_in_it_is_no_folder_of_texts(tmp_path: Path) -> None:
    from rushlight.data.sources.tables.text_folder import is_text_folder

    write_folder(tmp_path)
    assert is_text_folder(tmp_path)
    (tmp_path / "train" / "bad" / "a.png").write_bytes(b"")
    assert not is_text_folder(tmp_path)
    assert not is_text_folder(tmp_path / "nowhere")
