"""Sounds made by this package: synthesised soundscapes and mixtures of recordings."""
