"""Training: the loop, one optimizer step, testing, and the state that a checkpoint holds."""
