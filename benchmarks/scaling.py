"""What a step costs as the data and the model grow, and how much memory the process holds at most.

    python -m benchmarks.scaling [--rows 7] [--parameters 8] [--rounds 3]

The data grows from 10³ rows of 8 features to 10⁷ with the network 8-32-4; the model from 10³ parameters to 10⁸ with 2,048 rows of 64
features. Rushlight trains beside the loop by hand on the same arrays, interleaved, each in a process of its own. The time per step is that
of whole epochs but the first, with their test and, with Rushlight, their checkpoints: on 10³ rows an epoch is four steps, so what
is done once in an epoch shows. What is done once in a run (fingerprint of the data, folder, bundle) is in the column "before".
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Finished, Spread, hand_back, interleave, run_apart, say, spread, this_machine
from benchmarks.output import figure, line_chart, markdown, rounds_of, standard_options, write_results
from benchmarks.peers import Laps

CONTENDERS = {"by-hand": "by hand, in memory", "exact": "Rushlight, exact", "fast": "Rushlight, fast"}
STEPS = 2000  # that an epoch or several have, together, where the data is small


@dataclass(frozen=True)
class Size:
    """How large data and model are."""

    rows: int
    features: int
    parameters: int
    batch: int
    epochs: int


def sizes_of_data(most: int, is_quick: bool) -> list[Size]:
    """Return data of 10³ to 10^most rows for the small network."""
    batch, wanted = 256, 20 if is_quick else STEPS
    return [
        Size(
            10**power, 8, 8 * 32 + 32 + 32 * 4 + 4, batch, 1 + max(2, math.ceil(wanted / math.ceil(10**power / batch)))
        )
        for power in range(3, most + 1)
    ]


def sizes_of_model(most: int, is_quick: bool) -> list[Size]:
    """Return models of 10³ to 10^most parameters for the same small data."""
    epochs = [2 if is_quick else 20 if power <= 5 else 6 if power <= 7 else 3 for power in range(3, most + 1)]
    return [Size(256 if is_quick else 2048, 64, 10**power, 64, count) for power, count in zip(range(3, most + 1), epochs, strict=True)]  # fmt: skip


def network_of(features: int, parameters: int, classes: int) -> Any:
    """Return a network of about so many parameters: two hidden layers of one width, or one of 32."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if parameters < 1000:
        return nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, classes))
    linear = features + classes + 2  # width² + linear × width + classes = parameters
    width = max(round((-linear + math.sqrt(linear**2 + 4 * (parameters - classes))) / 2), 1)
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


# ── in the contender's process ───────────────────────────────────────────────────────────────────────────────


