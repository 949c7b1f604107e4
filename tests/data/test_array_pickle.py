"""Pickles and HDF5 files whose raw bytes a naive reader would use as pointers."""

import pickle

import h5py
import numpy as np
import pytest
import runs_support
import small_store

from atgcn_jax.data.layouts import array_pickle, talnet
from atgcn_jax.data.layouts.array_pickle import unpickle_arrays
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError

RAW = b"A" * 64  # eight invalid pointers


def dtype(text="f8", state="(I3\nS'<'\nNNNI-1\nI-1\nI0\nt"):
  return f"cnumpy\ndtype\n(S'{text}'\nI0\nI1\ntR{state}b".encode()


def array(of=None, shape="(I8\nt", raw=b"C\x40" + RAW, name="cnumpy\nndarray\n", build=b"b"):
  """Return a pickled array of 64 bytes."""
  head = f"cnumpy.core.multiarray\n_reconstruct\n({name}(I0\ntS'b'\ntR(I1\n{shape}".encode()
  return head + (dtype() if of is None else of) + b"I00\n" + raw + b"t" + build


def of_flags(flags):
  return f"(I3\nS'|'\nNNNI-1\nI-1\nI{flags}\nt"


def pair(one, other=None):
  return b"\x80\x03(" + one + (one if other is None else other) + b"t."


def test_a_valid_handwritten_pickle_is_read(tmp_path):
  (tmp_path / "n.pkl").write_bytes(pair(array(), array(shape="(I2\nI4\nt")))
  one, other = unpickle_arrays(tmp_path / "n.pkl")
  assert one.tobytes() == other.tobytes() == RAW
  assert (one.dtype, one.shape, other.shape) == (np.float64, (8,), (2, 4))


@pytest.mark.parametrize("kind", ["?", "i1", "<u2", ">i4", "u8", "f2", ">f4", "<f8"])
@pytest.mark.parametrize("protocol", range(5))
def test_plain_numbers_of_every_protocol(tmp_path, kind, protocol):
  rng = np.random.default_rng(0)
  values = rng.uniform(0, 100, (3, 4)).astype(kind)
  path = tmp_path / "n.pkl"
  path.write_bytes(pickle.dumps([values, np.asfortranarray(values), values[0]], protocol))
  for found, wanted in zip(unpickle_arrays(path), (values, values, values[0]), strict=True):
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


