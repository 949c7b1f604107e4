"""Run directories: configuration, training, scoring, thresholds and comparison."""
