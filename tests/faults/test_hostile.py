"""The campaign of hostile files finds what it is to find, and finds nothing."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("needs fork, pipes and limits of memory", allow_module_level=True)

from faults.hostile import Watch, campaign, try_case

from faults import hostile


class Silent(Watch):
    """A watch that hears nothing: a hook of Python's could never be taken away again."""

    def __init__(self) -> None:
        self.place, self.seen = "", Counter[str]()


def raises(command: Any, raised: list[BaseException]) -> None:
    raised.append(ValueError("a raw one"))


def escapes(command: Any, raised: list[BaseException]) -> None:
    sys.stdout.write("\x1b[2J")


def hangs(command: Any, raised: list[BaseException]) -> None:
    time.sleep(60)


def executes(command: Any, raised: list[BaseException]) -> None:
    Path("ran").touch()


@pytest.mark.parametrize(
    ("does", "kind"),
    [(raises, "raw"), (escapes, "escaped"), (hangs, "hung"), (executes, "executed"), (lambda *_: None, None)],
)
def test_a_case_that_does_what_none_may_is_found(
    does: Callable[..., None], kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    (tmp_path / "seeds").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hostile, "KINDS", (lambda place, chosen: ("runs",),))
    monkeypatch.setattr(hostile.KINDS[0], "__name__", "nothing")
    monkeypatch.setattr(hostile, "give", does)
    monkeypatch.setattr(hostile, "SECONDS", 0.2)
    before = signal.signal(signal.SIGALRM, hostile.end_case)
    try:
        result = try_case(tmp_path, 0, 0, Silent())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert result["failed"] == ([] if kind is None else [kind])
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    outcome = campaign(60, 3, tmp_path, lambda text: None)
    assert outcome.failures == ()
    assert outcome.figures["refused"] > 10
