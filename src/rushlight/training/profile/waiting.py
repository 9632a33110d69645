"""One sentence where the data is what limits the speed: steps that wait for their batches more than they compute."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rushlight.data import Batch, Feed, ImageFolderDataset
from rushlight.device import usable_cores
from rushlight.runs import write_notice
from rushlight.texts import Note
from rushlight.training.state import Training

PERIOD = 5.0  # seconds that are judged together: one slow read is no reason
FEWEST_BATCHES = 3
MOST_WAITING = 0.5  # of the time


def telling_of_waiting(training: Training) -> Training:
    """Return the training with a streamed train split that warns, once, when the steps mostly wait for it."""
    train = training.data.train
    waited, lasted, count, is_told = 0.0, 0.0, 0, False  # seconds and batches of the period

    def timed(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal waited, lasted, count, is_told
        asked = time.perf_counter()
        for batch in batches:
            waited += time.perf_counter() - asked
            yield batch
            del batch  # the next one may need its memory
            lasted, asked, count = lasted + (now := time.perf_counter()) - asked, now, count + 1
            if lasted >= PERIOD and count >= FEWEST_BATCHES:
                if waited > MOST_WAITING * lasted and not is_told:
                    is_told = True
                    message = advice(waited / lasted, train)
                    training.events.warning(message)
                    write_notice(training.folder, training.state["step"], message)
                waited, lasted, count = 0.0, 0.0, 0

    if train.kind != "streamed":
        return training
    watched, opened = copy.copy(train), train.batches
    # Of this instance; all else about it is as it was.
    object.__setattr__(watched, "batches", lambda size, **named: Feed(timed(opened(size, **named))))
    return replace(training, data=replace(training.data, train=watched))


def advice(share: float, split: Any) -> Note:
    """Return the sentence: the share of the time, and what helps a split that is read like this one."""
    loader, cores = getattr(split, "loader", None), usable_cores()
    workers = split.workers if loader is None else loader.num_workers
    is_folder = loader is None and isinstance(split.dataset, ImageFolderDataset)
    way_out = Note("training.waits.smaller-files" if is_folder else "training.waits.cheaper-samples")
    if workers < cores > 1:
        option = Note("training.workers-of-run" if loader is None else "training.workers-of-loader", count=cores)
        way_out = Note(
            "training.waits.more-workers" if workers else "training.waits.workers", option=option, advice=way_out
        )
    return Note("training.waits.found", share=share, advice=way_out)
