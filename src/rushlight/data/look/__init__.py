"""A look at data before training."""

from rushlight.data.look.overview import describe_data, write_contact_sheet
from rushlight.data.look.samples import answer_lines, described_samples
