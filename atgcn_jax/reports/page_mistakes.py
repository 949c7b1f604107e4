"""The sections of a report page on mistakes: confusions between labels, and the worst clips."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from atgcn_jax.reports.confusions import (
  Mistake,
  break_even_thresholds,
  multi_label_confusion,
)
from atgcn_jax.reports.page_html import note_html, scrolled_html, table_html

SHOWN = 3  # number of other labels per label or clip


class Example(NamedTuple):
  """A mistake, the id of its clip, and a picture and a sound as addresses, which may be empty."""

  mistake: Mistake
  clip_id: str
  picture: str = ""
  sound: str = ""


def confusions_html(
  names: Sequence[str],
  scores: np.ndarray,
  labels: np.ndarray,
  thresholds: np.ndarray | None,
  *,
  added: bool = False,
) -> str:
  """Return what is heard instead of each label.

  Args:
    names: The names of the K labels.
    scores: float[N, K].
    labels: [N, K], nonzero where a clip has the label.
    thresholds: The thresholds of the run, float[K], NaN for labels that are never predicted; or
      None, which stands for `break_even_thresholds`.
    added: Whether there are added labels, whose thresholds are always `break_even_thresholds`.
  """
  source = "its threshold, stored with the run by atgcn thresholds"
  if added:
    source += " (for an added label, the score that as many clips reach as have the label)"
  if thresholds is None:
    thresholds = break_even_thresholds(scores, labels)
    source = (
      "the score that as many clips reach as have the label, where precision and recall are equal "
      "(the run has no thresholds of this step; atgcn thresholds makes them)"
    )
  with np.errstate(invalid="ignore"):
    counts = multi_label_confusion(labels, scores >= thresholds)
  text = (
    f"A label is heard in a clip if its score reaches {source}. The table is the multi-label "
    "confusion matrix of Heydarian, Doyle and Samavi (2022): a label that is wrongly heard counts "
    "against the labels that were missed in the clip or, if none was missed, against all labels of "
    "the clip. Numbers are clips."
  )
  head = ("Label", "Clips", "Missed", "Heard instead", "Wrongly heard in clips with")
  positives = np.count_nonzero(labels, axis=0)
  missed = positives - counts.diagonal()[:-1]
  instead = _most_frequent(counts, [*names, "nothing"])
  against = _most_frequent(counts.T.tocsr(), [*names, "no label"])
  rows = [
    (names[k], f"{positives[k]}", f"{missed[k]}", instead[k], against[k])
    for k in np.lexsort((-positives, -missed)).tolist()
    if positives[k] or against[k]
  ]
  return f"{note_html(text)}\n{scrolled_html(table_html(head, rows, numbers=(1, 2), ranked=2))}"


def _most_frequent(counts: scipy.sparse.csr_array, names: Sequence[str]) -> list[str]:
  """Return for each row the names of the highest counts, with these, except the row's own."""
  texts = []
  for k in range(counts.shape[0]):
    part = slice(counts.indptr[k], counts.indptr[k + 1])
    found = sorted(zip((-counts.data[part]).tolist(), counts.indices[part].tolist()))
    others = [f"{names[j]} {-count}" for count, j in found if j != k]
    texts.append(", ".join(others[:SHOWN]))
  return texts


def mistakes_html(
  names: Sequence[str],
  scores: np.ndarray,
  labels: np.ndarray,
  heard: Sequence[Example],
  missed: Sequence[Example],
) -> str:
  """Return the worst mistakes with their spectrograms and, where they are known, sounds.

  Args:
    names: The names of the K labels.
    scores: float[N, K].
    labels: [N, K], nonzero where a clip has the label.
    heard: Labels that are heard in clips which do not have them.
    missed: Labels that are not heard in clips which have them.
  """
  parts = []
  for heading, text, examples in (
    (
      "Heard, but not labelled",
      "The highest scores of labels that are heard in a clip without them. Some may be missing "
      "labels.",
      heard,
    ),
    (
      "Labelled, but not heard",
      "The lowest scores of labels that are not heard in a clip with them.",
      missed,
    ),
  ):
    cards = "\n".join(_card(names, scores, labels, one) for one in examples)
    shown = f'{note_html(text)}\n<div class="clips">{cards}</div>'
    parts.append(f"<h3>{heading}</h3>\n{shown if examples else note_html('No mistakes.')}")
  parts.insert(0, note_html("A label is heard in a clip by the rule of the table of confusions."))
  if (heard or missed) and not any(one.sound for one in (*heard, *missed)):
    parts.insert(
      0,
      note_html(
        "To hear the clips, evaluate with --audio DIR, the folder that was given to prepare."
      ),
    )
  return "\n".join(parts)


def _card(names: Sequence[str], scores: np.ndarray, labels: np.ndarray, one: Example) -> str:
  clip, label = one.mistake
  own = [names[k] for k in np.flatnonzero(labels[clip]).tolist()]
  best = [f"{names[k]} {scores[clip, k]:.2f}" for k in np.argsort(-scores[clip])[:SHOWN].tolist()]
  lines = [
    f"<strong>{html.escape(names[label])}</strong> {scores[clip, label]:.3f}",
    html.escape(one.clip_id),
    html.escape(f"labels: {', '.join(own) or 'none'}"),
    html.escape(f"highest scores: {', '.join(best)}"),
  ]
  picture = sound = ""
  if one.picture:
    alt = html.escape(f"Log-mel spectrogram of {one.clip_id}")
    picture = f'<img alt="{alt}" src="{one.picture}">'
  if one.sound:
    sound = f'<audio controls preload="none" src="{one.sound}"></audio>'
  return f"<figure>{picture}{sound}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
