"""Rushlight against the plain loop, the loop by hand, the floor, and its peers, on five workloads.

    python -m benchmarks.training [--workloads mlp,cnn] [--contenders plain,by-hand,exact] [--rounds 5] [--epochs 5]

Contenders are interleaved: in each round each of them trains once, in a process of its own. Two things are measured:

- the whole process, from the command to its end, for `--epochs` epochs with a test after each: imports, reading the data, training,
  testing, the report; and the most memory it held;
- the time per step, with the test after every epoch included: the median over the later half of the epochs of a training that lasts
  at least `--seconds`, so that nothing of a start is in it. For those that compile on the way it lasts `--compiled-seconds`.

The accuracy after `--epochs` epochs stands beside the times, so that nobody wins by doing less. Ratios are taken round by round, since
the machine's speed drifts between rounds.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    ProcessFailed,
    Spread,
    interleave,
    ratio,
    run_apart,
    say,
    spread,
    this_machine,
    version_of,
)
from benchmarks.output import (
    FLOOR,
    OTHERS,
    OURS,
    Bar,
    bar_chart,
    figure,
    markdown,
    number,
    rounds_of,
    standard_options,
    write_results,
)
from benchmarks.peers import CONTENDERS, Laps
from benchmarks.workloads import WORKLOADS, Workload, open_work, save_arrays

MOST_EPOCHS = 5000

STEP_TARGETS = {  # workload -> (contender, measured against, its time per step as a share of theirs at the most)
    "mlp": (
        ("exact", "plain", 0.30), ("exact", "by-hand", 1.0),
        ("fast", "plain", 0.22), ("fast", "floor", 1.3), ("bfloat16", "plain", 0.13),
    ),
    "small": (("exact", "plain", 0.42), ("exact", "by-hand", 0.85), ("fast", "plain", 0.07)),
    "cnn": (("exact", "plain", 0.85), ("fast", "plain", 0.60), ("bfloat16", "plain", 0.38)),
}  # fmt: skip


CARD_TARGETS = {  # the same on an NVIDIA card; its floor is the replay of a graph
    "mlp": (("fast", "plain", 0.10), ("fast", "floor", 1 / 0.9)),
    "small": (("fast", "plain", 1 / 15),),
    "cnn": (("bfloat16", "plain", 0.25),),
    "transformer": (("fast", "plain", 0.5),),
}


@dataclass(frozen=True)
class Training:
    """What one contender did in one round."""

    step_seconds: float  # the median over the later epochs, each with its test
    first_epoch_seconds: float
    process_seconds: float
    processor_seconds: float
    peak_bytes: int
    losses: list[float | None]  # of the test after each epoch of the process
    accuracies: list[float | None]
    epoch_seconds: list[float]  # of the training from which the time per step is taken


@dataclass(frozen=True)
class Lengths:
    """How long to train."""

    epochs: int
    seconds: float
    compiled_seconds: float
    device: str = "cpu"
    is_together: bool = False  # in this process, one after another


def train_here(workload: Workload, name: str, data: Path, lengths: Lengths) -> Training:
    """Run a contender in this process, and again for longer where it was short."""
    contender = CONTENDERS[name]
    train = import_module(f"benchmarks.peers.{contender.module}").train
    work, laps, longer = open_work(workload, data, lengths.device), Laps(), Laps()
    try:
        train(work, lengths.epochs, laps, **contender.arguments)
        seconds = [lap["seconds"] for lap in laps.epochs]
        least = lengths.compiled_seconds if contender.compiles else lengths.seconds
        if (epochs := epochs_for(least, seconds)) > lengths.epochs:
            train(work, epochs, longer, **contender.arguments)
            seconds = [lap["seconds"] for lap in longer.epochs]
    except Exception as error:  # whatever another library raises on this machine
        raise ProcessFailed(f"{type(error).__name__}: {error}") from error
    later = statistics.median(seconds[len(seconds) // 2 :])
    say(f"  {workload.name}, {name}: {later / work.steps * 1e6:,.0f} µs/step")
    return Training(
        later / work.steps, laps.epochs[0]["seconds"], math.nan, math.nan, 0,
        [lap["loss"] for lap in laps.epochs], [lap["accuracy"] for lap in laps.epochs], seconds,
    )  # fmt: skip


def train_once(workload: Workload, name: str, data: Path, lengths: Lengths) -> Training:
    """Run a contender's process, and another that lasts longer where it was short."""
    if lengths.is_together:
        return train_here(workload, name, data, lengths)
    finished = run_apart(["benchmarks.contender", workload.name, name, str(data), str(lengths.epochs), lengths.device])
    laps, steps = finished.result["epochs"], finished.result["steps_per_epoch"]
    seconds = [lap["seconds"] for lap in laps]
    least = lengths.compiled_seconds if CONTENDERS[name].compiles else lengths.seconds
    epochs = epochs_for(least, seconds)
    if epochs > lengths.epochs:
        longer = run_apart(["benchmarks.contender", workload.name, name, str(data), str(epochs), lengths.device])
        seconds = [lap["seconds"] for lap in longer.result["epochs"]]
    later = statistics.median(seconds[len(seconds) // 2 :])
    say(f"  {workload.name}, {name}: {later / steps * 1e6:,.0f} µs/step, process {finished.seconds:.1f} s")
    return Training(
        later / steps, laps[0]["seconds"], finished.seconds, finished.processor_seconds, finished.peak_bytes,
        [lap["loss"] for lap in laps], [lap["accuracy"] for lap in laps], seconds,
    )  # fmt: skip


def epochs_for(least: float, seconds: Sequence[float]) -> int:
    """Return how many epochs fill `least` seconds, by the median of the epochs seen; none more where they did already."""
    if sum(seconds) >= least:
        return 0
    return min(math.ceil(least / statistics.median(seconds)), MOST_EPOCHS)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────


def columns(trainings: Sequence[Training]) -> dict[str, Spread]:
    """Return the spreads over the rounds of one contender."""
    return {
        "step_seconds": spread([training.step_seconds for training in trainings]),
        "first_epoch_seconds": spread([training.first_epoch_seconds for training in trainings]),
        "process_seconds": spread([training.process_seconds for training in trainings]),
        "processor_seconds": spread([training.processor_seconds for training in trainings]),
        "peak_bytes": spread([training.peak_bytes for training in trainings]),
    }


def step_ratio(results: dict[str, list[Training]], name: str, other: str) -> float | None:
    """Return a contender's time per step as a share of another's; None where that was not measured."""
    if name not in results or other not in results:
        return None
    return ratio(*([training.step_seconds for training in results[one]] for one in (name, other)))


def process_ratio(results: dict[str, list[Training]], name: str, other: str) -> float | None:
    """Return a contender's time for the whole process as a share of another's; None where that was not measured."""
    if name not in results or other not in results:
        return None
    share = ratio(*([training.process_seconds for training in results[one]] for one in (name, other)))
    return None if math.isnan(share) else share


def median_of(values: Sequence[float | None]) -> float | None:
    """Return the median of what is there."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def workload_table(results: dict[str, list[Training]], epochs: int) -> str:
    """Return a workload's table."""
    headers = [
        "", "µs/step, with tests", "of plain", "of by hand", "of floor", f"process of {epochs} epochs, s",
        "accuracy", "test loss", "peak MiB",
    ]  # fmt: skip
    rows = []
    for name, trainings in results.items():
        shown = columns(trainings)
        has_process = name != "floor" and not math.isnan(shown["process_seconds"].median)
        rows.append(
            [
                CONTENDERS[name].label,
                figure(shown["step_seconds"], 1e6),
                *(number(step_ratio(results, name, other)) for other in ("plain", "by-hand", "floor")),
                figure(shown["process_seconds"], digits=1) if has_process else "",
                number(median_of([training.accuracies[-1] for training in trainings]), 4),
                number(median_of([training.losses[-1] for training in trainings]), 4),
                number(shown["peak_bytes"].median / 2**20, 0) if has_process else "",
            ]
        )
    return markdown(headers, rows)


def target_rows(workload: str, results: dict[str, list[Training]], device: str) -> list[dict[str, Any]]:
    """Return what was aimed at for a workload, and what was found."""
    found: list[dict[str, Any]] = []
    for name, other, most in (STEP_TARGETS if device == "cpu" else CARD_TARGETS).get(workload, ()):
        share = step_ratio(results, name, other)
        if share is not None:
            found.append({"what": "step", "contender": name, "against": other, "most": most, "found": share})
    for other, contender in CONTENDERS.items():
        share = process_ratio(results, "fast", other)
        if share is not None and contender.package is not None:
            found.append({"what": "process", "contender": "fast", "against": other, "most": 1.0, "found": share})
    return [{"workload": workload, **row, "is_met": row["found"] <= row["most"]} for row in found]


def targets_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of what was aimed at."""
    return markdown(
        ["workload", "measured", "against", "at most", "found", "met"],
        [
            [
                row["workload"], f"{CONTENDERS[row['contender']].label}, {row['what']}", CONTENDERS[row["against"]].label,
                f"{row['most']:.2f}", f"{row['found']:.2f}", "yes" if row["is_met"] else "no",
            ]
            for row in rows
        ],
        texts=3,
    )  # fmt: skip


def draw(out: Path, results: dict[str, dict[str, list[Training]]], epochs: int, machine: str) -> None:
    """Draw both charts."""
    for file, column, scale, axis in (
        ("training-steps.png", "step_seconds", 1e6, "µs per step, with a test after every epoch; lower is better"),
        (
            "training-process.png",
            "process_seconds",
            1.0,
            f"seconds from command to report, {epochs} epochs; lower is better",
        ),
    ):
        panels = {}
        for name, trainings in results.items():
            panels[WORKLOADS[name].title] = [
                Bar(CONTENDERS[one].label, scaled(columns(done)[column], scale), colour_of(one))
                for one, done in trainings.items()
                if not (one == "floor" and column == "process_seconds")
            ]
        bar_chart(out / file, panels, axis, machine)


def scaled(value: Spread, scale: float) -> Spread:
    """Return a spread in another unit."""
    return Spread(value.median * scale, value.least * scale, value.most * scale)


def colour_of(name: str) -> str:
    """Return the colour of a contender's bar."""
    if name == "floor":
        return FLOOR
    return OURS if CONTENDERS[name].is_ours else OTHERS


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = standard_options("training", "Rushlight against plain loops, the floor and its peers.", rounds=5)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which ones, with commas")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which ones, with commas")
    parser.add_argument("--epochs", type=int, default=None, help="of the whole process (5)")
    parser.add_argument(
        "--seconds", type=float, default=None, help="least time that the time per step is taken from (10)"
    )
    parser.add_argument(
        "--compiled-seconds", type=float, default=None, help="the same, of those that compile on the way (90)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default), or cuda: an NVIDIA card")
    parser.add_argument(
        "--together", action="store_true", help="in this process, one after another: quicker, without whole processes"
    )
    parser.add_argument("--samples", type=int, default=None, help="train on that many samples at the most")
    options = parser.parse_args(arguments)
    for option, known in (("workloads", WORKLOADS), ("contenders", CONTENDERS)):
        chosen = getattr(options, option).split(",")
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"--{option}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
        setattr(options, option, chosen)
    return options


def present(names: Sequence[str], device: str) -> list[str]:
    """Return the contenders that can run here; the others are named."""
    import torch

    from rushlight.device import precision_refusal

    kept = []
    for name in names:
        contender = CONTENDERS[name]
        refusal = precision_refusal("bfloat16", torch.device(device)) if name == "bfloat16" else None
        if not contender.is_installed:
            say(f"{contender.label} is left out: {contender.package} is not installed")
        elif refusal:
            say(f"{contender.label} is left out: {refusal}")
        else:
            kept.append(name)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options, machine = parse(arguments), this_machine()
    usual = (2, 0.0, 0.0) if options.quick else (5, 10.0, 90.0)
    given = (options.epochs, options.seconds, options.compiled_seconds)
    lengths = Lengths(
        *(there if one is None else one for one, there in zip(given, usual, strict=True)),
        options.device,
        options.together,
    )  # type: ignore[arg-type]
    names, rounds = present(options.contenders, options.device), rounds_of(options)
    results: dict[str, dict[str, list[Training]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workload in (WORKLOADS[name] for name in options.workloads):
            data = Path(folder) / f"{workload.name}.npz"
            save_arrays(data, workload.arrays(options.quick), options.samples)
            say(workload.title)
            results[workload.name] = interleave(
                names, rounds, lambda name, one=workload, path=data: train_once(one, name, path, lengths)
            )
            data.unlink()
    targets = [row for name, found in results.items() for row in target_rows(name, found, options.device)]
    parts = [
        f"### {WORKLOADS[name].title}\n\n{workload_table(found, lengths.epochs)}" for name, found in results.items()
    ]
    parts += [f"### What was aimed at\n\n{targets_table(targets)}"] if targets else []
    versions = {c.package: version_of(c.package) for c in CONTENDERS.values() if c.package}
    installed = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    command = f"python -m benchmarks.training {shlex.join(sys.argv[1:] if arguments is None else arguments)}".strip()
    write_results(
        options.out, "training", command, machine,
        f"Rounds: {rounds}; medians, least to most. Peers: {installed or 'none installed'}.\n\n" + "\n\n".join(parts),
        {
            "rounds": rounds, "epochs": lengths.epochs, "versions": versions, "targets": targets,
            "workloads": {
                name: {one: [asdict(training) for training in done] for one, done in found.items()}
                for name, found in results.items()
            },
        },
    )  # fmt: skip
    if not options.together:
        draw(options.out, results, lengths.epochs, f"{machine.cpu}, threads: {machine.threads}, {machine.date}")


if __name__ == "__main__":
    main()
