"""Is a search worth its epochs? `rushlight tune` against random search with as many epochs, and against the defaults.

    python -m benchmarks.tune [--rounds 10] [--trials 30] [--epochs 9]

A round is a seed: of the splits, of the first weights, of both searches. Both search the default space of `mlp`; the random one has
no pruning and as many whole trials as the epochs of the other allow. What validated best is trained again from a new seed and
tested; so are the defaults. The tables are those that come with scikit-learn, read as files (no import); without it, digits alone.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import say, this_machine
from benchmarks.output import markdown, rounds_of, standard_options, write_results
from rushlight import files
from rushlight.console import StudyScreen
from rushlight.report import t_quantile
from rushlight.search.final import compare_with_defaults
from rushlight.search.study import Study
from rushlight.search.tuning import make_plan, search

TABLES = {"breast cancer": "breast_cancer.csv", "wine": "wine_data.csv"}  # 569 rows of 30 numbers, 178 of 13


def main() -> None:
    """Measure, print and write."""
    parser = standard_options("tune", __doc__ or "", 10)
    parser.add_argument("--trials", type=int, default=30, help="of a search (30)")
    parser.add_argument("--epochs", type=int, default=9, help="of a whole trial (9)")
    parser.add_argument("--data", default="", help="some of them, by a part of the name")
    options = parser.parse_args()
    trials, epochs = (4, 2) if options.quick else (options.trials, options.epochs)
    machine = this_machine()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: path for name, path in data_in(Path(folder)).items() if options.data in name}
        for name, source in sources.items():
            for seed in range(rounds_of(options)):
                found.setdefault(name, []).append(
                    one_round(source, seed, trials, epochs, Path(folder) / f"{name}-{seed}")
                )
                say(f"{name}, seed {seed}: {found[name][-1]}")
    rows = [
        [name, f"{len(rounds)}", f"{statistics.fmean(each['epochs'] for each in rounds):.0f}", *(percent([each[key] for each in rounds]) for key in ("tune", "random", "defaults")),
         *(difference([each["tune"] - each[key] for each in rounds]) for key in ("random", "defaults"))]
        for name, rounds in found.items()
    ]  # fmt: skip
    heads = [
        "data",
        "seeds",
        "epochs",
        "tune, test %",
        "random, test %",
        "defaults, test %",
        "tune - random (95 %)",
        "tune - defaults (95 %)",
    ]
    command = shlex.join(["python", "-m", "benchmarks.tune", *sys.argv[1:]])
    write_results(
        options.out, "tune", command, machine, markdown(heads, rows), {"rounds": rounds_of(options), "data": found}
    )


def data_in(folder: Path) -> dict[str, str]:
    """Return the data by name: digits, and the tables, written as CSV files with headings."""
    found, package = {"digits": "digits"}, importlib.util.find_spec("sklearn")
    for name, file in TABLES.items() if package and package.submodule_search_locations else ():
        source = Path(package.submodule_search_locations[0]) / "datasets" / "data" / file  # type: ignore[union-attr,index]
        first, *lines = source.read_text().splitlines()
        heads = [f"x{column}" for column in range(int(first.split(",")[1]))] + ["target"]
        path = folder / f"{Path(file).stem}.csv"
        files.write_bytes(
            path,
            "\n".join(
                [",".join(heads), *(f"{line.rpartition(',')[0]},class {line.rpartition(',')[2]}" for line in lines), ""]
            ).encode(),
        )
        found[name] = str(path)
    return found


def one_round(source: str, seed: int, trials: int, epochs: int, runs: Path) -> dict[str, Any]:
    """Return the epochs of a search, and the accuracy of its winner, of random search's, and of the defaults."""
    spent = epochs * trials
    figures: dict[str, Any] = {}
    for sampler, prunes in (("tpe", True), ("random", False)):
        given = {"runs": runs / sampler, "epochs": epochs, "seed": seed, "quiet": True, "name": "study"}
        given |= {} if source == "digits" else {"target": "target"}
        plan = make_plan("mlp", source, None, given)
        folder = runs / sampler / "study"
        files.make_folder(folder)
        study = Study(folder, plan.space, plan.defaults, epochs, seed=seed, sampler=sampler, prunes=prunes)
        count = trials if prunes else max(1, spent // epochs)
        search(study, plan, 1, 1, count, None, StudyScreen(quiet=True, to_stderr=True))
        if prunes:
            spent = sum(len(trial.figures) for trial in study.trials)
        assert study.best is not None
        defaults = None if "defaults" in figures else plan.defaults  # they are the same for both searches
        result = compare_with_defaults(plan.job, study.best, defaults, 1, 1, 1)
        assert result is not None
        name = "tune" if prunes else "random"
        figures[name] = result.winner.mean
        figures[f"{name}_validation"] = study.best.value
        figures.setdefault("defaults", (result.defaults or result.winner).mean)
    return {"epochs": spent, **figures}


def percent(values: list[float]) -> str:
    """Return the mean of some shares."""
    return f"{100 * statistics.fmean(values):.2f}"


def difference(values: list[float]) -> str:
    """Return the mean of paired differences of shares in points, with its interval by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{100 * mean:+.2f}"
    spread = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * mean:+.2f} ({100 * (mean - spread):+.2f} to {100 * (mean + spread):+.2f})"


if __name__ == "__main__":
    main()
