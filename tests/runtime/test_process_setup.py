"""Memory of the process."""

import os
import pathlib
import platform
import sys

import numpy as np
import pytest

from atgcn_jax.runtime.process_setup import return_freed_memory


def resident_bytes():
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
  sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="malloc of glibc"
)
def test_freed_memory_below_memory_in_use_is_returned():
  arrays = [np.ones(8_000) for _ in range(2_000)]
  filled = resident_bytes()
  in_use = arrays.pop()  # at the end of the heap, which malloc could shorten otherwise
  del arrays
  return_freed_memory()
  assert filled - resident_bytes() > 100e6  # of 128e6
  assert in_use.all()
