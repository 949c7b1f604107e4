"""Schema of a clip store, which its HDF5 file and its TFDS dataset share.

What is read from either is checked here once: types, shapes that agree, and ranges of values. A
`ClipStore` is made only of what passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runtime.schema import checked

DTYPES = ("uint8", "float16")  # of log-mels
TEXT = "text"


class Rule(NamedTuple):
  """Type and shape of an array.

  The lengths are N clips, N + 1, M labels of all clips, F bands, or a number.
  """

  dtype: str
  shape: tuple[str | int, ...]


ARRAYS = {
  "peak_db": Rule("float32", ("N",)),
  "label_offsets": Rule("int64", ("N + 1",)),
  "label_indices": Rule("int32", ("M",)),
  "clip_ids": Rule(TEXT, ("N",)),
  "folds": Rule(TEXT, ("N",)),
}
OF_FILES = {  # not in the fingerprint
  "seconds": Rule("float32", ("N",)),
  "rate_hz": Rule("int32", ("N",)),
  "findings": Rule("uint8", ("N",)),
  "missing_seconds": Rule("float32", ("N",)),
}
OPTIONAL = OF_FILES | {"normaliser": Rule("float32", (2, "F"))}
RULES = ARRAYS | OPTIONAL


class Settings(TypedDict):
  """Vocabulary and front end of a store, in JSON."""

  label_ids: list[str]
  label_names: list[str]
  frontend: Frontend


def from_settings(settings: Any) -> dict[str, Any]:
  """Return the `vocabulary` and `frontend` of a `ClipStore` from the result of `as_settings`.

  Args:
    settings: A JSON value.

  Raises:
    ValueError: If it is something else.
  """
  read = checked(settings, Settings, "settings")
  vocabulary = Vocabulary(tuple(read["label_ids"]), tuple(read["label_names"]))
  return {"vocabulary": vocabulary, "frontend": read["frontend"]}


def check_log_mel(dtype: np.dtype, shape: tuple[int, ...], frontend: Frontend) -> None:
  """Refuse log-mels [≥N, T, F] of another type, or of another shape than that of the front end.

  Raises:
    ValueError: If so.
  """
  wanted = (frontend.frames, frontend.n_mels)
  if dtype not in DTYPES or len(shape) != 3 or shape[1:] != wanted:
    raise ValueError(
      f"log_mel is {dtype}{list(shape)}, but must be {' or '.join(DTYPES)} of {wanted[0]} frames "
      f"and {wanted[1]} bands"
    )


def check_form(arrays: Mapping[str, Any], rows: int, frontend: Frontend) -> None:
  """Refuse arrays of another type or shape than in RULES.

  Args:
    arrays: All of ARRAYS and some of OPTIONAL: arrays, or other objects with `dtype` and `shape`.
    rows: Number of log-mels in the file, which may be more than there are clips.
    frontend: Front end of the store.

  Raises:
    ValueError: If an array is missing, or has another type or shape.
  """
  if missing := [name for name in ARRAYS if name not in arrays]:
    raise ValueError(f"has no {', '.join(missing)}")
  clips = arrays["peak_db"].shape[0] if arrays["peak_db"].shape else 0
  lengths: dict[Any, int] = {"N": clips, "N + 1": clips + 1, "F": frontend.n_mels}
  lengths["M"] = max(arrays["label_indices"].shape, default=0)
  for name, array in arrays.items():
    rule = RULES[name]
    shape = tuple(lengths.get(length, length) for length in rule.shape)
    is_text = array.dtype.kind in "OSU"
    if array.shape != shape or (not is_text if rule.dtype == TEXT else array.dtype != rule.dtype):
      found = f"{TEXT if is_text else array.dtype}{list(array.shape)}"
      raise ValueError(f"{name} is {found}, but must be {rule.dtype}{list(shape)}")
  if clips > rows:
    raise ValueError(f"{clips} clips, but {rows} log-mels")


def check_values(arrays: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> None:
  """Refuse values out of range in arrays that `check_form` accepts.

  Peaks and normalisers that are not finite are left to `check_small`, which names the clip.

  Raises:
    ValueError: If there is one.
  """
  offsets, indices = arrays["label_offsets"], arrays["label_indices"]
  if offsets[0] != 0 or offsets[-1] != len(indices) or (offsets[1:] < offsets[:-1]).any():
    raise ValueError(f"label_offsets do not rise from 0 to the number of labels, {len(indices)}")
  if len(indices) and not 0 <= indices.min() <= indices.max() < len(vocabulary):
    raise ValueError(f"label_indices are not all in 0 to {len(vocabulary) - 1}")
  for name in ("clip_ids", "folds"):
    if (arrays[name] == "").any() or has_controls(" ".join(arrays[name].tolist())):
      raise ValueError(f"{name} has an empty text or one with control characters")
  for name in ("seconds", "rate_hz", "missing_seconds"):
    if name in arrays and (arrays[name] < 0).any():
      raise ValueError(f"{name} has a negative value")
