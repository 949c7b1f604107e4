"""Which sounds are heard together in a made-up scene, by a graph of chances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANCE = 0.05  # how often a sound is drawn without regard to the others


def draw_together(
  rng: np.random.Generator, graph: np.ndarray, counts: Sequence[float]
) -> list[int]:
  """Distinct rows of a graph, in the order they were drawn.

  The first is drawn uniformly; each further one by the row of one of those already there (or, one
  time in twenty, uniformly) among those not yet there.

  Args:
    rng: what is drawn from.
    graph: float[L, L], the chances of what joins row i; a row may be of zeros.
    counts: the chances of 1, 2, … rows; there are never more than L.
  """
  drawn = [int(rng.integers(len(graph)))]
  for _ in range(min(int(rng.choice(len(counts), p=counts)), len(graph) - 1)):
    chances = graph[rng.choice(drawn)] if rng.random() >= CHANCE else np.ones(len(graph))
    absent = np.array([k not in drawn for k in range(len(graph))])
    chances = chances * absent
    if not chances.any():
      chances = absent.astype(np.float64)
    drawn.append(int(rng.choice(len(graph), p=chances / chances.sum())))
  return drawn
