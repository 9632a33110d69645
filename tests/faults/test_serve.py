"""The campaign that disturbs a server would find something. (`.ci/run` has a short one of it.)"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tests.serve.client import BUNDLES

from faults import serve


def test_a_model_that_is_opened_with_a_bit_flipped_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLES / "image", tmp_path / "small")
    figures: Counter[str] = Counter()
    assert serve.flipped(2, random.Random(0), tmp_path, figures) == []
    assert figures["bits flipped"] == 6
    monkeypatch.setattr(serve, "find_model", lambda *asked: None)
    assert len(serve.flipped(1, random.Random(0), tmp_path, figures)) == 3


def test_what_fails_in_a_thread_that_asks_is_told() -> None:
    def each(number: int, over: object) -> None:
        if number == 1:
            raise ConnectionResetError("reset")

    with serve.asking(each, 3) as failures:
        pass
    assert failures == ["ConnectionResetError: reset"]
