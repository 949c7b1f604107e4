"""Benchmarks of this package and of its peers."""
