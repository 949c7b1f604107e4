"""A run directory and what is done with it: train, evaluate, report."""
