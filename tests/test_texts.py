"""The words of errors: every key is used, every use has its key and its values, every advice is a whole sentence."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import rushlight
from rushlight import errors, texts

SOURCE = Path(rushlight.__file__).parent
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

# Calls whose key or values are computed: where they stand, and the keys they may raise with.
COMPUTED: dict[str, set[str]] = {
    "data/sources/arrays/files.py:array_error": {"array-is-pickled", "array-not-readable"},
    "data/feed/reading.py:error": set(),  # any error that a worker sends back: its key was given where `Failed` was made
    "data/feed/reading.py:failed": set(),  # the same: an error of ours, sent by a worker
    "data/sources/arrays/idx.py:check_length": {"idx-truncated", "idx-too-long"},
    "export/weights.py:read_file_content": {"weights-page", "weights-pointer"},
    "options/declare.py:check": {
        "not-positive",
        "negative",
        "option-not-a-number",
        "bad-fraction",
        "bad-seed",
        "option-no-bool",
        "option-no-dict",
    },
    "training/setup/explain.py:check_output_shape": {"too-few-outputs", "wrong-outputs"},
}


class Call:
    """One place where an error is made."""

    def __init__(self, path: Path, function: str, node: ast.Call) -> None:
        self.place = f"{path.relative_to(SOURCE).as_posix()}:{function}"
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


def calls() -> Iterator[Call]:
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in {*ERRORS, "Failed"} or (name == "kind" and path.name == "reading.py"):
                inside = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                yield Call(path, inside[-1].name if inside else "", node)


CALLS = list(calls())


def fields(text: texts.Text) -> set[str]:
    """The names of the values that a text needs."""
    parts = [part for template in text for part in string.Formatter().parse(template)]
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in parts if name is not None}


def test_every_error_in_the_source_is_found() -> None:
    assert len(CALLS) > 100
    assert {call.place for call in CALLS if call.key is None} == set(COMPUTED)
    assert {"sample-failed", "samples-failed-together", "unequal-samples"} <= {call.key for call in CALLS}


def test_every_error_that_is_raised_has_its_words_and_gives_the_values_they_need() -> None:
    for call in CALLS:
        for key in {call.key} if call.key is not None else COMPUTED[call.place]:
            place = f"{call.place}, line {call.line}"
            assert key in texts.ENGLISH, place
            assert call.is_open or fields(texts.ENGLISH[key]) <= call.values, (place, key)


def mentioned() -> set[str]:
    """Every text constant in the source outside texts.py."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if path.name != "texts.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def test_every_text_is_used() -> None:
    assert set(texts.ENGLISH) - mentioned() == set()


def test_every_text_is_tidy() -> None:
    for key, (problem, advice) in texts.ENGLISH.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)
        assert problem, key
        for text in (problem, advice):
            assert text == text.strip(), key
            assert not re.search(r"[^\n ]  ", text), key
            assert "..." not in text, key


def test_every_advice_ends_in_a_full_stop_or_in_something_to_type() -> None:
    """What is to be typed stands after a colon, or is a command, so that no full stop is copied with it."""
    typed = re.compile(r": [^.]*\S$|: .*[)}]$|: --.*$|--[a-z-]+ [^.]*$|\{(hint|suggestion)\}$|net\.py:Net$")
    wrong = {
        key: advice for key, (_, advice) in texts.ENGLISH.items()
        if advice and not advice.endswith((".", "?")) and not typed.search(advice)
    }  # fmt: skip
    assert wrong == {}


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
