"""Parameters of tests that run with --all only."""

import pytest


def slow(*values, **options):
  """Return a parameter whose test is slow."""
  return pytest.param(*values, marks=pytest.mark.slow, **options)
