"""The form of a run in checkpoints and exports: its JSON items and the shapes of its constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.runtime.schema import checked

# Number of the form of checkpoints and exports. A change that this version's readers would
# misunderstand raises it; keys that they may ignore do not. docs/reliability.md lists the changes.
FORMAT = 1


class _Needed(TypedDict):
  config: dict[str, Any]
  label_ids: list[str]
  label_names: list[str]
  frontend: Frontend
  range_db: float | None
  store_fingerprint: str


class Description(_Needed, total=False):
  """The item `run` of a checkpoint; see `Run.description`."""

  draws_unlabelled: bool
  rules: int
  carried_labels: str
  format: int


def checked_description(description: Any) -> Description:
  """Return the item `run` of a checkpoint.

  Raises:
    ValueError: If it has other content, or is of a later version.
  """
  saved = checked(description, Description, "run")
  number = saved.get("format", 1)  # the first checkpoints have no number
  if number > FORMAT:
    raise ValueError(f"it has format {number} of a later version, and this one reads {FORMAT}")
  return saved


class Evaluation(TypedDict):
  """An evaluation of the history, which has further metrics."""

  step: int
  mAP: float | None


class Exported(TypedDict):
  """The `config.json` of an export to `huggingface`."""

  step: int
  history: list[Evaluation]
  run: dict[str, Any]


def checked_history(history: Any) -> list[dict[str, Any]]:
  """Return the evaluations of a checkpoint.

  Raises:
    ValueError: If they are not evaluations.
  """
  evaluations: Any = checked(history, list[Evaluation], "history")
  return evaluations


def checked_export(config: Any) -> Exported:
  """Return the content of the `config.json` of an export.

  Raises:
    ValueError: If it has other content.
  """
  exported = checked(config, Exported, "config.json")
  if exported["step"] < 0:
    raise ValueError(f"config.json.step is {exported['step']}, which is negative")
  return exported


def check_constants(constants: Mapping[str, Any], bands: int, labels: int) -> None:
  """Refuse arrays of another shape than the front end and the vocabulary need.

  Args:
    constants: The arrays and sparse matrices of the item `constants`.
    bands: The number of bands F.
    labels: The number of labels K.

  Raises:
    ValueError: If an array is missing or has another shape or type.
  """
  if missing := [name for name in ("mean", "deviation") if name not in constants]:
    raise ValueError(f"the constants have no {', '.join(missing)}")
  shapes = {
    "mean": (bands,),
    "deviation": (bands,),
    "propagation": (labels, labels),
    "similarity": (labels, labels),
    "neighbours": (labels, labels),
  }
  for name, shape in shapes.items():
    if name in constants and constants[name].shape != shape:
      raise ValueError(f"{name} has the shape {constants[name].shape}, not {shape}")
  embeddings, members = constants.get("label_embeddings"), constants.get("members")
  if ("propagation" in constants) != (embeddings is not None):
    raise ValueError("the constants have only one of propagation and label_embeddings")
  if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != labels):
    raise ValueError(f"label_embeddings has the shape {embeddings.shape}, not {labels} rows")
  if members is not None and not (
    members.ndim == 2 and len(members) == 2 and np.issubdtype(members.dtype, np.integer)
  ):
    raise ValueError(f"members is {members.dtype}{list(members.shape)}, not pairs of labels")
