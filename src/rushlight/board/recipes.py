"""Two recipes over seeds: one run of each says nothing, since a recipe's result varies with its seed.

Welch's t-test (Welch 1947) of the last results, from three different seeds of each on.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rushlight.report import beyond_t
from rushlight.runs import read_recipe

LEAST_SEEDS = 3
LEVEL = 0.05
LONGEST = 60  # characters of a setting


def compare_recipes(runs: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """Return "groups" of runs (folder, row of the list) whose recipes differ in their seeds alone, and a "verdict".

    A group has the "names" of its runs, its number of different "seeds", the "mean" of the results, and their "deviation".
    The verdict on two groups is "first" or "second" (the better), "cannot-tell", or "few-seeds"; on others it is None.
    "alike" are the ids of all runs of each recipe, and "settings" what each run was set to, by id.
    """
    groups: dict[str, dict[str, tuple[str, float]]] = {}  # by recipe, then by seed
    alike: dict[str, list[str]] = {}
    settings: dict[str, dict[str, Any]] = {}
    metrics = {(row.get("metric"), bool(row.get("is_higher_better"))) for _, row in runs}
    for folder, row in runs:
        value = row.get("metric_value")
        try:
            content = read_recipe(folder)
            recipe, seed = without_seeds(content)
            settings[row["id"]] = dict(flat(content))
        except Exception:  # whatever a hostile file brings about
            continue
        alike.setdefault(recipe, []).append(row["id"])
        if isinstance(value, (int, float)) and row.get("status") == "finished":
            groups.setdefault(recipe, {})[seed] = (row["name"], float(value))
    found = [group_figures(list(group.values())) for group in groups.values()]
    metric, is_higher_better = metrics.pop() if len(metrics) == 1 else (None, False)
    return {
        "metric": metric,
        "groups": found,
        "verdict": None,
        "alike": list(alike.values()),
        "settings": settings,
        **(judged(list(groups.values()), is_higher_better) if len(found) == 2 and metric else {}),
    }


def without_seeds(recipe: dict[str, Any]) -> tuple[str, str]:
    """Return a recipe without what its seed decides, and the seed, both as text."""
    data = recipe["data"]
    options = data.get("options") if isinstance(data, dict) else None
    plain = {**unseeded(recipe), "model": unseeded(recipe["model"]), "data": data}
    if isinstance(options, dict):
        plain["data"] = {**data, "options": unseeded(options)}
    return json.dumps(plain, sort_keys=True), json.dumps(recipe.get("seed"))


def flat(entry: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Give the numbers, texts and flags of a recipe as ("optimizer lr", 0.1), down to `depth` levels."""
    if isinstance(entry, dict) and depth:
        for key, inner in entry.items():
            yield from flat(inner, f"{name} {key}".strip().replace(" arguments", ""), depth - 1)
    elif isinstance(entry, (bool, int, float, str)):
        yield name, entry if not isinstance(entry, str) else entry[:LONGEST]


def unseeded(value: Any) -> Any:
    """Return a dict without its seed, and anything else as it is."""
    return {name: entry for name, entry in value.items() if name != "seed"} if isinstance(value, dict) else value


def group_figures(results: list[tuple[str, float]]) -> dict[str, Any]:
    """Return the figures of one group."""
    values = [value for _, value in results]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "names": [name for name, _ in results],
        "seeds": len(values),
        "mean": statistics.fmean(values),
        "deviation": deviation,
    }


def judged(groups: list[dict[str, tuple[str, float]]], is_higher_better: bool) -> dict[str, Any]:
    """Return the verdict on two groups, and p: how often equal recipes would differ by as much."""
    first, second = ([value for _, value in group.values()] for group in groups)
    if min(len(first), len(second)) < LEAST_SEEDS:
        return {"verdict": "few-seeds"}
    p = welch(first, second)
    is_first_better = (statistics.fmean(first) > statistics.fmean(second)) == is_higher_better
    return {"verdict": ("first" if is_first_better else "second") if p < LEVEL else "cannot-tell", "p": p}


def welch(first: list[float], second: list[float]) -> float:
    """Return the two-sided p-value of Welch's t-test."""
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    difference = abs(statistics.fmean(first) - statistics.fmean(second))
    if not sum(parts):  # no result varies
        return 1.0 if not difference else 0.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    return beyond_t(difference / math.sqrt(sum(parts)), freedom)
