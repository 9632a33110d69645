"""One epoch's batches, taken one after another."""

from __future__ import annotations

from collections.abc import Iterator

from rushlight.data.feed.batch import Batch


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
