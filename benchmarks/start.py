"""How fast Rushlight starts: its import, `rushlight --help`, and from the command to the first step, against torch's own import.

    python -m benchmarks.start [--rounds 15] [--data fashion-mnist]

Each is a fresh process, interleaved, and timed from its start to its end; the one to the first step ends right there. The
imports are timed inside the process too, without the start of Python. The data is in the cache before.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Finished, interleave, ratio, run_apart, say, spread, this_machine
from benchmarks.output import OTHERS, OURS, Bar, bar_chart, figure, markdown, rounds_of, standard_options, write_results
from benchmarks.peers import CONTENDERS

TIMED_IMPORT = """
import time
began = time.perf_counter()
import {module}
seconds = time.perf_counter() - began
from benchmarks.measure import hand_back
hand_back({{"seconds": seconds}})
"""

TORCH_FIRST_STEP = """
import torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
from benchmarks.measure import hand_back
hand_back({})
"""


@dataclass(frozen=True)
class Start:
    """Something that starts: what it is called, and how it is run."""

    label: str
    arguments: Sequence[str]
    is_module: bool = False
    is_ours: bool = False


def starts(data: str, runs: str) -> dict[str, Start]:
    """Return what is measured."""

    def importing(module: str) -> list[str]:
        return ["-c", TIMED_IMPORT.format(module=module)]

    train = ["benchmarks.first_step", "train", "mlp", data, "--runs", runs]
    found = {
        "python": Start("python, nothing else", ["-c", "pass"]),
        "rushlight": Start("import rushlight", importing("rushlight"), is_ours=True),
        "help": Start("rushlight --help", ["-m", "rushlight", "--help"], is_ours=True),
        "torch": Start("import torch", importing("torch")),
        "torch-step": Start("torch alone, to an optimizer's first step", ["-c", TORCH_FIRST_STEP]),
        "first-step": Start(f"rushlight train mlp {data}, to the first step", train, is_module=True, is_ours=True),
    }
    for name, contender in CONTENDERS.items():
        if contender.imported is not None and contender.is_installed:
            module = {"fastai": "fastai.basics", "ignite": "ignite.engine"}.get(name, contender.imported)
            found[name] = Start(f"import {module}", importing(module))
    return found


@dataclass(frozen=True)
class Target:
    """What is aimed at: how long something may take."""

    what: str
    seconds: float
    found: float

    @property
    def is_met(self) -> bool:
        """Whether it takes no longer."""
        return self.found <= self.seconds


def targets(results: Mapping[str, Sequence[Finished]]) -> list[Target]:
    """Return what was aimed at, and what was found."""
    found = []
    if "rushlight" in results:
        found.append(Target("import rushlight", 0.03, median_inside(results["rushlight"])))
    if "help" in results:
        found.append(Target("rushlight --help", 0.25, statistics.median(each.seconds for each in results["help"])))
    if "torch" in results and "first-step" in results:
        pairs = zip(results["first-step"], results["torch"], strict=True)
        later = statistics.median(one.seconds - other.seconds for one, other in pairs)
        found.append(Target("command to first step, beyond torch's import", 0.7, later))
    return found


def median_inside(finished: Sequence[Finished]) -> float:
    """Return the median of what the processes measured themselves."""
    return statistics.median(each.result["seconds"] for each in finished)


def rows_of(shown: Mapping[str, Start], results: Mapping[str, Sequence[Finished]]) -> list[list[str]]:
    """Return the rows of the table."""
    rows = []
    for name, finished in results.items():
        inside = spread([each.result["seconds"] for each in finished]) if "seconds" in finished[0].result else None
        seconds = [each.seconds for each in finished]
        against = f"{ratio(seconds, [each.seconds for each in results['torch']]):.2f}" if "torch" in results else ""
        peaks = [each.peak_bytes for each in finished if each.peak_bytes is not None]
        memory = f"{statistics.median(peaks) / 2**20:,.0f}" if peaks else ""
        rows.append([shown[name].label, figure(spread(seconds), 1e3), figure(inside, 1e3, 1), against, memory])
    return rows


def measure(start: Start) -> Finished:
    """Run a fresh process."""
    environment = {"KERAS_BACKEND": "torch"}  # without it Keras looks for tensorflow
    finished = run_apart(start.arguments, is_module=start.is_module, environment=environment)
    say(f"  {start.label}: {finished.seconds * 1e3:,.0f} ms")
    return finished


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = standard_options(
        "start", "Import, --help, and the command to its first step, against torch's import.", rounds=15
    )
    parser.add_argument("--data", default=None, help="what is trained on (fashion-mnist)")
    parser.add_argument("--contenders", default=None, help="which ones, with commas (all)")
    options: argparse.Namespace = parser.parse_args(arguments)
    from rushlight.data.sources.named.named import DATASETS, open_named

    data = options.data or ("digits" if options.quick else "fashion-mnist")
    if data in DATASETS:
        open_named(data)  # into the cache
    machine, rounds = this_machine(), rounds_of(options)
    with tempfile.TemporaryDirectory() as folder:
        shown = starts(data, str(Path(folder) / "runs"))
        names = options.contenders.split(",") if options.contenders else list(shown)
        if unknown := [name for name in names if name not in shown]:
            parser.error(f"--contenders: there is no {', '.join(unknown)}; there are {', '.join(shown)}")
        results = interleave(names, rounds, lambda name: measure(shown[name]))
    aims = targets(results)
    headers = ["", "process, ms", "the import itself, ms", "of torch's import", "peak MiB"]
    table = markdown(headers, rows_of(shown, results))
    aimed = markdown(
        ["aimed at", "at most, ms", "found, ms", "met"],
        [
            [aim.what, f"{aim.seconds * 1e3:,.0f}", f"{aim.found * 1e3:,.0f}", "yes" if aim.is_met else "no"]
            for aim in aims
        ],
    )
    given = sys.argv[1:] if arguments is None else arguments
    content: dict[str, Any] = {
        "rounds": rounds,
        "targets": [{**asdict(aim), "is_met": aim.is_met} for aim in aims],
        "starts": {name: [asdict(each) for each in finished] for name, finished in results.items()},
    }
    text = f"Rounds: {rounds}; medians, least to most.\n\n{table}\n\n{aimed}"
    write_results(
        options.out, "start", f"python -m benchmarks.start {shlex.join(given)}".strip(), machine, text, content
    )
    bars = [
        Bar(
            shown[name].label,
            spread([each.seconds * 1e3 for each in finished]),
            OURS if shown[name].is_ours else OTHERS,
        )
        for name, finished in results.items()
    ]
    bar_chart(
        options.out / "start.png", {"from the start of the process": bars}, "ms", f"{machine.cpu}, {machine.date}"
    )


if __name__ == "__main__":
    main()
