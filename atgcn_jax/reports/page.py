"""The report page of an evaluation: one self-contained HTML file."""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from atgcn_jax.labels.sparse import Matrix
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.reports import page_figures
from atgcn_jax.reports.page_html import (
  details_html,
  document_html,
  figure_html,
  note_html,
  table_html,
  value_text,
)
from atgcn_jax.reports.page_labels import (
  chance_map,
  graph_html,
  labels_html,
  map_html,
  precision_recall_html,
)
from atgcn_jax.reports.page_mistakes import Example, confusions_html, mistakes_html
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import write_whole

# The table at the top: names, and the keys of the result with the value and its interval.
HEADLINE = (
  ("mAP", "mAP", ("mAP_low", "mAP_high")),
  ("mAUC", "mAUC", ("mAUC_low", "mAUC_high")),
  ("d′", "d_prime", ()),
  ("OmAP", "OmAP", ()),
  ("mAP of the known labels", "mAP_known", ()),
  ("mAP of the added labels", "mAP_added", ()),
)


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  result: dict[str, Any],
  records: Sequence[dict[str, Any]],
  vocabulary: Vocabulary,
  scores: np.ndarray,
  labels: np.ndarray,
  average_precision: np.ndarray,
  auc: np.ndarray,
  thresholds: np.ndarray | None,
  heard: Sequence[Example],
  missed: Sequence[Example],
  label_vectors: np.ndarray | None,
  propagation: Matrix | None,
  config: dict[str, Any],
  seed: int = 0,
) -> None:
  """Write a page with metrics, curves, labels, mistakes, the label graph and the label map.

  The same arguments produce the same bytes. The file is written atomically.

  Args:
    path: The file. An existing file is replaced.
    title: The title, which names the evaluated run.
    result: The result of `evaluate`. Missing keys are left out.
    records: The records in the log of the run, which have `step` and `loss`, or `step` and `mAP`.
      Other keys are ignored. It may be empty.
    vocabulary: The K labels.
    scores: float[N, K], the scores of the N clips.
    labels: [N, K], nonzero where a clip has the label.
    average_precision: float[K], NaN where undefined.
    auc: float[K], NaN where undefined.
    thresholds: The thresholds of the run, float[K], or None; see `confusions_html`.
    heard: The worst clips in which an absent label is heard.
    missed: The worst clips in which a label is missed.
    label_vectors: float[K, C], or None for a system without label vectors and with added labels.
    propagation: float[K, K], or None for a system without a graph and with added labels. Row i has
      the weights with which label i receives from the other labels.
    config: The config of the run.
    seed: The seed of the layouts of the label graph and the label map.

  Raises:
    ValueError: If the shape of an array does not fit K labels.
  """
  K, names = len(vocabulary), vocabulary.names
  scores, labels, average_precision, auc = map(np.asarray, (scores, labels, average_precision, auc))
  for name, array, shape in (
    ("scores", scores, (None, K)),
    ("labels", labels, (len(scores), K)),
    ("average_precision", average_precision, (K,)),
    ("auc", auc, (K,)),
    ("label_vectors", label_vectors, (K, None)),
    ("propagation", propagation, (K, K)),
  ):
    if array is not None and not _fits(array.shape, shape):
      raise ValueError(f"{name} {array.shape} does not fit a vocabulary of {K} labels")
  positives = np.count_nonzero(labels, axis=0)
  sections = {
    "Learning curves": _curves(records),
    "Labels": labels_html(vocabulary, positives, average_precision, auc, len(scores), propagation),
    "Precision and recall": precision_recall_html(names, scores, labels, average_precision),
    "Confusions": confusions_html(names, scores, labels, thresholds, added="added" in result),
    "Worst mistakes": mistakes_html(names, scores, labels, heard, missed),
    "Label graph": graph_html(names, propagation, average_precision, seed),
    "Label vectors": map_html(names, label_vectors, positives, average_precision, seed),
    "Settings": _settings(config, result),
  }
  if "added" in result:
    hidden = note_html("Not shown with added labels; evaluate without --add-labels to see it.")
    sections |= {"Label graph": hidden, "Label vectors": hidden}
  summary = _headline(result, positives, average_precision, len(scores))
  page = document_html(title, summary, sections)
  write_whole(path_of(path), page.encode("utf-8", errors="replace"))


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
  """Return whether an array has the wanted shape, where None stands for any length."""
  return len(shape) == len(wanted) and all(
    length in (size, None) for size, length in zip(shape, wanted)
  )


def _headline(
  result: dict[str, Any], positives: np.ndarray, average_precision: np.ndarray, clips: int
) -> str:
  """Return the table at the top of the page."""
  rows = []
  for name, key, interval in HEADLINE:
    if key not in result:
      continue
    text = value_text(result[key])
    low, high = (result.get(limit) for limit in interval or ("", ""))
    if low is not None and high is not None:
      text += f" (95 % interval {low:.4f} to {high:.4f})"
    if key == "mAP" and np.isfinite(average_precision).any():
      text += f"; random scores: {chance_map(positives, average_precision, clips):.4f}"
    rows.append((name, text))
  scored = int(np.isfinite(average_precision).sum())
  folds = result.get("folds")
  split = f" of the split {result['split']}" if "split" in result else ""
  where = f" (folds {', '.join(map(str, folds))})" if folds else ""
  rows.append(("Clips", f"{clips}{split}{where}"))
  rows.append(("Labels", f"{len(positives)}, {scored} of them with an AP"))
  rows += [(name.capitalize(), str(result[name])) for name in ("step", "store") if name in result]
  return table_html((), rows, numbers=())


def _curves(records: Sequence[dict[str, Any]]) -> str:
  losses, validations = (page_figures.series(records, key)[1] for key in ("loss", "mAP"))
  if not len(losses) and not len(validations):
    return note_html("This run has no training records.")
  notes = []
  if page_figures.smoothed(losses) is not None:
    share = page_figures.SMOOTHED
    notes.append(
      f"The thick line is the running mean of the loss over 1/{share} of the records; the thin "
      "line is the loss of single steps."
    )
  if max(len(losses), len(validations)) > page_figures.POINTS:
    notes.append(
      f"In a curve of more than {page_figures.POINTS} records, each point is the mean of several "
      "records."
    )
  text = note_html(" ".join(notes)) if notes else ""
  return figure_html(page_figures.learning_curves(records)) + text


def _settings(config: dict[str, Any], result: dict[str, Any]) -> str:
  """Return the hash of the config, the config, and all keys of the result."""
  digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
  text = html.escape(json.dumps(config, indent=2, ensure_ascii=False, default=str))
  rows = [(name, value_text(value)) for name, value in result.items()]
  return "\n".join(
    [
      note_html(f"SHA-256 of the config, as JSON with sorted keys: {digest}"),
      details_html("Config of the run", f"<pre>{text}</pre>"),
      details_html("Result, as in the JSON file", table_html((), rows, numbers=())),
    ]
  )
