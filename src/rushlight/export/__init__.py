"""What leaves the house: weights files, bundles, predictions."""
