"""Vocabularies, co-occurrence counts, propagation matrices and label vectors."""
