"""Random changes of the bytes of a file, of JSON values, of HDF5 items and of .npz arrays."""

import contextlib
import copy
import io
import json
import zipfile

import h5py
import numpy as np

# Values that stand for what a damaged or hostile file may have in place of any value.
ODD_VALUES = (
  *(None, True, False, 0, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e99, float("nan"), float("inf")),
  *("", "\0", "a\x1b[31mb", "a\nb", "x" * 100_000, "ü" * 300, "1", [], {}, [1], [[]], {"a": {}}),
)
# The same as the words of a text file.
ODD_WORDS = (
  *("", "\0", "a\x1b[31mb", "x" * 100_000, "nan", "-1", "inf", "1e999", "9" * 5000, "²", '"', "'"),
  *('"a', "\r", "\n", ",", "\t", ";", "a\u202eb", "NaN", "[1]", "/", "..", "\ufeff", "#", " "),
)


def change_bytes(data, rng):
  """Return data with bits flipped, a part overwritten, removed, doubled or cut off."""
  if not data:
    return rng.bytes(8)
  data, start = bytearray(data), int(rng.integers(len(data)))
  # Headers are short, and their bytes have most effects.
  start = start % 512 if rng.random() < 0.3 else start
  length = int(min(2 ** rng.integers(0, 13), len(data) - start))
  match rng.integers(7):
    case 0:
      for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    case 1:
      data[start : start + length] = bytes([rng.choice([0, 255, 127, 1])]) * length
    case 2:
      data[start : start + length] = rng.bytes(length)
    case 3:
      del data[start:]
    case 4:
      del data[start : start + length]
    case 5:
      data[start:start] = data[start : start + length]
    case 6:
      data[-length:] = bytes(length)
  return bytes(data)


def change_json(value, rng):
  """Return a JSON value in which one place is replaced, removed, doubled or added."""
  value = copy.deepcopy(value)
  places = list(_places(value))
  container, key = places[rng.integers(len(places))]
  match rng.integers(5):
    case 0:
      del container[key]
    case 1 if isinstance(container, list):
      container.append(container[key])
    case 1:
      container["other"] = container[key]
    case 2 if isinstance(container[key], int | float):
      container[key] = container[key] * [-1, 0, 2, 0.5, 1000][rng.integers(5)]
    case _:
      container[key] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
  return value


def _places(value):
  for key in value if isinstance(value, dict) else range(len(value)):
    yield value, key
    if isinstance(value[key], dict | list):
      yield from _places(value[key])


def change_json_file(path, rng):
  if rng.random() < 0.2:
    path.write_bytes(change_bytes(path.read_bytes(), rng))
  else:
    path.write_text(json.dumps(change_json(json.loads(path.read_text()), rng)))


def change_text(data, rng):
  """Return text with words or lines replaced, removed or doubled."""
  if rng.random() < 0.2:
    return change_bytes(data, rng)
  text = data.decode()
  start = int(rng.integers(len(text)))
  length = int(rng.integers(1, 9))
  word = ODD_WORDS[rng.integers(len(ODD_WORDS))]
  lines = text.splitlines(keepends=True)
  line = int(rng.integers(len(lines)))
  match rng.integers(5):
    case 0:
      text = text[:start] + word + text[start:]
    case 1:
      text = text[:start] + word + text[start + length :]
    case 2:
      text = "".join(lines[:line] + lines[line + 1 :])
    case 3:
      text = "".join(lines[:line] + [lines[line]] * 2 + lines[line + 1 :])
    case 4:
      separator = next((c for c in ("\t", ",", " ") if c in lines[line]), ",")
      fields = lines[line].rstrip("\n").split(separator)
      fields[rng.integers(len(fields))] = word
      lines[line] = separator.join(fields) + "\n"
      text = "".join(lines)
  return text.encode("utf-8", "surrogatepass")


