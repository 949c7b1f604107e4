"""Distribution of clips over devices, each of which draws from its own part."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.store.clip_store import ClipStore


def deal(
  offsets: np.ndarray, label_indices: np.ndarray, parts: int, seed: int, *, balanced: bool
) -> list[np.ndarray]:
  """Distribute N clips over parts, with the clips of each class spread evenly.

  Clips are grouped by their rarest label, with the clips without a label last. Each group is in an
  order determined by the seed and is distributed round robin. With `balanced`, a part without a
  clip of some class, or without an unlabelled clip, gets a copy of one, so that all parts have the
  same queues.

  Args:
    offsets: int[N + 1]. Clip i has the labels `label_indices[offsets[i]:offsets[i + 1]]`.
    label_indices: Labels of all clips.
    parts: Number of parts.
    seed: Seed of the order.
    balanced: Whether the parts are drawn from with balanced classes.

  Returns:
    For each part its clips, ascending int64 numbers less than N.

  Raises:
    ValueError: If there is no clip to draw.
  """
  clips = np.arange(len(offsets) - 1)
  counts = np.bincount(label_indices)
  rank = np.argsort(np.argsort(counts, kind="stable"))  # 0: the rarest label
  rarest = np.full(len(clips), len(counts))
  np.minimum.at(rarest, np.repeat(clips, np.diff(offsets)), rank[label_indices])
  key = np.full(len(clips), clip_order.hash_words(seed, clip_order.DEAL))
  order = np.lexsort((clip_order.permuted(clips, np.full(len(clips), len(clips)), key), rarest))
  if not len(label_indices if balanced else order):
    raise ValueError(f"no clips{' with a label' if balanced else ''} to draw from")
  order = np.resize(order, max(parts, len(order)))  # Repeat clips so that no part is empty.
  dealt = [np.sort(order[part::parts]) for part in range(parts)]
  if not balanced or parts == 1:
    return dealt
  sampler = clip_order.balanced_sampler(clips, offsets, label_indices, seed)
  queues = [sampler] if sampler.unlabelled is None else [sampler, sampler.unlabelled]
  for part, own in enumerate(dealt):
    missing = [_missing(own, some, len(clips), part) for some in queues]
    dealt[part] = np.union1d(own, np.concatenate(missing))
  return dealt


def _missing(own: np.ndarray, queues: clip_order.Sampler, clips: int, part: int) -> np.ndarray:
  """Return one clip, chosen by the seed, of each queue that a part has no clip of.

  Args:
    own: Clips of the part.
    queues: Sampler with the queues of all clips.
    clips: Number of all clips.
    part: Index of the part.
  """
  sizes = np.diff(queues.starts)
  in_part = np.zeros(clips, bool)
  in_part[own] = True
  missing = np.flatnonzero(np.add.reduceat(in_part[queues.clips], queues.starts[:-1]) == 0)
  chosen = clip_order.hash_words(queues.seed, clip_order.DEAL, missing, part) % sizes[missing]
  return queues.clips[queues.starts[missing] + chosen]


def part_sampler(
  store: ClipStore,
  clips: np.ndarray,
  part: int,
  parts: int,
  seed: int,
  *,
  balanced: bool,
  share: Fraction | None = None,
) -> clip_order.Sampler:
  """Return the sampler of one part. It draws positions in `clips`.

  A round visits all classes once, in the same order on every part, but each part starts
  `part / parts` of the way through the round. Each class is therefore drawn equally often on every
  part, and equally often over all parts within the length of a round. Within a part, all clips of
  a class are drawn before any repeats. The same holds for the blocks of `clip_order.BLOCK` draws
  and the clips without a label. A single part draws the same clips as the sampler of all clips
  with the same seed.

  Args:
    store: Store of the clips.
    clips: Clips of the part.
    part: Index of the part.
    parts: Number of parts.
    seed: Seed of the order.
    balanced: Whether the classes are drawn equally often.
    share: Share of the draws that are clips without a label, computed from the clips of all parts.
      Defaults to the share in the clips of this part.
  """
  places = np.arange(len(clips))
  if not balanced:
    return clip_order.shuffled_sampler(places, seed)
  sampler = clip_order.balanced_sampler(places, *store.labels_of(clips), seed, share)
  return dataclasses.replace(sampler, part=part, parts=parts)
