"""Tagging of sounds with a trained run."""
