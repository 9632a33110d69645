from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from rushlight.console import Progress, fetch_progress
from rushlight.console.progress import cut_in_middle
from rushlight.events import Event

SHOW = """
from rushlight.console import Progress, fetch_progress
from rushlight.events import Event
progress = Progress({arguments})
def show(kind, **data):
    progress.show(Event(kind, data))
show("announcement", title="mlp on fashion-mnist", lines=["60,000 samples [not markup]", "runs/数据"], epochs=5)
for epoch in (1, 2):
    for step in (1, 500, 938):
        progress.shown_at = 0
        show("progress", epoch=epoch, epochs=5, step=step, steps=938, loss=0.4321, accuracy=0.842,
             samples_per_second=21034.0, seconds_left=72.0)
    show("evaluating", split="test", done=5000, total=10000)
    if epoch == 1:
        show("event", event="skipped", step=3, message="this is × a warning…")
    show("epoch", epoch=epoch, train_loss=0.5, test={{"loss": 0.4, "accuracy": 0.85, "n": 10000}}, learning_rate=0.001,
         seconds=3.2, is_best=epoch == 2)
show("event", event="way", step=3, message="not shown: it is said when it is found")
show("message", text="a message")
progress.close()
fetch = fetch_progress({fetch})
for done in (0, 300, 1000):
    fetch("a-rather-long-file-name-train-images-idx3-ubyte.gz", done, 1000)
"""


def show(progress: Progress, kind: str, **data: Any) -> None:
    progress.show(Event(kind, data))


def run(arguments: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    code = SHOW.format(arguments=arguments, fetch=arguments)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, env=environment, check=True, encoding=encoding)


def on_terminal(columns: int, encoding: str = "utf-8") -> str:
    """Run the demonstration on a real pseudo-terminal of that width, and return all it wrote."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals exist on POSIX only")
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": encoding}
    environment.pop("COLUMNS", None)
    code = SHOW.format(arguments="", fetch="to_stderr=False")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    content = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says "input/output error" when the other end is closed
            part = b""
        if not part:
            break
        content += part
    os.close(leader)
    assert process.wait() == 0, content.decode()
    return content.decode(encoding)


def lines_of(content: str) -> list[str]:
    """Return everything that was ever put on one line, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", content)
    assert "\x1b" not in plain, "colours are the only control sequences: a killed process leaves the terminal as it was"
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("columns", [120, 80, 64, 63, 50, 40])
def test_the_live_line_never_wraps(columns: int) -> None:
    lines = lines_of(on_terminal(columns))
    live = [line for line in lines if ("938" in line and "loss" in line) or "━" in line]
    assert len(live) >= 6
    assert all(len(line) < columns for line in live)


@pytest.mark.parametrize("columns", [80, 50])
def test_bar_epoch_step_loss_accuracy_and_time_left_fit(columns: int) -> None:
    line = next(line for line in lines_of(on_terminal(columns)) if "500/938" in line)
    for part in ("1/5", "━", "500/938", "loss 0.4321", "84.2%", "1m 12s"):
        assert part in line
    if columns == 80:
        assert "21.0k/s" in line


@pytest.mark.parametrize("columns", [80, 50])
def test_the_rows_of_epochs_are_aligned_and_do_not_wrap(columns: int) -> None:
    lines = [line.rstrip() for line in lines_of(on_terminal(columns))]
    head = next(line for line in lines if "train loss" in line)
    rows = [line for line in lines if re.search(r"[12]/5 +0\.5000", line)]
    assert len(rows) == 2
    assert lines.count(head) == 1
    for row in rows:
        assert len(row) < columns
        assert row.index("0.5000") + 6 == head.index("train loss") + 10
        assert row.index("3.2s") + 4 == head.index("time") + 4
    assert not any(row.endswith(("best", "*")) for row in rows)  # nothing is chosen by the test split


def test_elsewhere_than_on_a_terminal_there_are_plain_lines_only() -> None:
    done = run()
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines() == [
        "mlp on fashion-mnist",
        "60,000 samples [not markup]",
        "runs/数据",
        *[line for step in (1, 500, 938) for line in [plain(1, step)]],
        "warning: this is × a warning…",
        "  epoch  train loss  test loss  accuracy         lr     time",
        "    1/5      0.5000     0.4000    85.00%      0.001     3.2s",
        *[line for step in (1, 500, 938) for line in [plain(2, step)]],
        "    2/5      0.5000     0.4000    85.00%      0.001     3.2s",
        "a message",
    ]
    assert len(done.stderr.splitlines()) == 2  # the download begins and ends


