"""The score from which each label is told, tuned on the validation split and kept with a run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.folds import warn_if_test_clips
from atgcn_jax.runs.resumable_scores import kept_scores
from atgcn_jax.runs.scoring import ScoredSplit, score_split
from atgcn_jax.runtime.buckets import check_output_folder, path_of, write_whole

NAME = "thresholds.json"


class Thresholds(NamedTuple):
  """The step that thresholds were tuned at, and the threshold of each label that has one."""

  step: int
  by_label: Mapping[str, float]

  def of(self, vocabulary: Vocabulary) -> np.ndarray:
    """The thresholds float64[K] in the vocabulary's order, NaN for labels without one."""
    return np.array([self.by_label.get(label, math.nan) for label in vocabulary.ids])

  def check_step(self, step: int) -> None:
    """Warn if the scores are those of another step."""
    if step != self.step:
      warnings.warn(
        f"the thresholds were tuned at step {self.step} and this is step {step}; "
        "tune them anew with `atgcn thresholds`",
        stacklevel=3,
      )


def best_thresholds(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For each label the threshold with the highest F1, and that F1: float64[K] each.

  A label is told where its score is at least the threshold t. With the clips that have the label
  and are told it (TP), that lack it (FP) and that have it untold (FN), F1 is
  2 TP / (2 TP + FP + FN). Every score that occurs is tried; of equal F1 the highest threshold
  is taken. Both are NaN for a label that no clip has.

  Args:
    scores: float[N, K].
    labels: [N, K], 1 or true where a clip has the label.
  """
  from sklearn.metrics import precision_recall_curve  # a second, which tagging need not wait for

  thresholds, f1 = np.full((2, scores.shape[1]), np.nan)
  for k in np.flatnonzero(labels.any(axis=0)):
    precision, recall, tried = precision_recall_curve(labels[:, k], scores[:, k])
    both = precision + recall
    values = 2 * precision * recall / np.where(both > 0, both, 1)
    values = values[: len(tried)][::-1]  # the highest threshold first
    best = int(values.argmax())
    thresholds[k], f1[k] = tried[::-1][best], values[best]
  return thresholds, f1


def tune(
  workdir: str | os.PathLike, *, step: str = "latest", store_path: str | None = None
) -> dict[str, Any]:
  """The best thresholds on the validation split, also written to `thresholds.json` in the run.

  Returns:
    `step`, `split`, `clips`, `mean_f1` over the labels that a clip has, and `labels`, by
    label id: `name`, `positives`, `threshold` and `f1`, both None for a label that no clip has.

  Raises:
    UserError: For a run, step or store that cannot be used, a run without validation clips, or one
      that cannot be written to.
    WorkFailed: If a score is not finite.
  """
  check_output_folder(
    "--workdir", workdir, "thresholds are stored with the run: copy it to another folder"
  )
  with kept_scores(workdir) as keep:
    scored = score_split(workdir, step, store_path, "validation", keep=keep)
    warn_if_test_clips(scored.loaded.run.config, "the thresholds are tuned on the clips")
    return _tuned(workdir, scored)


def _tuned(workdir: str | os.PathLike, scored: ScoredSplit) -> dict[str, Any]:
  """What `tune` returns, and its file written."""
  thresholds, f1 = best_thresholds(scored.scores, scored.labels)
  if not np.isfinite(thresholds).any():
    raise UserError(f"{workdir}: no validation clip has a label; give a --store with labels")
  ids, names = scored.vocabulary.ids, scored.vocabulary.names
  columns = zip(ids, names, scored.labels.sum(axis=0, dtype=int), thresholds, f1)
  result = {
    "step": scored.loaded.step,
    "split": "validation",
    "clips": len(scored.clip_ids),
    "mean_f1": float(np.nanmean(f1)),
    "labels": {
      label: {
        "name": name,
        "positives": int(positives),
        "threshold": None if math.isnan(threshold) else float(threshold),
        "f1": None if math.isnan(value) else float(value),
      }
      for label, name, positives, threshold, value in columns
    },
  }
  path = path_of(workdir) / NAME
  try:
    write_whole(path, (json.dumps(result, indent=2) + "\n").encode())
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error.strerror or error}); free it") from error
  return result


def thresholds_text(result: dict[str, Any]) -> str:
  """What `tune` returns as a table of at most 100 columns."""
  lines = ["threshold      F1  positives  label"]
  lines += [
    f"{entry['threshold']:9.3f}  {entry['f1']:6.3f}  {entry['positives']:9}  {entry['name']:.70}"
    for entry in result["labels"].values()
    if entry["threshold"] is not None
  ]
  lines.append(
    f"step {result['step']}, {result['clips']} validation clips: mean F1 {result['mean_f1']:.4f} "
    f"of {len(lines) - 1} labels; {len(result['labels']) - len(lines) + 1} have no clip"
  )
  return "\n".join(lines)


def read_thresholds(workdir: str | os.PathLike) -> Thresholds | None:
  """The thresholds kept with a run; None where there are none.

  Raises:
    UserError: For a file that is something else.
  """
  path = path_of(workdir) / NAME
  if not path.exists():
    return None
  try:
    kept = json.loads(path.read_bytes())
    by_label = {
      label: float(entry["threshold"])
      for label, entry in kept["labels"].items()
      if entry["threshold"] is not None
    }
    if not np.isfinite(list(by_label.values())).all():
      raise ValueError("a threshold is NaN or infinite")
    return Thresholds(int(kept["step"]), by_label)
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(
      f"{path}: no thresholds can be read from it; move it away, or run `atgcn thresholds`"
    ) from error
