"""Arrays in .npz files: what is read, and what is refused before memory is allocated."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.npz import MOST_BYTES


def with_header(path, header, data=b""):
  """Write an .npz file whose only array has this header."""
  text = header.encode()
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
  return path


def test_arrays_are_those_of_numpy(tmp_path):
  arrays = {
    "f": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "text": np.array(["a", "ü"]),
    "empty": np.zeros((0, 4)),
    "scalar": np.array(3),
  }
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
      assert found[name].dtype == array.dtype
      np.testing.assert_array_equal(found[name], array)


HEADERS = [
  "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}",
  "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
  "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3",
  "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
  "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (0,)}",
  "(" * 9000,
  "",
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_do_not_fit_are_refused(tmp_path, header):
  path = with_header(tmp_path / "a.npz", header)
  with pytest.raises(UserError, match=r"a\.npz: cannot be read \(") as caught:
    read_arrays(path)
  assert len(str(caught.value).removeprefix(str(path))) < 250


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
  size = MOST_BYTES + 2**20
  content = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    content, {"descr": "|u1", "fortran_order": False, "shape": (size,)}
  )
  with (
    zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    archive.open("a.npy", "w") as member,
  ):
    member.write(content.getvalue())
    for _ in range(size // 2**20):
      member.write(bytes(2**20))
  assert (tmp_path / "a.npz").stat().st_size < 2**21
  tracemalloc.start()
  with pytest.raises(UserError, match="save it without compression"):
    read_arrays(tmp_path / "a.npz")
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


@pytest.mark.parametrize(
  ("indices", "indptr"),
  [([0, 5], [0, 1, 2]), ([0, -1], [0, 1, 2]), ([0, 1], [0, 2, 1]), ([0, 1], [0, 1, -(2**31)])],
)
def test_sparse_matrices_that_do_not_fit_are_refused(tmp_path, indices, indptr):
  np.savez(tmp_path / "a.npz", m_data=np.ones(2), m_indices=indices, m_indptr=indptr)
  with pytest.raises(UserError, match="do not form a sparse matrix"):
    read_arrays(tmp_path / "a.npz")


def test_a_device_is_refused():
  with pytest.raises(UserError, match="/dev/zero: is a device"):
    read_arrays("/dev/zero")
