"""What happened in a run, written down."""

from rushlight.training.record.ledger import BlownUp, Ledger, Taken, name_samples
from rushlight.training.record.open import open_history

__all__ = ["BlownUp", "Ledger", "Taken", "name_samples", "open_history"]
