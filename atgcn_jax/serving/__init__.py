"""Tagging sound with a trained run."""
