"""Which clips make up the batch of a step: a pure function of (seed, step), by counter.

Nothing here keeps state. Every order is a keyed permutation evaluated only at the places asked
for, so any step of any pass is reached at once, and the tables of two million clips are their
lists by class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDS = 8
# Uses of the permutation, so that no two of them share a key.
PASS, ROUND, WITHIN_CLASS, SHARDS, WITHIN_WINDOW = 1, 2, 3, 4, 5
MODES = ("shuffled", "balanced")


@dataclass(frozen=True)
class Sampler:
  """Tables of a sampler; `draw` reads them.

  `clips` int64[M] holds the clips of class c at `starts[c]` … `starts[c + 1]`; the shuffled mode
  has one class that holds every clip.
  """

  clips: np.ndarray
  starts: np.ndarray
  seed: int
  balanced: bool


def shuffled_sampler(clip_numbers: np.ndarray, seed: int) -> Sampler:
  """Passes over all clips, each in an order of its own."""
  clips = np.asarray(clip_numbers, np.int64)
  if not len(clips):
    raise ValueError("no clips to draw from")
  return Sampler(clips, np.array([0, len(clips)]), seed, balanced=False)


def balanced_sampler(
  clip_numbers: np.ndarray, offsets: np.ndarray, label_indices: np.ndarray, seed: int
) -> Sampler:
  """A queue a class: each round visits all classes that have clips once, one clip each.

  Within a class all clips pass before any repeats. Clips without a label are never drawn.

  Args:
    clip_numbers: int[N], the clips to draw from.
    offsets, label_indices: their labels; clip_numbers[i] has
      `label_indices[offsets[i]:offsets[i + 1]]`.
  Raises:
    ValueError: if no clip has a label.
  Source: the sampler of Kong et al., PANNs, 2020, and of Wang et al.'s code.
  """
  if not len(label_indices):
    raise ValueError("no clip with a label to draw from")
  owners = np.repeat(np.asarray(clip_numbers, np.int64), np.diff(offsets))
  sizes = np.bincount(label_indices)
  starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
  return Sampler(owners[np.argsort(label_indices, kind="stable")], starts, seed, balanced=True)


def draw(sampler: Sampler, step: int, batch: int) -> np.ndarray:
  """The clips int64[batch] of a step."""
  position = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
  sizes = np.diff(sampler.starts)
  if sampler.balanced:
    round_number, place = np.divmod(position, len(sizes))
    key = mix(sampler.seed, ROUND, round_number)
    group = permuted(place, np.full(batch, len(sizes)), key)
  else:
    round_number, group = position, np.zeros(batch, np.int64)
  # Every round visits each class once, so the round is how often its queue was asked before.
  pass_number, place = np.divmod(round_number, sizes[group])
  purpose = WITHIN_CLASS if sampler.balanced else PASS
  key = mix(sampler.seed, purpose, group, pass_number)
  return sampler.clips[sampler.starts[group] + permuted(place, sizes[group], key)]


def permuted(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
  """The image of each index under a permutation of 0 … size - 1 chosen by its key.

  A Feistel network over the next even power of two; what falls outside is sent through again
  until it falls inside (cycle walking), which keeps it a permutation.

  Args:
    index, size: int64[B], index < size, size below 2**32.
    key: uint32[B].
  Source: Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002.
  """
  bits = np.frexp(np.asarray(size, np.float64) - 1)[1].astype(np.int64)  # of the largest index
  half_bits = np.maximum(1, (bits + 1) // 2)
  mask = (np.int64(1) << half_bits) - 1
  result = np.asarray(index, np.int64)
  outside = np.ones(result.shape, bool)
  while outside.any():
    left, right = result >> half_bits, result & mask
    for i in range(ROUNDS):
      left, right = right, left ^ (mix(key, i, right).astype(np.int64) & mask)
    walked = (left << half_bits) | right
    result = np.where(outside, walked, result)
    outside = result >= size
  return result


def mix(*words: np.ndarray | int) -> np.ndarray:
  """A hash uint32[…] of integers below 2**32, broadcast against each other.

  Source: the finaliser of MurmurHash3 (Appleby), applied word by word.
  """
  h = np.asarray(0x9E3779B9, np.uint32)
  with np.errstate(over="ignore"):
    for word in words:
      h = h ^ np.asarray(word).astype(np.uint32)
      h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
      h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
      h = (h ^ (h >> np.uint32(16))) + np.uint32(0x9E3779B9)
  return h
