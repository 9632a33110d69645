"""What happened in a run, written down."""

from rushlight.training.record.layers import Observer
from rushlight.training.record.ledger import BlownUp, Ledger, StepsDone, name_samples
from rushlight.training.record.open import open_history
from rushlight.training.record.samples import keep_samples
from rushlight.training.record.values import log_values
