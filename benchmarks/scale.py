"""Several processes with one thread each: samples per second, losses and memory, beside torch's DistributedDataParallel by hand.

    python -m benchmarks.scale [--workloads mlp cnn] [--processes 1 2] [--epochs 3] [--rounds 3]

Beside it stands Lightning's DDP, where that is installed. All sides train the same network on the same samples in the same
order, with the same first weights: each process its part of every batch. Rushlight writes its history and checkpoints meanwhile.
There is no test: it is the first process's alone, and as fast as one process is. The first epoch warms up; samples per second
are those of the others. The losses of all steps are compared with those of one process by hand, or of the fewest that are asked
for.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Finished, hand_back, interleave, ratio, run_apart, say, spread, this_machine
from benchmarks.output import figure, markdown, rounds_of, standard_options, write_results

SIDES = {"by-hand": "DistributedDataParallel by hand", "ours": "Rushlight"}
if importlib.util.find_spec("lightning") is not None:
    SIDES["lightning"] = "Lightning"


@dataclass(frozen=True)
class Measured:
    """What the processes of one training measured: samples per second, each step's loss, and the most memory of each."""

    speed: float
    losses: list[float]
    memory: list[int]  # bytes, by rank


# ── in each process ──────────────────────────────────────────────────────────────────────────────────────────


def work(side: str, workload: str, data: str, epochs: str) -> None:
    """Train in this process, alone or with those that it was launched with."""
    import torch

    from benchmarks.workloads import WORKLOADS, open_work

    torch.set_num_threads(1)
    opened = open_work(WORKLOADS[workload], Path(data))
    train = {"by-hand": by_hand, "ours": ours, "lightning": by_lightning}[side]
    seconds, losses = train(opened, int(epochs))
    hand_back({"seconds": seconds[1:], "losses": losses, "samples": len(opened.inputs)})


def by_hand(opened: Any, epochs: int) -> tuple[list[float], list[float]]:
    """Train as torch's tutorial does; return the seconds of each epoch and the loss of each step."""
    import time

    from torch import distributed, nn

    from rushlight.data.order import epoch_order

    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model, loss_fn, size = opened.workload.model(), nn.CrossEntropyLoss(), opened.workload.batch_size
    trained: nn.Module = model
    if processes > 1:
        distributed.init_process_group("gloo")
        trained = nn.parallel.DistributedDataParallel(model)
    optimizer, seconds, losses = opened.workload.torch_optimizer(model), [], []
    count = len(opened.inputs)
    for epoch in range(1, epochs + 1):
        began, order = time.perf_counter(), epoch_order(0, epoch, count)
        for first in range(0, count, size):
            chosen = order[first : first + size].tensor_split(processes)[rank]
            loss = loss_fn(trained(opened.prepared(opened.inputs[chosen])), opened.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    return seconds, mean_of_all(losses, processes)


def mean_of_all(losses: list[float], processes: int) -> list[float]:
    """Return the mean of all processes' losses, whose torch process group this ends."""
    import torch
    from torch import distributed

    if processes == 1:
        return losses
    mean = torch.tensor(losses, dtype=torch.float64)
    distributed.all_reduce(mean)
    distributed.destroy_process_group()
    return (mean / processes).tolist()


def by_lightning(opened: Any, epochs: int) -> tuple[list[float], list[float]]:
    """Train with Lightning's DDP, on the same batches; return the seconds of each epoch and the loss of each step."""
    import logging
    import time
    import warnings

    import lightning
    from lightning.pytorch.strategies import DDPStrategy
    from torch.utils.data import DataLoader, IterableDataset

    from benchmarks.peers.with_lightning import Module
    from rushlight.data.order import epoch_order

    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    began, seconds, losses = time.perf_counter(), list[float](), list[float]()

    class Batches(IterableDataset[Any]):
        """This process's part of every batch of an epoch."""

        def __iter__(self) -> Any:
            count, size = len(opened.inputs), opened.workload.batch_size
            order = epoch_order(0, len(seconds) + 1, count)
            for first in range(0, count, size):
                chosen = order[first : first + size].tensor_split(processes)[rank]
                yield [opened.prepared(opened.inputs[chosen]), opened.targets[chosen]]

    class Watch(lightning.Callback):
        """Notes the seconds of each epoch and each step's loss."""

        def on_train_epoch_start(self, *_: Any) -> None:
            nonlocal began
            began = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

        def on_train_epoch_end(self, *_: Any) -> None:
            seconds.append(time.perf_counter() - began)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # advice to use more workers, on two cores
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=processes, use_distributed_sampler=False, logger=False,
        strategy=DDPStrategy(process_group_backend="gloo") if processes > 1 else "auto",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()],
    )  # fmt: skip
    trainer.fit(Module(opened), DataLoader(Batches(), batch_size=None))
    return seconds, mean_of_all(losses, processes)


