"""Clip stores, built-in soundscapes, sampling and the input pipeline."""
