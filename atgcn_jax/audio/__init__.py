"""Decoding of sound files to waveforms, and front ends from waveforms to log-mel spectrograms."""
