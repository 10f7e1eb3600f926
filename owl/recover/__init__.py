"""Training of what pruning left, from the dense model."""
