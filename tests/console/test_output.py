from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushlight.console import print_error, print_json
from rushlight.console.output import SafeStream
from rushlight.errors import RunError
from rushlight.formats import format_bytes, format_count, format_duration


def test_an_error_says_what_is_wrong_and_what_to_do_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(RunError("run-unknown", run="[red]x", runs="runs", suggestion=""))
    captured = capsys.readouterr()
    assert captured.out == ""
    problem, advice = captured.err.splitlines()
    assert problem == 'error: There is no run "[red]x" in runs.'
    assert advice.startswith("List them with: rushlight runs")


def test_the_traceback_is_shown_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        print_error(error)
        assert "Traceback" not in capsys.readouterr().err
        print_error(error, traceback=True)
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("error: boom\n")


def test_json_is_one_line_on_standard_output_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"run": "数据", "loss": 0.5})
    assert json.loads(capsys.readouterr().out) == {"run": "数据", "loss": 0.5}
    with pytest.raises(ValueError, match="JSON"):
        print_json({"loss": float("nan")})


@given(text=st.text(), encoding=st.sampled_from(["ascii", "cp1252", "cp437", "gbk", "utf-8", "utf-16"]))
def test_a_stream_of_any_encoding_takes_any_text(text: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    SafeStream(stream).write(text)
    stream.flush()


def test_signs_that_are_missing_become_ascii() -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    SafeStream(stream).write("3 × 4 – … 数")
    stream.flush()
    assert buffer.getvalue() == b"3 x 4 - ... ?"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00s"), (0.42, "0.42s"), (0.9999, "1.0s"), (8.14, "8.1s"), (59.99, "1m 00s"), (185, "3m 05s"), (3599.7, "1h 00m"),
     (7620, "2h 07m"), (442800, "5d 03h"), (-1, "0.00s"), (float("nan"), "?"), (0.0004, "0.4ms"), (0.0094, "9ms"), (0.0097, "0.01s")],
)  # fmt: skip
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (938, "938"),
        (999.6, "1.00k"),
        (12_345, "12.3k"),
        (4_560_000, "4.56M"),
        (999_999, "1.00M"),
        (3.456, "3.5"),
    ],
)
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert format_count(number) == text


def test_sizes_are_decimal() -> None:
    assert [format_bytes(size) for size in (0, 512, 30_878_645)] == ["0 B", "512 B", "30.9 MB"]


def test_importing_the_console_imports_neither_rich_nor_anything_heavy() -> None:
    code = (
        "import sys, rushlight.console\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'plotext', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