def change_array(array, rng):
  """Return an array with another shape, type or value."""
  array = np.array(array)
  match rng.integers(6):
    case 0:
      types = ("f8", "f4", "f2", "i8", "i4", "u1", "bool", "c8", "S3", "U3", ">f4")
      with contextlib.suppress(ValueError), np.errstate(all="ignore"):
        return array.astype(types[rng.integers(len(types))])
      return np.zeros(3, "f2")
    case 1:
      shapes = ((), (0,), (-1,), (1, -1), (-1, 1, 1))
      with contextlib.suppress(ValueError):
        return array.reshape(shapes[rng.integers(len(shapes))])
      return array.ravel()[:0]
    case 2:
      return array[: len(array) // 2] if array.ndim else array
    case 3:
      return np.concatenate([array, array]) if array.ndim else array[None]
    case 4:
      if array.ndim:
        return array.T if array.ndim > 1 else array[::-1]
      return -array if array.dtype.kind in "iufc" else array[None]
    case _:
      if not array.size:
        return array
      if array.dtype.kind in "OSU":
        odd = ["", "x" * 5000, "a\x1b[31mb", "a\nb", "\u202e", str(array.flat[0])]
        array = array.astype(object)
      elif array.dtype.kind == "f":
        odd = [np.nan, np.inf, -np.inf, -1, 0, 1e30]
      else:
        odd = (
          [0, 1, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min]
          if (array.dtype.kind in "iu")
          else [not array.flat[0]]
        )
      with np.errstate(all="ignore"):
        array.flat[rng.integers(array.size)] = odd[rng.integers(len(odd))]
      return array


def change_hdf5(path, rng):
  """Change an HDF5 file: its bytes, or one of its datasets or attributes."""
  if rng.random() < 0.4:
    path.write_bytes(change_bytes(path.read_bytes(), rng))
    return
  with h5py.File(path, "r+") as file:
    names, attributes = sorted(file), sorted(file.attrs)
    if attributes and rng.random() < 0.25:
      _change_attribute(file.attrs, attributes[rng.integers(len(attributes))], rng)
    else:
      _change_dataset(file, names[rng.integers(len(names))], rng)


def _change_attribute(attributes, name, rng):
  before = attributes[name]
  try:
    settings = json.loads(before)
  except (TypeError, ValueError):
    settings = None
  if settings and rng.random() < 0.8:
    attributes[name] = json.dumps(change_json(settings, rng))
    return
  odd = (1, 1.5, "", "x", np.zeros(3), before[::-1] if isinstance(before, str) else "y")
  if rng.random() < 0.3:
    del attributes[name]
  else:
    attributes[name] = odd[rng.integers(len(odd))]


def _change_dataset(file, name, rng):
  before = file[name]
  values = before.asstr()[()] if before.dtype.kind == "O" else before[()]
  del file[name]
  match rng.integers(8):
    case 0:
      return
    case 1:
      file.create_group(name)
    case 2:  # a claim of much data, none of which is in the file
      shape = (2 ** int(rng.integers(20, 45)), *before.shape[1:])
      file.create_dataset(name, shape, before.dtype, chunks=(1, *before.shape[1:]))
    case 3:
      file.create_dataset(name, data=values, chunks=True, compression="gzip") if (
        before.shape
      ) else file.create_dataset(name, data=values)
    case _:
      array = change_array(values, rng)
      if array.dtype.kind == "U":
        array = array.astype(object)
      if array.dtype.kind == "O":
        file.create_dataset(name, data=array, dtype=h5py.string_dtype())
      else:
        file.create_dataset(name, data=array)


def change_npz(path, rng):
  """Change an .npz file: its bytes, one of its arrays, or the header of one of them."""
  kind = rng.random()
  if kind < 0.35:
    path.write_bytes(change_bytes(path.read_bytes(), rng))
    return
  with np.load(path) as stored:
    arrays = {name: stored[name] for name in stored}
  name = sorted(arrays)[rng.integers(len(arrays))]
  if kind < 0.65:
    if rng.random() < 0.1:
      del arrays[name]
    else:
      arrays[name] = change_array(arrays[name], rng)
    np.savez(path, **arrays)
    return
  headers = ("{", "(" * 300, "{'descr': '<f8', 'fortran_order': False, 'shape': (2199023255552,)}")
  with zipfile.ZipFile(path, "w") as archive:
    for key, array in arrays.items():
      content = io.BytesIO()
      np.save(content, array)
      data = content.getvalue()
      if key == name:
        header = bytearray(data[10:])
        if rng.random() < 0.5:
          start = int(rng.integers(60))
          odd = (b"9", b"(", b"'", b"-", b"\0", b"}", b"99999999999,", b"True", b"O", b"[", b"\xff")
          word = odd[rng.integers(len(odd))]
          header[start : start + len(word)] = word
          data = data[:10] + bytes(header)
        else:
          text = headers[rng.integers(len(headers))].encode()
          data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:]
      method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)[rng.integers(3)]
      archive.writestr(f"{key}.npy", data, method)
  if rng.random() < 0.5:
    path.write_bytes(change_bytes(path.read_bytes(), rng))