def plain(epoch: int, step: int) -> str:
    return f"epoch {epoch}/5  step {step}/938  loss 0.4321  acc 84.2%  21.0k/s  1m 12s left"


def test_inside_an_epoch_plain_lines_are_ten_seconds_apart(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for step in range(1000):
        show(progress, "progress", epoch=1, epochs=1, step=step, steps=1000, loss=0.5)
        show(progress, "evaluating", split="validation", done=step, total=1000)
    assert capsys.readouterr().out == ""
    progress.shown_at -= 10.0
    for step in range(1000):
        show(progress, "progress", epoch=1, epochs=1, step=step, steps=None, loss=None)
    assert capsys.readouterr().out == "epoch 1/1  step 0  loss -\n"


def test_quiet_says_nothing_at_all() -> None:
    done = run("quiet=True")
    assert (done.stdout, done.stderr) == ("", "")


def test_everything_can_go_to_standard_error() -> None:
    done = run("to_stderr=True")
    assert done.stdout == ""
    assert "2/5" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_no_encoding_makes_it_crash(encoding: str) -> None:
    assert "a warning" in run(encoding=encoding).stdout
    if encoding == "ascii":
        line = next(line for line in lines_of(on_terminal(80, encoding)) if "500/938" in line)
        assert "###" in line


def test_a_run_without_accuracy_or_tests_has_rows_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    line = {
        "epoch": 1,
        "train_loss": float("nan"),
        "test": None,
        "learning_rate": 1e-5,
        "seconds": 0.1,
        "is_best": False,
    }
    show(progress, "epoch", **line)
    show(progress, "epoch", **{**line, "epoch": 2, "train_loss": 0.5, "test": {"loss": 2.0, "mae": 12.5, "n": 3}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "nan", "-", "-", "1e-05", "0.10s"]
    assert lines[2].split() == ["epoch", "train", "loss", "test", "loss", "mae", "lr", "time"]
    assert lines[3].split() == ["2", "0.5000", "2.0000", "12.5000", "1e-05", "0.10s"]


def test_what_the_user_logs_is_shown_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"mine": 0.123456, "whole": 3, "said": "well [x]", "gone": None, "picture": {"media": "media/1-p.png"}}
    show(Progress(), "values", epoch=1, step=3, values=values)
    assert capsys.readouterr().out == "mine 0.1235  whole 3  said well [x]  gone None  picture media/1-p.png\n"


@pytest.mark.parametrize(
    ("columns", "head"), [(100, ["val", "loss", "val", "accuracy"]), (50, ["val", "loss", "accuracy"])]
)
def test_the_header_says_that_figures_are_of_the_validation_split(
    columns: int, head: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = Progress()
    progress.line.is_live = columns == 50  # only a terminal is narrow
    figures = {"loss": 0.4, "accuracy": 0.85, "n": 100}
    line = {"epoch": 1, "train_loss": 0.5, "validation": figures, "test": None, "learning_rate": 0.1, "seconds": 0.1}
    show(progress, "epoch", **line, is_best=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[3 : 3 + len(head)] == head
    assert second.split()[2:4] == ["0.4000", "85.00%"]
    assert second.index("85.00%") + 6 == first.index("accuracy") + 8
    assert len(second) == len(first) + len(" best" if columns == 100 else " *")


def test_an_update_costs_less_than_a_thousandth_of_a_second_of_processor() -> None:
    progress = Progress(quiet=True)
    progress.quiet, progress.line.is_live = False, True
    begun = time.process_time()
    for step in range(1000):
        show(progress, "evaluating", split="test", done=step, total=1000)  # drawing happens by the clock
    assert time.process_time() - begun < 1


def test_a_download_without_a_known_size_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    fetch = fetch_progress(to_stderr=False)
    fetch("list", 10, None)
    fetch("list", 20, None)
    fetch("file", 5, 5)
    fetch("file", 5, 5)
    assert capsys.readouterr().out.splitlines() == ["list  10 B", "file  5 B of 5 B"]


def test_long_names_are_cut_in_their_middle() -> None:
    assert cut_in_middle("abcdefghijklmnop", 11) == "abcd...mnop"
    assert cut_in_middle("short", 11) == "short"
