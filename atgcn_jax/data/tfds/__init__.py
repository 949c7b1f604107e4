"""Clips as a TFDS dataset: written by a builder or by Apache Beam, read a batch at a time."""
