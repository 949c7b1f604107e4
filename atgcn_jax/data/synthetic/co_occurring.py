"""Selection of the sounds of a synthetic scene, by a graph of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANCE = 0.05  # probability that a sound is drawn independently of the others


def draw_together(
  rng: np.random.Generator, graph: np.ndarray, counts: Sequence[float]
) -> list[int]:
  """Draw distinct rows of a graph.

  The first row is drawn uniformly. Each further row is drawn from the rows that are not drawn yet,
  with the probabilities in a random one of the drawn rows. With probability CHANCE it is drawn
  uniformly instead.

  Args:
    rng: Random number generator.
    graph: float[L, L]. Row i has the probabilities of the rows that join row i. A row may be zero.
    counts: Probabilities of drawing 1, 2, … rows. At most L rows are drawn.

  Returns:
    The row numbers in the order in which they were drawn.
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
