"""Readers of data set layouts. Each returns the clips and their labels as a `Listing`."""
