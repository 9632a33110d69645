"""How long it takes to go on with a run, by the step it stands at; and how much a checkpoint stalls training, by the state's size.

    python -m benchmarks.resume [--steps 7] [--parameters 8] [--rounds 5]

Resuming: run folders are made that stand at step 10², 10³, … of a run with 1,024 steps in an epoch, as they stand after a kill. One step
is really taken; then the state, the history and the losses are set to what they are at that step, by the project's own functions,
and the checkpoint is written by them too. `rushlight resume` then runs to its first optimizer step, in a fresh process.

Stalls: a real training whose steps are timed one by one, first without checkpoints, then with one after the other, as often as the
writer gets done. The copy is the time in which the training thread does nothing else; what is lost is all that the steps take
longer than usual from the beginning of the copy until the writer is done.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import Finished, Spread, hand_back, interleave, run_apart, say, spread, this_machine
from benchmarks.output import figure, line_chart, markdown, rounds_of, standard_options, write_results
from benchmarks.scaling import network_of

STEPS_PER_EPOCH, BATCH, FEATURES = 1024, 64, 16
TARGET = 0.01  # of the time between two checkpoints, at the usual interval


# ── in a process of its own: a run that stands at a step ─────────────────────────────────────────────────────


def build(step: int, data: str, runs: str) -> None:
    """Make the run folder of a run that was killed after `step` steps."""
    import rushlight
    from rushlight.training.checkpoint.checkpoint import take_snapshot, write_snapshot
    from rushlight.training.loop import step_parts
    from rushlight.training.step.exact import exact_step

    training = rushlight.epochs(
        "mlp", data, epochs=2 + step // STEPS_PER_EPOCH, batch_size=BATCH, optimizer="AdamW", lr=1e-3, device="cpu",
        model_arguments={"hidden": (64,)}, runs=runs, name=f"step-{step}", quiet=True,
    )._training  # fmt: skip
    batches = training.data.train.batches(BATCH, seed=training.recipe.seed, epoch=1)
    loss, _ = exact_step(step_parts(training))([next(batches)])
    stand_at(training, step, float(loss))
    write_snapshot(training.folder, take_snapshot(training))
    sys.stdout.flush()
    os._exit(0)  # as a kill leaves it


def stand_at(training: Any, step: int, loss: float) -> None:
    """Set state, history and losses to what they are after `step` steps."""
    import numpy as np

    epochs, window = divmod(step, STEPS_PER_EPOCH)
    training.state.update(epoch=epochs + 1, window=window, step=step, samples=window * BATCH)
    training.state.update(loss_sum=loss * window * BATCH, weight_sum=float(window * BATCH))
    training.state["best"] = {"epoch": 1, "step": STEPS_PER_EPOCH, "name": "accuracy", "value": 1.0, "loss": loss} if epochs else None  # fmt: skip
    for epoch in range(1, epochs + 1):
        for part in range(1, 11):
            place = (epoch - 1) * STEPS_PER_EPOCH + part * 102
            training.history.write(
                {"kind": "steps", "epoch": epoch, "step": place, "loss": loss, "learning_rate": 1e-3,
                 "samples": part * 102 * BATCH, "time": time.time()}
            )  # fmt: skip
        training.history.write(
            {"kind": "epoch", "epoch": epoch, "step": epoch * STEPS_PER_EPOCH, "train_loss": loss,
             "test": {"loss": loss, "accuracy": 1.0, "n": 1000}, "learning_rate": 1e-3, "seconds": 1.0, "time": time.time()}
        )  # fmt: skip
    training.history.write_losses(np.full(step, loss, "<f4").tobytes())
    training.history.flush()


def write_rows(path: Path) -> None:
    """Write the data of those runs."""
    import numpy as np

    random = np.random.default_rng(0)
    parts = {}
    for split, rows in (("train", STEPS_PER_EPOCH * BATCH), ("test", 1000)):
        parts[f"x_{split}"] = random.normal(size=(rows, FEATURES)).astype(np.float32)
        parts[f"y_{split}"] = (parts[f"x_{split}"][:, 0] > 0).astype(np.int64)
    np.savez(path, **parts)


# ── in a process of its own: a training whose steps are timed ────────────────────────────────────────────────


def stall(parameters: int, seconds: float, checkpoints: int, runs: str) -> None:
    """Train without checkpoints for so many seconds, then with so many checkpoints; hand back what they cost."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import rushlight
    from rushlight.training.checkpoint import saver

    ends: list[float] = []  # of each step
    copies: list[tuple[float, float]] = []
    writes: list[tuple[float, float]] = []
    saver.Saver.copy = noting(saver.Saver.copy, copies)  # type: ignore[method-assign]
    saver.Saver.write_all = noting(saver.Saver.write_all, writes)  # type: ignore[method-assign]
    saver.CHECKPOINT_SECONDS, saver.CHECKPOINT_SHARE = 1e9, 1e9

    def note(*_: object) -> None:
        ends.append(time.perf_counter())
        if ends[-1] - ends[0] < seconds or len(ends) < 6:
            note.quiet_steps = len(ends)  # type: ignore[attr-defined]
            return
        saver.CHECKPOINT_SECONDS = 0.5  # and none begins while the writer is at work
        if len(writes) >= checkpoints and ends[-1] > writes[-1][1]:
            folder = max(Path(runs).glob("*/checkpoints/*/state.safetensors"), key=lambda path: path.stat().st_mtime)
            hand_back(costs(ends, note.quiet_steps, copies, writes, folder.stat().st_size))  # type: ignore[attr-defined]
            os._exit(0)

    register_optimizer_step_post_hook(note)
    rows = 2**18 if parameters > 10**6 or seconds < 1 else 2**22  # no epoch ends before the last checkpoint is written
    inputs = torch.randn(rows, FEATURES)
    targets = (inputs[:, 0] > 0).long()
    rushlight.train(
        network_of(FEATURES, parameters, 2), ((inputs, targets), (inputs[:64], targets[:64])), epochs=10**6, kind="array",
        normalize="none", batch_size=BATCH, optimizer="AdamW", lr=1e-5, numerics="exact", device="cpu", runs=runs, quiet=True,
    )  # fmt: skip


