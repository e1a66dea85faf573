"""A run of training, from its configuration to its results."""
