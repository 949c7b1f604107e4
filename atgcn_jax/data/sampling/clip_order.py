"""Counter-based sampling: the clips of a batch are a pure function of (seed, step).

The functions have no state. Each order is a keyed permutation that is evaluated only at the
requested positions, so any step can be computed directly. The only tables are the lists of clips
per class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

ROUNDS = 8
BEGIN = np.asarray(0x9E3779B9, np.uint32)  # initial value of every hash
DRAWN_AT_ONCE = 4096  # number of clips per call of `draw`, unless a batch is larger
# Purposes of the permutations. Each purpose has keys of its own.
PASS, ROUND, WITHIN_CLASS, DEAL, SHARDS, WITHIN_WINDOW, UNLABELLED = 1, 2, 3, 4, 5, 6, 7
MODES = ("shuffled", "balanced")
BLOCK = 64  # number of draws in which the share of unlabelled clips holds, to within one clip
MOST_UNLABELLED = Fraction(1, 2)


@dataclass(frozen=True)
class Sampler:
  """Tables of a sampler, used by `draw`.

  Attributes:
    clips: int32[M]. The clips of class c are `clips[starts[c]:starts[c + 1]]`. The shuffled mode
      has a single class with all clips.
    starts: First position of each class in `clips`, and M.
    seed: Seed of the order.
    balanced: Whether the classes are drawn equally often.
    unlabelled: Sampler of the clips without a label; None if there are none.
    share: Share of the draws that are clips without a label.
    part: Index of this sampler among `parts` that draw together. It starts its rounds and blocks
      `part / parts` of the way through.
    parts: Number of samplers that draw together.
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
  """Return a sampler that makes passes over all clips, each pass in a different order.

  Raises:
    ValueError: If there are no clips.
  """
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
  """Return a sampler with one queue of clips per class.

  Each round draws one clip of every class that has clips. Clips without a label have a queue of
  their own. It is drawn from between the draws of the rounds. All clips of a queue are drawn
  before any clip of the queue repeats.

  Args:
    clip_numbers: int[N], the clips to draw from.
    offsets: int[N + 1]. clip_numbers[i] has the labels
      `label_indices[offsets[i]:offsets[i + 1]]`.
    label_indices: Labels of all clips.
    seed: Seed of the order.
    share: Share of the draws that are clips without a label, if there are such clips. Defaults to
      their `unlabelled_share`.

  Raises:
    ValueError: If no clip has a label.

  Source:
    Sampler of Kong et al., PANNs, 2020, and of the code of Wang et al. Both have no clips without
    a label.
  """
  if not len(label_indices):
    raise ValueError("no clip with a label to draw from")
  clips, sizes_of_clips = np.asarray(clip_numbers, np.int32), np.diff(offsets)
  owners = np.repeat(clips, sizes_of_clips)
  sizes = np.bincount(label_indices)
  starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
  # NumPy sorts 16-bit integers in linear time.
  narrow = label_indices.astype(np.uint16) if len(sizes) <= 2**16 else label_indices
  queues = owners[np.argsort(narrow, kind="stable")]
  without = clips[sizes_of_clips == 0]
  if not len(without):
    return Sampler(queues, starts, seed, balanced=True)
  share = unlabelled_share(offsets) if share is None else share
  return Sampler(queues, starts, seed, True, shuffled_sampler(without, seed), share)


def unlabelled_share(offsets: np.ndarray) -> Fraction:
  """Return the share of balanced draws that are clips without a label.

  It is the share of these clips among all clips, limited to MOST_UNLABELLED. Labelled clips
  therefore fill at least half of the draws, even if there are only a few of them.

  Args:
    offsets: int[N + 1]. Clip i has `offsets[i + 1] - offsets[i]` labels.
  """
  sizes = np.diff(offsets)
  if not len(sizes):
    return Fraction(0)
  return min(Fraction(int((sizes == 0).sum()), len(sizes)), MOST_UNLABELLED)


