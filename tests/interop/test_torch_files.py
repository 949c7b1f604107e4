"""Tests of reading files of torch.save without PyTorch: all types, and what is refused."""

import io
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.interop.torch_files import MAGIC, read_tensors
from atgcn_jax.interop.torch_pickle import STORAGES

VALUES = np.arange(12, dtype="<f4")


# The opcodes that torch.save writes.
def name(module, attribute):
  return f"c{module}\n{attribute}\n".encode()


def text(words):
  return b"X" + struct.pack("<I", len(words.encode())) + words.encode()


def number(n):
  return b"J" + struct.pack("<i", n) if n < 2**31 else b"\x8a\x09" + struct.pack("<Q", n) + b"\0"


def group(*parts):
  return b"(" + b"".join(parts) + b"t"


ORDERED = name("collections", "OrderedDict") + b")R"


def storage(key="0", count=12, kind="FloatStorage", module="torch"):
  parts = text("storage"), name(module, kind), text(key), text("cpu"), number(count)
  return group(*parts) + b"Q"


def tensor(shape, strides, offset=0, **of):
  parts = storage(**of), number(offset), group(*map(number, shape)), group(*map(number, strides))
  return name("torch._utils", "_rebuild_tensor_v2") + group(*parts, b"\x89", ORDERED) + b"R"