MALICIOUS = {
  "objects that hide their flag": pair(array(dtype("O8", of_flags(0)))),
  "objects": pair(array(dtype("O8", of_flags(63)))),
  "objects in a list": pair(array(dtype("O8", of_flags(63)), raw=b"]")),
  "an object flag on numbers": pair(array(dtype("f8", of_flags(63)))),
  "fields of objects": pair(
    array(dtype("V8", f"(I3\nS'|'\nN(S'a'\nt(S'a'\n({dtype('O8').decode()}I0\nttI8\nI1\nI0\nt"))
  ),
  "names on numbers": pair(array(dtype("f8", "(I3\nS'<'\nN(S'a'\ntNI8\nI8\nI0\nt"))),
  "a subarray": pair(array(dtype("f8", "(I3\nS'<'\n(S'O8'\n(I1\nttNNI8\nI8\nI0\nt"))),
  "another size": pair(array(dtype("f8", "(I3\nS'<'\nNNNI1\nI1\nI0\nt"))),
  "metadata": pair(array(dtype("f8", "(I4\nS'<'\nNNNI-1\nI-1\nI0\n}t"))),
  "text": pair(array(dtype("S8"))),
  "times": pair(array(dtype("M8"))),
  "nothing": pair(array(dtype("V8"))),
  "fields by their text": pair(array(dtype("f4,O"))),
  "a dtype without its state": pair(array(b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR")),
  "more items than the bytes hold": pair(array(shape="(I9\nt")),
  "far more items than the bytes hold": pair(array(shape="(I1000000000\nI1000000000\nt")),
  "a negative shape": pair(array(shape="(I-8\nt")),
  "two negative shapes": pair(array(shape="(I-2\nI-4\nt")),
  "no shape": pair(array(shape="N")),
  "endless shapes": pair(array(shape="(" + "I1\n" * 100 + "t")),
  "half a number": pair(array(raw=b"C\x3f" + RAW[:63])),
  "an array in place of bytes": pair(array(raw=array())),
  "an array of another class": pair(array(name="cnumpy\ndtype\n")),
  "an array without its state": pair(array(build=b"0")),
  "a state of a function": b"\x80\x03cnumpy\ndtype\n}b.",
  "a state of a number": b"\x80\x03I1\n}b.",
  "a call of a string": b"\x80\x03S'os'\n(t" + b"R.",
  "a class": b"\x80\x03cnumpy\nndarray\n(I8\nt\x81.",
  "an instance": b"(I8\ninumpy\nndarray\n.",
  "another function": b"cos\nsystem\n(S'true'\ntR.",
  "an extension": b"\x80\x03\x82\x01.",
  "a persistent id": b"Pone\n.",
  "a memo of gigabytes": b"\x80\x03Nr\xff\xff\xff\xff.",
  "bytes of terabytes": b"\x80\x04\x8e" + (1 << 42).to_bytes(8, "little") + b".",
  "an array of bytes": b"\x80\x05\x96" + (1 << 42).to_bytes(8, "little") + b".",
  "a frame of terabytes": b"\x80\x04\x95" + (1 << 42).to_bytes(8, "little") + b"N.",
  "a list in itself": b"\x80\x03]q\x00(h\x00h\x00e.",
  "an empty stack": b"\x80\x03.",
  "the end of it": pair(array())[:-40],
  "too much": pair(array()) + bytes(array_pickle.MAX_BYTES),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_anything_but_plain_numbers_is_rejected(tmp_path, name):
  (tmp_path / "n.pkl").write_bytes(MALICIOUS[name])
  with pytest.raises(ValueError, match=r"."):
    unpickle_arrays(tmp_path / "n.pkl")
  with pytest.raises(
    UserError, match=r"n\.pkl: no pair of mean and deviation \(.*\); use"
  ) as reported:
    talnet.read_normaliser(tmp_path / "n.pkl", 8)
  assert "\n" not in str(reported.value)
  assert len(str(reported.value)) < 300 + len(str(tmp_path))


def test_a_pickle_cannot_change_the_reader(tmp_path):
  """A state set on the object that stands for a name would be shared by the next reader."""
  before = dict(array_pickle._NAMES)
  (tmp_path / "n.pkl").write_bytes(b"\x80\x03cnumpy\ndtype\n(NI1\ntb.")
  with pytest.raises(ValueError, match="sets the state of str"):
    unpickle_arrays(tmp_path / "n.pkl")
  assert before == array_pickle._NAMES


def opaque(place, name, count):
  """Write items to an HDF5 file that h5py would use as pointers to objects."""
  kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
  kind.set_tag(b"NUMPY:|O")
  items = np.full(count, 0x4141414141414141, np.uint64)
  space = h5py.h5s.create_simple(items.shape)
  if isinstance(place, h5py.AttributeManager):
    h5py.h5a.create(place._id, name.encode(), kind, space).write(items, mtype=kind)
    return
  if name in place:
    del place[name]
  dataset = h5py.h5d.create(place.id, name.encode(), kind, space)
  dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, items, mtype=kind)


@pytest.mark.parametrize("name", ["log_mel", "peak_db", "label_indices", "clip_ids", "seconds"])
def test_a_store_with_pointers_is_rejected(tmp_path, name):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(4))
  with h5py.File(path, "r+") as file:
    opaque(file, name, 4)
  with pytest.raises(UserError, match=rf"s\.h5: .*{name} holds neither plain numbers nor text"):
    open_store(path)


@pytest.mark.parametrize("name", ["format", "settings", "fingerprint"])
def test_attributes_with_pointers_are_rejected(tmp_path, name):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(4))
  with h5py.File(path, "r+") as file:
    del file.attrs[name]
    opaque(file.attrs, name, 1)
  with pytest.raises(UserError, match=rf"s\.h5: .*{name} holds neither plain numbers nor text"):
    open_store(path)


@pytest.mark.parametrize("name", ["audio_name", "waveform", "target"])
def test_packed_files_with_pointers_are_rejected(tmp_path, monkeypatch, name):
  runs_support.prepare_here(monkeypatch)
  (tmp_path / "v.csv").write_text("index,mid,display_name\n0,/m/a,A\n")
  with h5py.File(tmp_path / "p.h5", "w") as file:
    file["audio_name"] = np.array(["a", "b"], "S2")
    file["waveform"], file["target"] = np.zeros((2, 8)), np.ones((2, 1), bool)
    opaque(file, name, 2)
  options = {"layout": "panns", "vocabulary": tmp_path / "v.csv"}
  with pytest.raises(UserError, match=rf"p\.h5: {name} holds neither plain numbers nor text"):
    prepare(tmp_path / "p.h5", None, tmp_path / "s.h5", **options)


def test_a_normaliser_with_pointers_is_rejected(tmp_path):
  with h5py.File(tmp_path / "n.mat", "w") as file:
    opaque(file, "mu", 8)
    file["sigma"] = np.ones(8)
  with pytest.raises(UserError, match=r"n\.mat: .*mu holds neither plain numbers nor text"):
    talnet.read_normaliser(tmp_path / "n.mat", 8)
