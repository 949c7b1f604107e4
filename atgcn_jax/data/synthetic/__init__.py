"""Synthetic data: synthesised soundscapes and mixtures of recordings."""
