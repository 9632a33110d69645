"""What everything around the step costs: history, progress bar, metrics and checkpoints; and the streamed path.

    python -m benchmarks.overhead [--workloads mlp,small,cnn] [--seconds 30] [--rounds 5]

In memory, three contenders train the same epochs of the same batches with the same exact step:

- bare: the step, and after each epoch a plain test for loss and accuracy; nothing is kept, nothing is shown;
- quiet: Rushlight with history, metrics and checkpoints, the screen silent;
- everything: the same, with the progress bar on a (pseudo-)terminal.

The time is that of all epochs but the first, checkpoints and all, without making the run before and the report after. They run at the
same time, in turns of a quarter of a second in which the others are stopped: the speed of small machines drifts by half within minutes.

Streamed, a folder of PNG images is read from disk in every epoch, with 0 and with 2 worker processes: by Rushlight and by a plain
DataLoader over the same files, one after another. Each contender is a process of its own; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Turns,
    hand_back,
    in_turns,
    interleave,
    ratio,
    run_apart,
    say,
    spread,
    take_turns,
    this_machine,
)
from benchmarks.output import OTHERS, OURS, Bar, bar_chart, figure, markdown, rounds_of, standard_options, write_results
from benchmarks.peers import Laps
from benchmarks.workloads import WORKLOADS, Work, open_work, save_arrays

TARGET = 0.02
TURN = 0.25  # seconds that a contender runs before the next one does
MOST_EPOCHS = 5000
IN_MEMORY = {
    "bare": "the bare step",
    "quiet": "Rushlight, everything but the bar",
    "everything": "Rushlight, everything on",
}
WORKERS = (0, 2)
STREAMED = {
    f"{kind}-{workers}": f"{label}, {workers} workers"
    for workers in WORKERS
    for kind, label in (("loader", "plain DataLoader"), ("rushlight", "Rushlight"))
}
SIDE, STREAM_BATCH, IMAGES = 64, 64, 4000


@dataclass(frozen=True)
class Measured:
    """One contender in one round."""

    seconds: float  # all epochs but the first
    steps: int
    epoch_seconds: list[float]

    @property
    def step_seconds(self) -> float:
        """The mean time per step, tests and checkpoints included."""
        return self.seconds / self.steps


# ── in the contender's process: in memory ────────────────────────────────────────────────────────────────────


def begin(work: Work, epochs: int, runs: str, is_quiet: bool) -> Any:
    """Return Rushlight's iterator over the epochs of a workload, which has not begun."""
    import rushlight

    workload = work.workload
    return rushlight.epochs(
        workload.model(), ((work.inputs, work.targets), (work.test_inputs, work.test_targets)), kind=workload.kind,
        normalize="unit" if workload.kind == "image" else "none", epochs=epochs, batch_size=workload.batch_size,
        optimizer=workload.optimizer, lr=workload.lr, optimizer_arguments=dict(workload.optimizer_arguments),
        numerics="exact", device="cpu", runs=runs, quiet=is_quiet,
    )  # fmt: skip


def with_everything(work: Work, epochs: int, runs: str, laps: Laps, is_quiet: bool) -> None:
    """Train with Rushlight."""
    training = begin(work, epochs, runs, is_quiet)
    laps.begin()
    for epoch in training:
        laps.done(epoch.test.loss, epoch.test.accuracy)


def bare(work: Work, epochs: int, runs: str, laps: Laps) -> None:
    """Train with Rushlight's own exact step on Rushlight's own batches, and nothing around them."""
    training = begin(work, epochs, runs, is_quiet=True)._training
    step, model, data, recipe = exact_step_of(training), training.model, training.data, training.recipe
    laps.begin()
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in data.train.batches(recipe.batch_size, seed=recipe.seed, epoch=epoch):
            step([batch])
        laps.done(*plain_test(model, data.test, recipe))


def exact_step_of(training: Any) -> Callable[[Sequence[Any]], Any]:
    """Return the exact step as the loop makes it."""
    from rushlight.training.loop import step_parts
    from rushlight.training.step.exact import exact_step

    return exact_step(step_parts(training))


def plain_test(model: Any, split: Any, recipe: Any) -> tuple[float, float]:
    """Return loss and accuracy as a plain loop finds them."""
    import torch
    from torch import nn

    from rushlight.training.loop import test_batch_size

    loss = correct = count = 0.0
    model.eval()
    with torch.no_grad():
        for x, y in split.in_order(test_batch_size(recipe, split, model)):
            outputs = model(x)
            loss += nn.functional.cross_entropy(outputs, y).item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
            count += len(y)
    return loss / count, correct / count