def mapping(items, start=b"}"):
  return start + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def saved(path, program, members=None, compression=zipfile.ZIP_STORED, folder="archive/"):
  """Write an archive with a pickle and storages, by default VALUES as storage 0."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr(folder + "data.pkl", b"\x80\x02" + program + b".")
    for key, value in ({"data/0": VALUES.tobytes()} if members is None else members).items():
      archive.writestr(folder + key, value)
    archive.writestr(folder + "version", "3\n")
  return path


def saved_by_older(path, program, storages, *, version=1001, little=True, keys=None):
  """Write a file as PyTorch before 1.6 does: four pickles, and then the values of each storage."""
  parts = [pickle.dumps(value, 2) for value in (MAGIC, version, {"little_endian": little})]
  parts += [b"\x80\x02" + program + b".", pickle.dumps(list(storages) if keys is None else keys, 2)]
  for values in storages.values():
    parts += [struct.pack("<q", len(values)), values.tobytes()]
  path.write_bytes(b"".join(parts))
  return path


def refused(path):
  with pytest.raises(UserError, match=path.name) as caught:
    read_tensors(path)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value).replace(str(path), "")) < 400
  return str(caught.value)


@pytest.mark.parametrize("kind", STORAGES)
def test_all_types(tmp_path, kind):
  dtype = STORAGES[kind]
  values = np.array([1, 0, 1, 1, 0, 1]).astype(dtype)
  of = {"kind": kind, "count": 6}
  path = saved(
    tmp_path / "a.pt", mapping({"w": tensor((2, 3), (3, 1), **of)}), {"data/0": values.tobytes()}
  )
  found = read_tensors(path)["w"]
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, values.reshape(2, 3))
  assert STORAGES["BFloat16Storage"] == jnp.bfloat16


def test_strides_offsets_and_shared_storages(tmp_path):
  tensors = {
    "transposed": tensor((3, 4), (1, 3)),
    "tail": tensor((2, 2), (2, 1), offset=8),
    "every other": tensor((6,), (2,)),
    "scalar": tensor((), (), offset=5),
    "empty": tensor((0, 7), (7, 1), offset=12),
    "overlapping": tensor((3, 2), (1, 1)),
  }
  found = read_tensors(saved(tmp_path / "a.pt", mapping(tensors)))
  np.testing.assert_array_equal(found["transposed"], VALUES.reshape(4, 3).T)
  np.testing.assert_array_equal(found["tail"], VALUES[8:].reshape(2, 2))
  np.testing.assert_array_equal(found["every other"], VALUES[::2])
  assert (found["scalar"].shape, float(found["scalar"])) == ((), 5.0)
  assert found["empty"].shape == (0, 7)
  np.testing.assert_array_equal(found["overlapping"], [[0, 1], [1, 2], [2, 3]])
  assert np.shares_memory(found["transposed"], found["tail"])
  with pytest.raises(ValueError, match="read-only"):
    found["tail"][0, 0] = 1


def test_ordered_dicts_parameters_and_checkpoints(tmp_path):
  one = tensor((12,), (1,))
  parameter = name("torch._utils", "_rebuild_parameter") + group(one, b"\x88", ORDERED) + b"R"
  # A state dict of a module has the attribute `_metadata`, which BUILD sets.
  metadata = mapping({"_metadata": ORDERED}) + b"b"
  state = mapping({"a": one, "b": parameter}, ORDERED) + metadata
  optimiser = mapping({"lr": b"G" + struct.pack(">d", 0.1), "betas": b"](N\x88e"})
  checkpoint = mapping({"model": state, "iteration": number(7), "optimizer": optimiser})
  for program in (state, checkpoint):
    found = read_tensors(saved(tmp_path / "a.pt", program))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], VALUES)


def test_newer_protocols(tmp_path):
  # Python's own pickler writes the frames, memos and short strings of protocol 4.
  program = pickle.dumps({"lr": 0.5, "steps": [1, 2], "names": ("a", None, True)}, 4)
  with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
    archive.writestr("a/data.pkl", program)
  assert read_tensors(tmp_path / "a.pt") == {}


def test_files_of_older_versions(tmp_path):
  counts = np.array([7, 8], "<i8")
  state = {
    "w": tensor((3, 4), (1, 3)),
    "tail": tensor((2, 2), (2, 1), offset=8),
    "n": tensor((), (), offset=1, key="1", count=2, kind="LongStorage"),
  }
  program = mapping({"iteration": number(5), "model": mapping(state, ORDERED)})
  path = saved_by_older(tmp_path / "a.pth", program, {"1": counts, "0": VALUES})
  found = read_tensors(path)
  assert list(found) == list(state)
  np.testing.assert_array_equal(found["w"], VALUES.reshape(4, 3).T)
  np.testing.assert_array_equal(found["tail"], [[8, 9], [10, 11]])
  assert found["n"] == 8
  assert not found["w"].flags.writeable
  whole = path.read_bytes()
  for length in range(2, len(whole), 3):
    path.write_bytes(whole[:length])
    assert "is cut short" in refused(path)


def test_a_text_that_claims_more_memory_than_there_is(tmp_path):
  (tmp_path / "a.pt").write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b"x")
  assert "is cut short" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize(
  ("program", "changes", "message"),
  [
    (name("os", "system") + group(text("true")) + b"R", {}, "os.system, which is not a tensor"),
    (mapping({"w": tensor((3,), (1,))}), {"little": False}, "big-endian"),
    (mapping({"w": tensor((3,), (1,))}), {"version": 1000}, "not of PyTorch"),
    (mapping({"w": tensor((3,), (1,))}), {"keys": ["0", "1"]}, "not those of its tensors"),
    (mapping({"w": tensor((3,), (1,))}), {"keys": 3}, "not those of its tensors"),
    (mapping({"w": tensor((3,), (1,), count=11)}), {}, "does not have 11 numbers"),
    (mapping({"w": tensor((3,), (1,), count=2**60)}), {}, "larger than the file"),
    (
      mapping({"w": tensor((3,), (1,)), "v": tensor((3,), (1,), kind="IntStorage")}),
      {},
      "two storages of the key '0'",
    ),
  ],
)
def test_other_content_of_older_versions_is_named(tmp_path, program, changes, message):
  path = saved_by_older(tmp_path / "bad.pth", program, {"0": VALUES}, **changes)
  assert message in refused(path)


class Trap:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return io.open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_no_code_is_run(tmp_path, protocol):
  for i, trapped in enumerate(({"w": Trap(tmp_path / "sprung")}, {"w": np.float64(1.0)})):
    with zipfile.ZipFile(tmp_path / f"{i}.pt", "w") as archive:
      archive.writestr("a/data.pkl", pickle.dumps(trapped, protocol))
    # Protocol 0 begins with an operation that torch.save does not write.
    expected = "the operation DICT" if protocol == 0 else "which is not a tensor"
    assert expected in refused(tmp_path / f"{i}.pt")
  assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
  ("program", "members", "message"),
  [
    (name("os", "system") + group(text("true")) + b"R", None, "os.system, which is not a tensor"),
    (name("builtins", "eval") + b")R", None, "builtins.eval, which is not a tensor"),
    (name("a\x01" * 300, "b") + b")R", None, r"contains a\\x01a\\x01.*…"),
    (name("torch", "FloatStorage") + group(number(9)) + b"R", None, "a call of torch.FloatStorage"),
    (b"(ios\nsystem\n", None, "operation INST"),
    (name("collections", "OrderedDict") + b")\x81", None, "operation NEWOBJ"),
    (tensor((3,), (1,), kind="ComplexFloatStorage"), None, "storage of torch.ComplexFloatStorage"),
    (tensor((3,), (1,), kind="QInt8Storage"), None, "storage of torch.QInt8Storage"),
    (tensor((3,), (1,), kind="UntypedStorage", module="torch.storage"), None, "UntypedStorage"),
    (mapping({"w": tensor((13,), (1,))}), None, r"a tensor \[13\] of a storage of 12"),
    (mapping({"w": tensor((2, 6), (7, 1))}), None, r"a tensor \[2, 6\]"),
    (mapping({"w": tensor((2**40, 2**40), (0, 0))}), None, "a tensor"),
    (mapping({"w": tensor((12,), (1,), offset=1)}), None, r"a tensor \[12\]"),
    (mapping({"w": tensor((12,), (-1,), offset=11)}), None, "malformed"),
    (mapping({"w": tensor((3,), (1, 1))}), None, "malformed"),
    (mapping({"w": tensor((3,), (1,), count=11)}), None, "48 bytes, not 11 numbers of 4"),
    (mapping({"w": tensor((3,), (1,), count=2**60)}), None, "48 bytes, not 1152921504606846976"),
    (mapping({"w": tensor((3,), (1,), key="9")}), None, "no member 'archive/data/9'"),
    (mapping({"w": tensor((3,), (1,), key="../x")}), None, "no member 'archive/data/../x'"),
    (mapping({}), {"byteorder": b"big"}, "big-endian"),
    (tensor((3,), (1,)), None, "holds no state dict"),
    (b"]", None, "holds no state dict"),
    (b"", None, "malformed"),
    (b"tttt", None, "malformed"),
    (b"h\x05", None, "malformed"),
    (b"}K\x01K\x02s" + b"(", None, None),
    (b"}(K\x01u", None, "malformed"),
    (b"}" + tensor((3,), (1,)) + b"K\x01s", None, "malformed"),
    (b"K\x01)R", None, "malformed"),
    (b"K\x01Q", None, "malformed"),
  ],
)
def test_other_content_is_named(tmp_path, program, members, message):
  path = saved(tmp_path / "bad.pt", program, members)
  if message is None:  # a superfluous mark
    assert read_tensors(path) == {}
  else:
    with pytest.raises(UserError, match=f"bad.pt: .*({message})") as caught:
      read_tensors(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_named(tmp_path):
  (tmp_path / "other_pickle.pt").write_bytes(pickle.dumps({"a": 1}, 2) * 3)
  (tmp_path / "noise.pt").write_bytes(bytes(range(200)))
  (tmp_path / "empty.pt").write_bytes(b"")
  with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
    archive.writestr("a.txt", "b")
  state = mapping({"w": tensor((12,), (1,))})
  saved(tmp_path / "deflated.pt", state, compression=zipfile.ZIP_DEFLATED)
  for file, message in (
    ("other_pickle.pt", "is a pickle, but not of PyTorch"),
    ("noise.pt", "not a file of PyTorch"),
    ("empty.pt", "not a file of PyTorch"),
    ("other.pt", "not of PyTorch"),
    ("deflated.pt", "is compressed"),
    ("absent.pt", "no such file"),
  ):
    assert message in refused(tmp_path / file)
  assert "cannot be read" in refused(tmp_path)


def test_damaged_files_are_named(tmp_path):
  whole = saved(tmp_path / "whole.pt", mapping({"w": tensor((12,), (1,))})).read_bytes()
  bad = tmp_path / "bad.pt"
  for length in range(4, len(whole), 7):
    bad.write_bytes(whole[:length])
    assert "is cut short" in refused(bad)
  # A changed byte is reported, or is one that does not matter, such as the time of a member.
  reported = 0
  for position in range(len(whole)):
    for change in (0x01, 0x80, 0xFF):
      bad.write_bytes(whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])
      try:
        (found,) = read_tensors(bad).values()
        np.testing.assert_array_equal(found, VALUES)
      except UserError:
        reported += 1
  assert reported > len(whole)


def test_the_published_file(shared):
  found = read_tensors(shared / "data/weights/mn04_as_mAP_432.pt")
  assert len(found) == 312
  assert sum(value.size for value in found.values()) == 993_485
  assert found["features.0.0.weight"].shape == (8, 1, 3, 3)
  assert found["features.0.1.num_batches_tracked"].dtype == np.int64


def test_files_of_torch_read_as_torch_reads_them(tmp_path):
  torch = pytest.importorskip("torch")
  base = torch.arange(24.0).reshape(4, 6)
  tensors = {
    "transposed": base.T,
    "part": base[1:, ::2],
    "half": base.half(),
    "bfloat16": base.bfloat16(),
    "count": torch.tensor(7),
    "flags": base > 3,
    "parameter": torch.nn.Parameter(base),
  }
  for is_zip in (True, False):
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    found = read_tensors(tmp_path / "a.pt")
    for key, value in torch.load(tmp_path / "a.pt", weights_only=True).items():
      np.testing.assert_array_equal(np.asarray(found[key], "f"), value.detach().float().numpy())
