"""Which clips make up the batch of a step: a pure function of (seed, step), by counter.

Nothing here keeps state. Every order is a keyed permutation evaluated only at the places asked
for, so any step of any pass is reached at once, and the tables of two million clips are their
lists by class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

ROUNDS = 8
BEGIN = np.asarray(0x9E3779B9, np.uint32)  # of every hash
DRAWN_AT_ONCE = 4096  # clips
# Uses of the permutation, so that no two of them share a key.
PASS, ROUND, WITHIN_CLASS, DEAL, SHARDS, WITHIN_WINDOW, UNLABELLED = 1, 2, 3, 4, 5, 6, 7
MODES = ("shuffled", "balanced")
BLOCK = 64  # draws that hold the share of clips without a label, up to one clip
MOST_UNLABELLED = Fraction(1, 2)


@dataclass(frozen=True)
class Sampler:
  """Tables of a sampler; `draw` reads them.

  `clips` int32[M] holds the clips of class c at `starts[c]` … `starts[c + 1]`; the shuffled mode
  has one class that holds every clip. `unlabelled` draws the clips without a label, which are
  this `share` of the draws; None where there are none. Of several parts that draw together, each
  begins its rounds and blocks `part / parts` of the way through them.
  """

  clips: np.ndarray
  starts: np.ndarray
  seed: int
  balanced: bool
  unlabelled: Sampler | None = None
  share: Fraction = Fraction(0)
  part: int = 0
  parts: int = 1


def shuffled_sampler(clip_numbers: np.ndarray, seed: int) -> Sampler:
  """Passes over all clips, each in an order of its own."""
  clips = np.asarray(clip_numbers, np.int32)
  if not len(clips):
    raise ValueError("no clips to draw from")
  return Sampler(clips, np.array([0, len(clips)]), seed, balanced=False)


def balanced_sampler(
  clip_numbers: np.ndarray,
  offsets: np.ndarray,
  label_indices: np.ndarray,
  seed: int,
  share: Fraction | None = None,
) -> Sampler:
  """A queue per class: each round visits all classes that have clips once, one clip each.

  Clips without a label have a queue of their own, which is drawn from between the rounds' draws.
  Within a queue all clips pass before any repeats. Without such clips, draws are those of the
  rounds alone.

  Args:
    clip_numbers: int[N], the clips to draw from.
    offsets, label_indices: their labels; clip_numbers[i] has
      `label_indices[offsets[i]:offsets[i + 1]]`.
    share: of the draws that are of clips without a label, where there are such clips; by default
      their `unlabelled_share`.
  Raises:
    ValueError: if no clip has a label.
  Source: the sampler of Kong et al., PANNs, 2020, and of Wang et al.'s code, which know no clips
    without a label.
  """
  if not len(label_indices):
    raise ValueError("no clip with a label to draw from")
  clips, sizes_of_clips = np.asarray(clip_numbers, np.int32), np.diff(offsets)
  owners = np.repeat(clips, sizes_of_clips)
  sizes = np.bincount(label_indices)
  starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
  # NumPy sorts integers of 16 bits in a time proportional to their number.
  narrow = label_indices.astype(np.uint16) if len(sizes) <= 2**16 else label_indices
  queues = owners[np.argsort(narrow, kind="stable")]
  without = clips[sizes_of_clips == 0]
  if not len(without):
    return Sampler(queues, starts, seed, balanced=True)
  share = unlabelled_share(offsets) if share is None else share
  return Sampler(queues, starts, seed, True, shuffled_sampler(without, seed), share)


def unlabelled_share(offsets: np.ndarray) -> Fraction:
  """The share of balanced draws that are of clips without a label.

  It is the share of these clips among all, at most MOST_UNLABELLED, so that a few positive clips
  among many negative ones still make half of each batch.

  Args:
    offsets: int[N + 1], which clip has which labels; clip i has `offsets[i + 1] - offsets[i]`.
  """
  sizes = np.diff(offsets)
  if not len(sizes):
    return Fraction(0)
  return min(Fraction(int((sizes == 0).sum()), len(sizes)), MOST_UNLABELLED)


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
  if sampler.unlabelled is None:
    return _drawn(sampler, position)
  chosen, earlier = _unlabelled_draws(sampler, position)
  clips = np.empty(batch, np.int64)
  clips[chosen] = _drawn(sampler.unlabelled, earlier[chosen])
  clips[~chosen] = _drawn(sampler, (position - earlier)[~chosen])
  return clips


def _drawn(sampler: Sampler, position: np.ndarray) -> np.ndarray:
  """The clips int64[B] at these places int64[B] in the sequence of draws from the classes."""
  sizes = np.diff(sampler.starts)
  if sampler.balanced:
    round_number, place = np.divmod(position, len(sizes))
    key = hash_words(sampler.seed, ROUND, round_number)
    place = (place + sampler.part * len(sizes) // sampler.parts) % len(sizes)
    group = permuted(place, np.full(len(position), len(sizes)), key)
  else:
    round_number, group = position, np.zeros(len(position), np.int64)
  # Every round visits each class once, so the round is how often its queue was asked before.
  pass_number, place = np.divmod(round_number, sizes[group])
  purpose = WITHIN_CLASS if sampler.balanced else PASS
  key = hash_words(sampler.seed, purpose, group, pass_number)
  drawn = sampler.clips[sampler.starts[group] + permuted(place, sizes[group], key)]
  return drawn.astype(np.int64)


def _unlabelled_draws(sampler: Sampler, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Which draws are of a clip without a label, bool[B], and how many before each were, int64[B].

  Args:
    position: int64[B], consecutive.
  """
  ahead = sampler.part * BLOCK // sampler.parts
  asked = ahead + np.concatenate([[0], position, position[-1:] + 1])
  before = _unlabelled_before(sampler, asked)
  return np.diff(before[1:]) > 0, before[1:-1] - before[0]


def _unlabelled_before(sampler: Sampler, position: np.ndarray) -> np.ndarray:
  """How many draws before each position int64[B] are of a clip without a label, int64[B].

  Up to the end of each block it is the sampler's share of all draws, rounded down; within a block
  the seed chooses the places.
  """
  blocks, which = np.unique(position // BLOCK, return_inverse=True)
  first, last = (
    b * BLOCK * sampler.share.numerator // sampler.share.denominator for b in (blocks, blocks + 1)
  )
  key = np.repeat(hash_words(sampler.seed, UNLABELLED, blocks), BLOCK)
  order = permuted(np.tile(np.arange(BLOCK), len(blocks)), np.full(len(key), BLOCK), key)
  chosen = order.reshape(-1, BLOCK) < (last - first)[:, None]
  counts = np.pad(np.cumsum(chosen, axis=1), ((0, 0), (1, 0)))
  return first[which] + counts[which, position % BLOCK]


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


def hash_words(*words: np.ndarray | int) -> np.ndarray:
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
