"""The records of a training in metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, TypedDict

from atgcn_jax.runs.saved_form import checked_history
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.schema import checked

METRICS = "metrics.jsonl"


class _Record(TypedDict):
  step: int


def read_records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Return the records of a run's metrics.jsonl. Incomplete or damaged lines are skipped."""
  path = path_of(workdir) / METRICS
  if not path.is_file():
    return []
  records: list[dict[str, Any]] = []
  for line in path.read_bytes().splitlines():
    with contextlib.suppress(ValueError, RecursionError):  # a line that a kill or a fault has cut
      records.append(dict(checked(json.loads(line), _Record, "record")))
  return records


def logged_evaluation(
  workdir: str | os.PathLike, step: int, history: list[dict[str, Any]]
) -> list[dict[str, Any]]:
  """Return the evaluation of a checkpoint if only metrics.jsonl has it; at most one record.

  This happens if training was stopped after the save of a step and before its evaluation.

  Args:
    workdir: The run directory.
    step: The step of the checkpoint.
    history: The evaluations in the checkpoint.
  """
  if any(record["step"] == step for record in history):
    return []
  for record in reversed(read_records(workdir)):
    if record["step"] == step and "mAP" in record:
      with contextlib.suppress(ValueError):  # a damaged record
        return checked_history([record])
  return []
