"""The training state on disk."""

from rushlight.export import unpack
from rushlight.training.checkpoint.checkpoint import (
    best_checkpoint,
    check_can_be_saved,
    checkpoints,
    describe_kept,
    epoch_began,
    is_whole,
    latest_checkpoint,
    named_checkpoint,
    read_content,
    read_model_state,
    restore,
    share_state,
    state_digest,
)
from rushlight.training.checkpoint.kept import check_keep
from rushlight.training.checkpoint.randomness import (
    begin_random_streams,
    note_inexact,
    random_streams,
    restore_random_streams,
    seed_step,
)
from rushlight.training.checkpoint.saver import Saver, open_saver
