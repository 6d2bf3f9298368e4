"""What is evaluated: slices, limits, perturbations, and the digests and seeds that follow. Values only."""
