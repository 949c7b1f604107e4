"""Check of the outputs that the options of a verb name, before any work is done."""

from __future__ import annotations

import argparse
import enum
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import check_output_folder, in_bucket
from atgcn_jax.runtime.whole_files import check_regular


class Kind(enum.Enum):
  """What an option names."""

  FILE = "a file in a folder that exists, or in a bucket"
  MADE = "a file, whose folder is made if needed"
  FOLDER = "a folder that may hold other files"
  OWN = "a folder that may hold no input, because its files are replaced"


# The outputs of each verb, by the attributes of the parsed options. The verbs that are not here
# write to a run directory or to the folder of their results, which they check themselves.
OUTPUTS = {
  "tag": {"csv": Kind.FILE, "plot": Kind.FILE},
  "detect": {"out": Kind.FILE},
  "embed": {"out": Kind.FILE},
  "similar": {"csv": Kind.FILE},
  "suggest": {"csv": Kind.FILE},
  "prepare": {"out": Kind.MADE},
  "graph": {"out": Kind.MADE, "counts_out": Kind.MADE, "plot": Kind.MADE},
  "soundscapes": {"out": Kind.OWN},
  "mixtures": {"out": Kind.OWN},
  "export": {"out": Kind.OWN},
  "data-card": {"out": Kind.FOLDER},
  "metadata": {"out": Kind.FOLDER},
  "reproduce": {"out": Kind.FOLDER},
}
# The attributes that name inputs, in all of these verbs.
INPUTS = (
  *("files", "clips", "store", "embeddings", "score", "add_labels", "workdir"),
  *("audio", "labels", "vocabulary", "ontology", "normaliser", "counts", "segments", "ratings"),
  "configs",
)
FOLDER_FORMATS = ("raven", "audacity")  # of detect: a file per sound
READ_WHOLE = ("store", "score")  # every file of such a folder is read, not only sounds
PICTURES = (".png", ".svg", ".pdf")


class Named(NamedTuple):
  """A path on the command line, and the attribute of the parsed options that it is from."""

  attribute: str
  path: str

  def __str__(self) -> str:
    if self.attribute in ("files", "clips"):
      return self.path
    return f"--{self.attribute.replace('_', '-')} {self.path}"


def check_outputs(options: argparse.Namespace) -> None:
  """Check that a verb can write its outputs, and that none of them replaces an input.

  Args:
    options: The parsed options of the verb.

  Raises:
    UserError: An output cannot be written, is an input or holds one, or is another output too.
  """
  others = list(_named(options, INPUTS))
  for attribute, kind in OUTPUTS.get(options.verb, {}).items():
    on_disk = kind is not Kind.FILE
    if getattr(options, "format", None) in FOLDER_FORMATS:
      kind = Kind.FOLDER
    for output in _named(options, (attribute,)):
      if on_disk and in_bucket(output.path):
        raise UserError(f"{output}: is in a bucket; name a path on a disk")
      for other in others:
        _check_apart(output, kind, other)
      others.append(output)
      _check_usable(output, kind)


def name_outputs(options: argparse.Namespace) -> None:
  """Print the outputs that a verb has written, on standard error; standard output has results."""
  for output in _named(options, tuple(OUTPUTS[options.verb])):
    print(f"atgcn {options.verb}: wrote {output.path}", file=sys.stderr)


def _named(options: argparse.Namespace, attributes: tuple[str, ...]) -> Iterator[Named]:
  """Yield the paths of some options."""
  for attribute in attributes:
    value = getattr(options, attribute, None)
    for path in value if isinstance(value, list) else [value]:
      if path and isinstance(path, str):
        yield Named(attribute, path)


def _check_apart(output: Named, kind: Kind, other: Named) -> None:
  """Refuse an output that would replace another file of the command.

  Raises:
    UserError: It would.
  """
  if kind is Kind.OWN and _is_in(other.path, output.path):
    raise UserError(f"{output}: its files are replaced, but {other} is in it; name another folder")
  if kind not in (Kind.FILE, Kind.MADE):
    return
  if _is_same(output.path, other.path) and not os.path.isdir(output.path):
    raise UserError(f"{output}: is the same file as {other}; name another output")
  if os.path.isdir(other.path) and _is_read(output.path, other):
    raise UserError(f"{output}: is one of the files in {other}; name another output")


def _is_read(path: str, folder: Named) -> bool:
  """Return whether a file exists and is read because it is in a folder of inputs."""
  from atgcn_jax.audio.folders import SOUNDS

  if not os.path.isfile(path) or not _is_in(path, folder.path):
    return False
  return folder.attribute in READ_WHOLE or path.lower().endswith(SOUNDS)


def _is_same(one: str, other: str) -> bool:
  """Return whether two paths lead to the same file, which need not exist."""
  try:
    return os.path.samefile(one, other)
  except (OSError, ValueError):
    return os.path.realpath(one) == os.path.realpath(other)


def _is_in(path: str, folder: str) -> bool:
  """Return whether a path is a folder or inside of it."""
  inner, outer = os.path.realpath(path), os.path.realpath(folder)
  return os.path.commonpath([inner, outer]) == outer


def _check_usable(output: Named, kind: Kind) -> None:
  """Refuse an output that cannot be written.

  Buckets and the folders of `Kind.OWN` are checked where they are written.

  Raises:
    UserError: It cannot be written.
  """
  path = output.path
  if in_bucket(path) or kind is Kind.OWN:
    return
  if kind is Kind.FOLDER:
    check_output_folder(f"--{output.attribute}", path)
    return
  if os.path.isdir(path):
    raise UserError(f"{output}: must be a file, but is a folder; name a file")
  check_regular(path)
  if output.attribute == "plot" and not path.endswith(PICTURES):
    raise UserError(f"{output}: must end in .png, .svg or .pdf")
  folder = os.path.dirname(path) or os.curdir
  if kind is Kind.FILE and not os.path.isdir(folder):
    reason = "is not a folder" if os.path.exists(folder) else "does not exist"
    raise UserError(f"{output}: cannot be written ({folder} {reason}); name another file")
  check_output_folder(f"{output}: its folder", folder, "name another file")
