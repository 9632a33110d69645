"""Damage is found, and a reader that finds none is found too."""

from __future__ import annotations

import json
from pathlib import Path

from faults.damage import Damage, header_length

from faults import damage


def test_every_kind_of_damage_is_detected_and_the_checkpoint_before_it_taken(tmp_path: Path) -> None:
    outcome = damage.campaign(800, 1, tmp_path, lambda line: None, resumed=200)
    assert outcome.failures == ()
    assert outcome.tried > 1000
    assert outcome.figures["looked_up"] >= 10
    assert outcome.figures["resumed"] >= 2


def test_a_reader_that_checks_no_checksum_is_reported(tmp_path: Path) -> None:
    def careless(folder: Path) -> object:
        return json.loads((folder / "state.json").read_bytes())

    outcome = damage.campaign(300, 1, tmp_path, lambda line: None, read=careless)
    assert outcome.figures["undetected"] > 100
    assert outcome.figures["raised"] > 5


def test_each_kind_of_damage_changes_the_content() -> None:
    content = bytes(range(8))
    for kind in ("bit", "byte", "zero", "cut"):
        for at in range(8):
            assert Damage(Path("a"), kind, at, 3).of(content) != content
    assert Damage(Path("a"), "missing").of(content) is None
    assert Damage(Path("a"), "longer").of(content) == content + b"\0"


def test_the_header_of_a_tensor_file_is_its_length_field_and_its_json() -> None:
    assert header_length(Path("state.safetensors"), (5).to_bytes(8, "little") + b"{ } .numbers") == 13
    assert header_length(Path("state.json"), b"{}") == 2
