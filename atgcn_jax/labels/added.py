"""Files of labels that are added to a trained run, with what is known about each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from atgcn_jax.errors import UserError, printable
from atgcn_jax.labels.hints import nearest
from atgcn_jax.labels.label_files import SHOWN, check_name, text_lines
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

# Names can contain commas, as in 0.6 Crying, sobbing, 0.3 Baby.
# The next weight ends them.
RELATION = re.compile(r"(?:^|,)\s*(\d+(?:\.\d+)?|\.\d+)\s+")
KEYS = {"id", "relations", "parents", "counts", "clips"}


class AddedLabel(NamedTuple):
  """A label that a run was not trained on.

  Attributes:
    id: The id. By default the name.
    name: The display name.
    relations: Probability of this label given a known label, by the position of the latter.
    parents: Positions of the known labels that are more general.
    counts: Number of clips with this label and a known label, by the position of the latter.
    clips: Number of clips with this label, for `counts`.
    file: The file that the label comes from, or empty.
  """

  id: str
  name: str
  relations: Mapping[int, float] = {}
  parents: tuple[int, ...] = ()
  counts: Mapping[int, int] = {}
  clips: int = 0
  file: str = ""

  @property
  def where(self) -> str:
    """The file and the name, for messages."""
    name = f"label {printable(self.name, SHOWN)!r}"
    return f"{self.file}: {name}" if self.file else name


def read_added_labels(path: str | os.PathLike[str], known: Vocabulary) -> list[AddedLabel]:
  """Return the labels in a file.

  Args:
    path: A YAML file that maps each name to nothing, to relations such as `0.6 Siren, 0.3 Alarm`,
      or to a mapping with some of the keys `id`, `relations`, `parents`, `counts` and `clips`; or a
      vocabulary CSV. Known labels are named by name or id.
    known: The labels of the run.

  Raises:
    UserError: The file cannot be read, a label is known or repeated, a known label does not exist,
      or a weight or count is invalid.
  """
  if os.fspath(path).endswith(".csv"):
    vocabulary = read_vocabulary(path)
    pairs = zip(vocabulary.ids, vocabulary.names)
    added = [AddedLabel(*pair, file=os.fspath(path)) for pair in pairs]
  else:
    added = [_label(os.fspath(path), name, entry, known) for name, entry in _entries(path)]
  of_run = {label.casefold() for label in (*known.ids, *known.names)}
  read: set[str] = set()
  for label in added:
    check_name(label.id, os.fspath(path))
    check_name(label.name, os.fspath(path))
    words = {label.id.casefold(), label.name.casefold()}
    if words & of_run:
      raise UserError(
        f"{label.where} is one of the run's {len(known)} labels, which it scores already; remove it"
      )
    if words & read:
      raise UserError(f"{label.where} is repeated; keep one of them")
    read |= words
  return added


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, Any]]:
  """Return the pairs of name and entry of a YAML file."""
  import yaml  # takes 20 ms; most commands add no labels

  try:
    # The base loader makes texts of all scalars, and takes no tags.
    nodes = yaml.compose("".join(text_lines(path)), yaml.BaseLoader)
    loader = yaml.BaseLoader("")
    if not isinstance(nodes, yaml.MappingNode) or not nodes.value:
      raise UserError(f"{path}: must map the names of labels, such as `Siren-like: 0.6 Siren`")
    # Not as a dict, in which a repeated name would replace the first.
    return [
      (str(loader.construct_object(key)), loader.construct_object(value, deep=True))
      for key, value in nodes.value
    ]
  except (yaml.YAMLError, RecursionError) as error:
    where = getattr(error, "problem_mark", None)
    line = f", line {where.line + 1}" if where else ""
    raise UserError(
      f"{path}{line}: not YAML; write lines such as `Siren-like: 0.6 Siren`, and quote names that "
      "contain a colon"
    ) from None


def _label(path: str, name: str, entry: Any, known: Vocabulary) -> AddedLabel:
  """Return the label of an entry."""
  where = f"{path}: {printable(name, SHOWN)}"
  if isinstance(entry, str):
    entry = {"relations": entry} if entry.strip() else {}
  if not isinstance(entry, dict) or (unknown := sorted(set(entry) - KEYS)):
    key = f" has the key {printable(unknown[0], SHOWN)!r}" if isinstance(entry, dict) else ""
    raise UserError(f"{where}:{key or ' is no mapping'}; use {', '.join(sorted(KEYS))}")
  name = name.strip()
  if not name:
    raise UserError(f"{where}: the name is empty; write a name")
  relations = entry.get("relations", {})
  if isinstance(relations, str):
    relations = _parsed_relations(where, relations)
  weights = _numbers(where, "relations", relations, known)
  if any(weight > 1 for weight in weights.values()):
    raise UserError(f"{where}: a relation is a probability; write weights from 0 to 1")
  counts = {k: int(n) for k, n in _numbers(where, "counts", entry.get("counts", {}), known).items()}
  clips = entry.get("clips", "0")
  if not (isinstance(clips, str) and re.fullmatch(r"[0-9]{1,15}", clips)):
    raise UserError(f"{where}: clips {printable(clips, SHOWN)!r} is not a number of clips")
  if counts and int(clips) < max(counts.values()):
    raise UserError(
      f"{where}: `clips` must be the number of clips with the label, at least its counts"
    )
  parents = entry.get("parents", [])
  parents = [parents] if isinstance(parents, str) else parents
  if not isinstance(parents, list):
    raise UserError(f"{where}: parents must be a label or a list of labels")
  return AddedLabel(
    id=str(entry.get("id", name)).strip() or name,
    name=name,
    relations=weights,
    parents=tuple(dict.fromkeys(_position(where, parent, known) for parent in parents)),
    counts=counts,
    clips=int(clips),
    file=path,
  )


def _parsed_relations(where: str, text: str) -> dict[str, str]:
  """Return the weights by name in a text such as `0.6 Siren, 0.3 Alarm`."""
  _, *parts = RELATION.split(text)
  names = [name.strip() for name in parts[1::2]]
  if not parts or not all(names) or RELATION.match(text) is None:
    raise UserError(
      f"{where}: relations {text[:60]!r}; write weights and names, 0.6 Siren, 0.3 Alarm"
    )
  if len(set(names)) < len(names):
    raise UserError(f"{where}: a label is repeated in its relations; name it once")
  return dict(zip(names, parts[::2]))


def _numbers(where: str, key: str, given: Any, known: Vocabulary) -> dict[int, float]:
  """Return numbers ≥ 0, not all 0, by the position of their known label."""
  if not isinstance(given, dict):
    raise UserError(f"{where}: {key} must map known labels to numbers")
  numbers = {}
  for label, text in given.items():
    what = f"{where}: {key} {printable(text, SHOWN)!r} of {printable(label, SHOWN)}"
    try:
      number = float(text)
    except (TypeError, ValueError):
      raise UserError(f"{what} is not a number") from None
    if not 0 <= number < 1e15:
      raise UserError(f"{what} must be at least 0 and finite")
    numbers[_position(where, label, known)] = number
  if numbers and not any(numbers.values()):
    raise UserError(f"{where}: the {key} sum to zero; give one above 0, or leave them out")
  return numbers


def _position(where: str, label: Any, known: Vocabulary) -> int:
  """Return the position of a known label, named by name or id."""
  for words in (known.ids, known.names):
    if label in words:
      return words.index(label)
  text = str(label)[:60]
  near: Sequence[str] = [known.names[k] for k in nearest(known.names, text)]
  hint = f"did you mean {' or '.join(near)}" if near else "name labels of the run"
  raise UserError(f"{where}: {text!r} is not one of the run's {len(known)} labels; {hint}")
