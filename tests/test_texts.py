"""The words: every key is used, every use has its key and its values, both languages have the same, all are tidy."""

from __future__ import annotations

import ast
import copy
import functools
import json
import pickle
import re
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.source import SOURCE, trees
from torch import nn

import rushlight
from rushlight import errors, texts
from rushlight.texts import Joined, Note, shown, text

ROOMS = sorted(path.stem for path in (texts.FOLDER / "en").glob("*.toml"))
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

# Calls whose key or values are computed: where they stand, and the keys they may raise with.
COMPUTED: dict[str, set[str]] = {
    "data/sources/arrays/files.py:array_error": {"array-is-pickled", "array-not-readable"},
    "data/feed/reading.py:ahead": set(),  # any error that a worker sends back: its key was given where it was raised
    "data/sources/idx.py:check_length": {"idx-truncated", "idx-too-long"},
    "data/sources/tables/cells.py:unreadable": {"not-a-date", "not-a-number"},
    "export/weights.py:read_file_content": {"weights-page", "weights-pointer"},
    "options/declare.py:check": {
        "not-positive",
        "not-a-count",
        "negative",
        "option-not-a-number",
        "bad-fraction",
        "bad-seed",
        "option-no-bool",
        "option-no-dict",
    },
    "training/setup/explain.py:check_outputs": {"too-few-outputs", "wrong-outputs"},
}


# Rooms some of whose texts the code does not use yet: each goes from here when its last inline text is gone.
AWAITED = {"console", "data", "runs", "training", "words"}
NOT_TRANSLATED = {"training.remedy.torch"}  # nothing but a command


class Call:
    """One place where an error is made."""

    def __init__(self, file: str, function: str, node: ast.Call) -> None:
        self.place = f"{file}:{function}"
        is_sent = (
            isinstance(node.func, ast.Name) and node.func.id == "Failed"
        )  # Failed(kind, key, values, …), by a worker
        first = node.args[is_sent] if len(node.args) > is_sent else None
        self.key = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
        self.values = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
        if is_sent and isinstance(node.args[2], ast.Dict):
            self.values = {key.value for key in node.args[2].keys if isinstance(key, ast.Constant)}
        self.is_open = any(keyword.arg is None for keyword in node.keywords)  # **values
        self.line = node.lineno


@functools.cache
def calls() -> list[Call]:
    """Every place where an error is made."""
    found = []
    for file, tree in trees().items():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ERRORS or (name == "kind" and file.endswith("/reading.py")):
                inside = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                found.append(Call(file, inside[-1].name if inside else "", node))
    return found


def templates(code: str) -> dict[str, list[str]]:
    """Every text of one language by its key, as its forms: one, or two where it has a plural."""
    found: dict[str, list[str]] = {}

    def walk(key: str, entry: Any) -> None:
        if isinstance(entry, str):
            found[key] = [entry]
        elif set(entry) == {"one", "other"}:
            found[key] = [entry["one"], entry["other"]]
        else:
            for name, inner in entry.items():
                walk(f"{key}.{name}", inner)

    for path in sorted((texts.FOLDER / code).glob("*.toml")):
        walk(path.stem, texts.read_room(code, path.stem))
    return found


ENGLISH, CHINESE = templates("en"), templates("zh")


def fields(forms: list[str]) -> set[tuple[str, str, str | None]]:
    """The values that a text needs, each with its format and its conversion."""
    parts = [part for form in forms for part in string.Formatter().parse(form)]
    return {(name, spec or "", conversion) for _, name, spec, conversion in parts if name is not None}


def needed(key: str) -> set[str]:
    """The names of the values that an error needs."""
    return {name for half in ("problem", "advice") for name, _, _ in fields(ENGLISH[f"errors.{key}.{half}"])}


def test_every_error_in_the_source_is_found() -> None:
    assert len(calls()) > 100
    assert {call.place for call in calls() if call.key is None} == set(COMPUTED)
    assert {"sample-failed", "samples-failed-together", "unequal-samples"} <= {call.key for call in calls()}


def test_every_error_that_is_raised_has_its_words_and_gives_the_values_they_need() -> None:
    for call in calls():
        for key in {call.key} if call.key is not None else COMPUTED[call.place]:
            place = f"{call.place}, line {call.line}"
            assert f"errors.{key}.problem" in ENGLISH, place
            assert call.is_open or needed(key) <= call.values, (place, key)