def noting(function: Any, times: list[tuple[float, float]]) -> Any:
    """Return the function, with the beginning and the end of each call noted."""

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            times.append((began, time.perf_counter()))

    return timed


def costs(
    ends: list[float],
    quiet: int,
    copies: list[tuple[float, float]],
    writes: list[tuple[float, float]],
    state_bytes: int,
) -> dict[str, Any]:
    """Return what the checkpoints cost: the copies, and what steps took longer than usual while one was made."""
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    usual = statistics.fmean(gaps[1:quiet])
    lost = []
    for began, _ in copies:
        done = next((end for start, end in writes if start >= began), None)
        if done is not None:
            inside = [gap for gap, end in zip(gaps, ends[1:], strict=True) if end >= began and end - gap <= done]
            lost.append(sum(inside) - usual * len(inside))
    return {
        "state_bytes": state_bytes,
        "step_seconds": usual,
        "copy_seconds": [end - began for began, end in copies],
        "write_seconds": [end - began for began, end in writes],
        "lost_seconds": lost,
    }


# ── in the process that compares ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Resumed:
    """One start of a run that goes on."""

    seconds: float  # from the start of the process to the first step
    seconds_after_torch: float  # of these, after torch's import
    peak_bytes: int


def measure_resumes(powers: Sequence[int], rounds: int, folder: Path) -> dict[int, list[Resumed]]:
    """Make the run folders, and measure how long each takes to its first step."""
    data, runs = folder / "rows.npz", folder / "runs"
    write_rows(data)
    for power in powers:
        run_apart(["benchmarks.resume", "--build", str(10**power), str(data), str(runs)])

    def once(name: str) -> Resumed:
        finished = run_apart(["benchmarks.first_step", "resume", str(runs / f"step-{10 ** int(name)}"), "--quiet"])
        say(f"  step 10^{name}: {finished.seconds:.2f} s to the first step")
        return Resumed(finished.seconds, finished.result["seconds_after_torch"], finished.peak_bytes)

    return {int(name): found for name, found in interleave([str(power) for power in powers], rounds, once).items()}


