"""Which clips make up the batch of a step: a pure function of (seed, step), by counter.

Nothing here keeps state. Every order is a keyed permutation evaluated only at the places asked
for, so any step of any pass is reached at once, and the tables of two million clips are their
lists by class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ROUNDS = 8
BEGIN = np.asarray(0x9E3779B9, np.uint32)  # of every hash
DRAWN_AT_ONCE = 4096  # clips
# Uses of the permutation, so that no two of them share a key.
PASS, ROUND, WITHIN_CLASS, DEAL, SHARDS, WITHIN_WINDOW = 1, 2, 3, 4, 5, 6
MODES = ("shuffled", "balanced")


@dataclass(frozen=True)
class Sampler:
  """Tables of a sampler; `draw` reads them.

  `clips` int32[M] holds the clips of class c at `starts[c]` … `starts[c + 1]`; the shuffled mode
  has one class that holds every clip. `ahead` is the place in the order of its classes at which
  each round begins.
  """

  clips: np.ndarray
  starts: np.ndarray
  seed: int
  balanced: bool
  ahead: int = 0


def shuffled_sampler(clip_numbers: np.ndarray, seed: int) -> Sampler:
  """Passes over all clips, each in an order of its own."""
  clips = np.asarray(clip_numbers, np.int32)
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
  owners = np.repeat(np.asarray(clip_numbers, np.int32), np.diff(offsets))
  sizes = np.bincount(label_indices)
  starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
  # NumPy sorts integers of 16 bits in a time proportional to their number.
  narrow = label_indices.astype(np.uint16) if len(sizes) <= 2**16 else label_indices
  return Sampler(owners[np.argsort(narrow, kind="stable")], starts, seed, balanced=True)


def drawer(sampler: Sampler, batch: int) -> Callable[[int], np.ndarray]:
  """Step → its clips int64[batch], as `draw` has them, but drawn for many steps at a time.

  A draw takes a millisecond however few clips it is for.
  """
  steps = max(1, DRAWN_AT_ONCE // batch)

  @functools.lru_cache(maxsize=2)
  def block(number: int) -> np.ndarray:
    return draw(sampler, number, steps * batch).reshape(steps, batch)

  return lambda step: block(step // steps)[step % steps]


def draw(sampler: Sampler, step: int, batch: int) -> np.ndarray:
  """The clips int64[batch] of a step."""
  position = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
  sizes = np.diff(sampler.starts)
  if sampler.balanced:
    round_number, place = np.divmod(position, len(sizes))
    key = mix(sampler.seed, ROUND, round_number)
    place = (place + sampler.ahead) % len(sizes)
    group = permuted(place, np.full(batch, len(sizes)), key)
  else:
    round_number, group = position, np.zeros(batch, np.int64)
  # Every round visits each class once, so the round is how often its queue was asked before.
  pass_number, place = np.divmod(round_number, sizes[group])
  purpose = WITHIN_CLASS if sampler.balanced else PASS
  key = mix(sampler.seed, purpose, group, pass_number)
  drawn = sampler.clips[sampler.starts[group] + permuted(place, sizes[group], key)]
  return drawn.astype(np.int64)


def permuted(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
  """The image of each index under a permutation of 0 … size - 1 chosen by its key.

  A Feistel network over the next even power of two; what falls outside is sent through again
  until it falls inside (cycle walking), which keeps it a permutation.

  Args:
    index, size: int64[B], index < size, size below 2**32.
    key: uint32[B].
  Source: Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002.
  """
  bits = np.frexp(np.asarray(size, np.float64) - 1)[1]  # of the largest index
  half_bits = np.maximum(1, (bits + 1) // 2).astype(np.uint32)
  mask = (np.uint32(1) << half_bits) - np.uint32(1)
  keys = [_absorbed(_absorbed(BEGIN, key), i) for i in range(ROUNDS)]
  result = np.array(index, np.int64)
  outside = np.arange(len(result))
  walked = result.astype(np.uint32)
  while len(outside):
    left, right = walked >> half_bits, walked & mask
    for round_key in keys:
      left, right = right, left ^ (_absorbed(round_key, right) & mask)
    walked = (left << half_bits) | right
    result[outside] = walked
    again = walked >= size
    outside, walked, size = outside[again], walked[again], size[again]
    half_bits, mask = half_bits[again], mask[again]
    keys = [round_key[again] for round_key in keys]
  return result


def mix(*words: np.ndarray | int) -> np.ndarray:
  """A hash uint32[…] of integers below 2**32, broadcast against each other.

  Source: the finaliser of MurmurHash3 (Appleby), applied word by word.
  """
  return functools.reduce(_absorbed, words, BEGIN)


def _absorbed(h: np.ndarray, word: np.ndarray | int) -> np.ndarray:
  """The hash of one more word."""
  with np.errstate(over="ignore"):
    h = h ^ np.asarray(word).astype(np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (h ^ (h >> np.uint32(16))) + np.uint32(0x9E3779B9)
