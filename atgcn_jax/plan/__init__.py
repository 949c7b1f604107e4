"""Estimates of the memory, time and disk that training takes on TPUs, computed without a TPU."""
