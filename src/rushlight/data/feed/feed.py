"""One epoch's batches, taken one after another."""

from __future__ import annotations

from collections.abc import Iterator

from rushlight.data.feed.batch import Batch

EMPTY: Batch = ()  # one process's share of a batch that has fewer samples than there are processes


class Feed:
    """One epoch's batches, in their order; each is given once. A feed is also an iterator over single batches."""

    joins = 1  # batches that one `take` can return as one
    ahead = 1  # batches that are in memory at once, so that as many can be had as one for nothing

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches

    def take(self, count: int = 1) -> Batch | None:
        """Return the next `count` batches as one, shorter where the epoch ends; None after its last."""
        return next(self.batches, None)

    def close(self) -> None:
        """Read no further: whoever reads ahead stops."""
        if hasattr(self.batches, "close"):
            self.batches.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.take()
        if batch is None:
            raise StopIteration
        return batch


class SharedFeed(Feed):
    """One process's shares of an epoch's batches: as many in every process, the last of them perhaps `EMPTY`."""

    def __init__(self, batches: Feed, count: int) -> None:
        self.own, self.left = batches, count

    def take(self, count: int = 1) -> Batch | None:
        """Return the next share; None after the last. `count` is 1: nothing is joined."""
        self.left -= 1
        batch = self.own.take()
        return EMPTY if batch is None and self.left >= 0 else batch

    def close(self) -> None:
        """Read no further."""
        self.own.close()
