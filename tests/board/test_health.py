"""The health of layers in a run's page: a dead layer is named, with the step since which it is dead; calibration by tenths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.board.folders import make_run, write_lines, write_tested

from rushlight.board.details import details_of
from rushlight.board.health import health_of
from rushlight.board.samples import calibration_of, read_tested


def observation(step: int, **layers: dict[str, Any]) -> dict[str, Any]:
    entries = [
        {"name": name, "kind": "ReLU", "zero": 0.2, "dead": 0.1, "mean": 0.0, "std": 1.0, **layer}
        for name, layer in layers.items()
    ]
    return {"epoch": 1, "step": step, "time": 1.0, "steps": 10, "samples": 64, "layers": entries}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, "run")


def findings(folder: Path, *lines: dict[str, Any]) -> list[tuple[str, str, int]]:
    write_lines(folder / "layers.jsonl", lines)
    found = health_of(folder)
    assert found is not None
    return [(one["what"], one["name"], one["since"]) for one in found["findings"]]


def test_a_dead_layer_is_named_with_the_step_since_which_it_is_dead(run: Path) -> None:
    lines = [observation(10, a={}, b={"dead": 0.9}), observation(20, a={}, b={}), observation(30, a={}, b={"dead": 0.6}),
             observation(40, a={}, b={"dead": 0.71})]  # fmt: skip
    assert findings(run, *lines) == [("dead", "b", 30)]
    assert findings(run, *lines[:2]) == []


def test_weights_that_do_not_change_and_outputs_that_are_not_finite_are_told(run: Path) -> None:
    assert findings(
        run, observation(10, a={"change": None, "weight": 1.0}), observation(20, a={"change": 0.0, "weight": 1.0})
    ) == [("unchanged", "a", 20)]
    assert findings(run, observation(10, a={"std": None, "dead": 1.0})) == [("not-finite", "a", 10)]


@pytest.mark.parametrize(
    "line", ['{"step": -1}', '{"step": 1, "steps": 1, "samples": 1, "layers": [3]}', "[]", "{torn"]
)
def test_a_line_that_is_none_is_left_out(run: Path, line: str) -> None:
    (run / "layers.jsonl").write_text(json.dumps(observation(10, a={"dead": 0.8})) + "\n" + line + "\n")
    found = health_of(run)
    assert found is not None
    assert found["step"] == 10
    assert details_of(run)["health"]["findings"][0]["what"] == "dead"


def test_calibration_is_how_often_the_model_is_right_where_it_is_as_sure(run: Path) -> None:
    write_tested(run, [0] * 100, [0] * 50 + [1] * 50)  # sure from 0.5 to 1 in order: right where it is the least sure
    tenths = calibration_of(read_tested(run))
    assert tenths is not None
    assert sum(one["n"] for one in tenths) == 100
    assert [one["right"] for one in tenths] == [1.0, 1.0, pytest.approx(0.5, abs=0.1), 0.0, 0.0]
    assert np.allclose([one["sure"] for one in tenths], [0.55, 0.65, 0.75, 0.85, 0.95], atol=0.01)


def test_the_heat_has_each_layer_at_each_observation_and_of_many_some(run: Path) -> None:
    write_lines(
        run / "layers.jsonl",
        [observation(10, a={"change": 0.5}), observation(20, a={"change": 0.1}, b={"change": None})],
    )
    found = health_of(run)
    assert found is not None
    assert (found["heat"]["steps"], found["heat"]["change"]) == ([10, 20], [[0.5, 0.1], [None, None]])
    write_lines(run / "layers.jsonl", [observation(step, a={"change": 0.1}) for step in range(1, 1000)])
    found = health_of(run)
    assert found is not None
    assert 50 <= len(found["heat"]["steps"]) <= 60


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"limit": 3}', b'{"parts": {"data": {"share": "x"}}, "limit": {"sentence": 1}}', b"{" * 9999],
)
def test_a_profile_that_is_none_limits_nothing(run: Path, content: bytes) -> None:
    (run / "profile").mkdir()
    (run / "profile" / "profile.json").write_bytes(content)
    assert details_of(run)["limit"] is None
    right = {"step_seconds": 0.002, "parts": {"data": {"share": 0.9}}, "limit": {"sentence": "The data."}}
    (run / "profile" / "profile.json").write_text(json.dumps(right))
    assert details_of(run)["limit"] == {"sentence": "The data.", "step_seconds": 0.002, "parts": [["data", 0.9]]}
