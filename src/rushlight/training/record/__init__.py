"""What happened in a run, written down."""

from rushlight.training.record.ledger import BlownUp, Ledger, Taken, name_samples
from rushlight.training.record.open import open_history
from rushlight.training.record.values import loggable, write_media

__all__ = ["BlownUp", "Ledger", "Taken", "loggable", "name_samples", "open_history", "write_media"]
