"""Clips dealt to the devices that keep them, each of which draws from its own part."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.store.clip_store import ClipStore


def deal(
  offsets: np.ndarray, label_indices: np.ndarray, parts: int, seed: int, *, balanced: bool
) -> list[np.ndarray]:
  """Which of N clips each of so many parts holds: ascending numbers int64 below N.

  The clips of each class are spread evenly: in an order chosen by the seed, those with the same
  rarest label are dealt round the parts, and last those without a label. If the draws are to be
  balanced, a part that gets no clip of a class, or none without a label, is given a copy of one,
  so that all parts have clips of the same queues.

  Args:
    offsets, label_indices: the labels of clip i are `label_indices[offsets[i]:offsets[i + 1]]`.
  Raises:
    ValueError: if there is no clip to draw.
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
  order = np.resize(order, max(parts, len(order)))  # no part stays empty
  dealt = [np.sort(order[part::parts]) for part in range(parts)]
  if not balanced or parts == 1:
    return dealt
  sampler = clip_order.balanced_sampler(clips, offsets, label_indices, seed)
  queues = [sampler] if sampler.unlabelled is None else [sampler, sampler.unlabelled]
  for part, own in enumerate(dealt):
    lacking = [_lacking(own, some, len(clips), part) for some in queues]
    dealt[part] = np.union1d(own, np.concatenate(lacking))
  return dealt


def _lacking(own: np.ndarray, queues: clip_order.Sampler, clips: int, part: int) -> np.ndarray:
  """A clip, chosen by the seed, of each queue of which a part has none.

  Args:
    clips: how many there are.
  """
  sizes = np.diff(queues.starts)
  held = np.zeros(clips, bool)
  held[own] = True
  lacking = np.flatnonzero(np.add.reduceat(held[queues.clips], queues.starts[:-1]) == 0)
  chosen = clip_order.hash_words(queues.seed, clip_order.DEAL, lacking, part) % sizes[lacking]
  return queues.clips[queues.starts[lacking] + chosen]


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
  """The sampler of one part; what it draws are places among the part's clips.

  A round of a part visits all classes once, in the order that the round has on every part, but
  begins `part / parts` of the way through it. So each class comes equally often on every part and,
  in each stretch of a round's length, over all parts together; and within a part all clips of a
  class pass before any repeats. The same holds for the blocks of `sampling.BLOCK` draws and the
  clips without a label in them. One part draws what the sampler of the same seed over all its
  clips does.

  Args:
    clips: of the part.
    share: of the draws that are of clips without a label: that of the clips of all parts. By
      default that of the part's own.
  """
  places = np.arange(len(clips))
  if not balanced:
    return clip_order.shuffled_sampler(places, seed)
  sampler = clip_order.balanced_sampler(places, *store.labels_of(clips), seed, share)
  return dataclasses.replace(sampler, part=part, parts=parts)