@functools.cache
def mentioned() -> set[str]:
    """Every text constant in the source."""
    return {
        node.value
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_text_is_used() -> None:
    """By its key, or by the beginning of one that is put together: f"console.profile.{heading}"."""
    keys = {key.split(".")[1] if key.startswith("errors.") else key for key in ENGLISH}
    beginnings = tuple(text for text in mentioned() if re.fullmatch(r"([a-z0-9-]+\.){2,}", text))
    unused = {key for key in keys - mentioned() if not key.startswith(beginnings)}
    assert {key for key in unused if key.partition(".")[0] not in AWAITED} == set()


def test_every_text_that_is_asked_for_is_there() -> None:
    rooms = "|".join(ROOMS)
    asked = {text for text in mentioned() if re.fullmatch(rf"({rooms})(\.[a-z0-9]+(-[a-z0-9]+)*)+", text)}
    files = {
        text
        for text in asked
        if text.partition(".")[2] in ("py", "txt", "json", "jsonl", "pth", "parquet", "csv", "safetensors", "js", "css")
    }
    assert asked - files - set(ENGLISH) == set()


def test_every_error_has_a_problem_and_an_advice_and_nothing_else() -> None:
    for code in texts.LANGUAGES:
        for key, entry in texts.read_room(code, "errors").items():
            assert list(entry) == ["problem", "advice"], (code, key)


def test_both_languages_have_the_same_texts_with_the_same_values_in_them() -> None:
    assert set(CHINESE) == set(ENGLISH)
    for key, forms in ENGLISH.items():
        assert fields(CHINESE[key]) == fields(forms[-1:]), key  # the form for one may leave values out


def test_a_text_with_two_forms_has_a_count_and_chinese_has_one_form() -> None:
    for key, forms in ENGLISH.items():
        if len(forms) == 2:
            one, other = ({name for name, _, _ in fields([form])} for form in forms)
            assert "count" in other, key
            assert one <= other, key
        assert len(CHINESE[key]) == 1, key


def test_every_text_is_tidy() -> None:
    for key, form in ((key, form) for key, forms in (ENGLISH | CHINESE).items() for form in forms):
        assert re.fullmatch(r"[a-z]+(\.[a-z0-9]+(-[a-z0-9]+)*)+", key)
        if not key.startswith("words.between."):
            assert form or key.endswith(".advice"), key
            assert form == form.rstrip(), key
            assert form == form.lstrip() or not key.startswith("errors."), key  # others may stand inside a text
        assert not re.search(r"[^\n ]  ", form), key
        assert "..." not in form, key


def test_every_chinese_text_is_chinese_with_chinese_punctuation() -> None:
    """Half-width marks stand only in code, and beside Latin letters and figures; quotes are “ ”."""
    chinese = r"[\u4e00-\u9fff]"
    for key, form in ((key, form) for key, forms in CHINESE.items() for form in forms):
        if key.startswith("words.between.") or key in NOT_TRANSLATED or not form:
            continue
        bare = re.sub(r"`[^`]*`|\{[^}]*\}", "0", form)  # without code and values
        assert re.search(chinese, form) or not re.search(r"[a-z]{2,} [a-z]{2,}", ENGLISH[key][0]), key
        assert not re.search(rf"{chinese} *[,;:!?](?!\w)|[,;:!?] *{chinese}", bare), key
        assert not re.search(rf"{chinese}[.(]|[)]{chinese}", bare), key
        assert not re.search(rf"{chinese} {chinese}", form), key
        assert not re.search(rf"{chinese}[A-Za-z0-9]|[A-Za-z0-9]{chinese}", form), key
        assert not re.search(r"[^\n ] +[，。；：？！、（）“”]|[，。；：？！、（）“”] +[^\n ]", form), key


def test_every_advice_ends_in_a_full_stop_or_in_something_to_type() -> None:
    """What is to be typed stands after a colon, or is a command, so that no full stop is copied with it."""
    typed = re.compile(r": [^.]*\S$|: .*[)}]$|: --.*$|--[a-z-]+ [^.]*$|\{(hint|suggestion)\}$|net\.py:Net$")
    wrong = {
        key: advice for key, (advice, *_) in ENGLISH.items()
        if key.endswith(".advice") and advice and not advice.endswith((".", "?")) and not typed.search(advice)
    }  # fmt: skip
    assert wrong == {}


def test_a_value_in_a_command_is_quoted_for_the_shell() -> None:
    """`{run:typed}`, unless it is a number: what is copied into a shell is one word there, whatever a file is called."""
    unquoted = re.compile(r"rushlight (?:[a-z-]+ )+\{\w+\}|--model \{\w+\}")
    assert {
        key for texts_ in (ENGLISH, CHINESE) for key, forms in texts_.items() if any(map(unquoted.search, forms))
    } == set()


def test_a_chinese_text_ends_as_the_english_one_does() -> None:
    """A sentence in a full stop, what is to be typed without one."""
    for key, forms in ENGLISH.items():
        if not key.startswith("words."):
            english, chinese = forms[-1][-1:], CHINESE[key][0][-1:]
            assert (english in (".", "?")) == (chinese in ("。", "？")), key


def test_no_text_names_a_place_of_somebodys_own() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("/work/", "/root/", "localhost:", "C:\\Users"):
            assert word not in text, (path, word)


def test_an_error_says_problem_and_advice_and_keeps_its_values() -> None:
    error = errors.UsageError("negative", option="workers", value=-1)
    assert str(error) == "workers must be 0 or more; it is -1."
    assert error.exit_code == 2
    other = errors.TrainingError("weights-not-finite", name="0.weight", step=1234, epoch=2, kept="Kept.")
    assert str(other).splitlines()[0] == 'The weights of "0.weight" are not finite after step 1,234 (epoch 2). Kept.'
    assert str(other).splitlines()[1] == other.advice
    assert other.exit_code == 1
    assert other.values["step"] == 1234


@pytest.mark.parametrize(
    ("name", "suggestion"), [("mpl", ' Did you mean "mlp"?'), ("CNN", ' Did you mean "cnn"?'), ("zebra", "")]
)
def test_the_nearest_name_is_suggested_and_only_when_it_is_near(name: str, suggestion: str) -> None:
    assert errors.suggest(name, ["mlp", "cnn", "resnet"]) == suggestion


# ── the language ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No language is chosen, and none is set in the environment."""
    for name in ("RUSHLIGHT_LANGUAGE", *texts.LOCALE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    texts.report_unknown.cache_clear()
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "zh_SG"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "RUSHLIGHT_LANGUAGE": "en"}, "en"),
        ({"RUSHLIGHT_LANGUAGE": "zh"}, "zh"),
        ({"RUSHLIGHT_LANGUAGE": "zh_CN.UTF-8"}, "zh"),
        ({"RUSHLIGHT_LANGUAGE": "zh-Hans"}, "zh"),
        ({"RUSHLIGHT_LANGUAGE": "", "LANG": "zh_CN"}, "zh"),
    ],
)
def test_the_language_is_what_was_chosen_else_that_of_the_system(
    environment: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    environment.setattr(sys, "platform", "linux")
    for name, value in variables.items():
        environment.setenv(name, value)
    assert texts.language() == expected


def test_on_windows_the_language_is_that_of_the_user_interface(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(sys, "platform", "win32")
    environment.setattr(texts, "windows_language", lambda: "zh_CN")
    assert texts.language() == "zh"
    environment.setenv("LANG", "en_US.UTF-8")
    assert texts.language() == "en"


@pytest.mark.parametrize(("locale", "said"), [("C", "It goes on in English."), ("zh_CN", "下面用中文显示。")])
def test_a_language_without_texts_is_said_once_and_ends_nothing(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], locale: str, said: str
) -> None:
    environment.setenv("RUSHLIGHT_LANGUAGE", "fr")
    environment.setenv("LANG", locale)
    assert text("words.did-you-mean", name="mlp") == text("words.did-you-mean", name="mlp")
    (line,) = capsys.readouterr().err.splitlines()
    assert "fr" in line
    assert "en, zh" in line
    assert line.endswith(said)


def test_an_error_speaks_chinese_with_all_that_is_inside_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    error = errors.UsageError(
        "unknown-option", option="epoch", known="epochs, lr", suggestion=errors.suggest("epoch", ["epochs"])
    )
    assert error.problem == "没有叫“epoch”的选项。你是不是想写“epochs”？"
    assert error.advice == "可用的选项：epochs, lr。"
    assert str(error) == f"{error.problem}\n{error.advice}"
    assert error.record == 'There is no option "epoch". Did you mean "epochs"?'


def test_a_note_is_english_in_files_and_shown_in_the_language_of_the_user(environment: pytest.MonkeyPatch) -> None:
    note = Note("words.did-you-mean", name="mlp")
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    for copied in (note, copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert copied == ' Did you mean "mlp"?'
        assert json.dumps([copied]) == json.dumps([' Did you mean "mlp"?'])
        assert shown(copied) == "你是不是想写“mlp”？"
    assert Note("words.did-you-mean", name="mlp") == note  # whatever language is shown when it is made
    assert shown("any other text") == "any other text"


def test_texts_in_a_row_are_joined_as_is_usual_in_the_language(environment: pytest.MonkeyPatch) -> None:
    row = Joined("sentences", [Note("data.tested-on", name="val"), "cnn"])
    inside = Note("data.left-out", name="x", reason=Joined("list", [Note("data.all-missing"), "b"]))
    assert row == 'Tested on "val". cnn'
    assert inside == 'The column "x" was left out: every value is missing, b.'
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    for copied in (row, pickle.loads(pickle.dumps(row))):
        assert shown(copied) == "用“val”来测试。cnn"
    assert shown(inside) == "没有用列“x”：每个值都空缺、b。"


def test_no_blank_stands_between_chinese_characters_that_were_put_together(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    found = Note("export.folder-with", entries="a.txt")
    assert (
        "实际是一个装着 a.txt 的文件夹。"
        in errors.WeightsError("bundle-missing", path="x", found=found, suggestion="").problem
    )
    named = errors.WeightsError("bundle-missing", path="我的 数据", found="x", suggestion="").problem
    assert named.startswith("我的 数据：")  # what the user wrote stays


def test_a_run_in_chinese_has_the_same_history_as_one_in_english(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On data and with a model about which there are notes, and with steps that are left out."""
    inputs = np.random.default_rng(0).random((60, 4), "float32")
    inputs[7] = 3e38  # four of these are infinite, and so is the loss
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    nn.init.ones_(model[0].weight)
    histories = []
    for code in texts.LANGUAGES:
        environment.setenv("RUSHLIGHT_LANGUAGE", code)
        run = rushlight.train(
            copy.deepcopy(model), (inputs, np.arange(60) % 3), test_data=(inputs[20:40], np.arange(20) % 3), epochs=1, batch_size=8, on_nan="skip", normalize="none",
            seed=0, runs=tmp_path / code, name="same", quiet=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text("utf-8").splitlines()]
        histories.append(
            [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in lines]
        )
        histories[-1].append(json.loads((run.folder / "environment.json").read_text("utf-8"))["data_notes"])
    assert any(line.get("event") == "skipped" for line in histories[0][:-1])
    assert any("ReLU" in note for note in histories[0][-1])
    assert histories[0] == histories[1]


def test_a_text_that_is_missing_in_chinese_is_shown_in_english(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    environment.setattr(texts, "read_room", lambda code, room: {"only-here": "Whole."} if code == "en" else {})
    assert text("console.only-here") == "Whole."
    with pytest.raises(KeyError):
        text("console.nowhere")


def test_a_process_that_cannot_read_the_texts_says_key_and_values(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setattr(texts, "read_room", texts.read_room.__wrapped__)
    environment.setattr(texts, "FOLDER", tmp_path)
    error = errors.StorageError("disk-error", path="runs/a", reason="too many open files")
    assert error.problem == "errors.disk-error.problem, path runs/a, reason too many open files"


def test_one_and_many_have_their_forms(environment: pytest.MonkeyPatch) -> None:
    rooms = {"en": {"steps": {"one": "{count} step", "other": "{count:,} steps"}}, "zh": {"steps": "{count:,} 步"}}
    environment.setattr(texts, "read_room", lambda code, room: rooms[code])
    assert [text("console.steps", count=count) for count in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
    environment.setenv("RUSHLIGHT_LANGUAGE", "zh")
    assert text("console.steps", count=1) == "1 步"