def drawer(sampler: Sampler, batch: int) -> Callable[[int], np.ndarray]:
  """Return a function from a step to its clips int64[batch], equal to `draw` but faster.

  A call of `draw` takes about a millisecond even for few clips, so several steps are drawn at once.
  """
  steps = max(1, DRAWN_AT_ONCE // batch)

  @functools.lru_cache(maxsize=2)
  def block(number: int) -> np.ndarray:
    return draw(sampler, number, steps * batch).reshape(steps, batch)

  return lambda step: block(step // steps)[step % steps]


def draw(sampler: Sampler, step: int, batch: int) -> np.ndarray:
  """Return the clips int64[batch] of a step."""
  position = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
  if sampler.unlabelled is None:
    return _drawn(sampler, position)
  chosen, earlier = _unlabelled_draws(sampler, position)
  clips = np.empty(batch, np.int64)
  clips[chosen] = _drawn(sampler.unlabelled, earlier[chosen])
  clips[~chosen] = _drawn(sampler, (position - earlier)[~chosen])
  return clips


def _drawn(sampler: Sampler, position: np.ndarray) -> np.ndarray:
  """Return the clips int64[B] at positions int64[B] of the sequence of draws from the classes."""
  sizes = np.diff(sampler.starts)
  if sampler.balanced:
    round_number, place = np.divmod(position, len(sizes))
    key = hash_words(sampler.seed, ROUND, round_number)
    place = (place + sampler.part * len(sizes) // sampler.parts) % len(sizes)
    group = permuted(place, np.full(len(position), len(sizes)), key)
  else:
    round_number, group = position, np.zeros(len(position), np.int64)
  # Each round visits each class once, so the round number is the position in the queue.
  pass_number, place = np.divmod(round_number, sizes[group])
  purpose = WITHIN_CLASS if sampler.balanced else PASS
  key = hash_words(sampler.seed, purpose, group, pass_number)
  drawn = sampler.clips[sampler.starts[group] + permuted(place, sizes[group], key)]
  return drawn.astype(np.int64)


def _unlabelled_draws(sampler: Sampler, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Find the draws of clips without a label.

  Args:
    sampler: A sampler with clips without a label.
    position: int64[B], consecutive positions.

  Returns:
    bool[B], true if the draw is a clip without a label, and int64[B], the number of such draws
    before each position.
  """
  ahead = sampler.part * BLOCK // sampler.parts
  positions = ahead + np.concatenate([[0], position, position[-1:] + 1])
  before = _unlabelled_before(sampler, positions)
  return np.diff(before[1:]) > 0, before[1:-1] - before[0]


def _unlabelled_before(sampler: Sampler, position: np.ndarray) -> np.ndarray:
  """Return the number of draws without a label before each position int64[B], int64[B].

  At the end of each block, the number is the sampler's share of all draws, rounded down. Within a
  block, the seed selects the positions.
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
  """Return the image of each index under a keyed permutation of 0 … size - 1.

  The permutation is a Feistel network over the next even power of two. A result outside the range
  is passed through the network again until it is inside (cycle walking).

  Args:
    index: int64[B], less than `size`.
    size: int64[B], less than 2**32.
    key: uint32[B].

  Source:
    Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002.
  """
  bits = np.frexp(np.asarray(size, np.float64) - 1)[1]  # number of bits of the largest index
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
  """Return the hash uint32[…] of integers below 2**32, which are broadcast against each other.

  Source:
    Finaliser of MurmurHash3 (Appleby), applied word by word.
  """
  return functools.reduce(_absorbed, words, BEGIN)


def _absorbed(h: np.ndarray, word: np.ndarray | int) -> np.ndarray:
  """Return the hash after one more word."""
  with np.errstate(over="ignore"):
    h = h ^ np.asarray(word).astype(np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (h ^ (h >> np.uint32(16))) + np.uint32(0x9E3779B9)