def made(size: Size) -> tuple[Any, Any, Any, Any]:
    """Return inputs and targets to train on, and a tenth as many to test on."""
    import torch

    generator = torch.Generator().manual_seed(0)
    parts: list[Any] = []
    for rows in (size.rows, max(size.rows // 10, 64)):
        inputs = torch.randn(rows, size.features, generator=generator)
        parts += [inputs, (inputs[:, :2] > 0).long() @ torch.tensor([1, 2])]
    return tuple(parts)  # type: ignore[return-value]


def by_hand(size: Size, laps: Laps) -> None:
    """Train by hand on data in memory."""
    import torch
    from torch import nn

    inputs, targets, test_inputs, test_targets = made(size)
    model = network_of(size.features, size.parameters, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    laps.begin()
    for _ in range(size.epochs):
        order = torch.randperm(size.rows)
        for first in range(0, size.rows, size.batch):
            chosen = order[first : first + size.batch]
            loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            parts = zip(test_inputs.split(1024), test_targets.split(1024), strict=True)
            correct = sum((model(x).argmax(1) == y).sum().item() for x, y in parts)
        laps.done(None, correct / len(test_targets))


def ours(size: Size, laps: Laps, numerics: str) -> None:
    """Train with Rushlight."""
    import rushlight

    inputs, targets, test_inputs, test_targets = made(size)
    model = network_of(size.features, size.parameters, 4)
    with tempfile.TemporaryDirectory() as runs:
        training = rushlight.epochs(
            model, ((inputs, targets), (test_inputs, test_targets)), kind="array", normalize="none", epochs=size.epochs,
            batch_size=size.batch, optimizer="SGD", lr=0.01, numerics=numerics, device="cpu", runs=runs, quiet=True,
        )  # fmt: skip
        laps.begin()
        for epoch in training:
            assert epoch.test is not None
            laps.done(epoch.test.loss, epoch.test.accuracy)


def train_here(name: str, size: Size) -> None:
    """Train one contender in this process, and hand back its laps."""
    import torch  # noqa: F401  # its import is no part of what is done before the first epoch

    began, laps = time.perf_counter(), Laps()
    if name == "by-hand":
        by_hand(size, laps)
    else:
        ours(size, laps, name)
    whole = time.perf_counter() - began
    seconds = [lap["seconds"] for lap in laps.epochs]
    hand_back({"epochs": laps.epochs, "around": whole - sum(one for one in seconds if one is not None)})


# ── in the process that compares ─────────────────────────────────────────────────────────────────────────────


def measure(name: str, size: Size) -> Finished:
    """Run one contender in a process of its own."""
    numbers = [str(number) for number in asdict(size).values()]
    finished = run_apart(["benchmarks.scaling", "--only", name, *numbers])
    say(
        f"  {size.rows:,} rows, {size.parameters:,} parameters, {name}: {step_seconds(finished, size) * 1e6:,.0f} µs/step"
    )
    return finished


def step_seconds(finished: Finished, size: Size) -> float:
    """Return the median time per step over the epochs but the first."""
    seconds = [lap["seconds"] for lap in finished.result["epochs"]]
    return statistics.median(seconds[1:] or seconds) / math.ceil(size.rows / size.batch)


def table_of(results: list[tuple[Size, dict[str, list[Finished]]]], column: str) -> str:
    """Return the table of one series; `column` is what grows."""
    rows = []
    for size, found in results:
        for name, rounds in found.items():
            rows.append(
                [
                    f"{getattr(size, column):,}", CONTENDERS[name],
                    figure(spread([step_seconds(each, size) for each in rounds]), 1e6),
                    figure(spread([each.result["around"] for each in rounds]), digits=2),
                    f"{statistics.median(each.peak_bytes for each in rounds) / 2**20:,.0f}",
                ]
            )  # fmt: skip
    return markdown(
        [column, "", "µs/step, with tests and checkpoints", "before and after, s", "peak MiB"], rows, texts=2
    )


def lines_of(
    results: list[tuple[Size, dict[str, list[Finished]]]], column: str
) -> dict[str, list[tuple[float, Spread]]]:
    """Return a series as lines of a chart."""
    lines: dict[str, list[tuple[float, Spread]]] = {}
    for size, found in results:
        for name, rounds in found.items():
            point = spread([step_seconds(each, size) * 1e6 for each in rounds])
            lines.setdefault(CONTENDERS[name], []).append((getattr(size, column), point))
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = standard_options("scaling", "Cost per step and memory, as data and model grow.", rounds=3)
    parser.add_argument("--rows", type=int, default=None, help="the data grows to 10 to the power of this (7)")
    parser.add_argument("--parameters", type=int, default=None, help="the model grows to 10 to the power of this (8)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which ones, with commas")
    parser.add_argument("--only", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.contenders = options.contenders.split(",")
    if unknown := [name for name in options.contenders if name not in CONTENDERS]:
        parser.error(f"--contenders: there is no {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parse(arguments)
    if options.only:
        name, *numbers = options.only
        train_here(name, Size(*map(int, numbers)))
        return
    machine, rounds = this_machine(), rounds_of(options)
    usual = (4, 4) if options.quick else (7, 8)
    rows, parameters = (
        there if one is None else one for one, there in zip((options.rows, options.parameters), usual, strict=True)
    )
    series = {
        "rows": sizes_of_data(rows, options.quick),
        "parameters": sizes_of_model(parameters, options.quick),
    }
    results = {
        column: [
            (size, interleave(options.contenders, rounds, lambda name, size=size: measure(name, size)))
            for size in sizes
        ]
        for column, sizes in series.items()
    }
    text = f"Rounds: {rounds}; medians, least to most.\n\n" + "\n\n".join(
        table_of(found, column) for column, found in results.items()
    )
    content = {
        column: [
            {**asdict(size), "contenders": {name: [asdict(each) for each in done] for name, done in found.items()}}
            for size, found in series_found
        ]
        for column, series_found in results.items()
    }
    given = sys.argv[1:] if arguments is None else arguments
    command = f"python -m benchmarks.scaling {shlex.join(given)}".strip()
    write_results(options.out, "scaling", command, machine, text, {"rounds": rounds, **content})
    for column, found in results.items():
        path: Path = options.out / f"scaling-{column}.png"
        line_chart(path, lines_of(found, column), (column, "µs per step"), f"{machine.cpu}, {machine.date}")


if __name__ == "__main__":
    main()
