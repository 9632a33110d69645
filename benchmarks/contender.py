"""The process of one contender: it opens the data, trains, prints a report and ends. `benchmarks.training` starts it.

python -m benchmarks.contender WORKLOAD CONTENDER DATA.npz EPOCHS DEVICE
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Train once."""
    workload, name, data, epochs, device = sys.argv[1:]

    from benchmarks.measure import hand_back
    from benchmarks.peers import CONTENDERS, Laps
    from benchmarks.workloads import WORKLOADS, open_work

    contender = CONTENDERS[name]
    work, laps = open_work(WORKLOADS[workload], Path(data), device), Laps()
    import_module(f"benchmarks.peers.{contender.module}").train(work, int(epochs), laps, **contender.arguments)
    last = laps.epochs[-1]
    print(f"{contender.label}: test loss {last['loss']}, accuracy {last['accuracy']}")
    hand_back({"steps_per_epoch": work.steps, "epochs": laps.epochs})


if __name__ == "__main__":
    main()
