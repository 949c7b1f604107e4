"""Decision thresholds per label, tuned on the validation split and stored with a run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from atgcn_jax.errors import UserError, counted, reason
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.folds import splits_of, warn_if_test_clips
from atgcn_jax.runtime.buckets import check_output_folder, path_of
from atgcn_jax.runtime.schema import checked
from atgcn_jax.runtime.whole_files import write_whole

NAME = "thresholds.json"
FEW = 5  # labels with fewer positives have uncertain thresholds
LEAST = 0.01  # stands for the next lower score where a threshold accepts all clips
NEAR_0_AND_1 = 1e-7  # scores beyond are this far from 0 and 1 in log-odds, which would be infinite


class Thresholds(NamedTuple):
  """Thresholds by label id, and the step at which they were tuned."""

  step: int
  by_label: Mapping[str, float]

  def of(self, vocabulary: Vocabulary) -> np.ndarray:
    """Return thresholds float64[K] in the order of the vocabulary, NaN for labels without one."""
    return np.array([self.by_label.get(label, math.nan) for label in vocabulary.ids])

  def check_step(self, step: int) -> None:
    """Warn if the scores come from another step."""
    if step != self.step:
      warnings.warn(
        f"the thresholds were tuned at step {self.step}, but this is step {step}; "
        "tune them again with `atgcn thresholds`",
        stacklevel=4,
      )


def best_thresholds(
  scores: np.ndarray, labels: np.ndarray, *, floor: float = 0.0, min_precision: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
  """Return the threshold with the highest F1 for each label, and that F1.

  A label is predicted if its score is at least the threshold. With the numbers of true positives
  (TP), false positives (FP) and false negatives (FN), F1 is 2 TP / (2 TP + FP + FN). Each score
  that occurs is a candidate: the lowest score that is accepted. Among candidates with equal F1, the
  highest is chosen. The threshold is between it and the next lower score (`between`), so that new
  clips with slightly lower scores are accepted too. F1 and precision on these clips do not change.

  Args:
    scores: float[N, K].
    labels: [N, K], 1 or true where a clip has the label.
    floor: Lower candidates are not considered, and the threshold is not lower.
    min_precision: Nor are candidates with a lower precision.

  Returns:
    Thresholds and F1, float64[K] each. Both are NaN for labels that no clip has, and for those
    without a candidate.
  """
  from sklearn.metrics import precision_recall_curve  # takes a second; tagging does not need it

  thresholds, f1 = np.full((2, scores.shape[1]), np.nan)
  for k in np.flatnonzero(labels.any(axis=0)):
    precision, recall, tried = precision_recall_curve(labels[:, k], scores[:, k])
    both = precision + recall
    values = 2 * precision * recall / np.where(both > 0, both, 1)
    allowed = (tried >= floor) & (precision[:-1] >= min_precision)
    if not allowed.any():
      continue
    values = np.where(allowed, values[:-1], -1)[::-1]  # the highest threshold first
    best = int(values.argmax())
    f1[k] = values[best]
    accepted = tried[::-1][best]
    lower = scores[scores[:, k] < accepted, k]
    thresholds[k] = max(between(float(accepted), float(lower.max(initial=-1))), floor)
  return thresholds, f1


def between(accepted: float, lower: float) -> float:
  """Return the middle of two scores in log-odds, above the lower one and at most the other.

  Args:
    accepted: The lowest score that is accepted.
    lower: The next lower score, or -1 if there is none. `LEAST` stands for it then; an accepted
      score below `LEAST` is its own threshold.
  """
  ends = np.clip([accepted, LEAST if lower < 0 else lower], NEAR_0_AND_1, 1 - NEAR_0_AND_1)
  middle = float(1 / (1 + np.exp(-np.log(ends / (1 - ends)).mean())))
  return middle if lower < middle < accepted else accepted


def tune(
  workdir: str | os.PathLike,
  *,
  step: str = "latest",
  store_path: str | None = None,
  floor: float = 0.0,
  min_precision: float = 0.0,
) -> dict[str, Any]:
  """Tune thresholds on the validation split and write them to `thresholds.json` in the run.

  Args:
    workdir: The run directory.
    step: A number, `latest` or `best`.
    store_path: The store; by default the one that the run was trained on.
    floor: The lowest threshold, 0 to 1.
    min_precision: The least precision on the validation clips, 0 to 1.

  Returns:
    `step`, `split`, `clips`, `mean_f1` over the labels with a threshold, and `labels`, which maps
    label ids to `name`, `positives`, `threshold` and `f1`. The last two are None for labels
    without a threshold.

  Raises:
    UserError: If the run, step or store cannot be used, the run has no validation clips, or its
      folder cannot be written to.
    WorkFailed: If a score is not finite.
  """
  # Tagging, which reads thresholds, does not need these.
  from atgcn_jax.runs.resumable_scores import kept_scores
  from atgcn_jax.runs.scoring import score_split

  for option, value in (("--floor", floor), ("--min-precision", min_precision)):
    if not 0 <= value <= 1:
      raise UserError(f"{option} {value:g}: must be 0 to 1")
  check_output_folder(
    "--workdir", workdir, "thresholds are stored with the run; copy the run to another folder"
  )
  with kept_scores(workdir) as keep:
    scored = score_split(workdir, step, store_path, "validation", keep=keep)
    warn_if_test_clips(splits_of(scored.loaded.run.config), "the thresholds are tuned on the clips")
    return _tuned(workdir, scored, floor, min_precision)


def _tuned(
  workdir: str | os.PathLike, scored: Any, floor: float, min_precision: float
) -> dict[str, Any]:
  """Tune the thresholds on a ScoredSplit, write the file, and return the result of `tune`."""
  from atgcn_jax.runs.run_store import trained_labels

  labels = trained_labels(scored.loaded.run.config, scored.vocabulary, scored.labels)
  if not labels.any():
    raise UserError(f"{workdir}: no validation clip has a label; give a --store with labels")
  thresholds, f1 = best_thresholds(scored.scores, labels, floor=floor, min_precision=min_precision)
  if not np.isfinite(thresholds).any():
    raise UserError(
      f"--min-precision {min_precision:g}, --floor {floor:g}: no label reaches them; lower them"
    )
  ids, names = scored.vocabulary.ids, scored.vocabulary.names
  columns = zip(ids, names, labels.sum(axis=0, dtype=int), thresholds, f1)
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
    raise UserError(
      f"{path}: cannot be written ({error.strerror or error}); make it writable"
    ) from error
  return result


def thresholds_text(result: dict[str, Any]) -> str:
  """Return the result of `tune` as a table of at most 100 columns."""
  lines = ["threshold      F1  positives  label"]
  tuned = [entry for entry in result["labels"].values() if entry["threshold"] is not None]
  lines += [
    f"{_digits(entry['threshold']):>9}  {entry['f1']:6.3f}  {entry['positives']:9}  "
    f"{entry['name']:.70}"
    for entry in tuned
  ]
  lines.append(
    f"step {result['step']}, {result['clips']} validation clips: mean F1 {result['mean_f1']:.4f} "
    f"over {counted(len(tuned), 'label', 'labels')}; "
    f"{counted(len(result['labels']) - len(tuned), 'has', 'have')} no threshold"
  )
  if few := sum(entry["positives"] < FEW for entry in tuned):
    has, its, is_ = ("label has", "its", " is") if few == 1 else ("labels have", "their", "s are")
    lines.append(f"warning: {few} {has} fewer than {FEW} positives; {its} threshold{is_} uncertain")
  return "\n".join(lines)


def _digits(threshold: float) -> str:
  """Return a threshold with three decimals, or with more if it would read as 0 or 1."""
  texts = [f"{threshold:.{decimals}f}" for decimals in range(3, 8)]
  return next((text for text in texts if float(text) not in (0, 1)), texts[0])


class _Entry(TypedDict):
  threshold: float | None


class _Stored(TypedDict):
  step: int
  labels: dict[str, _Entry]


def read_thresholds(workdir: str | os.PathLike) -> Thresholds | None:
  """Return the thresholds stored with a run, or None.

  Raises:
    UserError: If the file has other content.
  """
  path = path_of(workdir) / NAME
  if not path.exists():
    return None
  try:
    stored = checked(json.loads(path.read_bytes()), _Stored, "thresholds")
    by_label = {
      label: value
      for label, entry in stored["labels"].items()
      if (value := entry["threshold"]) is not None
    }
    if stored["step"] < 0 or not all(0 <= value <= 1 for value in by_label.values()):
      raise ValueError("the step or a threshold is out of range")
    if bad := [label for label in by_label if not label or has_controls(label)]:
      raise ValueError(f"label {bad[0]!r} is empty or has control characters")
    return Thresholds(stored["step"], by_label)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"{path}: cannot be read as thresholds ({reason(error)}); move it away or run `atgcn "
      "thresholds`"
    ) from error