# ── in the contender's process: streamed ─────────────────────────────────────────────────────────────────────


def stream_network() -> Any:
    """Return a network that takes little time itself: what is measured is the reading."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 10))


def rushlight_stream(folder: Path, epochs: int, workers: int, runs: str, laps: Laps) -> None:
    """Train with Rushlight on images that are read from disk, as if they did not fit into memory."""
    import rushlight
    from rushlight.data.sources.images.folder import open_image_folder

    data = open_image_folder(folder, normalize="unit", workers=workers, memory_limit=0)
    training = rushlight.epochs(
        stream_network(), data, epochs=epochs, batch_size=STREAM_BATCH, optimizer="SGD", lr=0.01, numerics="exact",
        device="cpu", runs=runs, quiet=True,
    )  # fmt: skip
    laps.begin()
    for epoch in training:
        assert epoch.test is not None
        laps.done(epoch.test.loss, epoch.test.accuracy)


def loader_stream(folder: Path, epochs: int, workers: int, laps: Laps) -> None:
    """Train by a plain loop over DataLoaders that read the same images."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    model = stream_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loaders = [
        DataLoader(Images(folder / split), batch_size=STREAM_BATCH, shuffle=split == "train", num_workers=workers)
        for split in ("train", "test")
    ]
    laps.begin()
    for _ in range(epochs):
        model.train()
        for x, y in loaders[0]:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        correct = count = total = 0.0
        with torch.no_grad():
            for x, y in loaders[1]:
                outputs = model(x)
                total += nn.functional.cross_entropy(outputs, y).item() * len(y)
                correct += (outputs.argmax(1) == y).sum().item()
                count += len(y)
        laps.done(total / count, correct / count)


class Images:
    """A folder of images, as torchvision's ImageFolder with ToTensor reads it: PIL, an array, float32 from 0 to 1."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.png"))
        names = sorted({file.parent.name for file in self.files})
        self.labels = [names.index(file.parent.name) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import numpy as np
        import torch
        from PIL import Image

        with self.files[index].open("rb") as file:
            pixels = np.array(Image.open(file).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255), self.labels[index]


def write_images(folder: Path, count: int) -> None:
    """Write `count` RGB images of 64×64 to train on and a quarter as many to test on, in ten folders each."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, amount in (("train", count), ("test", count // 4)):
        for number in range(amount):
            small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = folder / split / f"class-{number % 10}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)


def train_here(name: str, workload: str, data: str, epochs: int) -> None:
    """Train one contender in this process, and hand back its laps."""
    laps = Laps()
    with tempfile.TemporaryDirectory() as runs:
        if workload == "streamed":
            kind, workers = name.split("-")
            if kind == "loader":
                loader_stream(Path(data), epochs, int(workers), laps)
            else:
                rushlight_stream(Path(data), epochs, int(workers), runs, laps)
            steps = math.ceil(len(list(Path(data, "train").glob("*/*.png"))) / STREAM_BATCH)
        else:
            work = open_work(WORKLOADS[workload], Path(data))
            steps = work.steps
            if name == "bare":
                bare(work, epochs, runs, laps)
            else:
                with_everything(work, epochs, runs, laps, is_quiet=name == "quiet")
        hand_back({"steps_per_epoch": steps, "epochs": laps.epochs})


# ── in the process that compares ─────────────────────────────────────────────────────────────────────────────


def measure(name: str, workload: str, data: Path, epochs: int, turns: Turns | None = None) -> Measured:
    """Run one contender in a process of its own, alone or in turns with others."""
    arguments = ["benchmarks.overhead", "--only", name, workload, str(data), str(epochs)]
    is_shown = name == "everything"
    found = (turns.measure(name, arguments, is_shown) if turns else run_apart(arguments, on_terminal=is_shown)).result
    seconds = [lap["seconds"] for lap in found["epochs"]]
    counted = seconds[1:] or seconds
    measured = Measured(sum(counted), len(counted) * found["steps_per_epoch"], seconds)
    say(f"  {workload}, {name}: {measured.step_seconds * 1e6:,.1f} µs/step over {len(counted)} epochs")
    return measured


