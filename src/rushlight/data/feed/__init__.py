"""How samples become batches: kept in memory, streamed, or by the user's own loader."""

from rushlight.data.feed.augment import Augment
from rushlight.data.feed.batch import (
    Batch,
    changed,
    count_samples,
    equal_parts,
    samples_by_form,
    split_batch,
    tensors_in,
    to_device,
)
from rushlight.data.feed.feed import EMPTY, Feed
from rushlight.data.feed.held import GENERATORS, Held, Walk, generators_in, set_state, state_of
from rushlight.data.feed.loader import LoaderSplit, first_collated
from rushlight.data.feed.reading import (
    BatchReader,
    BatchRequests,
    SeededDataset,
    are_same,
    check_main_guard,
    collated,
    explained_workers,
    generator_states,
    put_back,
    read_sample,
    seeded,
    start_reading,
)
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.split import CPU, Split
from rushlight.data.feed.streamed import StreamedSplit
