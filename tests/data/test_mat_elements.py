"""The check of MATLAB files of version 5 before SciPy reads them."""

import struct

import numpy as np
import pytest
import scipy.io

from atgcn_jax.data.layouts.mat_elements import check_elements

CELL = np.array([["ab"], ["cde"]], object)
ARRAYS = {
  "feat": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
  "labels": np.eye(2, 3) > 0,
  "hashes": np.array(["Ünï", "abc"]),
  "cell": CELL,
  "mixed": np.array([1 + 2j]),
  "empty": np.zeros((0, 4)),
  "text": "",
}


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def saved(tmp_path, request):
  """Return a function that saves arrays and returns the path."""

  def save(**arrays):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, arrays, do_compression=request.param)
    return path

  return save


def test_sound_arrays_pass(saved):
  check_elements(saved(**ARRAYS), list(ARRAYS))


@pytest.mark.parametrize("value", [{"a": 1}, scipy.sparse.csc_array(np.eye(3))])
def test_arrays_of_other_classes_are_refused(saved, value):
  path = saved(labels=value, other=np.eye(2))
  check_elements(path, ["other"])  # only arrays that will be read are checked
  with pytest.raises(ValueError, match="not numbers or texts"):
    check_elements(path, ["labels"])


@pytest.mark.parametrize("kind", [0, 8, 10, 11, 14, 15, 19, 48, 65535])
def test_types_that_crash_scipy_are_refused(tmp_path, kind):
  """Its reader looks up the type of the values in a table, without a check."""
  path = tmp_path / "x.mat"
  scipy.io.savemat(path, {"text": np.array(["abcd", "efgh"])})
  data = bytearray(path.read_bytes())
  # The header, the tag of the array, its flags, dimensions and name, then the tag of the values.
  place = 128 + 8 + 16 + 16 + 8
  assert struct.unpack_from("<I", data, place)[0] in (4, 16, 17)
  struct.pack_into("<I", data, place, kind)
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"values of an array|a small element"):
    check_elements(path, ["text"])


def test_cells_without_their_elements_are_refused(tmp_path):
  path = tmp_path / "x.mat"
  scipy.io.savemat(path, {"cell": CELL})
  data = bytearray(path.read_bytes())
  place = 128 + 8 + 16 + 8
  assert struct.unpack_from("<2i", data, place) == (2, 1)
  struct.pack_into("<2i", data, place, 2, 2)
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"a cell array of .* has 2 elements"):
    check_elements(path, ["cell"])


def test_truncated_files_are_refused(saved):
  path = saved(**ARRAYS)
  data = path.read_bytes()
  refused = 0
  for length in range(129, len(data), 7):
    path.write_bytes(data[:length])
    try:
      check_elements(path, list(ARRAYS))
    except ValueError:
      refused += 1
  assert refused > 0.9 * len(range(129, len(data), 7))