def compare(workload: str, names: Sequence[str], data: Path, rounds: int, least: float) -> dict[str, list[Measured]]:
    """Measure contenders with as many epochs as fill `least` seconds, the same number for all."""
    epochs = 3
    if least > 0:
        look = measure(names[0], workload, data, 2)
        epochs = max(epochs, 1 + min(math.ceil(least / look.epoch_seconds[-1]), MOST_EPOCHS))
    if workload == "streamed" or not hasattr(signal, "SIGSTOP"):  # its workers are processes of their own
        return interleave(names, rounds, lambda name: measure(name, workload, data, epochs))
    found = [
        in_turns(names, TURN, lambda turns, name: measure(name, workload, data, epochs, turns)) for _ in range(rounds)
    ]
    return {name: [each[name] for each in found] for name in names}


def share_over(results: dict[str, list[Measured]], name: str, other: str) -> float:
    """Return how much longer a contender takes than another, as a share."""
    return ratio(*([measured.step_seconds for measured in results[one]] for one in (name, other))) - 1


def rows_of(title: str, labels: dict[str, str], results: dict[str, list[Measured]], other: Callable[[str], str]) -> Iterator[list[str]]:  # fmt: skip
    """Give the table rows of one workload."""
    for name, rounds in results.items():
        base = other(name)
        over = share_over(results, name, base) if name != base and base in results else None
        figures = spread([measured.step_seconds for measured in rounds])
        yield [title, labels[name], figure(figures, 1e6, 1), "" if over is None else f"{over:+.1%}"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = standard_options(
        "overhead", "What history, bar, metrics and checkpoints cost; and the streamed path.", rounds=5
    )
    parser.add_argument("--workloads", default=",".join([*WORKLOADS, "streamed"]), help="which ones, with commas")
    parser.add_argument("--seconds", type=float, default=None, help="how long each trains, at least (30)")
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.workloads = options.workloads.split(",")
    if unknown := [name for name in options.workloads if name not in (*WORKLOADS, "streamed")]:
        parser.error(f"--workloads: there is no {', '.join(unknown)}; there are {', '.join(WORKLOADS)}, streamed")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parse(arguments)
    if options.only:
        take_turns()
        name, workload, data, epochs = options.only
        train_here(name, workload, data, int(epochs))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the contenders are ended
    machine, rounds = this_machine(), rounds_of(options)
    least = options.seconds if options.seconds is not None else 0.5 if options.quick else 30.0
    results: dict[str, dict[str, list[Measured]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workloads:
            if name == "streamed":
                data = Path(folder) / "images"
                write_images(data, 200 if options.quick else IMAGES)
                results[name] = compare(name, list(STREAMED), data, rounds, least)
            else:
                data = Path(folder) / f"{name}.npz"
                save_arrays(data, WORKLOADS[name].arrays(options.quick))
                results[name] = compare(name, list(IN_MEMORY), data, rounds, least)
    report(options, machine, rounds, results, sys.argv[1:] if arguments is None else arguments)


def report(
    options: argparse.Namespace, machine: Any, rounds: int, results: dict[str, Any], given: Sequence[str]
) -> None:
    """Print and write what was found."""
    rows: list[list[str]] = []
    found = {}
    for name, measured in results.items():
        streamed = name == "streamed"
        labels = STREAMED if streamed else IN_MEMORY

        def other(one: str, streamed: bool = streamed) -> str:
            return f"loader-{one[-1]}" if streamed else "bare"

        rows += rows_of(name, labels, measured, other)
        found[name] = {
            one: share_over(measured, one, other(one))
            for one in measured
            if other(one) in measured and other(one) != one
        }
    table = markdown(
        ["workload", "", "µs/step, with tests and checkpoints", "over the bare step or the DataLoader"], rows, texts=2
    )
    command = f"python -m benchmarks.overhead {shlex.join(given)}".strip()
    text = f"Rounds: {rounds}; medians, least to most. The aim in memory is at most {TARGET:.0%}.\n\n{table}"
    write_results(
        options.out, "overhead", command, machine, text,
        {
            "rounds": rounds, "target": TARGET, "overhead": found,
            "workloads": {
                name: {one: [asdict(each) for each in done] for one, done in measured.items()}
                for name, measured in results.items()
            },
        },
    )  # fmt: skip
    panels = {
        name: [
            Bar(
                (STREAMED if name == "streamed" else IN_MEMORY)[one],
                spread([each.step_seconds * 1e6 for each in done]),
                OTHERS if one == "bare" or one.startswith("loader") else OURS,
            )
            for one, done in measured.items()
        ]
        for name, measured in results.items()
    }
    bar_chart(options.out / "overhead.png", panels, "µs per step; lower is better", f"{machine.cpu}, {machine.date}")


if __name__ == "__main__":
    main()
