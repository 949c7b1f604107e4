"""One reader under test: how to make, change and read its file, and what is wrong with a value.

A reader may refuse a changed file with a `UserError` of one short line, or return a value that is
consistent. Everything else is a failure.
"""

from __future__ import annotations

import pathlib
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mutations
import numpy as np

from atgcn_jax.errors import UserError

MESSAGE = 400  # maximum length of a message without the path, in characters
Random = np.random.Generator


@dataclass(frozen=True)
class Reader:
  """One reader.

  Attributes:
    make: Writes a sound file or folder at a path.
    change: Changes it.
    read: Reads it.
    faults: Returns what is wrong with a value that was read; empty if nothing is.
  """

  make: Callable[[pathlib.Path], None]
  change: Callable[[pathlib.Path, Random], None]
  read: Callable[[pathlib.Path], Any]
  faults: Callable[[Any], str] = lambda value: ""


def outcome(reader: Reader, path: pathlib.Path) -> str:
  """Read a changed file and return `read`, `refused`, or the kind of failure and its details."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      value = reader.read(path)
  except UserError as error:
    text = str(error)
    if len(text.replace(str(path), "").replace(str(path.parent), "")) > MESSAGE:
      return f"long message: {len(text)} characters: {text[:200]!r}"
    return "refused" if text.isprintable() else f"unprintable message: {text[:200]!r}"
  except Exception as error:
    return f"traceback: {type(error).__name__}: {str(error)[:100]!r}{_place(error)}"
  fault = reader.faults(value)
  return f"accepted: {fault}" if fault else "read"


def _place(error: BaseException) -> str:
  """Return the innermost line of the package in a traceback."""
  place, trace = "", error.__traceback__
  while trace:
    file = trace.tb_frame.f_code.co_filename
    if "atgcn_jax" in file:
      place = f" at {file.partition('atgcn_jax/')[2]}:{trace.tb_lineno}"
    trace = trace.tb_next
  return place


def is_name(text: str) -> bool:
  """Return whether a text is not empty and has no characters that control its display."""
  kinds = {unicodedata.category(character) for character in text}
  return bool(text) and not kinds & {"Cc", "Zl", "Zp"} and not set(text) & set("\u202e\ufeff")


def texts(content: str) -> Callable[[pathlib.Path], None]:
  return lambda path: path.write_text(content)


def change_text(path: pathlib.Path, rng: Random) -> None:
  path.write_bytes(mutations.change_text(path.read_bytes(), rng))


def frontend_faults(frontend: Any) -> str:
  numbers = ("sample_rate", "n_fft", "win_length", "hop", "n_mels", "seconds", "power")
  for name in numbers:
    value = getattr(frontend, name)
    if type(value) not in (int, float) or not 0 < value < 1e9:
      return f"frontend.{name} is {str(value)[:40]}"
  if type(frontend.name) is not str or type(frontend.drop_last) is not bool:
    return "the front end has values of another type"
  return ""


def vocabulary_faults(vocabulary: Any) -> str:
  for text in (*vocabulary.ids, *vocabulary.names):
    if not isinstance(text, str):
      return f"the vocabulary has {type(text).__name__}"
    if text and not is_name(text):
      return f"the vocabulary has control characters: {text[:40]!r}"
  return ""


def ids_faults(ids: Any) -> str:
  bad = next((text for text in ids if not is_name(text)), None)
  return "" if bad is None else f"the id {bad[:40]!r}"
