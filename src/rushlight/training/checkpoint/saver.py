"""Saves while the training goes on: the state is copied, and a thread writes the copy.

A copy stalls the training for as long as the memory takes. The writing takes a share of the processor and of the disk.
Both are kept to `CHECKPOINT_SHARE` of the time: where epochs are so short that a checkpoint at every end would cost more,
some are left out. A state that is asked for (`save_now`, an interruption, the end of the run) is always written.
"""

from __future__ import annotations

import contextlib
import threading
import time

from rushlight.errors import RushlightError
from rushlight.training.checkpoint.checkpoint import (
    KEPT,
    Snapshot,
    checkpoint_name,
    take_snapshot,
    write_snapshot,
    write_together,
)
from rushlight.training.state import Training

CHECKPOINT_SECONDS = 30.0  # inside an epoch; at its end there is one anyway
CHECKPOINT_SHARE = 0.005  # of the time that checkpoints may take


class Saver:
    """Owns the snapshots that are not written yet, and the thread that writes them."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.waiting: list[Snapshot] = []
        self.lock = threading.Lock()  # of what waits: the thread takes it
        self.thread: threading.Thread | None = None
        self.is_writing = False  # whether the thread is at work, or about to be
        self.hurry = threading.Event()  # somebody waits for the thread
        self.is_asked_for = (
            False  # whether the state is to be saved once the step in progress is done: within, it is nobody's
        )
        self.error: BaseException | None = None
        self.copied = ""  # the name of the newest snapshot
        self.stall = 0.0  # seconds that the last copy took
        self.work = 0.0  # seconds that the last writing took: about what the steps lose by it, on all cores
        self.copied_at = self.written_at = self.epoch_ended_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether more is at stake inside an epoch than a checkpoint costs; raises a write's error."""
        self.raise_error()
        if self.is_asked_for:
            return True
        pause = max(CHECKPOINT_SECONDS, self.stall / CHECKPOINT_SHARE)
        return time.monotonic() - self.copied_at >= pause and not self.is_writing

    @property
    def wishes(self) -> bool:
        """Whether this process would save now."""
        return self.is_due

    @property
    def pause(self) -> float:
        """The seconds between the ends of two epochs' writings that keep these to their share."""
        if self.training.recipe.keep_epochs:
            return 0.0
        return min(CHECKPOINT_SECONDS, (self.stall + self.work) / CHECKPOINT_SHARE)

    def save_soon(self) -> None:
        """Copy the state, and write it while training goes on; wait for it where it was asked for."""
        is_asked_for = self.is_asked_for
        self.copy()
        if is_asked_for:
            self.finish()
        else:
            self.write()

    def save_epoch(self, is_best: bool) -> None:
        """Copy and write the state at an epoch's end; later or not at all if epochs are short.

        Where even copies take more than their share, none is made that would still wait at the next epoch's end, as far as
        can be told from when the last one was; the best so far always is.
        """
        self.raise_error()
        now = time.monotonic()
        period, self.epoch_ended_at = now - self.epoch_ended_at, now
        after = max(0.0, self.written_at + self.pause - now)
        if self.agreed(is_best or after <= period or self.stall <= CHECKPOINT_SHARE * period):
            self.copy()
            self.write(after)

    def agreed(self, is_worth: bool) -> bool:
        """Return whether to save, where one process goes by its clock."""
        return is_worth

    def save_now(self) -> None:
        """Copy the state, unless that is done already, and return when it is on the disk."""
        if checkpoint_name(self.training.state) != self.copied:
            self.copy()
        self.finish()

    def finish(self) -> None:
        """Write the snapshots that wait, and return when they are on the disk."""
        self.hurry.set()
        try:
            self.wait()
            self.write()  # what was added while the thread was at work
            self.wait()
        finally:
            self.hurry.clear()

    def finish_quietly(self) -> None:
        """Write the snapshots that wait, while another error is raised that is more important."""
        with contextlib.suppress(RushlightError):
            self.finish()

    def copy(self) -> None:
        """Copy the state; forget earlier copies that would be deleted as soon as it is written."""
        began = time.monotonic()
        snapshot = take_snapshot(self.training)
        keeps_all = self.training.recipe.keep_epochs
        with self.lock:
            newest = self.waiting[1 - KEPT :]
            self.waiting = [
                earlier for earlier in self.waiting if keeps_all or earlier in newest or earlier.name in snapshot.kept
            ] + [snapshot]
        self.copied, self.is_asked_for = snapshot.name, False
        self.copied_at = time.monotonic()
        self.stall = self.copied_at - began

    def write(self, after: float = 0.0) -> None:
        """Have the thread write the snapshots that wait, after `after` seconds."""
        with self.lock:
            if not self.waiting or self.is_writing:
                return
            self.is_writing = True
        thread = threading.Thread(target=self.write_all, args=(after,), name="rushlight-saver", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # memory has run out, and there is none for a thread: then training waits
            self.write_here()
        else:
            self.thread = thread

    def write_here(self) -> None:
        """Write the snapshots that wait, in the thread that trains."""
        with self.lock:
            snapshots, self.waiting = self.waiting, []
        self.write_some(snapshots)
        self.is_writing = False

    def write_all(self, after: float) -> None:
        """Write the snapshots that wait, until none does. Runs in the thread."""
        while True:
            if after:
                self.hurry.wait(after)
            with self.lock:
                snapshots, self.waiting = self.waiting, []
                if not snapshots or self.error is not None:
                    self.is_writing = False
                    return
            self.write_some(snapshots)
            after = self.pause

    def write_some(self, snapshots: list[Snapshot]) -> None:
        """Write snapshots, oldest first: a newer one may name an older one as the best."""
        began = time.monotonic()
        try:
            for snapshot in snapshots:
                write_snapshot(self.training.folder, snapshot, self.training.recipe.keep_epochs)
        except BaseException as error:  # it is raised again in the thread that trains
            self.error = error
        self.written_at = time.monotonic()
        self.work = (self.written_at - began) / len(snapshots)

    def wait(self) -> None:
        """Wait for the thread, and raise its error."""
        if self.thread is not None:
            self.thread.join()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the last writing's error, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error


class SharedSaver(Saver):
    """In a run of several processes the first one writes; the others check their numbers where it does."""

    @property
    def is_due(self) -> bool:
        """Whether the state is to be saved after this step, as all processes know."""
        self.raise_error()
        return self.training.world.is_saving

    @property
    def wishes(self) -> bool:
        """Whether the first process would save now."""
        return self.training.world.is_first and super().is_due

    def copy(self) -> None:
        """Copy the state in the first process."""
        if self.training.world.is_first:
            super().copy()


class ShardedSaver(SharedSaver):
    """Of a model that is divided each process writes its rows, while training waits: no copy of them needs memory."""

    def copy(self) -> None:
        """Write the state, together with the others."""
        began = time.monotonic()
        self.training.optimizer.zero_grad()
        snapshot = take_snapshot(self.training)
        write_together(self.training, snapshot)
        self.copied, self.is_asked_for = snapshot.name, False
        self.copied_at = self.written_at = time.monotonic()
        self.stall = self.copied_at - began

    def agreed(self, is_worth: bool) -> bool:
        """Return whether the first process goes by its clock to save."""
        return bool(self.training.world.first_does(lambda: is_worth))


def open_saver(training: Training) -> Saver:
    """Return what saves the state of a training."""
    if training.shards is not None:
        return ShardedSaver(training)
    return SharedSaver(training) if training.world.is_shared else Saver(training)
