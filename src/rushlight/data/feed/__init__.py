"""How samples become batches: kept in memory, streamed, or by the user's own loader."""

from rushlight.data.feed.batch import Batch, count_samples, equal_parts, tensors_in
from rushlight.data.feed.feed import Feed
from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.reading import are_same, failed, failed_together, not_collated, read_together, seeded, streams
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.split import CPU, Split
from rushlight.data.feed.streamed import StreamedSplit

__all__ = [
    "CPU",
    "Batch",
    "Feed",
    "LoaderSplit",
    "ResidentSplit",
    "Split",
    "StreamedSplit",
    "are_same",
    "count_samples",
    "equal_parts",
    "failed",
    "failed_together",
    "not_collated",
    "read_together",
    "seeded",
    "streams",
    "tensors_in",
]