def measure_stalls(
    powers: Sequence[int], rounds: int, seconds: float, checkpoints: int
) -> dict[int, list[dict[str, Any]]]:
    """Measure what checkpoints cost, by the number of parameters."""

    def once(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as runs:
            given = [str(10 ** int(name)), str(seconds), str(checkpoints), runs]
            finished: Finished = run_apart(["benchmarks.resume", "--stall", *given])
        copy, lost = (statistics.median(finished.result[f"{part}_seconds"]) for part in ("copy", "lost"))
        say(f"  10^{name} parameters: copy {copy * 1e3:,.1f} ms, lost {lost * 1e3:,.1f} ms")
        return finished.result

    return {int(name): found for name, found in interleave([str(power) for power in powers], rounds, once).items()}


def resume_table(resumes: dict[int, list[Resumed]]) -> str:
    """Return the table of resuming."""
    return markdown(
        ["at step", "command to first step, s", "of it after torch's import, s", "peak MiB"],
        [
            [
                f"{10**power:,}", figure(spread([each.seconds for each in found]), digits=2),
                figure(spread([each.seconds_after_torch for each in found]), digits=2),
                f"{statistics.median(each.peak_bytes for each in found) / 2**20:,.0f}",
            ]
            for power, found in resumes.items()
        ],
    )  # fmt: skip


def pooled(found: list[dict[str, Any]], part: str) -> Spread:
    """Return the spread over all checkpoints of all rounds."""
    return spread([seconds for each in found for seconds in each[f"{part}_seconds"]])


def stall_table(stalls: dict[int, list[dict[str, Any]]], interval: float) -> str:
    """Return the table of stalls."""
    headers = [
        "parameters",
        "state, MB",
        "step, ms",
        "copy, ms",
        "written in, ms",
        "lost in all, ms",
        f"of {interval:.0f} s",
    ]
    rows = []
    for power, found in stalls.items():
        lost = pooled(found, "lost")
        step = statistics.median(each["step_seconds"] for each in found)
        rows.append(
            [
                f"{10**power:,}", f"{found[0]['state_bytes'] / 1e6:,.1f}", f"{step * 1e3:,.2f}",
                *(figure(pooled(found, part), 1e3, 1) for part in ("copy", "write", "lost")), f"{lost.median / interval:.2%}",
            ]
        )  # fmt: skip
    return markdown(headers, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = standard_options(
        "resume", "Time to resume by the step, stall per checkpoint by the state's size.", rounds=5
    )
    parser.add_argument("--steps", type=int, default=None, help="resume at 10² … to 10 to the power of this (7)")
    parser.add_argument(
        "--parameters", type=int, default=None, help="stalls from 10⁴ parameters to 10 to the power of this (8)"
    )
    parser.add_argument("--seconds", type=float, default=None, help="how long steps are timed without checkpoints (10)")
    parser.add_argument("--checkpoints", type=int, default=None, help="how many are timed in a round (5)")
    parser.add_argument("--build", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--stall", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parse(arguments)
    if options.build:
        step, data, runs = options.build
        build(int(step), data, runs)
    if options.stall:
        parameters, seconds, checkpoints, runs = options.stall
        stall(int(parameters), float(seconds), int(checkpoints), runs)
    from rushlight.training.checkpoint.saver import CHECKPOINT_SECONDS

    machine, rounds = this_machine(), rounds_of(options)
    given = (options.steps, options.parameters, options.seconds, options.checkpoints)
    usual = (4, 4, 0.3, 2) if options.quick else (7, 8, 10.0, 5)
    steps, parameters, seconds, checkpoints = (
        there if one is None else one for one, there in zip(given, usual, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        resumes = measure_resumes(range(2, steps + 1), rounds, Path(folder))
    stalls = measure_stalls(range(4, parameters + 1), rounds, seconds, checkpoints)
    text = (
        f"Rounds: {rounds}; medians, least to most.\n\n{resume_table(resumes)}\n\n{stall_table(stalls, CHECKPOINT_SECONDS)}\n\n"
        f"The aim is at most {TARGET:.0%} of the time between two checkpoints."
    )
    content = {
        "rounds": rounds,
        "interval_seconds": CHECKPOINT_SECONDS,
        "resume": {str(10**power): [asdict(each) for each in found] for power, found in resumes.items()},
        "stalls": {str(10**power): found for power, found in stalls.items()},
    }
    shown = sys.argv[1:] if arguments is None else arguments
    command = f"python -m benchmarks.resume {shlex.join(shown)}".strip()
    write_results(options.out, "resume", command, machine, text, content)
    title = f"{machine.cpu}, {machine.date}"
    lines = {
        "from the command": [
            (10.0**power, spread([each.seconds for each in found])) for power, found in resumes.items()
        ]
    }
    line_chart(options.out / "resume-steps.png", lines, ("step", "seconds to the first step"), title)
    lines = {
        part: [(float(found[0]["state_bytes"]), pooled(found, part)) for found in stalls.values()]
        for part in ("copy", "write")
    }
    line_chart(options.out / "resume-stalls.png", lines, ("bytes of state", "seconds"), title)


if __name__ == "__main__":
    main()
