"""Data: where it comes from, which samples in which order, and how they become batches."""
