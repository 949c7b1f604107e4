"""Metrics that respect an ontology: ontology-aware mAP, and mAP by level."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.metrics import mean_of_defined


class OntologyMap(NamedTuple):
  """The ontology-aware mAP: its mean over all coarse levels, and its value at each, from 0 on."""

  mean: float
  by_level: list[float]


def ontology_map(scores: np.ndarray, labels: np.ndarray, distances: np.ndarray) -> OntologyMap:
  """Return the ontology-aware mAP (OmAP), in which near misses weigh less.

  A clip without label k is a false positive of k. Its weight is the distance in the ontology from k
  to the nearest label of the clip. At the coarse level λ, distances up to λ count as 0, and all are
  divided by their mean over pairs of different labels. Clips without any label have the largest
  distance. Equal scores count as one threshold.

  Args:
    scores: float[N, K].
    labels: bool or 0/1 [N, K].
    distances: int[K, K], path lengths between labels, zero on the diagonal.

  Returns:
    The values. Labels without positives are left out; NaN if no label remains.

  Source: Liu et al., Ontology-aware learning and evaluation for audio tagging, ICASSP 2023.
  """
  labels = np.asarray(labels, bool)
  levels = np.arange(int(distances.max(initial=0)) + 1)
  pairs = max(len(distances) * (len(distances) - 1), 1)
  means = np.array([distances[distances > level].sum() / pairs for level in levels])
  scales = 1 / np.where(means > 0, means, 1)

  def of_label(k: int) -> np.ndarray:
    order = np.argsort(-scores[:, k], kind="stable")
    present, values = labels[order, k], scores[order, k]
    if not present.any():
      return np.full(len(levels), np.nan)
    away = nearest_distances(labels, distances[k])[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(present)[ends]
    gained = np.diff(hits, prepend=0)
    found = []
    for level, scale in zip(levels, scales):
      misses = np.cumsum(np.where((away > level) & ~present, away, 0))[ends] * scale
      found.append((gained * hits / np.maximum(hits + misses, 1e-12)).sum() / hits[-1])
    return np.array(found)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    of_all = np.array(list(pool.map(of_label, range(labels.shape[1]))))
  by_level = [mean_of_defined(column) for column in of_all.T]
  return OntologyMap(float(np.mean(by_level)), by_level)


def nearest_distances(labels: np.ndarray, distances: np.ndarray) -> np.ndarray:
  """Return the distance from one label to the nearest label of each clip, int[N].

  Args:
    labels: bool[N, K].
    distances: int[K], from the label to each label.
  """
  nearest = np.full(len(labels), distances.max(initial=0))
  for distance in np.unique(distances)[::-1]:
    nearest[labels[:, distances == distance].any(axis=1)] = distance
  return nearest


def carried_up(labels: np.ndarray, ancestors: Sequence[Sequence[int]]) -> np.ndarray:
  """Return the labels of clips with all labels above them added.

  Args:
    labels: bool or integers 0 and 1 [N, K].
    ancestors: The positions of the labels above each label, as from `label_ancestors`.
  """
  carried = labels.copy()
  for k, above in enumerate(ancestors):
    carried[:, above] |= labels[:, k : k + 1]
  return carried


def map_by_level(average_precision: np.ndarray, levels: np.ndarray) -> dict[int, float]:
  """Return the mean average precision of the labels at each level of the ontology.

  Args:
    average_precision: float[K], NaN where it is undefined.
    levels: int[K], level of each label; top categories have the level 1.
  """
  return {
    int(level): mean_of_defined(average_precision[levels == level]) for level in np.unique(levels)
  }
