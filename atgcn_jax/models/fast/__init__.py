"""Faster forms of the convolutions of CNN10 for CPUs and TPUs."""