def ours(opened: Any, epochs: int) -> tuple[list[float], list[float]]:
    """Train with Rushlight; return the seconds of each epoch and the loss of each step."""
    import rushlight

    workload = opened.workload
    with tempfile.TemporaryDirectory() as runs:
        training = rushlight.epochs(
            workload.model(), (opened.inputs, opened.targets), kind=workload.kind, test_fraction=0.0, numerics="exact",
            normalize="unit" if workload.kind == "image" else "none", epochs=epochs, batch_size=workload.batch_size,
            optimizer=workload.optimizer, lr=workload.lr, optimizer_arguments=dict(workload.optimizer_arguments),
            schedule="constant", device="cpu", runs=runs, quiet=True,
        )  # fmt: skip
        seconds = [epoch.seconds for epoch in training]
        return seconds, list(map(float, training.run.losses)) if int(os.environ.get("RANK", 0)) == 0 else []


# ── all processes of one training ────────────────────────────────────────────────────────────────────────────


def measure(side: str, workload: str, processes: int, data: Path, epochs: int) -> Measured:
    """Train in as many processes, and return what they measured."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if processes > 1:
        common |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = ["benchmarks.scale", "--work", side, workload, str(data), str(epochs)]

    def start(rank: int) -> Finished:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        if own and side == "lightning":  # which knows torchrun by these
            own |= {"TORCHELASTIC_RUN_ID": "scale", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
        return run_apart(arguments, environment={**common, **own})

    with ThreadPoolExecutor(processes) as threads:
        found = list(threads.map(start, range(processes)))
    first = found[0].result
    speed = first["samples"] * len(first["seconds"]) / sum(first["seconds"])
    say(f"{workload}, {processes} × {side}: {speed:,.0f} samples/s")
    return Measured(speed, first["losses"], [each.peak_bytes or 0 for each in found])


def table(workload: str, counts: Sequence[int], found: dict[str, list[Measured]]) -> str:
    """Return the table of a workload; its losses are compared with those of the fewest processes by hand."""
    rows, fewest = [], min(counts)
    known = found[f"by-hand {fewest}"]
    for count in counts:
        hand = found.get(f"by-hand {count}", [])
        for side, label in SIDES.items():
            if not (measured := found.get(f"{side} {count}", [])):
                continue
            speeds = [each.speed for each in measured]
            pairs = zip(measured[0].losses, known[0].losses, strict=True)
            largest = max(abs(one - other) / max(abs(other), 1e-12) for one, other in pairs)
            beside = ratio(speeds, [each.speed for each in hand]) if hand else math.nan
            memory = max(max(each.memory) for each in measured)
            rows.append(
                [label, str(count), figure(spread(speeds)), f"{beside:.2f}", f"{largest:.1e}", f"{memory / 1e6:,.0f}"]
            )
    headers = [
        "",
        "processes",
        "samples/s",
        "× by hand",
        f"largest difference of a loss from {fewest} by hand, relative",
        "MB a process",
    ]
    return f"### {workload}\n\n{markdown(headers, rows, texts=1)}"


def main() -> None:
    """Measure all, and write the tables."""
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
        return
    parser = standard_options("scale", "What several processes train in a second, beside plain loops.", rounds=3)
    parser.add_argument("--workloads", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=None, help="to train on, at most")
    options: argparse.Namespace = parser.parse_args()
    machine, tables, results = this_machine(), [], {}
    from benchmarks.workloads import WORKLOADS, save_arrays

    for workload in options.workloads:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.npz"
            save_arrays(data, WORKLOADS[workload].arrays(options.quick), options.samples)
            epochs = 2 if options.quick else options.epochs
            measures = {
                f"{side} {count}": partial(measure, side, workload, count, data, epochs)
                for count in options.processes
                for side in SIDES
            }
            found = interleave(list(measures), rounds_of(options), lambda name, all=measures: all[name]())
        tables.append(table(WORKLOADS[workload].title, options.processes, found))
        results[workload] = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    command = shlex.join(["python", "-m", "benchmarks.scale", *sys.argv[1:]])
    write_results(options.out, "scale", command, machine, "\n\n".join(tables), results)


if __name__ == "__main__":
    main()
