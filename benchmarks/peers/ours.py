"""Rushlight, with all it does by default: history, checkpoints, report, plots and bundle. Only the screen is quiet."""

from __future__ import annotations

import tempfile
from typing import Any

import rushlight
from benchmarks.peers import Laps
from benchmarks.workloads import Work


def train(work: Work, epochs: int, laps: Laps, **options: Any) -> None:
    """Train with Rushlight; `options` are those of `rushlight.epochs`."""
    workload = work.workload
    data: Any = ((work.inputs, work.targets), (work.test_inputs, work.test_targets))
    with tempfile.TemporaryDirectory() as runs:
        training = rushlight.epochs(
            workload.model(),
            data,
            kind=workload.kind,
            normalize="unit" if workload.kind == "image" else "none",
            epochs=epochs,
            batch_size=workload.batch_size,
            optimizer=workload.optimizer,
            lr=workload.lr,
            optimizer_arguments=dict(workload.optimizer_arguments),
            device=str(work.device),
            runs=runs,
            quiet=True,
            **options,
        )
        laps.begin()
        for epoch in training:
            assert epoch.test is not None
            laps.done(epoch.test.loss, epoch.test.accuracy)
