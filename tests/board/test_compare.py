"""Comparing two models: what cannot be told apart is called that."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.board.client import Client
from tests.board.folders import make_run

from rushlight.board.compare import SHUFFLES, compare_classes, compare_models, compare_numbers, mcnemar
from rushlight.board.listing import id_of
from rushlight.board.recipes import welch


def predicted(runs: Path, name: str, **arrays: Any) -> Path:
    folder = make_run(runs, name)
    np.savez(folder / "predictions.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    return folder


def test_mcnemars_p_is_that_of_a_fair_coin() -> None:
    for total in (1, 2, 7, 20):
        for fewer in range(total // 2 + 1):
            exact = sum(math.comb(total, k) for k in range(fewer + 1)) / 2 ** (total - 1)
            assert mcnemar(fewer, total - fewer) == pytest.approx(min(1, exact))
            assert mcnemar(total - fewer, fewer) == mcnemar(fewer, total - fewer)
    assert mcnemar(0, 0) == 1
    assert 0 <= mcnemar(400_000, 600_000) < 1e-9


def test_of_equal_models_at_most_one_pair_in_twenty_is_called_different() -> None:
    random = np.random.default_rng(0)
    truths = random.random((2, 1000, 500)) < 0.9
    only = ((truths[0] & ~truths[1]).sum(1), (truths[1] & ~truths[0]).sum(1))
    verdicts = [compare_classes(int(one), int(other), 500)["verdict"] for one, other in zip(*only, strict=True)]
    assert 0 < sum(verdict != "cannot-tell" for verdict in verdicts) <= 50


def test_errors_of_equal_models_are_seldom_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    from rushlight.board import compare

    monkeypatch.setattr(compare, "SHUFFLES", 99)
    random = np.random.default_rng(0)
    pairs = random.exponential(size=(100, 2, 40))
    assert (
        sum(compare_numbers(one, other)["verdict"] != "cannot-tell" for one, other in pairs) <= 16
    )  # of 200; 10 expected


def test_a_clear_difference_is_told_with_its_figures(tmp_path: Path) -> None:
    truth = np.arange(100) % 5
    one, other = truth.copy(), truth.copy()
    one[:30] += 1
    other[25:32] += 1
    mine, theirs = (
        predicted(tmp_path, "one", truth=truth, predicted=one),
        predicted(tmp_path, "other", truth=truth, predicted=other),
    )
    found = compare_models(mine, theirs)
    assert (found["verdict"], found["only_one"], found["only_other"], found["n"]) == ("other", 2, 25, 100)
    assert compare_models(theirs, mine)["verdict"] == "one"
    answer = Client(tmp_path).get(f"/api/compare?run={id_of('one')}&run={id_of('other')}")
    assert answer.json == found
    for query in ("", f"run={id_of('one')}", f"run={id_of('one')}&run=x", "run=a&run=b&run=c"):
        assert Client(tmp_path).get(f"/api/compare?{query}").status == 404


def test_numbers_are_compared_by_their_errors(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).random((60, 2))
    one = predicted(tmp_path, "one", truth=truth, predicted=truth + 0.1)
    other = predicted(tmp_path, "other", truth=truth, predicted=truth + 0.2)
    found = compare_models(one, other)
    assert (found["verdict"], found["p"]) == ("one", 1 / (SHUFFLES + 1))
    assert found["error_other"] == pytest.approx(0.2)
    assert compare_models(one, one)["verdict"] == "cannot-tell"
    lost = predicted(tmp_path, "lost", truth=truth, predicted=truth * np.nan)
    assert compare_models(one, lost)["verdict"] == "cannot-tell"


def test_other_samples_are_not_compared(tmp_path: Path) -> None:
    one = predicted(tmp_path, "one", truth=[0, 1], predicted=[0, 1])
    for number, truth in enumerate(([1, 0], [0, 1, 1])):
        other = predicted(tmp_path, f"other-{number}", truth=truth, predicted=truth)
        assert compare_models(one, other) == {"verdict": "other-samples"}
    named = predicted(tmp_path, "named", truth=[0, 1], predicted=[0, 1], names=["a", "b"])
    assert compare_models(one, named) == {"verdict": "other-samples"}
    assert compare_models(named, named)["verdict"] == "cannot-tell"
    assert compare_models(one, make_run(tmp_path, "untested")) == {"verdict": "no-predictions"}


def test_hostile_predictions_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushlight.board.compare.MOST_BYTES", 1 << 20)
    one = predicted(tmp_path, "one", truth=[0, 1], predicted=[0, 1])
    objects = predicted(tmp_path, "pickled", truth=np.array([{}, {}], object), predicted=[0, 1])
    bomb = make_run(tmp_path, "bomb")
    with zipfile.ZipFile(bomb / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("truth.npy", b"\0" * (2 << 20))
    wide = predicted(tmp_path, "wide", truth=[0, 1], predicted=[[0, 1]])
    text = predicted(tmp_path, "text", truth=["a"], predicted=["b"])
    scalar = predicted(tmp_path, "scalar", truth=1, predicted=1)
    torn = make_run(tmp_path, "torn")
    (torn / "predictions.npz").write_bytes((one / "predictions.npz").read_bytes()[:-40])
    claimed = make_run(tmp_path, "claimed")
    with zipfile.ZipFile(claimed / "predictions.npz", "w") as archive:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }\n"
        archive.writestr("truth.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    for other in (objects, bomb, wide, text, scalar, torn, claimed):
        assert compare_models(one, other) == {"verdict": "no-predictions"}, other.name


# ── recipes over seeds ───────────────────────────────────────────────────────────────────────────────────────


def test_of_equal_recipes_at_most_one_pair_in_twenty_is_called_different() -> None:
    random = np.random.default_rng(0)
    pairs = random.normal(0.9, 0.01, (1000, 2, 3)).tolist()
    assert 0 < sum(welch(first, second) < 0.05 for first, second in pairs) <= 50
    assert welch([1, 1, 1], [1, 1, 1]) == 1
    assert welch([1, 1, 1], [2, 2, 2]) == 0


def seeded(runs: Path, name: str, lr: float, seed: int, accuracy: float) -> str:
    folder = make_run(
        runs, name, seed=seed, optimizer={"name": "SGD", "arguments": {"lr": lr}}, model={"name": "mlp", "seed": seed},
        data={"name": "digits", "options": {"seed": seed} if seed else {}},
    )  # fmt: skip
    history = (folder / "history.jsonl").read_text()
    (folder / "history.jsonl").write_text(history.replace(f'"accuracy": {1 - 1 / 3}', f'"accuracy": {accuracy}'))
    return f"run={id_of(name)}"


def test_recipes_are_compared_over_three_seeds_and_not_over_fewer(tmp_path: Path) -> None:
    slow = [seeded(tmp_path, f"slow-{seed}", 0.01, seed, 0.70 + seed / 100) for seed in range(3)]
    quick = [seeded(tmp_path, f"quick-{seed}", 0.1, seed, 0.90 + seed / 100) for seed in range(3)]
    again = seeded(tmp_path, "again", 0.1, 0, 0.90)
    client = Client(tmp_path)
    found = client.get(f"/api/recipes?{'&'.join([*slow, *quick])}").json
    assert (found["metric"], found["verdict"]) == ("accuracy", "second")
    assert [group["seeds"] for group in found["groups"]] == [3, 3]
    assert found["groups"][0]["mean"] == pytest.approx(0.71)
    assert client.get(f"/api/recipes?{'&'.join([*quick, *slow])}").json["verdict"] == "first"
    for chosen in ([*slow, *quick[:2]], [*slow, *quick[:2], again]):  # the same seed twice is one
        assert client.get(f"/api/recipes?{'&'.join(chosen)}").json["verdict"] == "few-seeds"
    assert client.get(f"/api/recipes?{'&'.join(slow)}").json["verdict"] is None
    assert client.get("/api/recipes?run=x").json["groups"] == []


@pytest.mark.parametrize(("judged_by", "better"), [("max:f1", "second"), ("min:f1", "first")])
def test_recipes_are_compared_in_the_direction_of_the_metric_that_the_runs_were_judged_by(
    judged_by: str, better: str, tmp_path: Path
) -> None:
    chosen = []
    for name, lr, value in (("slow", 0.01, 0.4), ("quick", 0.1, 0.8)):
        for seed in range(3):
            chosen.append(seeded(tmp_path, f"{name}-{seed}", lr, seed, 0.5))
            path = tmp_path / f"{name}-{seed}" / "history.jsonl"
            own = f'"accuracy": 0.5, "judged_by": "{judged_by}", "numbers": {{"f1": {value + seed / 100}}}'
            path.write_text(path.read_text().replace('"accuracy": 0.5', own))
    found = Client(tmp_path).get(f"/api/recipes?{'&'.join(chosen)}").json
    assert (found["metric"], found["verdict"]) == ("f1", better)


def test_runs_that_differ_in_their_seeds_are_alike_and_settings_are_flat(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for seed, name in enumerate(names):
        lr = 0.5 if name == "c" else 0.1
        make_run(tmp_path, name, seed=seed, optimizer={"name": "SGD", "arguments": {"lr": lr}})
    found = Client(tmp_path).get(f"/api/recipes?{'&'.join(f'run={id_of(name)}' for name in names)}").json
    assert sorted(map(sorted, found["alike"])) == sorted([sorted([id_of("a"), id_of("b")]), [id_of("c")]])
    assert [found["settings"][id_of(name)]["optimizer lr"] for name in names] == [0.1, 0.1, 0.5]
