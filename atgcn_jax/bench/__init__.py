"""Benchmarks of this package and of comparable libraries."""
