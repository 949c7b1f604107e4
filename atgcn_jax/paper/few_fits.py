"""Classifiers of labels with few positives, fitted on the embeddings of a trained encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree

ITERATIONS = 60  # of L-BFGS
NEGATIVES = 6000  # clips that are drawn as negatives


class Examples(NamedTuple):
  """Training clips of A labels, some of which are unknown.

  Attributes:
    inputs: float32[N, C], embeddings.
    labels: float32[N, A], 1 where a clip has the label.
    counted: float32[N, A], 0 where a clip is left out for the label, else 1.
  """

  inputs: np.ndarray
  labels: np.ndarray
  counted: np.ndarray


def kept_positives(labels: np.ndarray, positives: int | None, seed: int) -> np.ndarray:
  """Return which clips count for each label, bool[N, A]: its negatives, and some positives.

  A label's positives are drawn at random. Fewer are a part of more.

  Args:
    labels: [N, A], 1 where a clip has the label.
    positives: Number of positives that each label keeps; None for all.
    seed: Seed of the draw.
  """
  if positives is None:
    return np.ones(labels.shape, bool)
  order = np.random.default_rng([21, seed]).random(labels.shape)
  rank = np.argsort(np.argsort(np.where(labels > 0, order, 2.0), axis=0), axis=0)
  return (labels == 0) | (rank < positives)


def drawn_clips(labels: np.ndarray, counted: np.ndarray, seed: int) -> np.ndarray:
  """Return the clips to train on: those with a counted positive, and `NEGATIVES` random ones."""
  random = np.random.default_rng([22, seed]).permutation(len(labels))[:NEGATIVES]
  return np.union1d(random, np.flatnonzero(((labels > 0) & counted).any(axis=1)))


def cross_entropy(logits: Any, labels: Any, counted: Any) -> Any:
  """Return the binary cross-entropy, summed over the counted pairs of a clip and a label."""
  return (optax.sigmoid_binary_cross_entropy(logits, labels) * counted).sum()


def minimise(objective: Callable[[Any], Any], start: Any) -> Any:
  """Return the parameters that minimise a function of a pytree, by SciPy's L-BFGS."""
  flat, unravel = ravel_pytree(start)
  gradient = jax.jit(jax.value_and_grad(lambda x: objective(unravel(x))))

  def evaluated(x: np.ndarray) -> tuple[float, np.ndarray]:
    value, slope = gradient(jnp.asarray(x, flat.dtype))
    return float(value), np.asarray(slope, np.float64)

  found = scipy.optimize.minimize(
    evaluated, np.asarray(flat), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}
  )
  return unravel(jnp.asarray(found.x, flat.dtype))


def fit_linear(
  examples: Examples, strength: float, *, centres: Any = 0.0, offsets: Any = 0.0
) -> tuple[np.ndarray, np.ndarray]:
  """Fit a linear classifier of each label.

  Args:
    examples: The training clips.
    strength: Weight of the squared distance of a label's vector from its centre. The cross-entropy
      is summed over clips, so more positives outweigh it.
    centres: float32[A, C].
    offsets: float32[N, A], constants that are added to the logits.

  Returns:
    The vectors float32[A, C] and the biases float32[A].
  """
  inputs, labels, counted = (jnp.asarray(part) for part in examples)
  size = labels.shape[1], inputs.shape[1]
  share = ((labels * counted).sum(axis=0) + 0.5) / len(labels)
  start = jnp.zeros(size), jnp.log(share)

  def objective(parameters: Any) -> Any:
    vectors, biases = parameters
    logits = inputs @ vectors.T + biases + offsets
    distance = ((vectors - centres) ** 2).sum()
    return cross_entropy(logits, labels, counted) + 0.5 * strength * distance

  vectors, biases = minimise(objective, start)
  return np.asarray(vectors), np.asarray(biases)
