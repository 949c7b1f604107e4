"""Clip stores, data set layouts, synthetic data, sampling and the input pipeline."""
